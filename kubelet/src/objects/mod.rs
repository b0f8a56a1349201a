//! What pods refer to: at the API server configMaps, secrets, services, tokens of their service accounts, trust bundles, and
//! certificates of their own; beside static pods the ConfigMaps and Secrets of manifests. Neither serves the other's pods.
//!
//! Owns: one watch for each configMap or secret that a pod on this node refers to, however many pods do; the services;
//! one token, and one certificate, for each wish of a pod.
//! Inputs: a client of the API server, the manifests' objects, the pods that workers register. Outputs: a [`PodSnapshot`] and
//! [`ServiceLinks`] for pure rooms, and word to the pod when something it refers to has changed.
//! Tasks: one an object that is watched, one a token or certificate; [`Objects::run`] and [`Objects::run_local`] are one each for
//! the agent. The first two end
//! when no pod refers to their object any more, and that of an object which says that it never changes ends at once.
//! Does not: write volumes or environments, decide what is missing, keep anything on disk, or read manifests.

mod assumed;
mod cell;
mod certificates;
mod connections;
mod data;
mod kept;
mod local;
mod pod;
mod references;
mod service_links;
mod services;
mod slim;
mod snapshot;
mod tokens;
mod trust;
mod watching;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use cell::{Cell, News};
use certificates::CertificateKey;
use connections::Connections;
use local::Local;
use tokens::TokenKey;

use crate::api::watch_objects;

pub use assumed::Assumed;
pub use certificates::{CertificateWish, Credential};
pub use data::{Bytes, Found, ObjectData, Token};
pub use kept::{KeptServices, ObjectKey, decode, encode};
pub use local::{LocalObjects, key_of};
pub use pod::PodObjects;
pub use references::{Kind, TokenWish, objects_of};
pub(crate) use slim::base64_values;
pub(crate) use tokens::request_token;
pub use tokens::{AccountToken, ServiceAccount};

pub use service_links::{Protocol, ServiceLink, ServiceLinkPort, ServiceLinks};
pub use snapshot::{ObjectError, PodSnapshot};
pub use trust::TrustWish;

/// Sources of projected volumes that feature gates turn on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Projections {
    /// `ClusterTrustBundleProjection`.
    pub trust_bundles: bool,
    /// `PodCertificateRequest`.
    pub certificates: bool,
}

/// Where pods get what they refer to. Cheap to clone; clones share all of it.
#[derive(Clone, Default)]
pub struct Objects {
    /// None on a node without an API server.
    cluster: Option<Arc<Cluster>>,
    /// None where static pods refer to nothing.
    local: Option<Arc<Local>>,
}

impl Objects {
    /// On a node without an API server.
    #[must_use]
    pub fn standalone() -> Self {
        Self::default()
    }

    /// On a node of a cluster. What pods register is asked for once there is a connection.
    #[must_use]
    pub fn of_cluster(projections: Projections) -> Self {
        let cluster = Cluster {
            projections,
            ..Cluster::default()
        };
        Self {
            cluster: Some(Arc::new(cluster)),
            local: None,
        }
    }

    /// The same, with `objects` for static pods; one that is missing is to be put into `directory`.
    #[must_use]
    pub fn with_local(
        mut self,
        objects: watch::Receiver<Arc<LocalObjects>>,
        directory: &Path,
    ) -> Self {
        self.local = Some(Arc::new(Local::new(objects, directory)));
        self
    }

    /// Tells static pods of changes of what they refer to, without end.
    pub async fn run_local(self) {
        if let Some(local) = self.local {
            local.run().await;
        }
        std::future::pending().await
    }

    /// Goes by `main` from now on, and by `more` where there are too many watches for one connection; and keeps what is
    /// known of the services as the API server has them, without end. To be run once.
    pub async fn run(self, main: kube::Client, more: Arc<[kube::Client]>) {
        let Some(cluster) = self.cluster else {
            return std::future::pending().await;
        };
        let connections = Connections::new(main.clone(), &more);
        cluster.connections.send_replace(Some(connections));
        let all = kube::Api::all(main);
        let events = watch_objects(all, watcher::Config::default());
        cluster.services.follow(events).await;
    }

    /// Takes `assumed` to be so wherever the API server has not answered: an earlier life of the agent knew it. Nothing of
    /// before counts any more.
    pub fn assume(&self, assumed: Assumed) {
        if let Some(cluster) = &self.cluster {
            *cluster.assumed() = assumed;
        }
    }

    /// News after each change of an object that some pod refers to, and of the services.
    #[must_use]
    pub fn changes(&self) -> Option<watch::Receiver<()>> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.changed.subscribe())
    }

    /// What is known of an object, as far as some pod refers to it.
    #[must_use]
    pub fn known(&self, key: &ObjectKey) -> Found<Arc<ObjectData>> {
        let open = self.cluster.as_ref().and_then(|c| c.objects.get(key));
        open.map(|open| open.cell.get()).unwrap_or_default()
    }

    /// What pods of `namespaces` find of services; none before they have been read.
    #[must_use]
    pub fn services<'a>(&self, namespaces: impl Iterator<Item = &'a str>) -> Option<KeptServices> {
        self.cluster.as_ref()?.services.kept(namespaces)
    }

    /// A pod that is to register what it refers to.
    #[must_use]
    pub fn pod(&self) -> PodObjects {
        PodObjects::new(self.clone())
    }
}

struct Cluster {
    /// None until the node has joined.
    connections: watch::Sender<Option<Arc<Connections>>>,
    objects: Table<ObjectKey, Arc<ObjectData>>,
    tokens: Table<TokenKey, Token>,
    trust: Table<TrustWish, Bytes>,
    certificates: Table<CertificateKey, Credential>,
    projections: Projections,
    services: services::Services,
    /// Until the API server says otherwise.
    assumed: Mutex<Assumed>,
    /// Told after each change of an object or a service.
    changed: watch::Sender<()>,
}

impl Default for Cluster {
    fn default() -> Self {
        let changed = watch::Sender::default();
        Self {
            connections: watch::Sender::default(),
            objects: Table::default(),
            tokens: Table::default(),
            trust: Table::default(),
            certificates: Table::default(),
            projections: Projections::default(),
            services: services::Services::new(changed.clone()),
            assumed: Mutex::default(),
            changed,
        }
    }
}

impl Cluster {
    /// The connections, as soon as there are any.
    fn connections(&self) -> impl Future<Output = Arc<Connections>> + Send + use<> {
        let mut connections = self.connections.subscribe();
        async move {
            // Cancel-safe: it is a state. Without a sender nobody waits any more either.
            let found = connections.wait_for(Option::is_some).await;
            let found = found.ok().and_then(|connections| connections.clone());
            match found {
                Some(connections) => connections,
                None => std::future::pending().await,
            }
        }
    }

    fn assumed(&self) -> MutexGuard<'_, Assumed> {
        // Nothing panics under this lock.
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, kind: Kind, namespace: &str, name: &str, news: &Arc<News>) -> Arc<OpenObject> {
        let key = (kind, Box::from(namespace), Box::from(name));
        let connections = self.connections();
        self.objects.open(key, news, |key, cell| {
            if let Some(found) = self.assumed().get(key) {
                cell.set(found);
            }
            let changed = self.changed.clone();
            let watch = watching::watch_one(connections, key.clone(), cell, changed);
            tokio::spawn(watch).abort_handle()
        })
    }

    fn token(&self, key: TokenKey, news: &Arc<News>) -> Arc<Open<TokenKey, Token>> {
        let connections = self.connections();
        self.tokens.open(key, news, |key, cell| {
            if let Some(token) = self.assumed().get_token(key) {
                cell.set(Found::There(token));
            }
            let client = async move { connections.await.main() };
            tokio::spawn(tokens::keep_token(client, key.clone(), cell)).abort_handle()
        })
    }
}

impl Cluster {
    /// Whether what `reference` names is had here at all.
    fn serves(&self, reference: &references::Reference) -> bool {
        use references::Reference;
        match reference {
            Reference::Object(..) | Reference::Token(_) => true,
            Reference::Trust(_) => self.projections.trust_bundles,
            Reference::Certificate(_) => self.projections.certificates,
        }
    }

    fn trust(&self, wish: TrustWish, news: &Arc<News>) -> Arc<Open<TrustWish, Bytes>> {
        let connections = self.connections();
        self.trust.open(wish, news, |wish, cell| {
            let watch = trust::watch_bundles(connections, wish.clone(), cell);
            tokio::spawn(watch).abort_handle()
        })
    }

    fn certificate(
        &self,
        key: CertificateKey,
        pod: &Arc<crate::pod::Pod>,
        news: &Arc<News>,
    ) -> Arc<Open<CertificateKey, Credential>> {
        let connections = self.connections();
        self.certificates.open(key, news, |key, cell| {
            let pod = pod.clone();
            let keep = certificates::keep_certificate(connections, key.clone(), pod, cell);
            tokio::spawn(keep).abort_handle()
        })
    }
}

/// What is open of one sort of thing, by key. What nobody holds is closed.
struct Table<K: Eq + Hash + Clone, T>(Arc<Entries<K, T>>);

type Entries<K, T> = Mutex<HashMap<K, Weak<Open<K, T>>>>;

impl<K: Eq + Hash + Clone, T> Default for Table<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Something that is watched, or renewed, for as long as this is held.
struct Open<K: Eq + Hash + Clone, T> {
    key: K,
    cell: Arc<Cell<T>>,
    task: AbortHandle,
    entries: Weak<Entries<K, T>>,
}

fn lock<K, T>(entries: &Mutex<HashMap<K, T>>) -> MutexGuard<'_, HashMap<K, T>> {
    // Nothing panics under this lock.
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Eq + Hash + Clone, T: Clone + PartialEq> Table<K, T> {
    /// What is open under `key`.
    fn get(&self, key: &K) -> Option<Arc<Open<K, T>>> {
        lock(&self.0).get(key).and_then(Weak::upgrade)
    }

    /// What is open under `key`, or what `begin` opens; `news` hears of it.
    fn open(
        &self,
        key: K,
        news: &Arc<News>,
        begin: impl FnOnce(&K, Arc<Cell<T>>) -> AbortHandle,
    ) -> Arc<Open<K, T>> {
        let mut entries = lock(&self.0);
        if let Some(open) = entries.get(&key).and_then(Weak::upgrade) {
            open.cell.listen(Arc::downgrade(news));
            return open;
        }
        let cell = Arc::new(Cell::default());
        cell.listen(Arc::downgrade(news));
        let open = Arc::new(Open {
            task: begin(&key, cell.clone()),
            key: key.clone(),
            cell,
            entries: Arc::downgrade(&self.0),
        });
        entries.insert(key, Arc::downgrade(&open));
        open
    }
}

impl<K: Eq + Hash + Clone, T> Drop for Open<K, T> {
    fn drop(&mut self) {
        self.task.abort();
        let Some(entries) = self.entries.upgrade() else {
            return;
        };
        let mut entries = lock(&entries);
        // Somebody may have opened it anew meanwhile.
        if entries
            .get(&self.key)
            .is_some_and(|open| open.strong_count() == 0)
        {
            entries.remove(&self.key);
        }
    }
}

/// An object that is watched, by its kind, namespace and name.
type OpenObject = Open<ObjectKey, Arc<ObjectData>>;

/// What a pod holds.
enum Opened {
    Object(Arc<OpenObject>),
    Token(Arc<Open<TokenKey, Token>>),
    Trust(Arc<Open<TrustWish, Bytes>>),
    Certificate(Arc<Open<CertificateKey, Credential>>),
}

impl Opened {
    /// Whether the API server, or who acts on it, has to make it first.
    fn is_made(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Certificate(_))
    }

    fn is_answered(&self) -> bool {
        match self {
            Self::Object(object) => object.cell.is_answered(),
            Self::Token(token) => token.cell.is_answered(),
            Self::Trust(trust) => trust.cell.is_answered(),
            Self::Certificate(certificate) => certificate.cell.is_answered(),
        }
    }
}

#[cfg(test)]
mod tests;
