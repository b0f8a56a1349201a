//! A server to be probed, for containers of tests: HTTP on 8080, HTTPS on 8443, TCP on 9000, gRPC health on 5000.
//!
//! `probed DIRECTORY [SECONDS]`: it is healthy while there is no file `bad` in the directory, and for so many seconds.
//! Each request that it answers is a line of its output: seconds since the start, the kind, the request's first line.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Between two looks at the directory by the TCP server.
const LOOK: Duration = Duration::from_millis(50);

struct State {
    directory: PathBuf,
    healthy_for: Option<Duration>,
    began: Instant,
}

impl State {
    fn is_healthy(&self) -> bool {
        let old = self
            .healthy_for
            .is_some_and(|span| self.began.elapsed() > span);
        !old && !self.directory.join("bad").exists()
    }

    fn log(&self, kind: &str, what: &str) {
        println!("{:.2} {kind} {what}", self.began.elapsed().as_secs_f64());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("no directory given")?.into();
    let seconds = arguments
        .next()
        .map(|seconds| seconds.parse())
        .transpose()?;
    let state = Arc::new(State {
        directory,
        healthy_for: seconds.map(Duration::from_secs),
        began: Instant::now(),
    });
    let grpc = Server::builder()
        .add_service(Health(state.clone()))
        .serve("0.0.0.0:5000".parse()?);
    tokio::try_join!(
        http(state.clone()),
        https(state.clone()),
        tcp(state.clone()),
        async { grpc.await.context("gRPC") },
    )?;
    Ok(())
}

async fn http(state: Arc<State>) -> Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(state.clone(), "http", stream));
    }
}

async fn https(state: Arc<State>) -> Result<()> {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["probed.test".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("0.0.0.0:8443").await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            // A client that does not like it says so itself.
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(state, "https", stream).await;
            }
        });
    }
}

async fn answer(state: Arc<State>, kind: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    state.log(kind, request.lines().next().unwrap_or_default());
    let status = match state.is_healthy() {
        true if request.starts_with("GET /away ") => "302 Found\r\nLocation: http://192.0.2.1/",
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    let response =
        format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend");
    // Whoever asked may have gone.
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Listens while it is healthy.
async fn tcp(state: Arc<State>) -> Result<()> {
    let mut listener = None;
    loop {
        if !state.is_healthy() {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind("0.0.0.0:9000").await?);
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => { accepted?; state.log("tcp", ""); }
            () = sleep(LOOK) => {}
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone)]
struct Health(Arc<State>);

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl<B> Service<http::Request<B>> for Health
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(Grpc::new(codec).unary(service, request).await)
        })
    }
}

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = BoxFuture<Response<HealthCheckResponse>, Status>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let service = request.into_inner().service;
        self.0.log("grpc", &service);
        let healthy = self.0.is_healthy();
        Box::pin(async move {
            if service == "unknown" {
                return Err(Status::not_found("unknown service"));
            }
            let status = if healthy { 1 } else { 2 };
            Ok(Response::new(HealthCheckResponse { status }))
        })
    }
}
