//! The HTTP client of hooks: no proxy, no verification of certificates, redirects within one host.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
};

use super::request::HttpRequest;

/// Redirects that are followed (Go's default client, which upstream uses).
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read, and thrown away.
const MAX_BODY: usize = 10 << 10;

/// Makes requests, each on a connection of its own.
#[derive(Default)]
pub struct HttpClient {
    /// Made by the first request that needs it.
    tls: OnceLock<TlsConnector>,
}

/// A request without an answer. Display reads as Go's client has it.
#[derive(Debug, thiserror::Error)]
#[error("Get \"{url}\": {cause}")]
pub struct HttpError {
    url: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("dial tcp: lookup {0}: no such host")]
    NoSuchHost(String),
    #[error("dial tcp {address}: connect: {}", words(source))]
    Connect { address: String, source: io::Error },
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttpAnswer,
    #[error("tls: {0}")]
    Tls(io::Error),
    #[error("net/http: invalid header field {0:?}")]
    Header(String),
    #[error("{0}")]
    Http(hyper::Error),
    #[error("stopped after 10 redirects")]
    Redirects,
}

impl HttpError {
    /// Whether a server was asked over TLS and answered without.
    #[must_use]
    pub fn is_plain_http_answer(&self) -> bool {
        matches!(self.cause, Cause::PlainHttpAnswer)
    }
}

impl HttpClient {
    /// Makes the request and waits for its answer, whatever that says.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, request: &HttpRequest) -> Result<(), HttpError> {
        let mut request = request.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer = self.ask(&request).await.map_err(|cause| HttpError {
                url: request.url(),
                cause,
            })?;
            let next = location(&answer).and_then(|location| request.redirected(location));
            discard(answer).await;
            match next {
                Some(next) => request = next,
                None => return Ok(()),
            }
        }
        Err(HttpError {
            url: request.url(),
            cause: Cause::Redirects,
        })
    }

    async fn ask(&self, request: &HttpRequest) -> Result<Response<Incoming>, Cause> {
        let stream = connect(request).await?;
        if !request.tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(request.host.clone())
            .map_err(|_| Cause::NoSuchHost(request.host.clone()))?;
        let stream = FirstBytes {
            stream,
            seen: Vec::new(),
        };
        let handshake = self.tls()?.connect(name, stream);
        match handshake.into_fallible().await {
            Ok(stream) => exchange(stream, request).await,
            Err((_, stream)) if stream.seen.starts_with(b"HTTP/") => Err(Cause::PlainHttpAnswer),
            Err((error, _)) => Err(Cause::Tls(error)),
        }
    }

    fn tls(&self) -> Result<&TlsConnector, Cause> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls);
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Cause::Tls(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config).into()))
    }
}

async fn connect(request: &HttpRequest) -> Result<TcpStream, Cause> {
    let host = request.host.as_str();
    let found = crate::resolve::resolve(host, request.port).await;
    let mut addresses = found
        .map_err(|_| Cause::NoSuchHost(host.to_owned()))?
        .into_iter();
    let mut failed = Cause::NoSuchHost(host.to_owned());
    loop {
        let Some(address) = addresses.next() else {
            return Err(failed);
        };
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failed = Cause::Connect {
                    address: address.to_string(),
                    source,
                };
            }
        }
    }
}

/// Sends the request and waits for the head of its answer. The connection's task ends with the connection, which ends
/// when the answer is dropped.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: &HttpRequest,
) -> Result<Response<Incoming>, Cause> {
    let mut builder = Request::get(&request.target);
    for (name, value) in &request.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| Cause::Header(name.to_string()))?;
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| Cause::Header(name.to_string()))?;
        builder = builder.header(name, value);
    }
    let message = builder
        .body(Empty::<Bytes>::new())
        .map_err(|_| Cause::Header(request.target.clone()))?;
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .handshake(TokioIo::new(AskFirst {
            stream,
            asked: false,
            listener: None,
        }))
        .await
        .map_err(Cause::Http)?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    let mut answer = sender.send_request(message).await.map_err(Cause::Http)?;
    answer.extensions_mut().insert(Arc::new(connection));
    Ok(answer)
}

/// The task of a connection, which has no use without the answer.
struct AbortOnDrop(JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where an answer sends whoever asked.
fn location(answer: &Response<Incoming>) -> Option<&str> {
    let redirects = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.headers().get(LOCATION).filter(|_| redirects)?;
    location
        .to_str()
        .ok()
        .filter(|location| !location.is_empty())
}

/// Waits for the body, unless it is large. An answer that breaks off has been one all the same.
async fn discard(mut answer: Response<Incoming>) {
    let declared = answer.body().size_hint().lower();
    let mut left = MAX_BODY;
    while declared <= MAX_BODY as u64 && left > 0 {
        match answer.body_mut().frame().await {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                left = left.saturating_sub(length);
            }
            Some(Err(_)) | None => return,
        }
    }
}

/// An I/O error in Go's words, where there is a usual one.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// A stream that remembers what came first, for a server that speaks no TLS.
struct FirstBytes {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl AsyncRead for FirstBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        let wanted = b"HTTP/".len().saturating_sub(self.seen.len());
        let came = &buffer.filled()[before..];
        self.seen.extend_from_slice(&came[..came.len().min(wanted)]);
        done
    }
}

/// A stream on which nothing is heard before something was said. A server that answers before it is asked, such as a pipe
/// into `nc -l`, would otherwise be no HTTP server for hyper; for Go's client it is one.
struct AskFirst<S> {
    stream: S,
    asked: bool,
    listener: Option<Waker>,
}

impl<S: AsyncRead + Unpin> AsyncRead for AskFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.listener = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AskFirst<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        if done.is_ready() && !self.asked {
            self.asked = true;
            if let Some(listener) = self.listener.take() {
                listener.wake();
            }
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncWrite for FirstBytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Takes any certificate: hooks ask the pod itself, whose certificates nobody on the node can know.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
