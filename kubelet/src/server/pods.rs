//! `/pods`: the pods of the node as a v1 PodList.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::pod::PodUid;
use crate::status::{StatusBoard, serialise};

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

/// How container ids are prefixed in a status.
const RUNTIME: &str = "containerd";

/// A pod with another status than its own, as an item of a list: without `apiVersion` and `kind`.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a PodStatus>,
}

const HEAD: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":"#;

/// Answers with the list, one pod at a time, so that it is never in memory as a whole.
pub(super) async fn list(view: Arc<dyn PodsView>) -> Response {
    let pods = view.pods();
    let last = pods.len();
    // An empty list is null, as Go writes a slice that was never made.
    let head = if last == 0 {
        format!("{HEAD}null}}\n")
    } else {
        format!("{HEAD}[")
    };
    let items = pods.into_iter().enumerate().map(move |(index, pod)| {
        let mut text = item(&pod, view.status(&pod).as_ref())?;
        text.extend_from_slice(if index + 1 == last { b"]}\n" } else { b"," });
        Ok::<_, io::Error>(text)
    });
    let chunks = std::iter::once(Ok(head.into_bytes())).chain(items);
    let mut response = Body::from_stream(tokio_stream::iter(chunks)).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn item(pod: &Pod, status: Option<&PodStatus>) -> io::Result<Vec<u8>> {
    let item = Item {
        metadata: &pod.metadata,
        spec: pod.spec.as_ref(),
        status: status.or(pod.status.as_ref()),
    };
    Ok(serde_json::to_vec(&item)?)
}
