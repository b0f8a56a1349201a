//! `/checkpoint/<namespace>/<pod>/<container>`: what a container holds, written to a file by the runtime (KEP-2008).

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use jiff::Timestamp;

use super::pods::by_name;
use super::query::Query;
use super::{PodsView, StreamRuntime, plain};
use crate::clock::Clock;
use crate::pod::{self, PodName, PodUid};

/// What checkpoints are made by.
pub struct Checkpoints<R> {
    /// The pods.
    pub pods: Arc<dyn PodsView>,
    /// The runtime, which writes the file.
    pub runtime: R,
    /// `<root>/checkpoints`.
    pub directory: PathBuf,
    /// The time in a file's name.
    pub clock: Clock,
}

/// The route.
pub fn routes<R: StreamRuntime>(checkpoints: Checkpoints<R>) -> Router {
    let path = "/checkpoint/{namespace}/{pod}/{container}";
    Router::new()
        .route(path, post(write::<R>))
        .with_state(Arc::new(checkpoints))
}

async fn write<R: StreamRuntime>(
    State(checkpoints): State<Arc<Checkpoints<R>>>,
    Path([namespace, name, container]): Path<[String; 3]>,
    RawQuery(query): RawQuery,
) -> Response {
    let missing = |what: String| plain(StatusCode::NOT_FOUND, what);
    let pod = by_name(&*checkpoints.pods, &namespace, &name);
    let Some((uid, pod)) = pod.and_then(|pod| Some((PodUid::of(&pod).ok()?, pod))) else {
        return missing("pod does not exist".to_owned());
    };
    if pod::container(&pod, &container).is_none() {
        return missing(format!("container {container} does not exist"));
    }
    let query = Query::parse(query.as_deref());
    let timeout: i64 = match query.all("timeout").last().map(|last| last.parse()) {
        None => 0,
        Some(Ok(seconds)) => seconds,
        Some(Err(_)) => return missing("cannot parse value of timeout parameter".to_owned()),
    };
    match checkpoints
        .write(&uid, &PodName::of(&pod), &container, timeout)
        .await
    {
        Ok(location) => {
            let answer = serde_json::json!({ "items": [location] }).to_string();
            let json = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, json)], answer).into_response()
        }
        Err(why) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("checkpointing of {namespace}/{name}/{container} failed ({why})"),
        ),
    }
}

impl<R: StreamRuntime> Checkpoints<R> {
    /// Has the runtime write the file, and gives its path. Fails with what upstream would say.
    async fn write(
        &self,
        uid: &PodUid,
        pod: &PodName,
        container: &str,
        timeout: i64,
    ) -> Result<String, String> {
        let id = self.runtime.running(uid, container).await;
        let id = id.map_err(|error| error.rpc_text())?;
        let id = id.ok_or_else(|| format!("container {container} not found"))?;
        let timeout = u64::try_from(timeout)
            .map_err(|_| "CheckpointContainer requires the timeout value to be > 0".to_owned())?;
        // Names of pods and containers have nothing in them that leads elsewhere.
        let file = format!(
            "checkpoint-{}_{}-{container}-{}.tar",
            pod.name,
            pod.namespace,
            whole_second(self.clock.wall())
        );
        let location = self.directory.join(file).display().to_string();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()))?;
        let timeout = Duration::from_secs(timeout);
        let written = self.runtime.checkpoint(&id, location.clone(), timeout);
        written.await.map_err(|error| error.rpc_text())?;
        Ok(location)
    }
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use cri_proto::{CriError, CriErrorKind};

    use super::*;
    use crate::server::runtime::fake::{Fake, ask, pods, serve};

    async fn answer(fake: &Fake, directory: &std::path::Path, path: &str) -> (String, String) {
        let checkpoints = Checkpoints {
            pods: pods(),
            runtime: fake.clone(),
            directory: directory.join("checkpoints"),
            clock: Clock::system(),
        };
        let address = serve(routes(checkpoints)).await;
        let (head, body) = ask(address, &format!("POST /checkpoint/{path}")).await;
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, body)
    }

    #[tokio::test]
    async fn a_running_container_is_written_to_a_file_of_its_name() {
        let fake = Fake::at("");
        let root = tempfile::tempdir().unwrap();
        let (status, body) = answer(&fake, root.path(), "ns/web/c?timeout=x&timeout=7").await;
        assert_eq!(status, "200", "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let location = answer["items"][0].as_str().unwrap();
        let file = format!(
            "{}/checkpoints/checkpoint-web_ns-c-2",
            root.path().display()
        );
        assert!(location.starts_with(&file), "{location}");
        let time = location.strip_suffix("Z.tar").unwrap_or_default();
        assert!(!time.strip_prefix(&file).unwrap().contains('.'), "{time}");
        assert_eq!(fake.asked(), [format!("id1 to {location} in 7s")]);
        assert!(root.path().join("checkpoints").is_dir());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_as_upstream_says_it() {
        let fake = Fake::at("");
        let root = tempfile::tempdir().unwrap();
        for (path, expected) in [
            ("ns/other/c", "404 pod does not exist"),
            ("ns/web/x", "404 container x does not exist"),
            (
                "ns/web/c?timeout=x",
                "404 cannot parse value of timeout parameter",
            ),
            (
                "ns/web/c?timeout=-1",
                "500 checkpointing of ns/web/c failed (CheckpointContainer requires the timeout value to be > 0)",
            ),
            (
                "ns/idle/c",
                "500 checkpointing of ns/idle/c failed (container c not found)",
            ),
        ] {
            let (status, body) = answer(&fake, root.path(), path).await;
            assert_eq!(format!("{status} {body}"), expected);
        }
        assert!(fake.asked().is_empty());

        let mut fake = fake;
        let why = "unknown method CheckpointContainer";
        fake.error = Some(CriError::new(
            "CheckpointContainer",
            CriErrorKind::Unimplemented,
            why,
        ));
        let (status, body) = answer(&fake, root.path(), "ns/web/c").await;
        assert_eq!(
            format!("{status} {body}"),
            "500 checkpointing of ns/web/c failed (rpc error: code = Unimplemented desc = unknown method CheckpointContainer)"
        );
    }
}
