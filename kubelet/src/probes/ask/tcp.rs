//! `tcpSocket`: a connection comes about.

use std::time::Duration;

use super::{Answer, DIALER};
use crate::connections::joined;

pub(super) async fn connect(host: &str, port: u16, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, DIALER.dial(host, port)).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) => Answer::Failure(error.to_string()),
        Err(_) => Answer::Failure(format!("dial tcp {}: i/o timeout", joined(host, port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_listens_passes() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let timeout = Duration::from_secs(5);
        assert_eq!(connect("127.0.0.1", port, timeout).await, Answer::Success);
        drop(listener);
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(
            connect("127.0.0.1", port, timeout).await,
            Answer::Failure(text)
        );
    }

    #[tokio::test]
    async fn no_answer_is_a_timeout() {
        // A queue that is full: nothing more is answered.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let timeout = Duration::from_millis(200);
        let answer = loop {
            assert!(waiting.len() < 20, "the queue takes all");
            let answer = connect("127.0.0.1", address.port(), timeout).await;
            if answer != Answer::Success {
                break answer;
            }
            let one = tokio::time::timeout(timeout, tokio::net::TcpStream::connect(address));
            waiting.push(one.await);
        };
        let text = format!("dial tcp {address}: i/o timeout");
        assert_eq!(answer, Answer::Failure(text));
    }
}
