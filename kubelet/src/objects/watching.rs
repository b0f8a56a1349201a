//! The watch of one object, for as long as a pod refers to it.

use std::sync::Arc;

use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::cell::Cell;
use super::connections::Connections;
use super::data::{Found, ObjectData};
use super::kept::ObjectKey;
use super::references::Kind;
use super::slim;
use crate::api::watch_objects;

/// Keeps `cell` as the API server has the object. Ends when the object says that it never changes.
pub(super) async fn watch_one(
    connections: impl Future<Output = Arc<Connections>>,
    (kind, namespace, name): ObjectKey,
    cell: Arc<Cell<Arc<ObjectData>>>,
    changed: watch::Sender<()>,
) {
    let place = connections.await.place();
    let client = place.client();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    match kind {
        Kind::ConfigMap => {
            let api: Api<slim::ConfigMap> = Api::namespaced(client, &namespace);
            follow(watch_objects(api, only), &cell, &changed).await;
        }
        Kind::Secret => {
            let api: Api<slim::Secret> = Api::namespaced(client, &namespace);
            follow(watch_objects(api, only), &cell, &changed).await;
        }
    }
}

async fn follow<K: Into<ObjectData>>(
    mut events: impl tokio_stream::Stream<Item = Event<K>> + Unpin,
    cell: &Cell<Arc<ObjectData>>,
    changed: &watch::Sender<()>,
) {
    let mut listed = None;
    while let Some(event) = events.next().await {
        let found = match event {
            Event::Init => {
                listed = None;
                continue;
            }
            Event::InitApply(object) => {
                listed = Some(object);
                continue;
            }
            Event::InitDone => listed.take(),
            Event::Apply(object) => Some(object),
            Event::Delete(_) => None,
        };
        match found.map(|object| Arc::new(object.into())) {
            Some(data) => {
                let fixed = ObjectData::is_immutable(&data);
                cell.set(Found::There(data));
                changed.send_replace(());
                if fixed {
                    return;
                }
            }
            None => {
                cell.set(Found::Missing);
                changed.send_replace(());
            }
        }
    }
}
