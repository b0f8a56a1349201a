//! The agent's own unix socket: where this machine's administrator asks it things.
//!
//! The file is made for its owner alone (0600): nobody else can connect at any moment. Should somebody open it to others
//! afterwards, the kernel still says who connects (SO_PEERCRED, `unix(7)`), and whoever is neither root nor the agent's own
//! user is refused: what is asked here may be a command in any container. It is bound beside its place and
//! renamed into it, so that one that a killed agent left is replaced in one step, and what is there and no socket is
//! left alone. The directory is held by handle, and the paths to bind go through it: they are short however long the
//! directory's own path is.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::http::StatusCode;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

use super::{Server, text};

/// Connections that wait to be taken.
const BACKLOG: i32 = 64;

/// A socket that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else has its place.
    #[error("{} is no socket; move it away, or choose another path", .0.display())]
    Taken(PathBuf),
    /// Anything else.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file of a socket that is served; dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    directory: OwnedFd,
    name: PathBuf,
    /// Device and inode: another agent's socket in its place is left alone.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.directory, &self.name) == Ok(Some(self.identity)) {
            // What cannot be removed is replaced by the next agent.
            let _ = fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

impl Server {
    /// Listens on a socket at `path`; connections wait until [`Server::run`]. The file goes with the second value.
    ///
    /// # Errors
    /// When something else than a socket is there, or the directory cannot be written.
    pub fn bind_socket(path: &Path, routes: Router) -> Result<(Self, SocketFile), SocketError> {
        let (listener, file) = bind_socket(path)?;
        Ok((
            Self::of_socket(listener, "the agent's socket", routes),
            file,
        ))
    }
}

/// Listens on a socket at `path`, for its owner alone. The file goes with the second value. Within a tokio runtime.
///
/// # Errors
/// When something else than a socket is there, or the directory cannot be written.
pub(crate) fn bind_socket(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |error: io::Error| SocketError::Listen {
        path: path.to_owned(),
        source: error,
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        fs::open(directory, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let name = PathBuf::from(name);
    if !is_free(&directory, &name).map_err(|errno| failed(errno.into()))? {
        return Err(SocketError::Taken(path.to_owned()));
    }
    let (listener, identity) = listen(&directory, &name).map_err(|errno| failed(errno.into()))?;
    let file = SocketFile {
        directory,
        name,
        identity,
    };
    let listener = UnixListener::from_std(StdListener::from(listener)).map_err(failed)?;
    Ok((listener, file))
}

/// What whoever is at the other end of `stream` may ask: `routes`, or nothing.
pub(super) fn for_peer(stream: &UnixStream, routes: Router) -> Router {
    // Who it was that connected; somebody that the kernel does not name is nobody.
    let user = stream.peer_cred().map(|peer| peer.uid());
    match user {
        Ok(user) if may_ask(user) => routes,
        _ => Router::new().fallback(refused),
    }
}

/// Root, and whoever the agent is.
fn may_ask(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

async fn refused() -> axum::response::Response {
    text(
        StatusCode::FORBIDDEN,
        "only root is answered on this socket\n",
    )
}

fn listen(directory: &OwnedFd, name: &Path) -> Result<(OwnedFd, (u64, u64)), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it is bound: the file is never there with more.
    fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let beside = PathBuf::from(format!(".agent.sock.{}", std::process::id()));
    // One of a killed agent that had the same process id.
    remove(directory, &beside)?;
    let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
    net::bind(
        &socket,
        &SocketAddrUnix::new(Path::new(&through).join(&beside))?,
    )?;
    let placed = (|| {
        net::listen(&socket, BACKLOG)?;
        let identity = identity(directory, &beside)?.ok_or(Errno::NOENT)?;
        fs::renameat(directory, &beside, directory, name)?;
        Ok(identity)
    })();
    if placed.is_err() {
        let _ = remove(directory, &beside);
    }
    Ok((socket, placed?))
}

/// Whether nothing is there, or a socket that may be replaced.
fn is_free(directory: &OwnedFd, name: &Path) -> Result<bool, Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Socket),
        Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn identity(directory: &OwnedFd, name: &Path) -> Result<Option<(u64, u64)>, Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn remove(directory: &OwnedFd, name: &Path) -> Result<(), Errno> {
    match fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_own_user_are_answered() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_ask(0) && may_ask(own));
        assert!(!may_ask(own + 65_534));
    }
}
