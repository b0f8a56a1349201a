//! Word of changes of files and directories, from the kernel: inotify(7) within a tokio runtime.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify;
pub(crate) use rustix::fs::inotify::WatchFlags;
use rustix::path::Arg;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of events taken at once.
const EVENTS: usize = 4 << 10;

/// Watches, and whether something happened to what they are on. What it was is not told.
#[derive(Debug)]
pub(crate) struct Inotify(AsyncFd<OwnedFd>);

impl Inotify {
    /// Without a watch. Within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives none (`fs.inotify.max_user_instances`).
    pub(crate) fn new() -> io::Result<Self> {
        instance().map(Self)
    }

    /// Watches what is at `path` for `events`, too. Again for what is watched already: the new events.
    ///
    /// # Errors
    /// When it is not there, or the kernel gives no more watches (`fs.inotify.max_user_watches`).
    pub(crate) fn watch(&self, path: impl Arg, events: WatchFlags) -> io::Result<()> {
        inotify::add_watch(self.0.get_ref(), path, events)?;
        Ok(())
    }

    /// Waits for an event, and takes all that are there. Cancel-safe: events stay until they are taken.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub(crate) async fn happened(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut any = false;
            let taken: Result<io::Result<()>, _> = ready.try_io(|watch| {
                let mut buffer = [MaybeUninit::uninit(); EVENTS];
                let mut events = inotify::Reader::new(watch.get_ref(), &mut buffer);
                loop {
                    // It ends with "would block" when there are no more.
                    events.next()?;
                    any = true;
                }
            });
            match taken {
                Ok(Err(error)) => return Err(error),
                _ if any => return Ok(()),
                _ => {}
            }
        }
    }
}

/// What events are read from that can be waited for. Within a tokio runtime.
///
/// # Errors
/// When the kernel gives none (`fs.inotify.max_user_instances`).
pub(crate) fn instance() -> io::Result<AsyncFd<OwnedFd>> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe for types that may close the descriptor early; OwnedFd does not"
    )]
    AsyncFd::with_interest(watch, Interest::READABLE)
}
