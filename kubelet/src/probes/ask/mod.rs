//! Asks a container: runs a command in it, or connects to it. The texts are upstream's.

mod dial;
mod exec;
mod grpc;
mod http;
mod leftovers;
mod tcp;
mod tls;
mod url;

use std::pin::Pin;
use std::time::Duration;

use cri_proto::RuntimeClient;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use self::exec::Execs;
use super::spec;
use crate::clock::Clock;
use crate::pod::{Pod, long_name};
use crate::runtime::ContainerId;

/// What a command or a server may say, bytes (`maxReadLength` and `maxRespBodyLength` of upstream's probes).
const MAX_OUTPUT: usize = 10 << 10;
/// What probes call themselves to HTTP and gRPC servers.
const USER_AGENT: &str = "kube-probe/1.36";

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
            let port = resolve_port(&socket.port, container)?;
            let host = chosen(socket.host.as_deref(), question.ip);
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

/// The host of the handler, or the pod's address.
fn chosen<'a>(host: Option<&'a str>, ip: &'a str) -> &'a str {
    host.filter(|host| !host.is_empty()).unwrap_or(ip)
}

/// The number of a port that is given by number, by the name it has in the container, or by a number as text.
fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, Unasked> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| {
                    let name = quoted(name);
                    Unasked::unknown(format!("strconv.Atoi: parsing {name}: invalid syntax"))
                })?,
            }
        }
    };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Unasked::unknown(format!("invalid port number: {number}"))),
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
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn ports_are_numbers_names_and_numbers_as_text() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..ContainerPort::default()
            }]),
            ..Container::default()
        };
        let resolve = |port: IntOrString| resolve_port(&port, &container).map_err(|e| e.text);
        let text = |text: &str| IntOrString::String(text.into());
        assert_eq!(resolve(IntOrString::Int(80)), Ok(80));
        assert_eq!(resolve(text("web")), Ok(8080));
        assert_eq!(resolve(text("81")), Ok(81));
        let fails = |port, expected: &str| assert_eq!(resolve(port), Err(expected.to_owned()));
        fails(text("db"), "strconv.Atoi: parsing \"db\": invalid syntax");
        fails(IntOrString::Int(0), "invalid port number: 0");
        fails(text("65536"), "invalid port number: 65536");
        fails(IntOrString::Int(-1), "invalid port number: -1");
    }

    #[test]
    fn durations_read_as_in_go() {
        for (seconds, text) in [(1, "1s"), (60, "1m0s"), (61, "1m1s"), (3600, "1h0m0s")] {
            assert_eq!(go_seconds(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_handlers_host_comes_before_the_pods_address() {
        assert_eq!(chosen(Some("h"), "10.0.0.1"), "h");
        assert_eq!(chosen(Some(""), "10.0.0.1"), "10.0.0.1");
        assert_eq!(chosen(None, ""), "");
    }
}
