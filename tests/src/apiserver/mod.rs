//! A double of the Kubernetes API server: real HTTPS, HTTP/2 and HTTP/1.1, with objects in memory.
//!
//! Owns: the objects of the resources that a kubelet reads and writes, their history, the requests that came, the tokens
//! that were given out. Inputs: requests; scripts ([`Fault`], [`ApiServer::expire`], [`ApiServer::allow`] …) of a test.
//! Outputs: answers and watches; for the test every request ([`Request`]).
//!
//! Tasks: one that accepts, one for each connection and one for each watch, on the runtime that [`ApiServer::start`] is
//! called on. They end with that runtime, or with the [`ApiServer`].
//!
//! As the real one does it: resourceVersions, conflicts, pages of lists that show one moment, watches with bookmarks that
//! resume and expire, the patch types, status apart from the rest, deletion in two steps with grace periods, finalizers
//! and preconditions, defaults and the admission plugins that a pod of a node meets, what the node authorizer and
//! NodeRestriction let a node do, TokenRequest, TokenReview, SubjectAccessReview, bootstrap tokens, `Status` bodies.
//!
//! Does not: run controllers (a test approves and signs certificates, see `cluster`), validate objects, know RBAC,
//! protobuf, server-side apply, discovery, namespaces that go, or any resource that a kubelet does not ask for. `kubectl`
//! is not for it.

mod answer;
mod authorize;
mod defaults;
mod discovery;
mod events;
mod faults;
mod identity;
mod list;
mod patch;
mod record;
mod resource;
mod selector;
mod serve;
mod state;
mod store;
mod strategic;
mod strategy;
#[cfg(test)]
mod tests;
mod tokens;
mod verbs;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use self::state::State;

pub use discovery::{bootstrap_secret, cluster_info};
pub use faults::Fault;
pub use identity::User;
pub use record::Request;

/// The audience of the server itself.
const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A server; see the module. Dropping it ends the accepting, and every connection with the runtime it runs on.
#[derive(Debug)]
pub struct ApiServer {
    state: Arc<State>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl ApiServer {
    /// Starts one on a free port of 127.0.0.1, within a tokio runtime. `url` is how clients reach it, `authority` the
    /// certificate (PEM) by which they trust it; `tls` must ask for client certificates.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(url: String, authority: String, tls: ServerConfig) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("bind the API server's port")?;
        let address = listener.local_addr().context("the API server's port")?;
        let state = Arc::new(State::new(url, authority));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let own = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(Arc::clone(&own), acceptor.clone(), stream));
            }
        });
        Ok(Self {
            state,
            address,
            accepting,
        })
    }

    /// Where it listens itself.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Scripts.
impl ApiServer {
    /// Adds a fault. Of several that meet a request, the first has it.
    pub fn fault(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Takes every fault away; requests that hang go on hanging.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Makes a bearer token that of a user.
    pub fn token(&self, token: &str, user: User) {
        self.state.lock().fixed.insert(token.to_owned(), user);
    }

    /// Lets SubjectAccessReviews say yes to `user` for this verb and `resource`, `resource/subresource` or path. Each may
    /// have `*` in it. Masters may everything.
    pub fn allow(&self, user: &str, verb: &str, what: &str) {
        let rule = [user, verb, what].map(str::to_owned);
        self.state.lock().allowed.push(rule);
    }

    /// No token of a service account lives longer than this from now on.
    pub fn limit_tokens(&self, life: Duration) {
        self.state.lock().longest_token = life;
    }

    /// Makes every version that was given out so far expire: running watches end with 410, and so do those that resume.
    pub fn expire(&self) {
        self.state.lock().store.expire();
    }

    /// Sends a bookmark on every watch that wants them.
    pub fn bookmark(&self) {
        self.state.lock().store.bookmark();
    }

    /// Ends every watch without an error, as the server does after half an hour.
    pub fn end_watches(&self) {
        self.state.lock().store.end_watches();
    }
}

/// What there is to see.
impl ApiServer {
    /// Every request so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// As [`cluster_info`], of this server.
    #[must_use]
    pub fn cluster_info(&self, tokens: &[&str]) -> Value {
        cluster_info(&self.state.url, &self.state.authority, tokens)
    }
}

async fn connection(state: Arc<State>, acceptor: TlsAcceptor, stream: TcpStream) {
    // Small answers should not wait for each other; where that cannot be had they do.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let shown = certificate.and_then(|leaf| identity::of_certificate(leaf));
    let service = service_fn(move |request| {
        let answer = serve::serve(Arc::clone(&state), shown.clone(), request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let stream = TokioIo::new(stream);
    // How a connection ends is the client's affair.
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(stream, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(stream, service).await;
    }
}

/// A value of a Secret's `data`, decoded.
fn secret_text(secret: &Value, key: &str) -> Option<String> {
    let encoded = secret["data"][key].as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}
