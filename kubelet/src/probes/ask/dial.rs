//! A TCP connection to a container, with errors as a Go client words them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

/// How long a close waits for the peer to take note of it, as upstream has it. A peer that is a container of this node does
/// so at once.
const LINGER: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DialError(String);

impl DialError {
    /// The text without what was dialled.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn joined(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Connects to `host`, an address or a name; an empty one is this node.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    if host.is_empty() {
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        return connect(here)
            .await
            .map_err(|e| failed(&joined("", port), &e));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return connect_said(SocketAddr::new(ip, port)).await;
    }
    let unknown = || DialError(format!("dial tcp: lookup {host}: no such host"));
    let addresses = crate::resolve::resolve(host, port).await;
    let mut last = unknown();
    for address in addresses.map_err(|_| unknown())? {
        match connect_said(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_said(address: SocketAddr) -> Result<TcpStream, DialError> {
    let connected = connect(address).await;
    connected.map_err(|error| failed(&address.to_string(), &error))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    sockopt::set_socket_linger(&socket, Some(LINGER))?;
    socket.connect(address).await
}

fn failed(address: &str, error: &io::Error) -> DialError {
    DialError(format!(
        "dial tcp {address}: connect: {}",
        errno_text(error)
    ))
}

/// What Go says of an error of a socket: the kernel's words, in small letters.
pub(super) fn errno_text(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else {
        return error.to_string();
    };
    match Errno::from_raw_os_error(code) {
        Errno::CONNREFUSED => "connection refused".into(),
        Errno::CONNRESET => "connection reset by peer".into(),
        Errno::HOSTUNREACH => "no route to host".into(),
        Errno::NETUNREACH => "network is unreachable".into(),
        Errno::TIMEDOUT => "connection timed out".into(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".into(),
        Errno::PIPE => "broken pipe".into(),
        Errno::INVAL => "invalid argument".into(),
        Errno::PERM => "operation not permitted".into(),
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            text.to_lowercase()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_refused_in_gos_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(dial("127.0.0.1", port).await.is_ok());
        assert!(dial("", port).await.is_ok(), "no host is this node");
        assert!(dial("localhost", port).await.is_ok());
        drop(listener);
        let refused = dial("127.0.0.1", port).await.unwrap_err();
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(refused.into_text(), text);
        let refused = dial("", port).await.unwrap_err();
        let text = format!("dial tcp :{port}: connect: connection refused");
        assert_eq!(refused.into_text(), text);
    }

    #[test]
    fn addresses_are_joined_as_in_go() {
        assert_eq!(joined("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(joined("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(joined("", 80), ":80");
    }
}
