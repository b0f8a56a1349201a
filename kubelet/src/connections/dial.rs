//! A TCP connection to a container, with errors as a Go client words them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};

use super::resolve::resolve;

/// How somebody dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialer {
    /// How long a close waits for the peer to take note of it; where it is none, the kernel goes on alone.
    pub(crate) linger: Option<Duration>,
    /// How long to try; none for whoever has a clock of its own.
    pub(crate) patience: Option<Duration>,
}

/// Why there is no connection. Display is Go's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name has no address.
    #[error("dial tcp: lookup {0}: no such host")]
    NoSuchHost(String),
    /// The last of its addresses did not take the connection.
    #[error("dial tcp {address}: connect: {}", errno_text(.error))]
    Connect {
        /// As it was dialled.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// It took too long.
    #[error("dial tcp {0}: i/o timeout")]
    Late(String),
}

/// `host:port`, an IPv6 address in brackets.
pub(crate) fn joined(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

impl Dialer {
    /// Connects to `host`, an address or a name; an empty one is this node.
    ///
    /// # Errors
    /// When there is no connection, or not in time.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let dialled = self.dial_all(host, port);
        match self.patience {
            None => dialled.await,
            Some(patience) => tokio::time::timeout(patience, dialled)
                .await
                .unwrap_or_else(|_| Err(DialError::Late(joined(host, port)))),
        }
    }

    async fn dial_all(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        if host.is_empty() {
            let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            return self.connect(here, joined("", port)).await;
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, port);
            return self.connect(address, address.to_string()).await;
        }
        let mut last = DialError::NoSuchHost(host.to_owned());
        for address in resolve(host, port).await.unwrap_or_default() {
            match self.connect(address, address.to_string()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect(&self, to: SocketAddr, address: String) -> Result<TcpStream, DialError> {
        let socket = self.socket(to).map(|socket| socket.connect(to));
        let connected = match socket {
            Ok(connecting) => connecting.await,
            Err(error) => Err(error),
        };
        connected.map_err(|error| DialError::Connect { address, error })
    }

    fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = match to {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if self.linger.is_some() {
            sockopt::set_socket_linger(&socket, self.linger)?;
        }
        Ok(socket)
    }
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

    const DIALER: Dialer = Dialer {
        linger: Some(Duration::from_secs(1)),
        patience: None,
    };

    #[tokio::test]
    async fn a_closed_port_is_refused_in_gos_words() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(DIALER.dial("127.0.0.1", port).await.is_ok());
        assert!(DIALER.dial("", port).await.is_ok(), "no host is this node");
        assert!(DIALER.dial("localhost", port).await.is_ok());
        drop(listener);
        let refused = async |host| DIALER.dial(host, port).await.unwrap_err().to_string();
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(refused("127.0.0.1").await, text);
        let text = format!("dial tcp :{port}: connect: connection refused");
        assert_eq!(refused("").await, text);
        let unknown = "dial tcp: lookup no such name: no such host";
        assert_eq!(refused("no such name").await, unknown);
    }

    #[tokio::test]
    async fn patience_ends() {
        // A queue that is full: nothing more is answered.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = Dialer {
            linger: None,
            patience: Some(Duration::from_millis(200)),
        };
        let mut taken = Vec::new();
        let error = loop {
            assert!(taken.len() < 20, "the queue takes all");
            match dialer.dial("127.0.0.1", address.port()).await {
                Ok(stream) => taken.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(
            error.to_string(),
            format!("dial tcp {address}: i/o timeout")
        );
    }

    #[test]
    fn addresses_are_joined_as_in_go() {
        assert_eq!(joined("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(joined("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(joined("", 80), ":80");
    }
}
