//! The sockets that are open, so that all of them can be closed at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

/// Open sockets; whoever uses one holds what [`Sockets::hold`] gave.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Mutex<Vec<Weak<OwnedFd>>>,
    redials: watch::Sender<u64>,
}

/// Keeps a socket within reach of [`Sockets::cut`].
pub(super) type Held = Arc<OwnedFd>;

impl Sockets {
    /// Takes note of an open socket.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn hold(&self, socket: impl AsFd) -> io::Result<Held> {
        let held = Arc::new(socket.as_fd().try_clone_to_owned()?);
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

    /// Ends what goes over all of them: readers find the end, writers an error.
    pub(super) fn cut(&self) {
        self.redial();
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for socket in open.iter().filter_map(Weak::upgrade) {
            // One that has gone meanwhile needs no end.
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
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
        sockets.cut();
        assert_eq!(read.await.unwrap().unwrap(), 0, "the end");
        drop(held);
        let another = sockets.hold(&gone).unwrap();
        assert_eq!(sockets.open.lock().unwrap().len(), 1);
        drop(another);
    }
}
