//! The service account that a pod has, as a credential provider is told of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::exchange::Answer;
use crate::config::TokenAttributes;
use crate::images::pulled::AccountUse;
use crate::images::{Claimant, sha256_hex};
use crate::objects::{AccountToken, Objects, Token};
use crate::pod::PodUid;

/// A pod's service account, and its token.
pub(super) struct Account {
    pub(super) owner: AccountUse,
    /// Those that the provider wants to know.
    pub(super) annotations: BTreeMap<String, String>,
    token: Token,
    by_token: bool,
}

/// Why there is none.
pub(super) enum NoAccount {
    /// It has not all annotations without which the provider is not asked.
    WithoutAnnotation,
    /// The API server did not give it.
    Failed(String),
}

impl Account {
    /// Its token.
    pub(super) fn token(&self) -> &str {
        std::str::from_utf8(self.token.reveal()).unwrap_or_default()
    }

    /// What of it an answer is kept for.
    pub(super) fn cache_key(&self) -> String {
        let AccountUse {
            uid,
            namespace,
            name,
        } = &self.owner;
        let mut key = vec![namespace, name, uid];
        let hash = self.token_hash();
        if self.by_token {
            key.push(&hash);
        }
        format!("{key:?}{:?}", self.annotations)
    }

    /// What of it makes one question of two.
    pub(super) fn question_key(&self) -> String {
        format!("{:?}{:?}", self.token_hash(), self.annotations)
    }

    fn token_hash(&self) -> String {
        sha256_hex(self.token.reveal())
    }

    /// Whether the provider gives the token itself back, though its answer is to be kept for the account.
    pub(super) fn is_echoed(&self, answer: &Answer) -> bool {
        let mut entries = answer.auth.iter();
        !self.by_token && entries.any(|(_, entry)| entry.password == self.token())
    }
}

/// Where accounts come from, and their tokens that are still good.
pub(super) struct Accounts {
    objects: Objects,
    tokens: Mutex<HashMap<TokenKey, (Token, Instant)>>,
}

/// Pod, account's UID, audience.
type TokenKey = (PodUid, String, String);

impl Accounts {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            tokens: Mutex::default(),
        }
    }

    /// The service account of a pod that has one.
    pub(super) async fn of(
        &self,
        attributes: &TokenAttributes,
        pod: &PodUid,
        claimant: &Claimant<'_>,
    ) -> Result<Account, NoAccount> {
        let (namespace, name) = (claimant.namespace, claimant.service_account);
        let found = self.objects.service_account(namespace, name).await;
        let found = found
            .map_err(|why| NoAccount::Failed(format!("failed to get service account: {why}")))?;
        let mut annotations = BTreeMap::new();
        for key in &attributes.required_annotations {
            let Some(value) = found.annotations.get(key) else {
                return Err(NoAccount::WithoutAnnotation);
            };
            annotations.insert(key.clone(), value.clone());
        }
        for key in &attributes.optional_annotations {
            if let Some(value) = found.annotations.get(key) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        let owner = AccountUse {
            uid: found.uid,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let token = self.token(attributes, pod, claimant, &owner.uid).await;
        let token = token.map_err(|why| {
            NoAccount::Failed(format!("failed to get service account token: {why}"))
        })?;
        Ok(Account {
            owner,
            annotations,
            token,
            by_token: attributes.cached_by_token,
        })
    }

    /// A token of the account, bound to the pod: one that was asked for before while four fifths of its time are not up.
    async fn token(
        &self,
        attributes: &TokenAttributes,
        pod: &PodUid,
        claimant: &Claimant<'_>,
        account_uid: &str,
    ) -> Result<Token, String> {
        let audience = &attributes.audience;
        let key = (pod.clone(), account_uid.to_owned(), audience.clone());
        {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.retain(|_, (_, until)| *until > Instant::now());
            if let Some((token, _)) = tokens.get(&key) {
                return Ok(token.clone());
            }
        }
        let asked = Instant::now();
        let wish = AccountToken {
            namespace: claimant.namespace,
            pod: claimant.name,
            pod_uid: pod,
            account: claimant.service_account,
            account_uid,
            audience,
        };
        let (token, lifetime) = self.objects.account_token(&wish).await?;
        let until = asked + lifetime * 4 / 5;
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(key, (token.clone(), until));
        Ok(token)
    }
}
