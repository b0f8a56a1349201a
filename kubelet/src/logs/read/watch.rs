//! Word of changes in a log's directory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::super::writes::instance;
use crate::dir::Dir;

/// A look without word of a change: file systems of a network tell of none.
const LOOK: Duration = Duration::from_secs(10);
/// The same where the kernel gives no more watches (`fs.inotify.max_user_instances`); upstream's period.
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);
/// Bytes of events taken at once.
const EVENTS: usize = 4 << 10;

/// Tells of changes in a directory, in a file's content too.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Watches `dir`. Where the kernel does not let it, it looks often. Within a tokio runtime.
    pub(super) fn on(dir: &Dir) -> Self {
        let inotify = begin(dir);
        if let Err(error) = &inotify {
            tracing::debug!(dir = %dir.path().display(), %error, "cannot watch a log; looking at it each second");
        }
        Self {
            inotify: inotify.ok(),
        }
    }

    /// Waits until something may have changed since the last time. Cancel-safe: events stay until they are taken.
    pub(super) async fn changed(&self) {
        let Some(inotify) = &self.inotify else {
            return tokio::time::sleep(LOOK_UNWATCHED).await;
        };
        if let Ok(Err(error)) = tokio::time::timeout(LOOK, happened(inotify)).await {
            tracing::debug!(%error, "a watch on a log broke; looking at it each second");
            tokio::time::sleep(LOOK_UNWATCHED).await;
        }
    }
}

fn begin(dir: &Dir) -> io::Result<AsyncFd<OwnedFd>> {
    let watch = instance()?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::ONLYDIR;
    // The directory that is held, whatever is at its path by now.
    let held = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    inotify::add_watch(&watch, held, events)?;
    Ok(watch)
}

/// Waits for an event, and takes all that are there.
async fn happened(inotify: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = inotify.readable().await?;
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
