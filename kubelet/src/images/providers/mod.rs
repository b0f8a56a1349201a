//! Credentials that programs know: the image credential providers of `--image-credential-provider-config`.
//!
//! Owns: what they have answered, for as long as they say that it holds; tokens of service accounts that some are given.
//! Inputs: the configuration, who asks for which image. Outputs: credentials, none from a program that fails.
//! Tasks: none. A program runs while somebody waits for its answer, no longer than a minute, and its whole process group is
//! killed when nobody does any more.
//! Does not: run anything, or keep anything, where none is configured.

mod account;
mod exchange;
mod exec;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::Claimant;
use super::credential::{Credential, CredentialOwner};
use super::credentials::{Keyring, matches};
use crate::config::{CredentialProvider, CredentialProviders};
use crate::objects::Objects;
use crate::pod::PodUid;
use account::{Accounts, NoAccount};
use exchange::{Answer, CacheKey, Entry};
use exec::Program;

pub use exec::ProviderError;

/// How often answers that hold no longer are dropped (upstream's `cachePurgeInterval`).
const PURGE_EVERY: Duration = Duration::from_secs(15 * 60);
/// The place of answers that are for all images; no image is called so.
const GLOBAL: &str = "<global>";

/// The programs. One a node, shared by reference.
pub struct Providers {
    providers: Vec<Provider>,
    accounts: Accounts,
}

struct Provider {
    config: CredentialProvider,
    program: Program,
    state: Mutex<State>,
}

/// Credentials by the place that they are for, as the program has said it.
type Credentials = Arc<Vec<(String, Entry)>>;
/// What a program was asked and answers, for all who ask the same at once.
type Asking = Arc<OnceCell<Result<Answer, ProviderError>>>;

#[derive(Default)]
struct State {
    /// By image, registry or [`GLOBAL`], and by the account where the answer is one account's.
    kept: HashMap<(String, String), (Credentials, Instant)>,
    purged: Option<Instant>,
    asking: HashMap<(String, String), Asking>,
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Providers { .. }")
    }
}

impl Providers {
    /// Those of the configuration; `objects` has the service accounts.
    #[must_use]
    pub fn new(config: &CredentialProviders, objects: Objects) -> Self {
        let of = |provider: &CredentialProvider| Provider {
            program: Program::new(config.program(provider), provider),
            config: provider.clone(),
            state: Mutex::default(),
        };
        Self {
            providers: config.providers.iter().map(of).collect(),
            accounts: Accounts::new(objects),
        }
    }

    /// The credentials to try for `repository` (registry and path in full, no tag), in this order, as all programs
    /// that are for it know them. What goes wrong is in the log: the pull is tried without.
    ///
    /// Cancel-safe: a program whose answer nobody waits for any more is killed.
    pub(super) async fn lookup(
        &self,
        repository: &str,
        pod: &PodUid,
        claimant: &Claimant<'_>,
    ) -> Vec<Credential> {
        let mut keyring = Keyring::default();
        for provider in &self.providers {
            let mut images = provider.config.match_images.iter();
            if !images.any(|pattern| matches(pattern, repository)) {
                continue;
            }
            match self.ask(provider, repository, pod, claimant).await {
                Ok((credentials, owner)) => {
                    for (place, entry) in credentials.iter() {
                        keyring.add(
                            place,
                            Credential {
                                username: entry.username.clone(),
                                password: entry.password.clone(),
                                email: String::new(),
                                owner: owner.clone(),
                            },
                        );
                    }
                }
                Err(NoCredentials::NotFor(why)) => tracing::debug!(
                    provider = provider.config.name,
                    image = repository,
                    why,
                    "the credential provider is not asked"
                ),
                Err(NoCredentials::Failed(error)) => tracing::warn!(
                    provider = provider.config.name,
                    image = repository,
                    namespace = claimant.namespace,
                    pod = claimant.name,
                    error,
                    "Failed to provide credentials for image"
                ),
            }
        }
        keyring.lookup(repository)
    }

    async fn ask(
        &self,
        provider: &Provider,
        image: &str,
        pod: &PodUid,
        claimant: &Claimant<'_>,
    ) -> Result<(Credentials, CredentialOwner), NoCredentials> {
        let mut account = None;
        if let Some(attributes) = &provider.config.token {
            if !claimant.service_account.is_empty() {
                account = Some(self.accounts.of(attributes, pod, claimant).await?);
            } else if attributes.required {
                return Err(NoCredentials::NotFor("the pod has no service account"));
            }
        }
        let owner = match &account {
            Some(account) => CredentialOwner::Account(account.owner.clone()),
            None => CredentialOwner::Node,
        };
        let (kept_for, one_question) = match &account {
            Some(account) => (account.cache_key(), account.question_key()),
            None => (String::new(), String::new()),
        };
        if let Some(credentials) = provider.kept(image, &kept_for) {
            return Ok((credentials, owner));
        }
        let question = || provider.program.ask(image, account.as_ref());
        let asked = provider.once((image.to_owned(), one_question), question);
        let answer = asked
            .await
            .map_err(|error| NoCredentials::Failed(error.to_string()))?;
        if let Some(account) = &account
            && account.is_echoed(&answer)
        {
            return Err(NoCredentials::Failed(
                "credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'".to_owned(),
            ));
        }
        let credentials: Credentials = Arc::new(answer.auth);
        let holds = answer.holds.unwrap_or(provider.config.default_cache);
        if !holds.is_zero() {
            let place = match answer.kept_for {
                CacheKey::Image => image,
                CacheKey::Registry => registry(image),
                CacheKey::Global => GLOBAL,
            };
            let until = Instant::now() + holds;
            let key = (place.to_owned(), kept_for);
            let mut state = provider.state();
            state.kept.insert(key, (credentials.clone(), until));
        }
        Ok((credentials, owner))
    }
}

/// Why a program gave no credentials.
enum NoCredentials {
    /// It is not for this pod.
    NotFor(&'static str),
    /// It was to, and did not.
    Failed(String),
}

impl From<NoAccount> for NoCredentials {
    fn from(no: NoAccount) -> Self {
        match no {
            NoAccount::WithoutAnnotation => {
                Self::NotFor("its service account lacks an annotation that is required")
            }
            NoAccount::Failed(why) => Self::Failed(why),
        }
    }
}

impl Provider {
    /// What it has said before and still holds.
    fn kept(&self, image: &str, account: &str) -> Option<Credentials> {
        let now = Instant::now();
        let mut state = self.state();
        let purged = *state.purged.get_or_insert(now);
        if now.duration_since(purged) > PURGE_EVERY {
            state.kept.retain(|_, (_, until)| *until > now);
            state.purged = Some(now);
        }
        let mut places = [image, registry(image), GLOBAL].into_iter();
        places.find_map(|place| {
            let key = (place.to_owned(), account.to_owned());
            let (credentials, until) = state.kept.get(&key)?;
            (*until > now).then(|| credentials.clone())
        })
    }

    /// The answer of `ask`, or that of somebody who asks the same now. If the one who asks is dropped, one of those who wait
    /// asks in its place.
    async fn once<F>(
        &self,
        key: (String, String),
        ask: impl FnOnce() -> F,
    ) -> Result<Answer, ProviderError>
    where
        F: Future<Output = Result<Answer, ProviderError>>,
    {
        let asking = self.state().asking.entry(key.clone()).or_default().clone();
        let answer = asking.get_or_init(ask).await.clone();
        let mut state = self.state();
        if state
            .asking
            .get(&key)
            .is_some_and(|own| Arc::ptr_eq(own, &asking))
        {
            state.asking.remove(&key);
        }
        answer
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; were it to, the maps are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry of an image, with its port.
fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
