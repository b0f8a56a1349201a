//! Asks a container: runs a command in it, or connects to it. The texts are upstream's.

mod exec;
mod grpc;
mod http;
mod leftovers;
mod tcp;

use std::pin::Pin;
use std::time::Duration;

use cri_proto::RuntimeClient;
use k8s_openapi::api::core::v1::{Container, Probe};

use self::exec::Execs;
use super::spec;
use crate::clock::Clock;
use crate::connections::{Dialer, PortError, host_of, port_of};
use crate::pod::{Pod, long_name};
use crate::runtime::ContainerId;

/// What a command or a server may say, bytes (`maxReadLength` and `maxRespBodyLength` of upstream's probes).
const MAX_OUTPUT: usize = 10 << 10;
/// What probes call themselves to HTTP and gRPC servers.
const USER_AGENT: &str = "kube-probe/1.36";
/// How probes dial. A close waits for the peer to take note of it, as upstream has it, so that no port stays taken for a
/// minute; a peer that is a container of this node does so at once.
const DIALER: Dialer = Dialer {
    linger: Some(Duration::from_secs(1)),
    patience: None,
};

/// What a container answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is as it should be.
    Success,
    /// The same, with something to say about it.
    Warning(String),
    /// It is not.
    Failure(String),
}

/// The container could not be asked: nothing is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unasked {
    /// `unknown`, or `failure` where upstream's event says so.
    pub(super) state: &'static str,
    /// Why.
    pub(super) text: String,
}

impl Unasked {
    fn unknown(text: impl Into<String>) -> Self {
        Self {
            state: "unknown",
            text: text.into(),
        }
    }
}

impl From<PortError> for Unasked {
    fn from(error: PortError) -> Self {
        Self::unknown(error.to_string())
    }
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// The pod.
    pub(super) pod: &'a Pod,
    /// The container's spec.
    pub(super) container: &'a Container,
    /// The probe.
    pub(super) probe: &'a Probe,
    /// The running instance.
    pub(super) id: &'a ContainerId,
    /// The pod's address; empty on the node's network, and there it stands for the node itself, as upstream has it
    /// without an API server.
    pub(super) ip: &'a str,
}

/// What it takes to answer a question.
pub(super) type Asking<'a> = Pin<Box<dyn Future<Output = Result<Answer, Unasked>> + Send + 'a>>;

/// Whoever can ask containers.
pub(super) trait Ask: Send + Sync + 'static {
    /// Asks once, for at most the probe's timeout. Dropping the answer's future gives the question up.
    fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a>;
}

/// Asks real containers. One for the whole agent.
pub struct Prober {
    execs: Execs,
}

impl Prober {
    /// Asks through `runtime` what is asked by commands.
    #[must_use]
    pub fn new(runtime: RuntimeClient, clock: Clock) -> Self {
        Self {
            execs: Execs::new(runtime, clock),
        }
    }

    async fn answer(&self, question: Question<'_>) -> Result<Answer, Unasked> {
        let Question {
            container, probe, ..
        } = question;
        let timeout = spec::timeout(probe);
        if let Some(exec) = &probe.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            let env = container.env.as_deref().unwrap_or_default();
            let command = exec::expanded(command, env);
            return self.execs.run(question.id, command, timeout).await;
        }
        if let Some(get) = &probe.http_get {
            return http::get(get, container, question.ip, timeout).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            let port = port_of(&socket.port, container)?;
            let host = host_of(socket.host.as_deref(), question.ip);
            return Ok(tcp::connect(host, port, timeout).await);
        }
        if let Some(grpc) = &probe.grpc {
            let service = grpc.service.as_deref().unwrap_or_default();
            return Ok(grpc::check(question.ip, grpc.port, service, timeout).await);
        }
        Err(Unasked::unknown(format!(
            "missing probe handler for {}:{}",
            long_name(question.pod),
            container.name
        )))
    }
}

impl Ask for Prober {
    fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a> {
        Box::pin(self.answer(question))
    }
}

/// `text` as Go's `%q` writes it.
fn quoted(text: &str) -> String {
    crate::runtime::convert::go_quote(text)
}

/// A number of whole seconds as Go prints a duration.
fn go_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The beginning of `bytes` as text.
fn bounded_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (seconds, text) in [(1, "1s"), (60, "1m0s"), (61, "1m1s"), (3600, "1h0m0s")] {
            assert_eq!(go_seconds(Duration::from_secs(seconds)), text);
        }
    }
}
