//! The sockets that are open, so that those that lead nowhere can be closed at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::time::Instant;

/// Open sockets; whoever uses one holds what [`Sockets::hold`] gave.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Mutex<Vec<Weak<Socket>>>,
    redials: watch::Sender<u64>,
}

/// Keeps a socket within reach of [`Sockets::cut`].
pub(super) type Held = Arc<Socket>;

/// An open socket.
#[derive(Debug)]
pub(super) struct Socket {
    file: OwnedFd,
    /// When the other side said anything last; none before its first word.
    heard: Mutex<Option<Instant>>,
}

impl Socket {
    /// The other side has just said something.
    pub(super) fn hears(&self) {
        *self.heard() = Some(Instant::now());
    }

    fn heard(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing panics under this lock.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sockets {
    /// Takes note of an open socket.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn hold(&self, socket: impl AsFd) -> io::Result<Held> {
        let held = Arc::new(Socket {
            file: socket.as_fd().try_clone_to_owned()?,
            heard: Mutex::default(),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|socket| socket.strong_count() > 0);
        open.push(Arc::downgrade(&held));
        Ok(held)
    }

    /// Changes whenever whoever is about to connect should begin anew.
    pub(super) fn redials(&self) -> watch::Receiver<u64> {
        self.redials.subscribe()
    }

    /// Has those that are about to connect begin anew: the kernel waits ever longer between two tries.
    pub(super) fn redial(&self) {
        self.redials.send_modify(|count| *count += 1);
    }

    /// Ends what goes over all of them, or over those of which nothing was heard `since`: readers find the end, writers an
    /// error. Says whether any are left.
    pub(super) fn cut(&self, since: Option<Instant>) -> bool {
        self.redial();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|socket| {
            let Some(socket) = socket.upgrade() else {
                return false;
            };
            let heard = *socket.heard();
            let keep = since.is_some_and(|since| heard.is_some_and(|heard| heard >= since));
            if !keep {
                // One that has gone meanwhile needs no end.
                let _ = rustix::net::shutdown(&socket.file, rustix::net::Shutdown::Both);
            }
            keep
        });
        !open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn all_that_is_held_ends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Sockets::default();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let held = sockets.hold(&stream).unwrap();
        let gone = TcpStream::connect(address).await.unwrap();
        drop(sockets.hold(&gone).unwrap());
        let (_one, _two) = (listener.accept().await, listener.accept().await);
        let read = tokio::spawn(async move { stream.read(&mut [0; 1]).await });
        assert!(!sockets.cut(None));
        assert_eq!(read.await.unwrap().unwrap(), 0, "the end");
        drop(held);
        let another = sockets.hold(&gone).unwrap();
        assert_eq!(sockets.open.lock().unwrap().len(), 1);
        drop(another);
    }

    #[tokio::test]
    async fn what_was_heard_from_since_goes_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Sockets::default();
        let mut ends = Vec::new();
        let mut open = async || {
            let stream = TcpStream::connect(address).await.unwrap();
            ends.push(listener.accept().await.unwrap().0);
            let held = sockets.hold(&stream).unwrap();
            (stream, held)
        };
        let (mut before, mut after, mut never) = (open().await, open().await, open().await);
        before.1.hears();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let since = Instant::now();
        after.1.hears();
        assert!(sockets.cut(Some(since)));
        for (stream, _) in [&mut before, &mut never] {
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the end");
        }
        let end = tokio::time::timeout(Duration::from_millis(50), after.0.read(&mut [0; 1])).await;
        assert!(end.is_err(), "{end:?}");
        assert!(!sockets.cut(None), "it is still within reach");
        assert_eq!(after.0.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
