//! What is taken to be so until the API server says: what an earlier life of the agent knew. It is asked for when a pod
//! refers to something that nobody has opened yet, and gives way to the first answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::data::{Found, ObjectData, Token};
use super::kept::{KeptServices, ObjectKey};
use super::references::TokenWish;
use super::service_links::ServiceLink;
use super::tokens::TokenKey;
use crate::pod::{self, Pod, PodName, PodUid};

/// What an earlier life of the agent knew of what pods refer to. Its Debug shows nothing of it.
#[derive(Default)]
pub struct Assumed {
    objects: BTreeMap<ObjectKey, Found<Arc<ObjectData>>>,
    tokens: HashMap<TokenKey, Token>,
    services: Option<KeptServices>,
}

impl Assumed {
    /// The object `key` is this, or is known not to be there.
    pub fn object(&mut self, key: ObjectKey, found: Found<Arc<ObjectData>>) {
        self.objects.insert(key, found);
    }

    /// The pod has this token where it wishes for one so.
    pub fn token(&mut self, pod: &Pod, uid: &PodUid, wish: &TokenWish, token: Token) {
        self.tokens.insert(TokenKey::of(pod, uid, wish), token);
    }

    /// These are the services.
    pub fn services(&mut self, services: KeptServices) {
        self.services = Some(services);
    }

    /// How many objects are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.tokens.is_empty() && self.services.is_none()
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Found<Arc<ObjectData>>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn get_token(&self, key: &TokenKey) -> Option<Token> {
        self.tokens.get(key).cloned()
    }

    pub(super) fn links(&self, pod: &Pod) -> Option<Vec<ServiceLink>> {
        let links = pod::spec(pod).enable_service_links.unwrap_or(true);
        let namespace = PodName::of(pod).namespace;
        self.services.as_ref()?.links(&namespace, links)
    }
}

impl std::fmt::Debug for Assumed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Assumed { .. }")
    }
}
