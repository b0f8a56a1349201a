//! `kubelet port-forward`.
//!
//! Each connection to a local port is a connection to the agent of its own: one that is slow, or fails, is nobody else's
//! trouble.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::carry::Session;
use super::upgrade::{PORTS, upgrade};
use super::{StreamError, target, tell};
use crate::cli::arguments::ForwardArguments;

/// How long to wait when no connection can be taken (out of files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn forward(arguments: &ForwardArguments) -> Result<(), StreamError> {
    let socket = arguments.place.socket();
    let pod = target::pod(&socket, &arguments.namespace, &arguments.pod)?;
    let phase = target::phase(&pod.pod);
    if phase != "Running" {
        return Err(StreamError::Cannot(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let parsed = arguments.ports.iter().map(|text| Pair::of(text, &pod.pod));
    let pairs: Vec<Pair> = parsed.collect::<Result<_, _>>()?;
    let addresses = addresses(&arguments.address)?;
    let mut listeners = Vec::new();
    for pair in &pairs {
        listen(*pair, &addresses, &mut listeners).await?;
    }
    if listeners.is_empty() {
        let wanted = pairs
            .iter()
            .map(|pair| format!("{{{} {}}}", pair.local, pair.remote));
        return Err(StreamError::Cannot(format!(
            "unable to listen on any of the requested ports: [{}]",
            wanted.collect::<Vec<_>>().join(" ")
        )));
    }
    let pod = Arc::new(Forwarded {
        path: format!("/portForward/{}/{}", pod.namespace(), pod.name()),
        socket,
    });
    let (lost, mut is_lost) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for (listener, pair) in listeners {
        tasks.spawn(serve(listener, pair, Arc::clone(&pod), lost.clone()));
    }
    // Cancel-safe: whichever comes first is the end.
    tokio::select! {
        _ = is_lost.recv() => Err(StreamError::Lost),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| StreamError::Local("wait for a signal".to_owned(), error))
        }
    }
}

/// A port of this machine, 0 for any, and one of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

impl Pair {
    /// `[LOCAL:]REMOTE`; the pod's may be the name of a container's.
    fn of(text: &str, pod: &Pod) -> Result<Self, StreamError> {
        let (local, remote) = match text.split_once(':') {
            Some((local, remote)) => (Some(local), remote),
            None => (None, text),
        };
        let wrong = |what: &str, port: &str| {
            StreamError::Cannot(format!("error parsing {what} port '{port}': it is no port"))
        };
        if remote.is_empty() {
            return Err(StreamError::Cannot(
                "remote port cannot be empty".to_owned(),
            ));
        }
        let is_number = remote.bytes().all(|byte| byte.is_ascii_digit());
        let remote = match is_number {
            true => remote.parse().map_err(|_| wrong("remote", remote))?,
            false => named(remote, pod)?,
        };
        if remote == 0 {
            return Err(StreamError::Cannot("remote port must be > 0".to_owned()));
        }
        if udp_only(pod).contains(&remote) {
            return Err(StreamError::Cannot(format!(
                "UDP protocol is not supported for {remote}"
            )));
        }
        let local = match local {
            None => remote,
            Some("") => 0,
            Some(local) => local.parse().map_err(|_| wrong("local", local))?,
        };
        Ok(Self { local, remote })
    }
}

/// Each port of the pod's containers: its name, its number, its protocol.
fn ports(pod: &Pod) -> impl Iterator<Item = (Option<&str>, u16, &str)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some((port.name.as_deref(), number, protocol))
    })
}

fn named(name: &str, pod: &Pod) -> Result<u16, StreamError> {
    let found = ports(pod).find(|(of, ..)| *of == Some(name));
    found.map(|(_, number, _)| number).ok_or_else(|| {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        StreamError::Cannot(format!("Pod '{pod}' does not have a named port '{name}'"))
    })
}

fn udp_only(pod: &Pod) -> BTreeSet<u16> {
    let of = |wanted| {
        let ports = ports(pod).filter(move |(_, _, protocol)| *protocol == wanted);
        ports.map(|(_, number, _)| number).collect::<BTreeSet<_>>()
    };
    &of("UDP") - &of("TCP")
}

/// Where to listen: an address, and whether going without it is an error. `localhost` is both of its addresses, of which
/// one is enough.
fn addresses(texts: &[String]) -> Result<Vec<(IpAddr, bool)>, StreamError> {
    let mut all = Vec::new();
    for text in texts {
        match (&**text, text.parse()) {
            ("localhost", _) => {
                all.push((IpAddr::V4(Ipv4Addr::LOCALHOST), false));
                all.push((IpAddr::V6(Ipv6Addr::LOCALHOST), false));
            }
            (_, Ok(address)) => all.push((address, true)),
            (_, Err(_)) => {
                return Err(StreamError::Cannot(format!("{text} is not a valid IP")));
            }
        }
    }
    all.sort();
    all.dedup_by_key(|(address, _)| *address);
    Ok(all)
}

/// Listens on the local port of `pair`, at all addresses.
async fn listen(
    mut pair: Pair,
    addresses: &[(IpAddr, bool)],
    listeners: &mut Vec<(TcpListener, Pair)>,
) -> Result<(), StreamError> {
    let mut failed = Vec::new();
    let (mut is_needed, mut some) = (false, false);
    for (address, needed) in addresses {
        let bound = TcpListener::bind(SocketAddr::new(*address, pair.local)).await;
        match bound.and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((local, listener)) => {
                // The one that the kernel chose is that of the next address too.
                pair.local = local.port();
                say(&format!("Forwarding from {local} -> {}", pair.remote))?;
                some |= !needed;
                listeners.push((listener, pair));
            }
            Err(error) => {
                is_needed |= needed;
                let family = if address.is_ipv4() { "tcp4" } else { "tcp6" };
                let at = SocketAddr::new(*address, pair.local);
                failed.push((
                    *needed,
                    format!("unable to create listener: Error listen {family} {at}: {error}"),
                ));
            }
        }
    }
    let optional_failed = failed.iter().any(|(needed, _)| !needed);
    if is_needed || (optional_failed && !some) {
        let words: Vec<String> = failed.into_iter().map(|(_, words)| words).collect();
        tell(&format!(
            "Unable to listen on port {}: Listeners failed to create with the following errors: [{}]",
            pair.local,
            words.join(" ")
        ));
    }
    Ok(())
}

/// The pod, as each connection asks for it.
struct Forwarded {
    socket: PathBuf,
    path: String,
}

/// Takes connections. One that finds the pod gone says so to `lost`.
async fn serve(listener: TcpListener, pair: Pair, pod: Arc<Forwarded>, lost: mpsc::Sender<()>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((connection, _)) => {
                // Whoever reads the output may have gone; those who connect have not.
                let _ = say(&format!("Handling connection for {}", pair.local));
                let (pod, lost) = (Arc::clone(&pod), lost.clone());
                connections.spawn(async move {
                    if let Err(error) = carry(connection, pair.remote, &pod).await {
                        tell(&format!(
                            "an error occurred forwarding {} -> {}: {}",
                            pair.local,
                            pair.remote,
                            words(&error)
                        ));
                        if is_about_the_pod(&error) {
                            let _ = lost.send(()).await;
                        }
                    }
                });
            }
            Err(error) => {
                tell(&format!(
                    "error accepting connection on port {}: {error}",
                    pair.local
                ));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn words(error: &StreamError) -> String {
    let text = crate::errors::error_chain(error);
    text.trim_start_matches("error: ").to_owned()
}

/// Whether there is no such pod any more, or nothing of it runs: the agent's words.
fn is_about_the_pod(error: &StreamError) -> bool {
    matches!(error, StreamError::Refused(_, words)
        if words == "pod does not exist" || words.starts_with("pod not found"))
}

async fn carry(connection: TcpStream, port: u16, pod: &Forwarded) -> Result<(), StreamError> {
    // What is typed is sent at once; where that cannot be set it is only slower.
    let _ = connection.set_nodelay(true);
    let upgraded = upgrade(&pod.socket, &pod.path, PORTS).await?;
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", "0")];
    let mut session = Session::new(upgraded, &headers("error"));
    session.only_hear_errors();
    let (read, write) = connection.into_split();
    session.join(&headers("data"), Box::new(read), Box::new(write));
    let ended = match session.carry().await {
        // Whoever connected has gone.
        Err(StreamError::Unread) => return Ok(()),
        ended => ended?.unwrap_or_default(),
    };
    match ended.error.is_empty() {
        true => Ok(()),
        false => {
            let words = String::from_utf8_lossy(&ended.error);
            Err(StreamError::Cannot(words.trim().to_owned()))
        }
    }
}

fn say(line: &str) -> Result<(), StreamError> {
    let written = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => StreamError::Unread,
        _ => StreamError::Local("write".to_owned(), error),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-node"},
            "spec": {"containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 8080},
                {"containerPort": 53, "protocol": "UDP"},
                {"containerPort": 54, "protocol": "UDP"},
                {"containerPort": 54},
            ]}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_pair_of_ports_is_read_as_kubectl_does() {
        let of = |text| {
            let pair = Pair::of(text, &pod()).map_err(|error| error.to_string());
            pair.map(|pair| (pair.local, pair.remote))
        };
        assert_eq!(of("80"), Ok((80, 80)));
        assert_eq!(of("5000:80"), Ok((5000, 80)));
        assert_eq!(of(":80"), Ok((0, 80)));
        assert_eq!(of("http"), Ok((8080, 8080)));
        assert_eq!(of("1:http"), Ok((1, 8080)));
        assert_eq!(of("54"), Ok((54, 54)));
        for (text, error) in [
            ("1:", "error: remote port cannot be empty"),
            ("0", "error: remote port must be > 0"),
            ("53", "error: UDP protocol is not supported for 53"),
            (
                "1:https",
                "error: Pod 'web-node' does not have a named port 'https'",
            ),
            (
                "65536",
                "error: error parsing remote port '65536': it is no port",
            ),
            ("x:80", "error: error parsing local port 'x': it is no port"),
        ] {
            assert_eq!(of(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn localhost_is_two_addresses_of_which_one_is_enough() {
        let of = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            addresses(&texts).map_err(|error| error.to_string())
        };
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert_eq!(of(&["localhost"]), Ok(vec![(four, false), (six, false)]));
        assert_eq!(of(&["::1"]), Ok(vec![(six, true)]));
        assert_eq!(
            of(&["example.org"]),
            Err("error: example.org is not a valid IP".to_owned())
        );
    }

    #[test]
    fn a_pod_that_is_gone_ends_it_all() {
        let refused = |words: &str| StreamError::Refused(404, words.to_owned());
        assert!(is_about_the_pod(&refused("pod does not exist")));
        assert!(is_about_the_pod(&refused("pod not found (\"web_ns\")")));
        assert!(!is_about_the_pod(&refused("rpc error: too many")));
    }
}
