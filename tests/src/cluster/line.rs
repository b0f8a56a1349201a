//! The way between an agent and its API server, or a runtime and its registry: a TCP proxy that refuses, cuts, stands still
//! or goes silent on order, at once or when so much has come through.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// What new connections meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Refused,
    /// Accepted by the kernel, and never answered.
    Silent,
    /// Accepted, and carried on with later.
    Held,
    /// Accepted, and closed.
    Closed,
}

/// The state of the way. A connection lives under the numbers that it began with.
#[derive(Clone, Copy, Debug)]
struct Way {
    mode: Mode,
    backend: SocketAddr,
    /// How often everything was cut.
    cuts: u64,
    /// How often everything that was there went silent.
    silences: u64,
    /// How many bytes more the server may say, and what comes then.
    until: Option<(u64, Mode)>,
}

/// A way; it ends with the runtime it was made on, or when dropped.
#[derive(Debug)]
pub struct Line {
    way: Arc<watch::Sender<Way>>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
    // Bound and never listening: nobody else gets the port while nobody listens.
    _port: TcpSocket,
}

/// A line, what was made beside it, what ends both when it is dropped, and their thread.
pub(crate) type Started<T> = (Line, T, oneshot::Sender<()>, std::thread::JoinHandle<()>);

/// A line, and what `begin` makes beside it, on a thread with a runtime of their own, in a network namespace if one is given.
pub(crate) fn on_thread<T: Send + 'static>(
    netns: Option<&Path>,
    begin: impl AsyncFnOnce(&Line) -> Result<T> + Send + 'static,
) -> Result<Started<T>> {
    let netns = netns
        .map(|path| File::open(path).with_context(|| format!("open {}", path.display())))
        .transpose()?;
    let (stop, stopped) = oneshot::channel();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let prepared = || {
            if let Some(netns) = netns {
                setns(netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            }
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().context("a runtime")
        };
        let runtime = match prepared() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        runtime.block_on(async {
            let begun = async {
                let line = Line::new(SocketAddr::from(([127, 0, 0, 1], 1)))?;
                let more = begin(&line).await?;
                Ok((line, more))
            };
            // Nobody who waits has gone.
            let _ = sender.send(begun.await);
            // A sender that is gone is the order.
            let _ = stopped.await;
        });
        runtime.shutdown_background();
    });
    let (line, more) = receiver
        .recv()
        .context("the line's thread ended")
        .and_then(|begun| begun)?;
    Ok((line, more, stop, thread))
}

impl Drop for Line {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Line {
    /// An open way to `backend` from a port of 127.0.0.1, within a tokio runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn new(backend: SocketAddr) -> Result<Self> {
        let port = bound(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = port.local_addr().context("the way's port")?;
        let way = Way {
            mode: Mode::Open,
            backend,
            cuts: 0,
            silences: 0,
            until: None,
        };
        let way = Arc::new(watch::Sender::new(way));
        let listener = bound(address)?.listen(64).context("listen")?;
        let order = Arc::downgrade(&way);
        let accepting = tokio::spawn(accept(listener, address, way.subscribe(), order));
        Ok(Self {
            way,
            address,
            accepting,
            _port: port,
        })
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it leads to from now on.
    pub fn lead_to(&self, backend: SocketAddr) {
        self.way.send_modify(|way| way.backend = backend);
    }

    /// Every connection breaks, and new ones are refused.
    pub fn refuse(&self) {
        self.way.send_modify(|way| {
            way.mode = Mode::Refused;
            way.cuts += 1;
        });
    }

    /// Every connection breaks; new ones work.
    pub fn cut(&self) {
        self.way.send_modify(|way| way.cuts += 1);
    }

    /// Nothing comes through any more, neither way, and no connection breaks: as after a router has forgotten them. New
    /// ones are accepted and get no further.
    pub fn silence(&self) {
        self.way.send_modify(|way| {
            way.mode = Mode::Silent;
            way.silences += 1;
        });
    }

    /// Nothing comes through any more, and nothing is lost: as where the server's process stands still.
    pub fn hold(&self) {
        self.way.send_modify(|way| way.mode = Mode::Held);
    }

    /// As [`Line::hold`], when the server has said about `bytes` more, on all connections together.
    pub fn hold_after(&self, bytes: u64) {
        self.way
            .send_modify(|way| way.until = Some((bytes, Mode::Held)));
    }

    /// When the server has said about `bytes` more, on all connections together, every connection breaks; new ones are
    /// accepted and closed.
    pub fn close_after(&self, bytes: u64) {
        self.way
            .send_modify(|way| way.until = Some((bytes, Mode::Closed)));
    }

    /// Whether what was ordered for later has come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.way.borrow().mode == Mode::Open
    }

    /// New connections work again, and those that were held. Those that went silent stay so.
    pub fn open(&self) {
        self.way.send_modify(|way| {
            way.mode = Mode::Open;
            way.until = None;
        });
    }
}

impl Way {
    /// The server has said so much.
    fn count(&mut self, said: u64) {
        let Some((left, then)) = &mut self.until else {
            return;
        };
        if *left > said {
            *left -= said;
            return;
        }
        self.mode = *then;
        if self.mode == Mode::Closed {
            self.cuts += 1;
        }
        self.until = None;
    }
}

fn bound(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4().context("a socket")?;
    socket.set_reuseaddr(true).context("a socket's option")?;
    socket
        .bind(address)
        .with_context(|| format!("bind {address}"))?;
    Ok(socket)
}

/// What is said on a connection may change the way; it does not keep it.
type Order = Weak<watch::Sender<Way>>;

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    mut way: watch::Receiver<Way>,
    order: Order,
) {
    let mut listener = Some(listener);
    loop {
        let now = *way.borrow_and_update();
        if now.mode == Mode::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = bound(address)
                .ok()
                .and_then(|socket| socket.listen(64).ok());
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cancel-safe: a connection that was not taken stays in the queue.
            Ok((stream, _)) = accepted => {
                tokio::spawn(carry(stream, way.clone(), order.clone()));
            }
            changed = way.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn carry(mut client: TcpStream, mut way: watch::Receiver<Way>, order: Order) {
    let born = *way.borrow_and_update();
    if born.mode == Mode::Closed {
        return;
    }
    let cut = {
        let mut way = way.clone();
        async move {
            // A line that is gone cuts too.
            let _ = way.wait_for(|way| way.cuts != born.cuts).await;
        }
    };
    tokio::pin!(cut);
    let mut server = None;
    if matches!(born.mode, Mode::Open | Mode::Held) {
        let through = through(&mut client, born.backend, &mut server, &order);
        tokio::pin!(through);
        loop {
            let now = *way.borrow_and_update();
            if now.silences != born.silences {
                // What is in the buffers is lost, as it should.
                break;
            }
            tokio::select! {
                () = &mut through, if now.mode != Mode::Held => return,
                changed = way.changed() => if changed.is_err() {
                    return;
                },
                () = &mut cut => return,
            }
        }
    }
    // Both ends stay open until somebody gives up.
    cut.await;
    drop(server);
}

async fn through(
    client: &mut TcpStream,
    backend: SocketAddr,
    server: &mut Option<TcpStream>,
    order: &Order,
) {
    let Ok(stream) = TcpStream::connect(backend).await else {
        return;
    };
    for stream in [&*client, &stream] {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.insert(stream).split();
    let asked = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let said = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&buffer[..read]).await?;
            if let Some(way) = order.upgrade() {
                way.send_if_modified(|way| {
                    let counts = way.until.is_some();
                    way.count(read as u64);
                    counts && way.until.is_none()
                });
            }
        }
    };
    // How it ends is the two ends' affair.
    let _: io::Result<((), ())> = tokio::try_join!(asked, said).map(|_| ((), ()));
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok()
            && timeout(Duration::from_millis(300), stream.read_exact(&mut byte))
                .await
                .is_ok_and(|read| read.is_ok())
    }

    #[tokio::test]
    async fn what_it_holds_comes_through_later() {
        let line = Line::new(echo().await).unwrap();
        let mut before = TcpStream::connect(line.address()).await.unwrap();
        assert!(says(&mut before).await);
        line.hold();
        let mut during = TcpStream::connect(line.address()).await.unwrap();
        assert!(!says(&mut before).await && !says(&mut during).await);
        line.open();
        for stream in [&mut before, &mut during] {
            let mut byte = [0];
            let read = timeout(Duration::from_secs(5), stream.read_exact(&mut byte)).await;
            assert!(read.is_ok_and(|read| read.is_ok()));
            assert!(says(stream).await);
        }
    }

    #[tokio::test]
    async fn it_closes_when_so_much_has_come_through() {
        let line = Line::new(echo().await).unwrap();
        let mut stream = TcpStream::connect(line.address()).await.unwrap();
        line.close_after(3);
        assert!(says(&mut stream).await && says(&mut stream).await && line.is_open());
        assert!(says(&mut stream).await);
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        let mut next = TcpStream::connect(line.address()).await.unwrap();
        assert!(matches!(next.read(&mut byte).await, Ok(0) | Err(_)));
        assert!(!line.is_open());
        line.open();
        let mut last = TcpStream::connect(line.address()).await.unwrap();
        assert!(says(&mut last).await);
    }

    #[tokio::test]
    async fn it_refuses_cuts_and_goes_silent() {
        let line = Line::new(echo().await).unwrap();
        let mut first = TcpStream::connect(line.address()).await.unwrap();
        assert!(says(&mut first).await);
        line.refuse();
        let mut byte = [0];
        assert!(matches!(first.read(&mut byte).await, Ok(0) | Err(_)));
        let refused = async || {
            let connected = TcpStream::connect(line.address()).await;
            connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        // The listener closes a moment later.
        while !refused().await {
            tokio::task::yield_now().await;
        }
        line.open();
        let mut second = loop {
            if let Ok(stream) = TcpStream::connect(line.address()).await {
                break stream;
            }
        };
        assert!(says(&mut second).await);
        line.silence();
        let mut third = TcpStream::connect(line.address()).await.unwrap();
        assert!(!says(&mut second).await && !says(&mut third).await);
        line.open();
        assert!(!says(&mut second).await);
        let mut fourth = TcpStream::connect(line.address()).await.unwrap();
        assert!(says(&mut fourth).await);
    }
}
