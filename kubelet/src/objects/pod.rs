//! What one pod refers to, for as long as it needs it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::cell::News;
use super::certificates::CertificateKey;
use super::references::{Reference, references};
use super::service_links::ServiceLinks;
use super::snapshot::PodSnapshot;
use super::tokens::TokenKey;
use super::{Cluster, Local, Objects, Opened};
use crate::pod::{self, Pod, PodName, PodUid};

/// How long a start waits for the first answer about an object; upstream waits as long.
const OBJECT_PATIENCE: Duration = Duration::from_secs(1);
/// How long it waits for a token, which the API server has to make.
const TOKEN_PATIENCE: Duration = Duration::from_secs(10);

/// What one pod refers to. Whatever nobody else refers to is let go of when it is dropped.
pub struct PodObjects {
    objects: Objects,
    news: Arc<News>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<Reference, Opened>,
    /// The pod as it was when it was registered last.
    of: Option<Arc<Pod>>,
}

impl PodObjects {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            news: Arc::new(News::new(0)),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server's objects, where they are for `pod`: never for a static one.
    fn cluster(&self, pod: &Pod) -> Option<&Arc<Cluster>> {
        let cluster = self.objects.cluster.as_ref();
        cluster.filter(|_| !pod::is_static(pod))
    }

    /// The manifests' objects, where they are for `pod`: for static ones alone.
    fn local(&self, pod: &Pod) -> Option<&Arc<Local>> {
        let local = self.objects.local.as_ref();
        local.filter(|_| pod::is_static(pod))
    }

    /// Follows from now on what `pod` refers to, and nothing else. Cheap when the pod is the same.
    pub fn register(&self, pod: &Arc<Pod>, uid: &PodUid) {
        let mut state = self.state();
        if state.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, pod)) {
            return;
        }
        if let Some(local) = self.local(pod) {
            local.listen(pod, &self.news);
            state.of = Some(pod.clone());
        }
        let Some(cluster) = self.cluster(pod) else {
            return;
        };
        if state.of.is_none() {
            cluster.services.tell_first(&self.news);
        }
        let mut wanted = references(pod);
        wanted.retain(|reference| cluster.serves(reference));
        state.held.retain(|reference, _| wanted.contains(reference));
        for reference in wanted {
            let open = || open(cluster, pod, uid, &reference, &self.news);
            state.held.entry(reference.clone()).or_insert_with(open);
        }
        state.of = Some(pod.clone());
    }

    /// Lets go of everything, because nothing of the pod runs any more.
    pub fn release(&self) {
        *self.state() = State::default();
        if let Some(local) = &self.objects.local {
            local.leave(&self.news);
        }
    }

    /// A count that goes up whenever something that the pod refers to has changed, and when the services have been read
    /// for the first time.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn all_answered(&self, tokens: bool) -> bool {
        let state = self.state();
        let pod = state.of.as_deref();
        if let Some((pod, local)) = pod.and_then(|pod| Some((pod, self.local(pod)?))) {
            return tokens || local.is_answered(pod);
        }
        let mut held = state.held.values();
        held.all(|opened| opened.is_made() != tokens || opened.is_answered())
    }

    /// Waits until there is an answer about everything that the pod refers to, or has been no answer for long enough.
    pub async fn settle(&self) {
        for (tokens, patience) in [(false, OBJECT_PATIENCE), (true, TOKEN_PATIENCE)] {
            let mut news = self.news.subscribe();
            let answered = news.wait_for(|_| self.all_answered(tokens));
            // Cancel-safe: what is known is in the cells. The sender is `self`'s.
            let _ = tokio::time::timeout(patience, answered).await;
        }
    }

    /// All of it as it is now.
    #[must_use]
    pub fn snapshot(&self, pod: &Pod) -> PodSnapshot {
        if let Some(local) = self.local(pod) {
            return local.snapshot(pod);
        }
        let namespace = PodName::of(pod).namespace;
        if self.cluster(pod).is_none() {
            return PodSnapshot::standalone(&namespace);
        }
        let none = PodSnapshot::of_cluster(&namespace);
        self.state()
            .held
            .iter()
            .fold(none, |snapshot, held| match held {
                (Reference::Object(kind, name), Opened::Object(object)) => {
                    snapshot.with(*kind, name, object.cell.get())
                }
                (Reference::Token(wish), Opened::Token(token)) => {
                    snapshot.with_token(wish.clone(), token.cell.get())
                }
                (Reference::Trust(wish), Opened::Trust(trust)) => {
                    snapshot.with_trust(wish.clone(), trust.cell.get())
                }
                (Reference::Certificate(wish), Opened::Certificate(certificate)) => {
                    snapshot.with_certificate(wish, certificate.cell.get())
                }
                _ => snapshot,
            })
    }

    /// Waits until the services have been read once, or have not been for long enough. A static pod never waits.
    pub async fn settle_services(&self, pod: &Pod) {
        if let (Some(cluster), false) = (&self.objects.cluster, pod::is_static(pod))
            && cluster.assumed().links(pod).is_none()
        {
            let mut synced = cluster.services.synced();
            // Cancel-safe: it is a state.
            let _ = tokio::time::timeout(OBJECT_PATIENCE, synced.wait_for(|synced| *synced)).await;
        }
    }

    /// The services that the pod's containers find in their environment.
    #[must_use]
    pub fn services(&self, pod: &Pod) -> ServiceLinks {
        let Some(cluster) = &self.objects.cluster else {
            return ServiceLinks::Known(Vec::new());
        };
        if !pod::is_static(pod) && !*cluster.services.synced().borrow() {
            let assumed = cluster.assumed().links(pod);
            return assumed.map_or(ServiceLinks::NotYet, ServiceLinks::Known);
        }
        let links = pod::spec(pod).enable_service_links.unwrap_or(true);
        let namespace = PodName::of(pod).namespace;
        ServiceLinks::Known(cluster.services.links(&namespace, links))
    }
}

fn open(
    cluster: &Arc<Cluster>,
    pod: &Arc<Pod>,
    uid: &PodUid,
    reference: &Reference,
    news: &Arc<News>,
) -> Opened {
    match reference {
        Reference::Object(kind, name) => {
            let namespace = PodName::of(pod).namespace;
            Opened::Object(cluster.object(*kind, &namespace, name, news))
        }
        Reference::Token(wish) => Opened::Token(cluster.token(TokenKey::of(pod, uid, wish), news)),
        Reference::Trust(wish) => Opened::Trust(cluster.trust(wish.clone(), news)),
        Reference::Certificate(wish) => {
            let key = CertificateKey::of(pod, uid, wish);
            Opened::Certificate(cluster.certificate(key, pod, news))
        }
    }
}
