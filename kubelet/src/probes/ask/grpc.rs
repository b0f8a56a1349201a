//! `grpc`: the server's health service says that it serves (the gRPC health checking protocol, `grpc.health.v1`).

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Answer, DIALER, USER_AGENT, go_seconds, quoted};
use crate::connections::joined;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// From a connection that failed to the next try (the first back-off of gRPC's connection back-off protocol).
const RETRY: Duration = Duration::from_secs(1);
/// The most that an answer may have: it is one number.
const MAX_ANSWER: usize = 10 << 10;

/// `HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

pub(super) async fn check(ip: &str, port: i32, service: &str, timeout: Duration) -> Answer {
    let Ok(port) = u16::try_from(port) else {
        return Answer::Failure(format!(
            "error: failed to connect service at \"{ip}:{port}\""
        ));
    };
    let address = joined(ip, port);
    let deadline = Instant::now() + timeout;
    let span = go_seconds(timeout);
    let Ok(channel) = timeout_at(deadline, connected(ip, port)).await else {
        return Answer::Failure(format!(
            "timeout: failed to connect service {} within {span}: context deadline exceeded",
            quoted(&address)
        ));
    };
    match timeout_at(deadline, ask(channel, service)).await {
        Err(_) => Answer::Failure(format!(
            "timeout: health rpc did not complete within {span}"
        )),
        Ok(Ok(status)) if status == SERVING => Answer::Success,
        Ok(Ok(status)) => {
            let status = quoted(&status_name(status));
            Answer::Failure(format!("service unhealthy (responded with {status})"))
        }
        Ok(Err(status)) => Answer::Failure(failure(&status, &span)),
    }
}

/// Tries until there is a connection: as with upstream, only time ends that.
async fn connected(ip: &str, port: u16) -> Channel {
    loop {
        // The connector knows where to go; the address is what the server sees as its name.
        let host = if ip.is_empty() { "localhost" } else { ip };
        let endpoint = Endpoint::from_shared(format!("http://{}", joined(host, port)))
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT));
        let ip = ip.to_owned();
        let connector = tower::service_fn(move |_| {
            let ip = ip.clone();
            async move {
                let stream = DIALER.dial(&ip, port).await;
                let stream = stream.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        if let Ok(endpoint) = endpoint
            && let Ok(channel) = endpoint.connect_with_connector(connector).await
        {
            return channel;
        }
        sleep(RETRY).await;
    }
}

async fn ask(channel: Channel, service: &str) -> Result<i32, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let path = PathAndQuery::from_static(METHOD);
    let response = client.unary(request, path, codec).await?;
    Ok(response.into_inner().status)
}

fn status_name(status: i32) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        1 => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

fn failure(status: &Status, span: &str) -> String {
    match status.code() {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {span}"),
        code => {
            // As Go spells it.
            let code = match code {
                Code::Cancelled => "Canceled".to_owned(),
                code => format!("{code:?}"),
            };
            format!(
                "error: health rpc probe failed: rpc error: code = {code} desc = {}",
                status.message()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_upstreams() {
        let text = |code, message: &str| failure(&Status::new(code, message), "1s");
        assert_eq!(
            text(Code::NotFound, "unknown service"),
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"
        );
        assert_eq!(
            text(Code::Unimplemented, "unknown service grpc.health.v1.Health"),
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): \
             unknown service grpc.health.v1.Health"
        );
        assert_eq!(
            text(Code::DeadlineExceeded, ""),
            "timeout: health rpc did not complete within 1s"
        );
        assert_eq!(status_name(2), "NOT_SERVING");
    }

    #[tokio::test]
    async fn nobody_there_is_a_timeout() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let answer = check("127.0.0.1", port.into(), "", Duration::from_secs(1)).await;
        let text = format!(
            "timeout: failed to connect service \"127.0.0.1:{port}\" within 1s: context deadline exceeded"
        );
        assert_eq!(answer, Answer::Failure(text));
    }
}
