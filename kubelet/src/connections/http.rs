//! One GET request, and those that its answers lead to. HTTP/1.1, a connection for each.

use std::pin::{Pin, pin};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::dial::{DialError, errno_text};
use super::request::{HeaderError, Headers, HttpRequest};
use super::tls::{HandshakeError, secured};
use super::url::Url;
use super::wire::{AskFirst, Stream};
use crate::runtime::convert::go_quote;

/// Requests that one request leads to at most, itself included (Go's client).
const MAX_REQUESTS: usize = 10;

type Io = TokioIo<AskFirst<Box<dyn Stream>>>;
type Connection = http1::Connection<Io, String>;

/// A request without an answer. Display reads as Go's client has it.
#[derive(Debug, thiserror::Error)]
#[error("Get {}: {cause}", go_quote(url))]
pub(crate) struct HttpError {
    url: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("{0}")]
    Exchange(String),
    #[error("failed to parse Location header {}", go_quote(.0))]
    Location(String),
    #[error("unsupported protocol scheme {}", go_quote(.0))]
    Scheme(String),
    #[error("stopped after 10 redirects")]
    Redirects,
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Late,
}

/// A body that broke off. Display reads as Go's client has it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// By its connection.
    #[error("{0}")]
    Broken(String),
    /// By the deadline.
    #[error(
        "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
    )]
    Late,
}

impl HttpError {
    fn new(url: impl ToString, cause: impl Into<Cause>) -> Self {
        Self {
            url: url.to_string(),
            cause: cause.into(),
        }
    }

    /// Whether a server was asked over TLS and answered without.
    pub(crate) fn is_plain_http_answer(&self) -> bool {
        matches!(self.cause, Cause::Handshake(HandshakeError::PlainHttp))
    }
}

/// An answer whose body is yet to be read, with the connection that it comes over.
pub(crate) struct HttpAnswer {
    response: Response<Incoming>,
    connection: Pin<Box<Connection>>,
    ended: bool,
    deadline: Option<Instant>,
}

/// Asks, and goes where the answers send it on the same host. An answer that leads to another host is the last one.
///
/// Dropped, it closes the connection.
///
/// # Errors
/// When there is no answer, or not by the deadline.
pub(crate) async fn get(
    request: &HttpRequest,
    deadline: Option<Instant>,
) -> Result<HttpAnswer, HttpError> {
    let mut url = request.url.clone();
    let headers = request.headers();
    let mut headers = headers.map_err(|error| HttpError::new(&url, error))?;
    let mut referer = None;
    for asked in 1.. {
        let exchange = exchange(&url, request, &headers, referer.as_deref());
        let answer = in_time(deadline, exchange).await;
        let answer = answer.unwrap_or(Err(Cause::Late));
        let mut answer = answer.map_err(|cause| HttpError::new(&url, cause))?;
        answer.deadline = deadline;
        let Some(location) = answer.location() else {
            return Ok(answer);
        };
        let Some((next, relative)) = url.join(&location) else {
            return Err(HttpError::new(&url, Cause::Location(location)));
        };
        if next.host != request.url.host {
            return Ok(answer);
        }
        if asked >= MAX_REQUESTS {
            return Err(HttpError::new(location, Cause::Redirects));
        }
        if next.scheme != "http" && next.scheme != "https" {
            let scheme = next.scheme.clone();
            return Err(HttpError::new(next, Cause::Scheme(scheme)));
        }
        if !relative {
            headers.host = None;
        }
        referer = (next.is_https() || !url.is_https()).then(|| url.referer());
        url = next;
    }
    Err(HttpError::new(url, Cause::Redirects))
}

/// The outcome of `work`; none where it is not there by the deadline.
async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

async fn exchange(
    url: &Url,
    request: &HttpRequest,
    headers: &Headers,
    referer: Option<&str>,
) -> Result<HttpAnswer, Cause> {
    let mut message = Request::builder().uri(url.target());
    let fields = headers.with(url, referer)?;
    if let Some(all) = message.headers_mut() {
        *all = fields;
    }
    let message = message.body(String::new());
    let message = message.map_err(|error| Cause::Exchange(error.to_string()))?;
    let failed = |error| Cause::Exchange(broken_text(url, &error));
    let stream = AskFirst::new(connect(url, request).await?);
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true);
    let handshake = builder.handshake::<_, String>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(failed)?;
    let mut connection = Box::pin(connection);
    let mut ended = false;
    let sent = sender.send_request(message);
    let response = driven(&mut connection, &mut ended, sent).await;
    Ok(HttpAnswer {
        response: response.map_err(failed)?,
        connection,
        ended,
        deadline: None,
    })
}

async fn connect(url: &Url, request: &HttpRequest) -> Result<Box<dyn Stream>, Cause> {
    let dialer = request.manner.dialer;
    let plain = dialer.dial(&url.host, url.port()).await?;
    if !url.is_https() {
        return Ok(Box::new(plain));
    }
    Ok(Box::new(secured(&url.host, plain).await?))
}

/// Awaits `work` while the connection that it depends on is kept going.
async fn driven<T>(
    connection: &mut Pin<Box<Connection>>,
    ended: &mut bool,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        // Cancel-safe: both are polled on, and an end of the connection shows in `work`.
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = connection.as_mut(), if !*ended => *ended = true,
        }
    }
}

impl HttpAnswer {
    /// 100 to 999.
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Whether the body is said to have more than `bytes`.
    pub(crate) fn says_more_than(&self, bytes: usize) -> bool {
        let said = self.response.body().size_hint().exact();
        said.is_some_and(|said| said > bytes as u64)
    }

    /// Where a redirect leads.
    fn location(&self) -> Option<String> {
        if !matches!(self.status(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = self.response.headers().get(header::LOCATION)?;
        let location = String::from_utf8_lossy(location.as_bytes());
        (!location.is_empty()).then(|| location.into_owned())
    }

    /// At most `limit` bytes of the body.
    ///
    /// # Errors
    /// When it breaks off before, or the deadline of the request comes.
    pub(crate) async fn body(mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let read = in_time(self.deadline, self.beginning(limit)).await;
        read.unwrap_or(Err(BodyError::Late))
    }

    async fn beginning(&mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let Self {
            response,
            connection,
            ended,
            ..
        } = self;
        let mut read = Vec::new();
        while read.len() < limit {
            let frame = std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx));
            match driven(connection, ended, frame).await {
                None => break,
                Some(Err(error)) => return Err(BodyError::Broken(last_cause(&error))),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let room = limit - read.len();
                    read.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
        Ok(read)
    }
}

/// What Go's client says of a connection that fails after it has come about.
fn broken_text(url: &Url, error: &hyper::Error) -> String {
    if error.is_parse() {
        // The first byte of a TLS alert or handshake is no HTTP.
        return format!(
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response ({error})"
        );
    }
    if error.is_incomplete_message() || error.is_closed() {
        return "EOF".to_owned();
    }
    let text = last_cause(error);
    match text.as_str() {
        "connection reset by peer" | "broken pipe" => {
            format!("read tcp {}: read: {text}", url.authority())
        }
        _ => text,
    }
}

/// The text of the last cause.
fn last_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        Some(io) => errno_text(io),
        None => last.to_string(),
    }
}

#[cfg(test)]
mod tests;
