//! One HTTP request: from within a network namespace, or to a unix socket.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// For connecting, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// GET `path` of `authority` (`address:port`) in the network namespace that the file `netns` stands for.
///
/// HTTP/1.0, so that the body is neither chunked nor followed by another answer.
///
/// # Errors
/// When the namespace cannot be entered, nothing answers within ten seconds, or the answer is not HTTP.
pub fn get(netns: &Path, authority: &str, path: &str) -> Result<Response> {
    let address = authority
        .to_socket_addrs()
        .with_context(|| format!("address {authority}"))?
        .next()
        .with_context(|| format!("no address in {authority}"))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    // A namespace is a thread's own: one that ends afterwards keeps the others where they are.
    std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        exchange(address, &request)
    })
    .join()
    .map_err(|_| anyhow!("the request's thread panicked"))?
    .with_context(|| format!("GET http://{authority}{path}"))
}

/// GET `path` of the unix socket at `socket`.
///
/// # Errors
/// When nothing answers there within ten seconds, or the answer is not HTTP.
pub fn get_unix(socket: &Path, path: &str) -> Result<Response> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let exchanged = || {
        let stream = UnixStream::connect(socket).context("connect")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        talk(stream, &request)
    };
    exchanged().with_context(|| format!("GET {path} of {}", socket.display()))
}

fn exchange(address: SocketAddr, request: &str) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    talk(stream, request)
}

fn talk(mut stream: impl Read + Write, request: &str) -> Result<Response> {
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("receive")?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.trim().parse().ok())
        .with_context(|| format!("status line of {head:?}"))?;
    Ok(Response {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_body_part_at_the_empty_line() {
        let answer = parse("HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nno\r\n\r\nsuch").unwrap();
        assert_eq!((answer.status, &*answer.body), (404, "no\r\n\r\nsuch"));
        assert!(parse("SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse("HTTP/1.0 200 OK\r\n").is_err());
    }
}
