//! `/runningpods`: what the runtime runs, whatever the agent knows of it.

use std::collections::HashMap;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use cri_proto::{CriError, RuntimeClient, v1};
use serde_json::{Value, json};

use super::list::json_list;
use super::text;
use crate::errors::error_chain;

/// `/runningpods`, asked of `runtime`.
pub fn routes(runtime: RuntimeClient) -> Router {
    let answer = move || answer(runtime.clone());
    Router::new()
        .route("/runningpods", get(answer.clone()))
        .route("/runningpods/", get(answer))
}

async fn answer(runtime: RuntimeClient) -> Response {
    match asked(&runtime).await {
        Ok(pods) => {
            let items = pods.into_iter();
            json_list("PodList", items.map(|pod| Ok(serde_json::to_vec(&pod)?)))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error_chain(&error)),
    }
}

async fn asked(runtime: &RuntimeClient) -> Result<Vec<Value>, CriError> {
    let ready = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue {
            state: v1::PodSandboxState::SandboxReady as i32,
        }),
        ..v1::PodSandboxFilter::default()
    };
    let running = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning as i32,
        }),
        ..v1::ContainerFilter::default()
    };
    let sandboxes = runtime.list_pod_sandbox(Some(ready)).await?;
    let containers = runtime.list_containers(Some(running)).await?;
    Ok(joined(sandboxes, containers))
}

/// The pods, the newest first, in the form in which upstream has them.
fn joined(mut sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Vec<Value> {
    let mut of_sandbox: HashMap<String, Vec<Value>> = HashMap::new();
    for container in containers {
        let name = container.metadata.map(|metadata| metadata.name);
        let image = container.image.map(|image| image.image);
        let shown = json!({
            "name": name.unwrap_or_default(),
            "image": image.unwrap_or_default(),
            "resources": {},
        });
        let own = of_sandbox.entry(container.pod_sandbox_id).or_default();
        own.push(shown);
    }
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
    let pods = sandboxes.into_iter().filter_map(|sandbox| {
        let metadata = sandbox.metadata?;
        // Nothing at all is null in Go.
        let containers = of_sandbox.remove(&sandbox.id).map_or(Value::Null, Value::Array);
        Some(json!({
            "metadata": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid },
            "spec": { "containers": containers },
            "status": {},
        }))
    });
    pods.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_with_their_sandbox() {
        let sandbox = |id: &str, name: &str, created_at: i64| v1::PodSandbox {
            id: id.to_owned(),
            created_at,
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: format!("uid-{name}"),
                attempt: 0,
            }),
            ..v1::PodSandbox::default()
        };
        let container = |sandbox: &str, name: &str| v1::Container {
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: "busybox".to_owned(),
                ..v1::ImageSpec::default()
            }),
            ..v1::Container::default()
        };
        let pods = joined(
            vec![sandbox("1", "old", 1), sandbox("2", "new", 2)],
            vec![
                container("1", "a"),
                container("1", "b"),
                container("3", "c"),
            ],
        );
        let shown = |name: &str| json!({"name": name, "image": "busybox", "resources": {}});
        assert_eq!(
            pods,
            [
                json!({"metadata": {"name": "new", "namespace": "default", "uid": "uid-new"}, "spec": {"containers": null}, "status": {}}),
                json!({"metadata": {"name": "old", "namespace": "default", "uid": "uid-old"}, "spec": {"containers": [shown("a"), shown("b")]}, "status": {}}),
            ]
        );
    }
}
