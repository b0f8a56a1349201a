//! Word of changes in a log's directory.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use crate::dir::Dir;
use crate::inotify::{Inotify, WatchFlags};

/// A look without word of a change: file systems of a network tell of none.
const LOOK: Duration = Duration::from_secs(10);
/// The same where the kernel gives no more watches (`fs.inotify.max_user_instances`); upstream's period.
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);

/// Tells of changes in a directory, in a file's content too.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
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
        if let Ok(Err(error)) = tokio::time::timeout(LOOK, inotify.happened()).await {
            tracing::debug!(%error, "a watch on a log broke; looking at it each second");
            tokio::time::sleep(LOOK_UNWATCHED).await;
        }
    }
}

fn begin(dir: &Dir) -> io::Result<Inotify> {
    let watch = Inotify::new()?;
    let events =
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    // The directory that is held, whatever is at its path by now.
    let held = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    watch.watch(held, events)?;
    Ok(watch)
}
