//! Tokens of service accounts, each bound to its pod: asked for by TokenRequest, and again before their time is up.
//!
//! Source: the Kubernetes document "Managing Service Accounts", "TokenRequest API"; KEP-1205.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{GetParams, PostParams};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::cell::Cell;
use super::data::{Found, Token};
use super::references::TokenWish;
use crate::api::{Retry, random};
use crate::errors::error_chain;
use crate::pod::{self, Pod, PodName, PodUid};

/// A token is renewed when it is this old, however long it is good for.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// What the API server grants to whoever names no time.
const DEFAULT_SECONDS: i64 = 60 * 60;
/// Renewals are spread over this long.
const JITTER: Duration = Duration::from_secs(10);
/// Pauses between attempts that failed: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(122);

/// Whose token it is, and which one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) pod: PodName,
    pub(super) uid: PodUid,
    pub(super) service_account: Box<str>,
    pub(super) wish: TokenWish,
}

impl TokenKey {
    /// The token that `pod` wishes for so.
    pub(super) fn of(pod: &Pod, uid: &PodUid, wish: &TokenWish) -> Self {
        let account = pod::spec(pod).service_account_name.as_deref();
        Self {
            pod: PodName::of(pod),
            uid: uid.clone(),
            service_account: account.unwrap_or_default().into(),
            wish: wish.clone(),
        }
    }
}

/// A token, and how long it is good for.
struct Granted {
    token: Token,
    lifetime: Duration,
    /// The moment when it is good no more, as the API server writes it.
    expires: String,
}

/// Keeps a good token in `cell`, without end. One that is there already, from an earlier life of the agent, stays until the
/// API server gives another or says that there is none: nobody knows any more how long it is good for.
pub(super) async fn keep_token(
    client: impl Future<Output = kube::Client>,
    key: TokenKey,
    cell: Arc<Cell<Token>>,
) {
    let client = client.await;
    let mut retry = Retry::new(RETRY_FIRST, RETRY_MOST);
    // When the token in `cell` is good no more.
    let mut expires: Option<Instant> = None;
    let mut assumed = matches!(cell.get(), Found::There(_));
    loop {
        let asked_at = Instant::now();
        match request(&client, &key, None).await {
            Ok(granted) => {
                retry.reset();
                assumed = false;
                expires = Some(asked_at + granted.lifetime);
                cell.set(Found::There(granted.token));
                tokio::time::sleep_until(asked_at + renewal_age(granted.lifetime)).await;
            }
            Err(refused) => {
                let error = refused.text();
                let account = &key.service_account;
                tracing::warn!(pod = %key.pod, service_account = &**account, error, "no token for the pod");
                let now = Instant::now();
                assumed &= matches!(refused, Refused::NoAnswer(_));
                if !assumed && expires.is_none_or(|at| at <= now) {
                    let why = match expires {
                        None => format!("failed to fetch token: {error}"),
                        Some(_) => format!(
                            "token of service account {}/{account} expired and refresh failed: {error}",
                            key.pod.namespace
                        ),
                    };
                    cell.set(Found::Unknown(Some(why.into())));
                }
                retry.pause().await;
            }
        }
    }
}

/// The age at which a token is renewed.
fn renewal_age(lifetime: Duration) -> Duration {
    // Never at once, however short a life the server grants.
    let due = (lifetime * 4 / 5).clamp(Duration::from_secs(1), MAX_AGE);
    due - JITTER.min(due / 10).mul_f64(random())
}

/// Why there is no token.
enum Refused {
    /// The API server has no such account or pod.
    Answer(String),
    /// It could not be asked, or says nothing that will last.
    NoAnswer(String),
}

impl Refused {
    fn text(&self) -> &str {
        match self {
            Self::Answer(text) | Self::NoAnswer(text) => text,
        }
    }
}

/// Asks for a token; an error says why there is none.
async fn request(
    client: &kube::Client,
    key: &TokenKey,
    account_uid: Option<&str>,
) -> Result<Granted, Refused> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        spec: Spec,
        status: Status,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        expiration_seconds: Option<i64>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        token: String,
        #[serde(default)]
        expiration_timestamp: String,
    }
    let (name, wish) = (&key.pod, &key.wish);
    let audiences: Vec<_> = Some(&*wish.audience)
        .filter(|a| !a.is_empty())
        .into_iter()
        .collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": account_uid.map_or_else(|| json!({}), |uid| json!({ "uid": uid })),
        "spec": {
            "audiences": audiences,
            "expirationSeconds": wish.expiration_seconds,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": &*name.name,
                "uid": key.uid.as_str(),
            },
        },
    });
    let path = format!("/api/v1/namespaces/{}/serviceaccounts", name.namespace);
    let request = kube::core::Request::new(path)
        .create_subresource(
            "token",
            &key.service_account,
            &PostParams::default(),
            body.to_string().into_bytes(),
        )
        .map_err(|error| Refused::NoAnswer(error_chain(&error)))?;
    // Read here: the client would write an answer that it cannot read to its log.
    let answer = client.request_text(request).await.map_err(refusal)?;
    let answer: Answer = serde_json::from_str(&answer)
        .map_err(|_| Refused::NoAnswer("the answer is no TokenRequest with a token".to_owned()))?;
    let seconds = answer.spec.expiration_seconds;
    let seconds = seconds.unwrap_or(wish.expiration_seconds);
    Ok(Granted {
        token: Token::new(&answer.status.token),
        lifetime: Duration::from_secs(seconds.max(0).unsigned_abs()),
        expires: answer.status.expiration_timestamp,
    })
}

/// A token of the service account of `pod`, asked for now and kept by nobody, and until when it is good, as the API
/// server writes it.
///
/// # Errors
/// Why there is none.
pub(crate) async fn request_token(
    client: &kube::Client,
    pod: &Pod,
    uid: &PodUid,
    wish: &TokenWish,
) -> Result<(Token, String), String> {
    match request(client, &TokenKey::of(pod, uid, wish), None).await {
        Ok(granted) => Ok((granted.token, granted.expires)),
        Err(refused) => Err(refused.text().to_owned()),
    }
}

/// Whose token is wanted, bound to which pod, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct AccountToken<'a> {
    /// The namespace of both.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// Its UID.
    pub pod_uid: &'a PodUid,
    /// The service account.
    pub account: &'a str,
    /// Its UID: of another account by that name there is none.
    pub account_uid: &'a str,
    /// Whom it is for.
    pub audience: &'a str,
}

/// What is told of a service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceAccount {
    /// Its UID.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl super::Objects {
    fn account_client(&self) -> Result<kube::Client, String> {
        let connections = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.connections.borrow().clone());
        let connections = connections.ok_or("there is no connection to an API server")?;
        Ok(connections.main())
    }

    /// The service account of this namespace and name, asked for now.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<ServiceAccount, String> {
        #[derive(Deserialize)]
        struct Object {
            metadata: ServiceAccount,
        }
        let client = self.account_client()?;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let request = kube::core::Request::new(path)
            .get(name, &GetParams::default())
            .map_err(|error| error_chain(&error))?;
        let text = client.request_text(request).await.map_err(|error| {
            let refused = refusal(error);
            refused.text().to_owned()
        })?;
        let object: Object = serde_json::from_str(&text)
            .map_err(|_| "the answer is no ServiceAccount".to_owned())?;
        Ok(object.metadata)
    }

    /// A token, asked for now and kept by nobody, and for how long it is good.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn account_token(
        &self,
        wish: &AccountToken<'_>,
    ) -> Result<(Token, Duration), String> {
        let client = self.account_client()?;
        let key = TokenKey {
            pod: PodName {
                namespace: wish.namespace.into(),
                name: wish.pod.into(),
            },
            uid: wish.pod_uid.clone(),
            service_account: wish.account.into(),
            wish: TokenWish {
                audience: wish.audience.into(),
                expiration_seconds: DEFAULT_SECONDS,
            },
        };
        match request(&client, &key, Some(wish.account_uid)).await {
            Ok(granted) => Ok((granted.token, granted.lifetime)),
            Err(refused) => Err(refused.text().to_owned()),
        }
    }
}

/// What the API server says is wrong, or what was in the way of asking it.
fn refusal(error: kube::Error) -> Refused {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
            Refused::Answer(status.message)
        }
        kube::Error::Api(status) => Refused::NoAnswer(status.message),
        other => Refused::NoAnswer(error_chain(&other)),
    }
}

#[cfg(test)]
mod tests;
