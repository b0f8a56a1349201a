//! Lifecycle hooks: what is run right after a container starts, and before it is told to stop.
//!
//! Owns: running one hook (a command in the container, an HTTP GET, a sleep), and upstream's words for one that fails.
//! Inputs: the hook, its container, the pod's address. Outputs: done, or a [`HookError`]; what the runtime and the
//! network do of it.
//! Tasks: none.
//! Does not: decide when a hook runs or how long it may take (that is `workers/`: whoever drops the future ends the hook),
//! record an event of a failure, or retry.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use cri_proto::{CriError, RuntimeClient};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::connections::{self, Dialer, HttpError, HttpRequest, Manner, PortError, host_of};
use crate::events::About;
use crate::pod::{self, Pod};
use crate::runtime::ContainerId;
use crate::runtime::convert::go_quote;

/// Bytes of a command's output that a message keeps (upstream's bound for what an HTTP hook answers).
const MAX_OUTPUT: usize = 10 << 10;

/// How hooks ask over HTTP: as Go's default client, from which upstream's is made. A hook has no time of its own, so the
/// dialling has.
const MANNER: Manner = Manner {
    user_agent: "kube-lifecycle/1.36",
    gzip: true,
    close: false,
    dialer: Dialer {
        linger: None,
        patience: Some(Duration::from_secs(30)),
    },
};

/// Runs hooks. One for the whole agent.
pub struct HookRunner {
    runtime: RuntimeClient,
}

/// A hook of one instance of a container.
#[derive(Clone, Copy)]
pub struct Hook<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container's spec.
    pub container: &'a Container,
    /// The instance.
    pub id: &'a ContainerId,
    /// What to do.
    pub handler: &'a LifecycleHandler,
    /// The pod's first address on its own network; none on the host's.
    pub pod_ip: Option<IpAddr>,
}

/// A hook that failed. Display is upstream's message, which a waiting container shows.
#[derive(Debug)]
pub struct HookError {
    what: String,
    cause: HookFailure,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
enum HookFailure {
    #[error("command '{command}' exited with {code}: {stderr}")]
    ExitCode {
        command: String,
        code: i32,
        stderr: String,
        output: String,
    },
    #[error("{}", .0.rpc_text())]
    Exec(CriError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("failed to find networking container")]
    NoAddress,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("invalid handler: {0}")]
    Invalid(&'static str),
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, cause) = (&self.what, &self.cause);
        match cause {
            HookFailure::Invalid(_) => write!(f, "Cannot run handler: {cause}"),
            HookFailure::ExitCode { output, .. } => {
                write!(
                    f,
                    "{what} failed - error: {cause}, message: {}",
                    go_quote(output)
                )
            }
            HookFailure::Exec(_) => write!(f, "{what} failed - error: {cause}, message: \"\""),
            _ => write!(f, "{what} failed - error: {cause}"),
        }
    }
}

impl std::error::Error for HookError {}

impl HookRunner {
    /// One that runs commands through `runtime`.
    #[must_use]
    pub fn new(runtime: RuntimeClient) -> Self {
        Self { runtime }
    }

    /// Runs a hook to its end, however long that takes. Dropped, it is given up: the runtime ends a command whose caller
    /// has gone.
    ///
    /// # Errors
    /// A command that ends with another code than 0 or cannot be run, an HTTP request without an answer (any answer will
    /// do), a handler of no kind that hooks have.
    pub async fn run(&self, hook: Hook<'_>) -> Result<(), HookError> {
        let handler = hook.handler;
        let (kind, detail, done) = if let Some(exec) = &handler.exec {
            let command = exec.command.clone().unwrap_or_default();
            let done = self.run_command(hook.id, &command).await;
            ("Exec", format!("[{}]", command.join(" ")), done)
        } else if let Some(get) = &handler.http_get {
            let done = self.get(hook).await;
            ("HTTP", get.path.clone().unwrap_or_default(), done)
        } else if let Some(sleep) = &handler.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            ("Sleep", seconds.to_string(), Ok(()))
        } else {
            let kind = match handler.tcp_socket {
                Some(_) => "tcpSocket",
                None => "none",
            };
            ("", String::new(), Err(HookFailure::Invalid(kind)))
        };
        done.map_err(|cause| HookError {
            what: format!(
                "{kind} lifecycle hook ({detail}) for Container \"{}\" in Pod \"{}\"",
                hook.container.name,
                pod::long_name(hook.pod)
            ),
            cause,
        })
    }

    async fn run_command(&self, id: &ContainerId, command: &[String]) -> Result<(), HookFailure> {
        let answer = self
            .runtime
            .exec_sync(id.as_str(), command.to_vec(), Duration::ZERO)
            .await
            .map_err(HookFailure::Exec)?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let stderr = lossy(&answer.stderr);
        Err(HookFailure::ExitCode {
            command: command.join(" "),
            code: answer.exit_code,
            output: lossy(&answer.stdout) + &stderr,
            stderr,
        })
    }

    async fn get(&self, hook: Hook<'_>) -> Result<(), HookFailure> {
        let Some(action) = &hook.handler.http_get else {
            return Ok(());
        };
        let ip = hook.pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
        if host_of(action.host.as_deref(), &ip).is_empty() {
            return Err(HookFailure::NoAddress);
        }
        let request = HttpRequest::new(action, hook.container, &ip, &MANNER)?;
        let error = match answered(&request).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_plain_http_answer() => error,
            Err(error) => return Err(error.into()),
        };
        let plain = request.over_plain_http();
        if answered(&plain).await.is_err() {
            return Err(error.into());
        }
        About::pod(hook.pod).warning(
            "LifecycleHTTPFallback",
            &format!(
                "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
                plain.authority()
            ),
        );
        Ok(())
    }
}

/// Makes the request and waits for its answer, whatever that says; for the body too, unless it is large. An answer that
/// breaks off has been one all the same.
async fn answered(request: &HttpRequest) -> Result<(), HttpError> {
    let answer = connections::get(request, None).await?;
    if !answer.says_more_than(MAX_OUTPUT) {
        let _ = answer.body(MAX_OUTPUT).await;
    }
    Ok(())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned()
}
