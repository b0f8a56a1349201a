//! `/exec`, `/attach`, `/portForward` and `/run`: what goes on in a container, for somebody far away.
//!
//! Owns: which container is meant, the question to the runtime for a stream, the carrying of its bytes (`proxy`).
//! Inputs: a [`PodsView`], a [`StreamRuntime`], requests whose sender is known and may do it. Outputs: upgraded
//! connections; upstream's errors.
//! Tasks: one a stream, which ends with either of its ends, and one while a stream is being begun.
//! Deliberately not here: who may open a stream; what is said over one. SPDY and WebSocket are between the client and the
//! runtime, and so are their versions.

mod options;
mod proxy;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cri_proto::{CriError, CriErrorKind, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::options::{Wanted, is_upgrade, ports};
use super::pods::by_name;
use super::query::Query;
use super::{PodsView, StreamRuntime, plain, text};
use crate::pod::{self, Pod, PodName, PodUid};
use crate::runtime::ContainerId;

/// How many streams there are at once, some 100 KiB each with what the kernel holds of them.
const MOST_STREAMS: usize = 128;
/// When to come again that is one too many, seconds: as long as the runtime keeps a stream that nobody opens.
const COME_AGAIN: HeaderValue = HeaderValue::from_static("60");

/// What streams are made of.
pub struct Streaming<R> {
    /// The pods.
    pub pods: Arc<dyn PodsView>,
    /// The runtime.
    pub runtime: R,
    /// `streamingConnectionIdleTimeout`: a stream over which nothing was carried for so long is ended; zero for never.
    pub idle: Duration,
}

/// The routes.
pub fn routes<R: StreamRuntime>(streaming: Streaming<R>) -> Router {
    at_most(streaming, MOST_STREAMS)
}

fn at_most<R: StreamRuntime>(streaming: Streaming<R>, most: usize) -> Router {
    let streams = Arc::new(Streams {
        of: streaming,
        slots: Arc::new(Semaphore::new(most)),
    });
    let exec = get(exec::<R>).post(self::exec::<R>);
    let attach = get(attach::<R>).post(self::attach::<R>);
    let forward = get(port_forward::<R>).post(port_forward::<R>);
    let run = post(run::<R>);
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", exec.clone())
        .route("/exec/{namespace}/{pod}/{uid}/{container}", exec)
        .route("/attach/{namespace}/{pod}/{container}", attach.clone())
        .route("/attach/{namespace}/{pod}/{uid}/{container}", attach)
        .route("/portForward/{namespace}/{pod}", forward.clone())
        .route("/portForward/{namespace}/{pod}/{uid}", forward)
        .route("/run/{namespace}/{pod}/{container}", run.clone())
        .route("/run/{namespace}/{pod}/{uid}/{container}", run)
        .with_state(streams)
}

struct Streams<R> {
    of: Streaming<R>,
    slots: Arc<Semaphore>,
}

type Shared<R> = State<Arc<Streams<R>>>;
/// The parts of a path behind its first.
type Parts = Path<Vec<String>>;

/// A pod, and one of its containers, by the path of a request.
struct Target {
    pod: Arc<Pod>,
    uid: PodUid,
    /// The UID in the path.
    asked: Option<String>,
    container: String,
}

impl<R: StreamRuntime> Streams<R> {
    fn target(&self, parts: Vec<String>) -> Result<Target, Refusal> {
        let (namespace, name, asked, container) = match <[String; 4]>::try_from(parts) {
            Ok([namespace, name, uid, container]) => (namespace, name, Some(uid), container),
            Err(parts) => match <[String; 3]>::try_from(parts) {
                Ok([namespace, name, container]) => (namespace, name, None, container),
                Err(_) => return Err(Refusal::NoPod),
            },
        };
        let (pod, uid) = self.pod(&namespace, &name)?;
        Ok(Target {
            pod,
            uid,
            asked,
            container,
        })
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<(Arc<Pod>, PodUid), Refusal> {
        let pod = by_name(&*self.of.pods, namespace, name).ok_or(Refusal::NoPod)?;
        let uid = PodUid::of(&pod).map_err(|_| Refusal::NoPod)?;
        Ok((pod, uid))
    }

    /// The running instance of the container that is meant; none is `missing`.
    async fn running(&self, target: &Target, missing: String) -> Result<ContainerId, Refusal> {
        let running = self.of.runtime.running(&target.uid, &target.container);
        running.await?.ok_or(Refusal::Missing(missing))
    }

    /// Runs a command in the container that is meant, to its end.
    async fn run(
        &self,
        target: &Target,
        missing: String,
        command: Vec<String>,
    ) -> Result<v1::ExecSyncResponse, Refusal> {
        let container = self.running(target, missing).await?;
        Ok(self.of.runtime.run(&container, command).await?)
    }

    /// A place among all streams, for a request that is one.
    fn slot(&self, request: &Request) -> Result<OwnedSemaphorePermit, Refusal> {
        if !is_upgrade(request.headers()) {
            return Err(Refusal::NoUpgrade);
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        slot.map_err(|_| Refusal::TooMany)
    }
}

async fn exec<R: StreamRuntime>(
    State(streams): Shared<R>,
    Path(parts): Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref());
    let wanted = Wanted::of(&query).map_err(Refusal::options)?;
    let target = streams.target(parts)?;
    let missing = container_not_found(&target.container);
    let container = streams.running(&target, missing).await?;
    let slot = streams.slot(&request)?;
    let message = v1::ExecRequest {
        container_id: container.to_string(),
        cmd: query.all("command"),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let address = streams.of.runtime.exec(message).await?;
    Ok(proxy::proxy(request, &address, streams.of.idle, slot).await)
}

async fn attach<R: StreamRuntime>(
    State(streams): Shared<R>,
    Path(parts): Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = Wanted::of(&Query::parse(query.as_deref())).map_err(Refusal::options)?;
    let target = streams.target(parts)?;
    let name = PodName::of(&target.pod);
    let missing = format!("container {} not found in pod {name}", target.container);
    let container = streams.running(&target, missing.clone()).await?;
    if target
        .asked
        .is_some_and(|asked| asked != target.uid.as_str())
    {
        return Err(Refusal::Missing(format!("pod {name} not found")));
    }
    let spec = pod::container(&target.pod, &target.container);
    // Its first process has a terminal or has none, whatever is asked for.
    let tty = spec.ok_or(Refusal::Missing(missing))?.tty.unwrap_or(false);
    let slot = streams.slot(&request)?;
    let message = v1::AttachRequest {
        container_id: container.to_string(),
        stdin: wanted.stdin,
        tty,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !tty,
    };
    let address = streams.of.runtime.attach(message).await?;
    Ok(proxy::proxy(request, &address, streams.of.idle, slot).await)
}

async fn port_forward<R: StreamRuntime>(
    State(streams): Shared<R>,
    Path(parts): Parts,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let ports = ports(&Query::parse(query.as_deref()), request.headers());
    let ports = ports.map_err(Refusal::options)?;
    let mut parts = parts.into_iter();
    let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else {
        return Err(Refusal::NoPod);
    };
    let (pod, uid) = streams.pod(&namespace, &name)?;
    if parts.next().is_some_and(|asked| asked != uid.as_str()) {
        return Err(Refusal::OtherPod);
    }
    let sandbox = streams.of.runtime.sandbox(&uid).await?;
    let missing = || Refusal::Missing(format!("pod not found (\"{}\")", PodName::of(&pod)));
    let sandbox = sandbox.ok_or_else(missing)?;
    let slot = streams.slot(&request)?;
    let message = v1::PortForwardRequest {
        pod_sandbox_id: sandbox.to_string(),
        port: ports,
    };
    let address = streams.of.runtime.port_forward(message).await?;
    Ok(proxy::proxy(request, &address, streams.of.idle, slot).await)
}

/// Runs a command to its end and answers with what it wrote; the one way that needs no stream.
async fn run<R: StreamRuntime>(
    State(streams): Shared<R>,
    Path(parts): Parts,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref());
    let target = streams.target(parts)?;
    let missing = container_not_found(&target.container);
    let command = query.first("cmd").unwrap_or_default();
    let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let shown = command.join(" ");
    let answer = match streams.run(&target, missing, command).await {
        // Whatever the runtime says is one error here, unlike where there is a stream.
        Err(Refusal::Runtime(error)) => return Err(Refusal::Missing(error.rpc_text())),
        answer => answer?,
    };
    if answer.exit_code != 0 {
        let stderr = String::from_utf8_lossy(&answer.stderr);
        return Err(Refusal::Missing(format!(
            "command '{shown}' exited with {}: {stderr}",
            answer.exit_code
        )));
    }
    let output = [answer.stdout, answer.stderr].concat();
    if output.is_empty() {
        return Ok(StatusCode::OK.into_response());
    }
    // Upstream calls it that, whatever it is.
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], output).into_response())
}

fn container_not_found(name: &str) -> String {
    format!("container not found (\"{name}\")")
}

/// Why a request is not done, as upstream answers it.
#[derive(Debug)]
enum Refusal {
    NoPod,
    /// There is one, with another UID.
    OtherPod,
    /// It asks for nothing that there is.
    Options(String),
    /// Something to do it with is missing.
    Missing(String),
    NoUpgrade,
    TooMany,
    Runtime(CriError),
}

impl Refusal {
    fn options(error: options::OptionsError) -> Self {
        Self::Options(error.to_string())
    }
}

impl From<CriError> for Refusal {
    fn from(error: CriError) -> Self {
        Self::Runtime(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        match self {
            Self::NoPod => plain(StatusCode::NOT_FOUND, "pod does not exist"),
            Self::OtherPod => plain(StatusCode::NOT_FOUND, "pod not found"),
            Self::Options(why) => plain(StatusCode::BAD_REQUEST, why),
            Self::Missing(what) => plain(internal, what),
            Self::NoUpgrade => text(internal, "Upgrade request required\n"),
            Self::TooMany => come_again(
                "rpc error: code = ResourceExhausted desc = maximum number of in-flight requests exceeded",
            ),
            Self::Runtime(error) => match error.kind() {
                CriErrorKind::NotFound => plain(StatusCode::NOT_FOUND, error.rpc_text()),
                CriErrorKind::ResourceExhausted => come_again(error.rpc_text()),
                _ => plain(internal, error.rpc_text()),
            },
        }
    }
}

fn come_again(why: impl Into<String>) -> Response {
    let mut response = plain(StatusCode::TOO_MANY_REQUESTS, why);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, COME_AGAIN);
    response
}
