//! What tests of a joined node wait for, and count.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Cluster;
use super::client::{path, refusal};
use crate::agent::{NODE_NAME, PodView as _};
use crate::apiserver::Request;
use crate::in_process::FakeNode;
use crate::wait::eventually;

/// How long anything may take that takes a moment, with a server between, on a machine busy with a build.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A pod of one container, `main`, bound to the node, in the namespace `default`.
#[must_use]
pub fn bound_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "nodeName": NODE_NAME,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 2,
            "containers": [{ "name": "main", "image": "busybox:1" }],
        },
    })
}

impl Cluster {
    /// Creates a pod in the namespace `default`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn add(&self, pod: &Value) -> Result<Pod> {
        let made = self
            .client()
            .create(&path("pods", "default", ""), pod)
            .await?;
        serde_json::from_value(made).context("read a pod")
    }

    /// Creates an object of another kind in the namespace `default`.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn add_object(&self, plural: &str, object: &Value) -> Result<Value> {
        let all = path(plural, "default", "");
        self.client().create(&all, object).await
    }

    /// The pod of the namespace `default`, as the server has it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pod(&self, name: &str) -> Result<Pod> {
        self.client().pod("default", name).await
    }

    /// Deletes a pod of the namespace `default`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete_pod(&self, name: &str, grace: Option<i64>) -> Result<Value> {
        let pod = path("pods", "default", name);
        self.client().delete(&pod, grace).await
    }

    /// Waits until the server has a pod of which `ask` is true.
    ///
    /// # Errors
    /// When it is not so within `limit`; what of it the pod shows.
    pub async fn pod_shows(
        &self,
        what: &str,
        name: &str,
        limit: Duration,
        ask: impl Fn(&Pod) -> bool,
    ) -> Result<Pod> {
        eventually(&format!("{name}: {what}"), limit, async || {
            let pod = self.pod(name).await?;
            ensure!(ask(&pod), "{}", pod.describe());
            Ok(pod)
        })
        .await
    }

    /// Waits until the server has the pod as Running with every container ready.
    ///
    /// # Errors
    /// When it is not within [`LIMIT`].
    pub async fn ready(&self, name: &str) -> Result<Pod> {
        self.pod_shows("ready", name, LIMIT, is_ready).await
    }

    /// Waits until a container of a pod waits for `reason`.
    ///
    /// # Errors
    /// When it does not within [`LIMIT`].
    pub async fn waiting(&self, name: &str, container: &str, reason: &str) -> Result<Pod> {
        self.pod_shows(reason, name, LIMIT, |pod| {
            let status = pod.container(container).ok();
            let state = status.and_then(|s| s.state.as_ref());
            let waiting = state.and_then(|s| s.waiting.as_ref());
            waiting.and_then(|w| w.reason.as_deref()) == Some(reason)
        })
        .await
    }

    /// Waits until the server has no pod of this name and UID, and the node nothing of it.
    ///
    /// # Errors
    /// When something is left after [`LIMIT`].
    pub async fn gone(&self, node: &FakeNode, pod: &Pod) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        eventually(
            &format!("no {name} in the API"),
            LIMIT,
            async || match self.pod(name).await {
                Ok(other) => {
                    ensure!(other.uid() != pod.uid(), "{}", other.describe());
                    Ok(())
                }
                Err(error) if refusal(&error) == Some(404) => Ok(()),
                Err(error) => Err(error),
            },
        )
        .await?;
        node.gone(pod).await
    }

    /// The node, as the server has it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn node(&self) -> Result<Node> {
        self.client().node(NODE_NAME).await
    }

    /// Waits until the server has the node with this status (`True`, `False`) of a condition.
    ///
    /// # Errors
    /// When it is not so within [`LIMIT`].
    pub async fn node_condition(&self, kind: &str, status: &str) -> Result<Node> {
        eventually(
            &format!("the node's {kind} is {status}"),
            LIMIT,
            async || {
                let node = self.node().await?;
                let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
                let own = conditions
                    .into_iter()
                    .flatten()
                    .find(|c| c.type_ == kind)
                    .with_context(|| format!("no condition {kind}"))?;
                ensure!(own.status == status, "{} {:?}", own.status, own.message);
                Ok(node)
            },
        )
        .await
    }

    /// Waits until the server has an event of this reason about the object called `name`.
    ///
    /// # Errors
    /// When it has none within [`LIMIT`]; the reasons that it has.
    pub async fn event(&self, name: &str, reason: &str) -> Result<Event> {
        eventually(&format!("event {reason} of {name}"), LIMIT, async || {
            let mut events = self.client().events("default").await?;
            let reasons: Vec<String> = events
                .iter()
                .map(|e| {
                    let about = e.involved_object.name.as_deref().unwrap_or_default();
                    format!("{about} {}", e.reason.as_deref().unwrap_or_default())
                })
                .collect();
            events.retain(|e| {
                e.involved_object.name.as_deref() == Some(name)
                    && e.reason.as_deref() == Some(reason)
            });
            events.pop().with_context(|| format!("only {reasons:?}"))
        })
        .await
    }

    /// The requests of the node since then: those of this verb with a path like this one (`*` for any). Events are among
    /// them only when the path names them: all agents of a process record into one place, and each tells all of it.
    ///
    /// # Errors
    /// As [`Cluster::requests`].
    pub fn asked(&self, from: Timestamp, verb: &str, path: &str) -> Result<Vec<Request>> {
        let user = format!("system:node:{NODE_NAME}");
        let requests = self.requests()?.into_iter();
        let events = path.contains("events");
        Ok(requests
            .filter(|r| events || !r.path.contains("/events"))
            .filter(|r| r.at >= from && r.user == user && r.is(verb, path))
            .collect())
    }
}

/// Whether a pod is Running with every container ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = pod.statuses().iter().filter(|status| status.ready).count();
    pod.phase() == "Running" && ready == containers
}
