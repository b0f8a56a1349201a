//! One request to the API server: when it is made, over which connection, and how long it may take.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tokio::time::Instant;

use super::connector::Connector;
use super::hold::{self, Hold};
use super::rate::Bucket;
use super::retry::spread;
use super::returned::{Health, is_up};
use super::sockets::Sockets;
use super::token::TokenFile;
use crate::clock::Clock;
use crate::metrics::kubelet;

/// A server that says nothing for so long is asked whether it is there, while anybody waits for it (client-go's HTTP/2).
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long it has to say so (client-go's HTTP/2).
const PING_PATIENCE: Duration = Duration::from_secs(15);
/// A connection that nobody uses is closed after this time (Go's default transport).
const IDLE: Duration = Duration::from_secs(90);
/// A watch is not opened again sooner than this after it was last opened: a server that ends each at once is not asked in
/// a tight loop. (client-go's reflectors begin with the same delay.)
const WATCH_EVERY: Duration = Duration::from_millis(800);
/// A certificate that changed counts for new requests at latest so long after (client-go looks at its files each minute).
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Says whether the server can do anything.
pub(super) const READY: &str = "/readyz";

type Http = HttpClient<Connector, Body>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Connections to one API server.
pub(super) struct Pool {
    connector: Connector,
    http: Mutex<Http>,
    looked: Mutex<Looked>,
    hold: Hold,
}

/// When the certificates were last looked at, and which of their states that was.
#[derive(Default)]
struct Looked {
    at: Duration,
    generation: u64,
}

impl Pool {
    pub(super) fn new(connector: Connector) -> Self {
        Self {
            http: Mutex::new(http(&connector)),
            looked: Mutex::default(),
            hold: Hold::default(),
            connector,
        }
    }

    /// Closes all connections, whatever goes over them.
    pub(super) fn cut(&self) {
        self.cut_unheard(None);
    }

    /// Has what is asked from now on go over new connections. What is under way goes on over those of before: watches until
    /// their time is over, everything else to its answer; then they close by themselves.
    pub(super) fn renew(&self) {
        let generation = self.connector.tls.generation();
        self.looked().generation = generation;
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = http(&self.connector);
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        // Nothing panics under this lock.
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut_unheard(&self, since: Option<Instant>) {
        let sockets: &Sockets = &self.connector.sockets;
        if !sockets.cut(since) {
            // Nothing goes over a connection that is about to be found closed.
            self.renew();
        }
    }

    /// The server is back: whoever is about to connect begins anew, and what the one before it wished for is over. Where
    /// it was `silent`, connections over which nothing came since then may be dead without anybody having said so; the
    /// others go on, and the watches over them need not be opened again.
    pub(super) fn returned(&self, silent: Option<Instant>) {
        self.hold.lift();
        match silent {
            Some(since) => self.cut_unheard(Some(since)),
            None => self.connector.sockets.redial(),
        }
    }

    fn http(&self, now: Duration) -> Http {
        {
            let mut looked = self.looked();
            if now.saturating_sub(looked.at) >= LOOK_EVERY {
                looked.at = now;
                if self.connector.tls.generation() != looked.generation {
                    drop(looked);
                    tracing::info!("the certificates for the API server have changed");
                    self.renew();
                }
            }
        }
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        http.clone()
    }
}

fn http(connector: &Connector) -> Http {
    HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_PATIENCE)
        .build(connector.clone())
}

/// What one client's requests have in common. Cheap to clone.
#[derive(Clone)]
pub(super) struct ApiService(pub(super) Arc<Requests>);

/// See [`ApiService`].
pub(super) struct Requests {
    pub(super) pool: Arc<Pool>,
    pub(super) health: Arc<Health>,
    pub(super) clock: Clock,
    pub(super) bucket: Option<Mutex<Bucket>>,
    pub(super) user_agent: HeaderValue,
    pub(super) token: Option<TokenFile>,
    /// How long the head of an answer may take. Watches answer at once, too.
    pub(super) deadline: Duration,
    /// Whether a request that took too long closes the connections: the next one is to have one of its own.
    pub(super) cut_when_late: bool,
    /// When which watch was last opened.
    pub(super) watches: Mutex<HashMap<String, Duration>>,
}

/// No answer came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the API server within {} s", .0.as_secs())]
struct Late(Duration);

impl tower::Service<Request<Body>> for ApiService {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let requests = self.0.clone();
        Box::pin(async move { requests.send(request).await })
    }
}

impl Requests {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, self.user_agent.clone());
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.header(self.clock.monotonic())?);
        }
        let turn = self.turn(&request);
        if !turn.is_zero() {
            tokio::time::sleep(turn).await;
        }
        // Whether it is there at all may always be asked.
        if !request.uri().path().ends_with(READY) {
            self.pool.hold.wait().await;
        }
        let begun = self.clock.monotonic();
        let http = self.pool.http(begun);
        let told = Told::of(&request);
        let answer = tokio::time::timeout(self.deadline, http.request(request)).await;
        let took = self.clock.monotonic().saturating_sub(begun);
        told.tell(
            answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()),
            took,
        );
        match answer {
            Ok(Ok(response)) => {
                if let Some(wish) = hold::wish(&response) {
                    // It is there, and says when.
                    self.health.answered();
                    self.pool.hold.follow(wish);
                    return Err(hold::refusal(wish).into());
                }
                match is_up(response.status()) {
                    true => self.health.answered(),
                    false => self.health.failed(),
                }
                Ok(response)
            }
            Ok(Err(error)) => {
                self.health.failed();
                Err(error.into())
            }
            Err(_) => {
                self.health.was_silent();
                if self.cut_when_late {
                    self.pool.cut();
                }
                Err(Late(self.deadline).into())
            }
        }
    }

    /// How long this request has to wait for its turn.
    fn turn(&self, request: &Request<Body>) -> Duration {
        let now = self.clock.monotonic();
        let mut turn = Duration::ZERO;
        if let Some(bucket) = &self.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            turn = bucket.take(now);
        }
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|part| part.starts_with("watch=")) {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            // Only those that are worth a wait are kept.
            watches.retain(|_, opened| now.saturating_sub(*opened) < WATCH_EVERY);
            let key = watch_key(request.uri().path(), query);
            if let Some(opened) = watches.get(&key) {
                turn = turn.max(spread(WATCH_EVERY).saturating_sub(now.saturating_sub(*opened)));
            }
            watches.insert(key, now.saturating_add(turn));
        }
        turn
    }
}

/// What is counted of a request.
struct Told {
    host: String,
    method: Method,
}

impl Told {
    fn of(request: &Request<Body>) -> Self {
        let authority = request.uri().authority();
        Self {
            host: authority.map(ToString::to_string).unwrap_or_default(),
            method: request.method().clone(),
        }
    }

    /// A request without an answer has client-go's word in place of a code.
    fn tell(&self, answer: Option<&Response<Incoming>>, took: Duration) {
        let (host, method) = (self.host.as_str(), self.method.as_str());
        let code = answer.map(Response::status);
        let code = code.as_ref().map_or("<error>", |code| code.as_str());
        kubelet().rest_requests.inc(&[code, host, method]);
        kubelet().rest_duration.observe(&[host, method], took);
    }
}

/// What a watch is of, without where it begins.
fn watch_key(path: &str, query: &str) -> String {
    let of = query.split('&').filter(|part| part.contains("elector="));
    of.fold(path.to_owned(), |key, part| key + "?" + part)
}
