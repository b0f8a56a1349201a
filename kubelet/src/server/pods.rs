//! `/pods`: the pods of the node as a v1 PodList.

use std::io;
use std::sync::Arc;

use axum::response::Response;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::list::json_list;
use crate::pod::{CONFIG_SEEN_ANNOTATION, PodUid};
use crate::status::{RUNTIME, StatusBoard, serialise};

/// The pods the agent knows, for whoever asks over HTTP.
pub trait PodsView: Send + Sync + 'static {
    /// The pods known now, in the order to list them. The specs are shared, not copied.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// The status published for `pod`, made when it is asked for. None leaves the status that is in the pod.
    fn status(&self, pod: &Pod) -> Option<PodStatus>;
}

impl PodsView for StatusBoard {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.snapshot().into_iter().map(|view| view.pod).collect()
    }

    fn status(&self, pod: &Pod) -> Option<PodStatus> {
        let view = self.get(&PodUid::of(pod).ok()?)?;
        Some(serialise(pod, &view.status, RUNTIME))
    }
}

/// The pod of that namespace and name. Of several, which there are while one takes the other's place, the one that is not
/// being deleted and came last: the other is on its way out, and upstream has forgotten it.
pub(super) fn by_name(view: &dyn PodsView, namespace: &str, name: &str) -> Option<Arc<Pod>> {
    let named = |pod: &Arc<Pod>| {
        let metadata = &pod.metadata;
        metadata.name.as_deref() == Some(name)
            && metadata.namespace.as_deref().unwrap_or("default") == namespace
    };
    let pods = view.pods().into_iter().filter(named);
    pods.max_by_key(|pod| {
        let stays = pod.metadata.deletion_timestamp.is_none();
        let annotations = pod.metadata.annotations.as_ref();
        let seen = annotations.and_then(|all| all.get(CONFIG_SEEN_ANNOTATION));
        (stays, seen.cloned())
    })
}

/// A pod with another status than its own, as an item of a list: without `apiVersion` and `kind`.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a PodStatus>,
}

/// Answers with the list.
pub(super) async fn list(view: Arc<dyn PodsView>) -> Response {
    let pods = view.pods().into_iter();
    json_list(
        "PodList",
        pods.map(move |pod| item(&pod, view.status(&pod).as_ref())),
    )
}

/// A pod as an item of a list.
pub(super) fn item(pod: &Pod, status: Option<&PodStatus>) -> io::Result<Vec<u8>> {
    let item = Item {
        metadata: &pod.metadata,
        spec: pod.spec.as_ref(),
        status: status.or(pod.status.as_ref()),
    };
    Ok(serde_json::to_vec(&item)?)
}
