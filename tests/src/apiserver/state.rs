//! What the server knows, behind one lock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::faults::Fault;
use super::identity::{Token, User};
use super::record::Request;
use super::resource::{RESOURCES, position};
use super::store::Store;
use super::strategy;

/// Everything that changes.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) store: Store,
    pub(super) faults: Vec<Fault>,
    pub(super) requests: Vec<Request>,
    /// Tokens that a test has given out.
    pub(super) fixed: HashMap<String, User>,
    /// Tokens that the server has given out.
    pub(super) issued: HashMap<String, Token>,
    /// What reviews allow: user, verb, and resource with its subresource or non-resource path, each with `*`.
    pub(super) allowed: Vec<[String; 3]>,
    /// No token lives longer, whatever was asked for.
    pub(super) longest_token: Duration,
}

/// The server's state.
#[derive(Debug)]
pub(super) struct State {
    inside: Mutex<Inside>,
    /// `https://…` as clients reach it.
    pub(super) url: String,
    /// The authority of serving certificates, PEM.
    pub(super) authority: String,
}

impl State {
    pub(super) fn new(url: String, authority: String) -> Self {
        let mut inside = Inside {
            store: Store::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            fixed: HashMap::new(),
            issued: HashMap::new(),
            allowed: Vec::new(),
            longest_token: Duration::from_secs(24 * 3600),
        };
        inside.found();
        Self {
            inside: Mutex::new(inside),
            url,
            authority,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// What the real server makes when it starts.
    fn found(&mut self) {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let object = json!({ "metadata": {
                "name": name, "labels": { "kubernetes.io/metadata.name": name },
            } });
            self.seed("namespaces", "", object);
        }
        let service = json!({
            "metadata": { "name": "kubernetes" },
            "spec": {
                "clusterIP": "10.96.0.1",
                "ports": [{ "name": "https", "port": 443, "targetPort": 6443 }],
            },
        });
        self.seed("services", "default", service);
    }

    fn seed(&mut self, plural: &str, namespace: &str, mut object: Value) {
        let Some(index) = position("", plural) else {
            return;
        };
        let id = self.store.next_id();
        // Objects that we wrote have names.
        if strategy::prepare_create(&RESOURCES[index], namespace, id, &mut object).is_ok() {
            let name = super::selector::text(&object, "metadata.name").to_owned();
            self.store.put((index, namespace.to_owned(), name), object);
        }
    }
}
