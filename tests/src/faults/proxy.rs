//! A gRPC proxy between an agent and the runtime, which does harm on order.
//!
//! It forwards whatever service and method comes, CRI and containerd's own events alike, without reading the messages:
//! the path of a call names its method, and that is all that a [`Rule`] asks for. It runs in a thread of its own, so
//! that a test which waits for a command holds up nobody's calls.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri_proto::{ConnectOptions, Connection};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::Body as _;
use tonic::codegen::Service as _;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::journal::Journal;

/// The calls of CRI that change something.
pub const CHANGES: [&str; 9] = [
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "UpdateContainerResources",
    "PullImage",
];

/// Where in a call the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The runtime never hears of it.
    Before,
    /// This long after the runtime has begun with it; the runtime sees its client vanish.
    During(Duration),
    /// The runtime has done it, and the agent never hears of that.
    After,
}

/// What becomes of a call.
#[derive(Clone)]
pub enum Effect {
    /// The process dies of SIGKILL.
    Kills(Arc<OwnedFd>, Moment),
    /// Forwarded so much later, unless the agent has given up before.
    Delays(Duration),
    /// Forwarded so much later, though the agent may have given up before.
    Belated(Duration),
    /// Never forwarded, never answered.
    Hangs,
    /// Done by the runtime, never answered.
    LosesAnswer,
    /// Never forwarded; answered with this.
    Fails(Code, &'static str),
}

/// Which calls meet which fate.
#[derive(Clone)]
pub struct Rule {
    methods: Vec<&'static str>,
    skip: usize,
    left: usize,
    effect: Effect,
}

impl Rule {
    /// All calls of these methods.
    #[must_use]
    pub fn on(methods: &[&'static str], effect: Effect) -> Self {
        Self {
            methods: methods.to_vec(),
            skip: 0,
            left: usize::MAX,
            effect,
        }
    }

    /// Spares the first `count`.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self {
            skip: count,
            ..self
        }
    }

    /// Meets `count`, and then no more.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self {
            left: count,
            ..self
        }
    }

    fn take(&mut self, method: &str) -> Option<Effect> {
        if self.left == 0 || !self.methods.contains(&method) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left -= 1;
        Some(self.effect.clone())
    }
}

#[derive(Default)]
struct Orders {
    rules: Vec<Rule>,
    /// The calls that a rule met.
    met: Vec<String>,
}

/// The proxy. Its socket is gone with it.
pub struct Proxy {
    socket: PathBuf,
    orders: Arc<Mutex<Orders>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `socket`, for calls to the runtime at `runtime`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, runtime: &Path, journal: Journal) -> Result<Self> {
        let orders = Arc::<Mutex<Orders>>::default();
        let endpoint = format!("unix://{}", runtime.display());
        let listener = std::os::unix::net::UnixListener::bind(socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let for_calls = orders.clone();
        let body = move || -> Result<()> {
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            tokio.block_on(async {
                let options = ConnectOptions {
                    // The agent's own back-off is to be seen, not ours.
                    backoff_min: Duration::from_millis(1),
                    backoff_max: Duration::from_millis(1),
                    ..ConnectOptions::default()
                };
                let channel = Connection::connect(&endpoint, options)?.channel();
                let router = axum::Router::new().fallback(move |request| {
                    let call = Call {
                        channel: channel.clone(),
                        orders: for_calls.clone(),
                        journal: journal.clone(),
                    };
                    call.pass(request)
                });
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
                tonic::transport::Server::builder()
                    .add_routes(tonic::service::Routes::from(router))
                    .serve_with_incoming_shutdown(incoming, async {
                        // A sender that is gone is an order too.
                        let _ = stopped.await;
                    })
                    .await
                    .context("serve")
            })
        };
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                if let Err(error) = body() {
                    eprintln!("the proxy ended: {error:?}");
                }
            })?;
        Ok(Self {
            socket: socket.to_owned(),
            orders,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on this rule holds too; of those that a call meets, the first takes it.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Drops all rules, and forgets what they met.
    pub fn heal(&self) {
        *self.lock() = Orders::default();
    }

    /// The calls that rules met, since they were last dropped.
    #[must_use]
    pub fn met(&self) -> Vec<String> {
        self.lock().met.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Streams that are open keep it serving; whoever holds them has to end first, or the process does.
        drop(self.thread.take());
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[derive(Clone)]
struct Call {
    channel: Channel,
    orders: Arc<Mutex<Orders>>,
    journal: Journal,
}

impl Call {
    async fn pass(self, request: axum::extract::Request) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        let effect = {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            let effect = orders.rules.iter_mut().find_map(|rule| rule.take(&method));
            if effect.is_some() {
                orders.met.push(method.clone());
            }
            effect
        };
        let request = request.map(Body::new);
        let change = CHANGES.contains(&method.as_str());
        if change || effect.is_some() {
            let fate = effect.as_ref().map(describe).unwrap_or_default();
            self.journal.note(format_args!("call: {method} {fate}"));
        }
        let passed = match effect {
            None => self.forward(request).await,
            Some(effect) => self.harm(request, effect).await,
        };
        passed.unwrap_or_else(|error| {
            if change {
                self.journal.note(format_args!("call: {method}: {error}"));
            }
            Status::unavailable(error.to_string()).into_http()
        })
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>> {
        let mut channel = self.channel.clone();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
        Ok(channel.call(request).await?)
    }

    async fn harm(&self, request: Request<Body>, effect: Effect) -> Result<Response<Body>> {
        match effect {
            Effect::Kills(agent, Moment::Before) => {
                kill(&agent)?;
                std::future::pending().await
            }
            Effect::Kills(agent, Moment::During(time)) => {
                let doomed = Doomed(agent);
                // Cancelled with the agent's connection, as by a client that is gone.
                let _ = tokio::join!(
                    async move {
                        tokio::time::sleep(time).await;
                        drop(doomed);
                    },
                    self.complete(request)
                );
                std::future::pending().await
            }
            Effect::Kills(agent, Moment::After) => {
                let doomed = Doomed(agent);
                self.complete(request).await?;
                drop(doomed);
                std::future::pending().await
            }
            Effect::Delays(time) => {
                tokio::time::sleep(time).await;
                self.forward(request).await
            }
            Effect::Belated(time) => {
                let (request, call) = (whole(request).await?, self.clone());
                let task = tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    call.forward(request).await
                });
                task.await?
            }
            Effect::Hangs => std::future::pending().await,
            Effect::LosesAnswer => {
                let (request, call) = (whole(request).await?, self.clone());
                tokio::spawn(async move { call.complete(request).await }).await??;
                std::future::pending().await
            }
            Effect::Fails(code, message) => Ok(Status::new(code, message).into_http()),
        }
    }

    /// Forwards, and waits until the runtime has answered in full.
    async fn complete(&self, request: Request<Body>) -> Result<()> {
        let answer = self.forward(request).await?;
        read(answer.into_body()).await.map(drop)
    }
}

/// The request with its message read: it can be forwarded when its sender has gone.
async fn whole(request: Request<Body>) -> Result<Request<Body>> {
    let (head, body) = request.into_parts();
    let bytes = read(body).await?;
    let body = Body::new(axum::body::Body::from(bytes));
    Ok(Request::from_parts(head, body))
}

/// Reads a body to its end; the trailers are dropped.
async fn read(mut body: Body) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// The agent whose call is under way: killed when this is dropped, and so also when it gives that call up before its time.
struct Doomed(Arc<OwnedFd>);

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Err(error) = kill(&self.0) {
            eprintln!("the agent is not killed: {error}");
        }
    }
}

/// A process that has ended is as dead as it should be.
fn kill(process: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(process, Signal::KILL) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
        _ => Ok(()),
    }
}

fn describe(effect: &Effect) -> String {
    match effect {
        Effect::Kills(_, moment) => format!("kills the agent: {moment:?}"),
        Effect::Delays(time) => format!("is delayed by {time:?}"),
        Effect::Belated(time) => format!("is belated by {time:?}"),
        Effect::Hangs => "hangs".to_owned(),
        Effect::LosesAnswer => "loses its answer".to_owned(),
        Effect::Fails(code, _) => format!("fails: {code:?}"),
    }
}
