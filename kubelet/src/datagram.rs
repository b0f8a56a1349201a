//! A connected unix datagram socket that nobody waits for long: what the agent tells systemd and its journal goes this way.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// See the module.
#[derive(Debug)]
pub(crate) struct Datagram {
    socket: UnixDatagram,
}

impl Datagram {
    /// Connects to the socket at `address`: a path, or a name of Linux's abstract space behind an `@`.
    pub(crate) fn connect(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Self { socket })
    }

    /// Sends one message; where the receiver has no room for it within `patience`, `WouldBlock`.
    pub(crate) fn send(&self, message: &[u8], patience: Duration) -> io::Result<()> {
        self.send_with(message, None, patience)
    }

    /// Sends an empty message with a file beside it; otherwise as [`Datagram::send`].
    pub(crate) fn send_file(&self, file: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
        self.send_with(&[], Some(file), patience)
    }

    fn send_with(
        &self,
        message: &[u8],
        file: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> io::Result<()> {
        let mut waited = false;
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            let files = file.as_slice();
            if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
                return Err(io::Error::other("no room for a file beside a message"));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, &[IoSlice::new(message)], &mut beside, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !waited && self.has_room(patience) => waited = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn has_room(&self, patience: Duration) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        let patience = Timespec::try_from(patience).ok();
        matches!(poll(&mut fds, patience.as_ref()), Ok(n) if n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let name = format!("kubelet-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (address, receiver) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path)),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&abstract_address),
            ),
        ] {
            let receiver = receiver.unwrap();
            let datagram = Datagram::connect(&address).unwrap();
            datagram.send(b"word", Duration::ZERO).unwrap();
            let mut buffer = [0; 16];
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"word");
        }
        let gone = Datagram::connect(OsStr::new("/nonexistent/socket")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_receiver_that_does_not_receive_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let datagram = Datagram::connect(path.as_os_str()).unwrap();
        let error = (0..100_000)
            .find_map(|_| datagram.send(b"x", Duration::from_millis(1)).err())
            .expect("no queue is that long");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        receiver.recv(&mut [0; 8]).unwrap();
        datagram.send(b"x", Duration::from_secs(5)).unwrap();
    }
}
