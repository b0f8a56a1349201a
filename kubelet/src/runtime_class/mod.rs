//! RuntimeClasses: which handler of the runtime's a pod's sandbox is made with.
//!
//! Owns: the handler of each class of the cluster. Inputs: the API server's RuntimeClasses (`node.k8s.io/v1`). Outputs:
//! the handler for a pod ([`RuntimeClasses::handler`]). Tasks: one on a joined node ([`run_runtime_classes`]), which asks
//! the API server for nothing before the first pod names a class; on a node of its own none, and admission refuses such a
//! pod by name.
//!
//! Deliberately not here: the overhead of a class, which the API server writes into the pod's spec and the sums of
//! resources count from there; and whether the runtime has the handler, which it says itself.

mod object;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::{Notify, watch};
use tokio_stream::{Stream, StreamExt as _};

use crate::api::watch_objects;
use crate::pod::{self, Pod};
use object::RuntimeClass;

/// How long the first list may take before a pod is told that its class is not there. It is tried again when it is.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// Handlers by name of the class.
type Handlers = BTreeMap<String, String>;

/// The class that a pod names is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("runtimeclass.node.k8s.io {0:?} not found")]
pub struct NoRuntimeClass(pub String);

/// The classes of the cluster. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct RuntimeClasses {
    /// None before the first list.
    known: watch::Sender<Option<Arc<Handlers>>>,
    /// Somebody wants to know.
    wanted: Arc<Notify>,
}

impl RuntimeClasses {
    /// The handler that `pod` runs with; empty for the runtime's own choice.
    ///
    /// # Errors
    /// When the pod names a class that is not there, or not known in time. [`RuntimeClasses::changes`] says when to ask
    /// again.
    pub async fn handler(&self, pod: &Pod) -> Result<String, NoRuntimeClass> {
        let Some(class) = class_of(pod) else {
            return Ok(String::new());
        };
        self.wanted.notify_one();
        let mut known = self.known.subscribe();
        // The sender is in `self`.
        let listed = tokio::time::timeout(FIRST_LIST, known.wait_for(Option::is_some)).await;
        let handlers = match listed {
            Ok(Ok(known)) => known.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let handler = handlers.and_then(|handlers| handlers.get(class).cloned());
        handler.ok_or_else(|| NoRuntimeClass(class.to_owned()))
    }

    /// News whenever a class comes, goes or changes.
    #[must_use]
    pub fn changes(&self) -> ClassChanges {
        ClassChanges(self.known.subscribe())
    }
}

/// Says when it is worth asking again.
#[derive(Debug)]
pub struct ClassChanges(watch::Receiver<Option<Arc<Handlers>>>);

impl ClassChanges {
    /// What is known now is no news.
    pub fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until a class has come, gone or changed. Never ends for a `pod` that names none. Cancel-safe.
    pub async fn changed_for(&mut self, pod: &Pod) {
        if class_of(pod).is_none() || self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// `spec.runtimeClassName`; an empty one is none.
fn class_of(pod: &Pod) -> Option<&str> {
    let class = pod::spec(pod).runtime_class_name.as_deref();
    class.filter(|class| !class.is_empty())
}

/// Follows the classes of the cluster from the moment somebody wants to know. Never ends.
pub async fn run_runtime_classes(client: kube::Client, classes: RuntimeClasses) {
    classes.wanted.notified().await;
    let events = watch_objects(Api::<RuntimeClass>::all(client), watcher::Config::default());
    follow(events, &classes).await;
}

async fn follow(
    mut events: impl Stream<Item = Event<RuntimeClass>> + Unpin,
    classes: &RuntimeClasses,
) {
    let mut handlers = Handlers::new();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Event::Init => {
                handlers.clear();
                listed = false;
            }
            Event::InitApply(class) | Event::Apply(class) => {
                handlers.insert(class.metadata.name.unwrap_or_default(), class.handler);
            }
            Event::Delete(class) => {
                handlers.remove(class.metadata.name.as_deref().unwrap_or_default());
            }
            Event::InitDone => listed = true,
        }
        if listed {
            classes.known.send_if_modified(|known| {
                let news = known.as_deref() != Some(&handlers);
                if news {
                    *known = Some(Arc::new(handlers.clone()));
                }
                news
            });
        }
    }
}

#[cfg(test)]
mod tests;
