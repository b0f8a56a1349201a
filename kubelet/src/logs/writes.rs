//! Word of the first write to a log since it was last looked at. One inotify instance for all logs, made for the first.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::inotify::{self, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::inotify::instance;

/// Bytes of events taken at once; one is 16 bytes.
const EVENTS: usize = 1 << 10;

/// Tells which logs are written to. A log tells once, and is asked anew by [`Writes::watch`].
#[derive(Debug, Default)]
pub(super) struct Writes {
    inotify: OnceLock<AsyncFd<OwnedFd>>,
    /// Whose log each watch is on.
    logs: Mutex<BTreeMap<i32, String>>,
}

impl Writes {
    /// Has the next write to the file `log` told, under the name `id`. A write from here on is not missed. Within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the kernel gives no more watches (`fs.inotify.max_user_watches`, `max_user_instances`).
    pub(super) fn watch(&self, id: &str, log: BorrowedFd<'_>) -> io::Result<()> {
        let inotify = match self.inotify.get() {
            Some(inotify) => inotify,
            None => {
                let new = instance()?;
                self.inotify.get_or_init(|| new)
            }
        };
        // The file that is held, whatever has its name by now.
        let held = format!("/proc/self/fd/{}", log.as_raw_fd());
        let mut logs = self.logs();
        let once = WatchFlags::MODIFY | WatchFlags::ONESHOT;
        let watch = inotify::add_watch(inotify, held, once)?;
        logs.insert(watch, id.to_owned());
        Ok(())
    }

    /// Ends the watches on logs of containers that no longer run, and that of a log which was rotated: a watch of an
    /// older number than the newest of the same container.
    pub(super) fn keep(&self, runs: impl Fn(&str) -> bool) {
        let Some(inotify) = self.inotify.get() else {
            return;
        };
        let mut logs = self.logs();
        let newest: BTreeMap<String, i32> = logs
            .iter()
            .map(|(watch, id)| (id.clone(), *watch))
            .collect();
        logs.retain(|watch, id| {
            let is_kept = runs(id) && newest.get(id) == Some(watch);
            if !is_kept {
                // One whose file is gone is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            is_kept
        });
    }

    /// Waits until logs were written to, and takes them; for ever while none is watched. Cancel-safe: events stay until
    /// they are taken.
    pub(super) async fn heard(&self) -> Vec<String> {
        let ready = match self.inotify.get() {
            Some(inotify) => inotify.readable().await,
            None => std::future::pending().await,
        };
        match ready {
            // First, so that what comes while events are taken is heard of again.
            Ok(mut ready) => ready.clear_ready(),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        }
        self.take()
    }

    /// Takes the logs that were written to since the last call.
    fn take(&self) -> Vec<String> {
        let Some(inotify) = self.inotify.get() else {
            return Vec::new();
        };
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        let mut logs = self.logs();
        let mut written = Vec::new();
        // It ends with "would block" when there are no more.
        while let Ok(event) = events.next() {
            // What a watch says at its end, as when its file is removed, is no write.
            if let Some(id) = logs.remove(&event.wd()) {
                written.push(id);
            }
        }
        written
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<i32, String>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[tokio::test]
    async fn the_first_write_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut one = File::create(directory.path().join("one")).unwrap();
        let mut other = File::create(directory.path().join("other")).unwrap();
        let writes = Writes::default();
        assert!(writes.take().is_empty());
        writes.watch("one", one.as_fd()).unwrap();
        writes.watch("other", other.as_fd()).unwrap();
        assert!(writes.take().is_empty());

        one.write_all(b"a").unwrap();
        one.write_all(b"b").unwrap();
        assert_eq!(writes.heard().await, ["one"]);
        one.write_all(b"c").unwrap();
        assert!(writes.take().is_empty(), "it has told");
        writes.watch("one", one.as_fd()).unwrap();
        one.write_all(b"d").unwrap();
        other.write_all(b"a").unwrap();
        let mut told = writes.heard().await;
        told.sort();
        assert_eq!(told, ["one", "other"]);
    }

    #[tokio::test]
    async fn who_is_gone_or_rotated_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut old = File::create(directory.path().join("old")).unwrap();
        let mut new = File::create(directory.path().join("new")).unwrap();
        let mut gone = File::create(directory.path().join("gone")).unwrap();
        let writes = Writes::default();
        writes.keep(|_| true);
        writes.watch("a", old.as_fd()).unwrap();
        writes.watch("gone", gone.as_fd()).unwrap();
        writes.watch("a", new.as_fd()).unwrap();
        writes.keep(|id| id == "a");
        for file in [&mut old, &mut gone] {
            file.write_all(b"x").unwrap();
        }
        assert!(writes.take().is_empty());
        new.write_all(b"x").unwrap();
        assert_eq!(writes.take(), ["a"]);
    }
}
