//! From the client's connection to the runtime's streaming server, byte for byte.
//!
//! What the two speak, SPDY/3.1 or WebSocket, is theirs: the runtime's answer to the upgrade goes back as it is, and from
//! then on bytes are carried both ways. When one side has ended the other is ended too.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::text;
use crate::connections::{Dialer, believing};

/// How long the runtime's streaming server, which is on this machine, may take to be connected.
const DIAL: Duration = Duration::from_secs(30);
/// How long it may take to answer: as much as a call of CRI (`runtimeRequestTimeout` when it is not set).
const ANSWER: Duration = Duration::from_secs(120);
/// What is carried at once in each direction, bytes: a record of TLS.
const BUFFER: usize = 16 << 10;
/// Most bytes of a head or of a refusal that are taken from the runtime.
const MOST_HEAD: usize = 16 << 10;
const MOST_REFUSAL: usize = 64 << 10;
/// How long a refusal may take to come (upstream's).
const REFUSAL: Duration = Duration::from_secs(10);
/// How long a client is listened to that has been told that there is no more: what it still sends would otherwise have the
/// kernel throw away what it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// What is the agent's, not the runtime's, to know.
const OWN: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];
/// What is of one connection.
const HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
];

/// Why there is no stream. None of the texts has the address, which is a secret.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("the runtime's address of the stream is no URL")]
    Address,
    #[error("{0}")]
    Dial(String),
    #[error("error dialing backend: {0}")]
    Handshake(io::Error),
    #[error("the runtime's streaming server does not answer")]
    Late,
    #[error("the runtime's streaming server broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("invalid upgrade response: status code {0}")]
    Answer(u16),
}

/// Passes `request`, an upgrade, on to `address` of the runtime, and carries what comes of it in a task of its own. The
/// stream ends when nothing has come for `idle`, zero for never. `slot` is given back when it has.
pub(super) async fn proxy(
    mut request: Request,
    address: &str,
    idle: Duration,
    slot: OwnedSemaphorePermit,
) -> Response {
    let client = hyper::upgrade::on(&mut request);
    match begin(request, address).await {
        Ok(Begun::Refused(response)) => response,
        Ok(Begun::Upgraded(response, runtime)) => {
            tokio::spawn(async move {
                carry_between(client, runtime, idle).await;
                drop(slot);
            });
            response
        }
        Err(error) => {
            tracing::warn!(%error, "a stream to the runtime could not be begun");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
    }
}

enum Begun {
    /// What the client is answered with, and the connection to the runtime.
    Upgraded(Response, OnUpgrade),
    Refused(Response),
}

async fn begin(request: Request, address: &str) -> Result<Begun, ProxyError> {
    let address: Uri = address.parse().map_err(|_| ProxyError::Address)?;
    let stream = connect(&address).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // Ends with the upgrade, or with the answer.
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(to_runtime(request, &address)?);
    let mut answer = tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| ProxyError::Late)??;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            let upgrade = hyper::upgrade::on(&mut answer);
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            Ok(Begun::Upgraded(response, upgrade))
        }
        status if status.is_client_error() || status.is_server_error() => {
            *response.headers_mut() = without(std::mem::take(answer.headers_mut()), &HOP);
            let body = axum::body::to_bytes(Body::new(answer.into_body()), MOST_REFUSAL);
            let body = tokio::time::timeout(REFUSAL, body).await;
            *response.body_mut() = body
                .map_err(|_| ProxyError::Late)?
                .unwrap_or_default()
                .into();
            Ok(Begun::Refused(response))
        }
        status => Err(ProxyError::Answer(status.as_u16())),
    }
}

/// Something that bytes are carried over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: &Uri) -> Result<Box<dyn Stream>, ProxyError> {
    let dialer = Dialer {
        linger: None,
        patience: Some(DIAL),
    };
    let is_tls = match address.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(ProxyError::Address),
    };
    let host = address.host().ok_or(ProxyError::Address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = address.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = dialer.dial(host, port).await;
    let stream = stream.map_err(|error| ProxyError::Dial(error.to_string()))?;
    // A key that is typed is sent at once; where that cannot be set it is only slower.
    let _ = stream.set_nodelay(true);
    Ok(match is_tls {
        false => Box::new(stream),
        // Its certificate is its own, and the address came from the runtime's own socket.
        true => Box::new(
            believing(host, stream)
                .await
                .map_err(ProxyError::Handshake)?,
        ),
    })
}

/// The client's request, as the runtime gets it: with all that is between the two of them, and the runtime's path.
fn to_runtime(request: Request, address: &Uri) -> Result<Request, ProxyError> {
    let (mut parts, _) = request.into_parts();
    let path = address.path_and_query().ok_or(ProxyError::Address)?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = parts.method;
    *request.uri_mut() = Uri::from(path.clone());
    *request.headers_mut() = without(std::mem::take(&mut parts.headers), &OWN);
    if !request.headers().contains_key(header::HOST)
        && let Some(host) = address.authority()
        && let Ok(host) = host.as_str().try_into()
    {
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(request)
}

fn without(mut headers: HeaderMap, names: &[HeaderName]) -> HeaderMap {
    for name in names {
        headers.remove(name);
    }
    headers
}

/// Waits until both sides speak something else than HTTP, and carries what they say.
async fn carry_between(client: OnUpgrade, runtime: OnUpgrade, idle: Duration) {
    match tokio::try_join!(client, runtime) {
        Ok((client, runtime)) => carry_both(client, runtime, idle).await,
        Err(error) => tracing::debug!(%error, "a stream broke off before it began"),
    }
}

async fn carry_both(client: Upgraded, runtime: Upgraded, idle: Duration) {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_runtime, mut to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let heard = Heard::new();
    // Whichever ends first ends the others; nothing that they hold is used again.
    tokio::select! {
        _ = carry(&mut from_client, &mut to_runtime, &heard) => return,
        _ = carry(&mut from_runtime, &mut to_client, &heard) => {}
        () = heard.nothing_for(idle) => tracing::info!(?idle, "a stream has been idle and is ended"),
    }
    // Also when it was idle: the client hears that it has ended.
    let linger = async {
        let _ = to_client.shutdown().await;
        let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
    };
    let _ = tokio::time::timeout(LINGER, linger).await;
}

/// Carries bytes one way until there are no more, then says so.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    heard: &Heard,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        heard.now();
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        heard.now();
    }
}

/// When something was last carried.
struct Heard {
    began: Instant,
    /// Milliseconds after the beginning.
    last: AtomicU64,
}

impl Heard {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn now(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Is over once nothing was carried for so long; never for zero.
    async fn nothing_for(&self, idle: Duration) {
        if idle.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let Some(left) = (last + idle).checked_sub(self.began.elapsed()) else {
                return;
            };
            // A millisecond more than what is counted in whole ones.
            tokio::time::sleep(left + Duration::from_millis(1)).await;
        }
    }
}

#[cfg(test)]
mod tests;
