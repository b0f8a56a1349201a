//! The sockets below a directory, and word when they may have changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::inotify::{Inotify, WatchFlags};
use crate::stamp::{Stamp, stamp};

/// A look without word of a change, where the kernel gives no watch (`fs.inotify.max_user_instances`).
const LOOK_UNWATCHED: Duration = Duration::from_secs(10);
/// Events that come together are looked at together: a plugin makes its socket, then sets its mode.
const SETTLE: Duration = Duration::from_millis(20);
/// Directories below directories that are looked into.
const DEEPEST: usize = 8;

/// What tells one socket from another that has the same path later.
pub(super) type SocketId = Stamp;

/// A directory with sockets.
pub(super) struct Tree {
    root: PathBuf,
    watch: Option<Inotify>,
}

impl Tree {
    /// Of `root`. Within a tokio runtime.
    pub(super) fn new(root: PathBuf) -> Self {
        let watch = Inotify::new();
        if let Err(error) = &watch {
            tracing::warn!(root = %root.display(), %error, "plugins are looked for each {} s", LOOK_UNWATCHED.as_secs());
        }
        Self {
            root,
            watch: watch.ok(),
        }
    }

    /// The sockets that are there now. Names that begin with a dot are passed over, as upstream does.
    pub(super) fn look(&mut self) -> BTreeMap<PathBuf, SocketId> {
        let mut sockets = BTreeMap::new();
        let root = self.root.clone();
        self.look_into(&root, 0, &mut sockets);
        sockets
    }

    fn look_into(&mut self, dir: &Path, depth: usize, sockets: &mut BTreeMap<PathBuf, SocketId>) {
        // Before it is read: what comes later is told.
        if let Some(watch) = &self.watch {
            let events = WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            if let Err(error) = watch.watch(dir, events) {
                tracing::warn!(dir = %dir.display(), %error, "cannot watch a directory of plugins");
            }
        }
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if hidden {
                continue;
            }
            let path = entry.path();
            if kind.is_dir() && depth < DEEPEST {
                self.look_into(&path, depth + 1, sockets);
            } else if kind.is_socket() {
                let id = stamp(&path);
                sockets.insert(path, id);
            }
        }
    }

    /// Waits until something may have changed since the last look. Cancel-safe: events stay until they are taken.
    pub(super) async fn changed(&self) {
        let Some(watch) = &self.watch else {
            return tokio::time::sleep(LOOK_UNWATCHED).await;
        };
        if let Err(error) = watch.happened().await {
            tracing::warn!(%error, "the watch for plugins broke");
            return tokio::time::sleep(LOOK_UNWATCHED).await;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn sockets_are_found_wherever_they_come() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let first = UnixListener::bind(at("a.sock")).unwrap();
        fs::write(at("file"), "").unwrap();
        let _hidden = UnixListener::bind(at(".hidden")).unwrap();
        let mut tree = Tree::new(place.path().to_owned());
        let before = tree.look();
        assert_eq!(before.keys().collect::<Vec<_>>(), [&at("a.sock")]);
        fs::create_dir(at("below")).unwrap();
        let _second = UnixListener::bind(at("below/b.sock")).unwrap();
        tokio::time::timeout(LIMIT, tree.changed()).await.unwrap();
        assert_eq!(
            tree.look().keys().collect::<Vec<_>>(),
            [&at("a.sock"), &at("below/b.sock")]
        );
        // Another listener at the same path is another socket.
        drop(first);
        fs::remove_file(at("a.sock")).unwrap();
        let _again = UnixListener::bind(at("a.sock")).unwrap();
        tokio::time::timeout(LIMIT, tree.changed()).await.unwrap();
        let after = tree.look();
        assert_ne!(after[&at("a.sock")], before[&at("a.sock")]);
        assert_eq!(after[&at("below/b.sock")], tree.look()[&at("below/b.sock")]);
    }
}
