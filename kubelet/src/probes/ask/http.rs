//! `httpGet`: a server answers with a status from 200 to 399. HTTP/1.1, a connection for each question.

use std::pin::{Pin, pin};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::ServerName;

use super::dial::{dial, errno_text};
use super::tls;
use super::url::Url;
use super::{Answer, MAX_OUTPUT, USER_AGENT, Unasked, bounded_text, chosen, quoted, resolve_port};

/// Requests that one question leads to at most (Go's client).
const MAX_REQUESTS: usize = 10;

/// What Go's client says when the time is over before the answer has begun, and after.
const LATE: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
const LATE_BODY: &str =
    "context deadline exceeded (Client.Timeout or context cancellation while reading body)";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Io = TokioIo<Box<dyn Stream>>;
type Connection = http1::Connection<Io, String>;

pub(super) async fn get(
    action: &HTTPGetAction,
    container: &Container,
    ip: &str,
    timeout: Duration,
) -> Result<Answer, Unasked> {
    let scheme = action.scheme.as_deref().unwrap_or("http");
    let port = resolve_port(&action.port, container)?;
    let url = Url::new(
        &scheme.to_ascii_lowercase(),
        chosen(action.host.as_deref(), ip),
        port,
        action.path.as_deref().unwrap_or_default(),
    );
    let wanted = match Wanted::of(action) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Answer::Failure(get_failed(&url, &error))),
    };
    let deadline = Instant::now() + timeout;
    let mut exchange = match timeout_at(deadline, follow(url.clone(), &wanted)).await {
        Ok(Ok(exchange)) => exchange,
        Ok(Err(failure)) => return Ok(Answer::Failure(failure)),
        Err(_) => return Ok(Answer::Failure(get_failed(&url, LATE))),
    };
    let body = match timeout_at(deadline, exchange.body()).await {
        Ok(Ok(body)) => bounded_text(&body),
        // Upstream's words: it takes a body that breaks off for an error of its own.
        Ok(Err(text)) => {
            let state = "failure";
            return Err(Unasked { state, text });
        }
        Err(_) => {
            return Err(Unasked {
                state: "failure",
                text: LATE_BODY.to_owned(),
            });
        }
    };
    Ok(match exchange.response.status().as_u16() {
        200..300 => Answer::Success,
        300..400 => Answer::Warning(format!("Probe terminated redirects, Response body: {body}")),
        status => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
    })
}

fn get_failed(url: impl ToString, why: &str) -> String {
    format!("Get {}: {why}", quoted(&url.to_string()))
}

/// What the manifest wants sent.
struct Wanted {
    headers: HeaderMap,
    /// The `Host` header; the URL's host where it is empty.
    host: Option<HeaderValue>,
}

impl Wanted {
    /// The error is of a header that cannot be sent.
    fn of(action: &HTTPGetAction) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let bad = |what: &str| {
                format!(
                    "net/http: invalid header field {what} for {}",
                    quoted(&header.name)
                )
            };
            let name = HeaderName::try_from(header.name.as_str()).map_err(|_| bad("name"))?;
            let value = HeaderValue::try_from(header.value.as_str()).map_err(|_| bad("value"))?;
            headers.append(name, value);
        }
        let host = headers.remove(header::HOST).filter(|host| !host.is_empty());
        let defaults = [(header::USER_AGENT, USER_AGENT), (header::ACCEPT, "*/*")];
        for (name, default) in defaults {
            match headers.get(&name).map(HeaderValue::is_empty) {
                None => {
                    headers.insert(name, HeaderValue::from_static(default));
                }
                // Set to nothing, it is not sent.
                Some(true) => {
                    headers.remove(name);
                }
                Some(false) => {}
            }
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(Self { headers, host })
    }
}

/// Asks, and goes where the answers send it on the same host. The error is the text of the failure.
async fn follow(mut url: Url, wanted: &Wanted) -> Result<Exchange, String> {
    let first = url.host.clone();
    let mut host = wanted.host.clone();
    let mut referer = None;
    let mut requests = 0;
    loop {
        let request = request(&url, wanted, host.as_ref(), referer.as_deref());
        let exchange = exchange(&url, request).await;
        let exchange = exchange.map_err(|error| get_failed(&url, &error))?;
        requests += 1;
        let Some(location) = exchange.location() else {
            return Ok(exchange);
        };
        let Some((next, relative)) = url.join(&location) else {
            let error = format!("failed to parse Location header {}", quoted(&location));
            return Err(get_failed(&url, &error));
        };
        if next.host != first {
            return Ok(exchange);
        }
        if requests >= MAX_REQUESTS {
            return Err(get_failed(&location, "stopped after 10 redirects"));
        }
        if next.scheme != "http" && next.scheme != "https" {
            let error = format!("unsupported protocol scheme {}", quoted(&next.scheme));
            return Err(get_failed(&next, &error));
        }
        if !relative {
            host = None;
        }
        referer = (next.is_https() || !url.is_https()).then(|| url.referer());
        url = next;
    }
}

fn request(
    url: &Url,
    wanted: &Wanted,
    host: Option<&HeaderValue>,
    referer: Option<&str>,
) -> Result<Request<String>, String> {
    let mut request = Request::builder().uri(url.target());
    if let Some(headers) = request.headers_mut() {
        headers.clone_from(&wanted.headers);
        let host = match host {
            Some(host) => Ok(host.clone()),
            None => HeaderValue::try_from(url.authority()),
        };
        headers.insert(header::HOST, host.map_err(|error| error.to_string())?);
        if let Some(referer) = referer
            && !headers.contains_key(header::REFERER)
            && let Ok(referer) = HeaderValue::try_from(referer)
        {
            headers.insert(header::REFERER, referer);
        }
    }
    request.body(String::new()).map_err(|e| e.to_string())
}

/// An answer whose body is yet to be read, with the connection that it comes over.
struct Exchange {
    response: Response<Incoming>,
    connection: Pin<Box<Connection>>,
    ended: bool,
}

async fn exchange(url: &Url, request: Result<Request<String>, String>) -> Result<Exchange, String> {
    let request = request?;
    let io = TokioIo::new(connect(url).await?);
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true);
    let handshake = builder.handshake::<_, String>(io).await;
    let (mut sender, connection) = handshake.map_err(|error| http_text(url, &error))?;
    let mut connection = Box::pin(connection);
    let mut ended = false;
    let sent = sender.send_request(request);
    let response = driven(&mut connection, &mut ended, sent).await;
    Ok(Exchange {
        response: response.map_err(|error| http_text(url, &error))?,
        connection,
        ended,
    })
}

async fn connect(url: &Url) -> Result<Box<dyn Stream>, String> {
    let plain = dial(&url.host, url.port()).await;
    let plain = plain.map_err(super::dial::DialError::into_text)?;
    if !url.is_https() {
        return Ok(Box::new(plain));
    }
    let name = match url.host.as_str() {
        // Without a name none is sent, as with an address.
        "" => "127.0.0.1",
        host => host,
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let connector = tls::connector().ok_or("tls: no versions supported")?;
    let secured = connector.connect(name, plain).await;
    Ok(Box::new(secured.map_err(|error| tls_text(&error))?))
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

impl Exchange {
    /// Where a redirect leads.
    fn location(&self) -> Option<String> {
        let status = self.response.status().as_u16();
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = self.response.headers().get(header::LOCATION)?;
        let location = String::from_utf8_lossy(location.as_bytes());
        (!location.is_empty()).then(|| location.into_owned())
    }

    /// The beginning of the body.
    async fn body(&mut self) -> Result<Vec<u8>, String> {
        let Self {
            response,
            connection,
            ended,
        } = self;
        let mut read = Vec::new();
        while read.len() < MAX_OUTPUT {
            let frame = std::future::poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx));
            match driven(connection, ended, frame).await {
                None => break,
                Some(Err(error)) => return Err(source_text(&error)),
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    let room = MAX_OUTPUT - read.len();
                    read.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
        Ok(read)
    }
}

/// What Go's client says of a connection that fails after it has come about.
fn http_text(url: &Url, error: &hyper::Error) -> String {
    if error.is_parse() {
        // The first byte of a TLS alert or handshake is no HTTP.
        return format!(
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response ({error})"
        );
    }
    if error.is_incomplete_message() || error.is_closed() {
        return "EOF".to_owned();
    }
    let text = source_text(error);
    match text.as_str() {
        "connection reset by peer" | "broken pipe" => {
            format!("read tcp {}: read: {text}", url.authority())
        }
        _ => text,
    }
}

fn tls_text(error: &std::io::Error) -> String {
    use tokio_rustls::rustls::{Error, InvalidMessage};
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => errno_text(error),
    }
}

/// The text of the last cause.
fn source_text(error: &(dyn std::error::Error + 'static)) -> String {
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
