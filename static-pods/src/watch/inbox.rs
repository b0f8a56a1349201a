//! From inotify events to what the next look should know.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

/// What has happened since the last look. An empty one is a look for its own sake.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Files that were closed after writing, or moved into place: their writers are through.
    pub(super) complete: BTreeSet<PathBuf>,
    /// What came to be. A link is complete from the start, a file is not.
    pub(super) created: BTreeSet<PathBuf>,
    /// A hidden entry was put in place, as `..data` is when all files of a volume change at once.
    pub(super) links_moved: bool,
    /// A name went. An editor may be about to put a new file there.
    pub(super) removed: bool,
}

/// The directory of a relative path without one.
const HERE: &str = ".";
/// Names kept between two looks. Files beyond it settle by time.
const MOST_NAMES: usize = 1024;

/// Collects events, from the thread of `notify`, for the next look.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    news: Mutex<News>,
    wake: tokio::sync::Notify,
    /// Looks begun.
    begun: AtomicU64,
    /// The last look of which all is known.
    finished: watch::Sender<u64>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, News> {
        // No code panics while it holds the lock, and the names would be good if it did.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a look that begins now.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The look is over, and what it found is published.
    pub(super) fn finish(&self, look: u64) {
        self.finished.send_replace(look);
    }

    /// Has all files looked at, and waits until a look that began after this call is over.
    pub(super) async fn look(&self) {
        let next = self.begun.load(Ordering::SeqCst) + 1;
        self.wake.notify_one();
        // It does not end while this inbox has its sender.
        let _ = self
            .finished
            .subscribe()
            .wait_for(|look| *look >= next)
            .await;
    }

    /// What has come in; the inbox is empty afterwards.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    /// Whether a name has gone since the last look.
    pub(super) fn has_removal(&self) -> bool {
        self.lock().removed
    }

    /// Waits until something comes in.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Takes in an event on a watch of `directory`, of which only the entry `only` matters, when given.
    fn event(&self, event: &Event, directory: &Path, only: Option<&OsStr>) {
        if event.need_rescan() {
            return self.wake.notify_one();
        }
        let Some(path) = event.paths.last() else {
            return;
        };
        if path == directory {
            // The directory itself went, moved, or changed its permissions.
            if !matches!(event.kind, EventKind::Access(_)) {
                self.wake.notify_one();
            }
            return;
        }
        let Some(name) = path.file_name() else {
            return;
        };
        if only.is_some_and(|only| only != name) {
            return;
        }
        let hidden = name.as_bytes().starts_with(b".");
        // As the looks know it: `notify` has made it absolute.
        let path = match directory == Path::new(HERE) {
            true => PathBuf::from(name),
            false => directory.join(name),
        };
        let mut news = self.lock();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) if !hidden => {
                keep(&mut news.complete, path);
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
            | EventKind::Create(_)
                if hidden =>
            {
                if !name.as_bytes().starts_with(b"..") {
                    return;
                }
                news.links_moved = true;
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
                keep(&mut news.complete, path);
            }
            EventKind::Create(_) => keep(&mut news.created, path),
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) if !hidden => {
                news.removed = true;
            }
            EventKind::Modify(ModifyKind::Metadata(_)) if !hidden => {}
            // Opening, reading and writing: the close will tell.
            _ => return,
        }
        drop(news);
        self.wake.notify_one();
    }
}

fn keep(paths: &mut BTreeSet<PathBuf>, path: PathBuf) {
    if paths.len() < MOST_NAMES {
        paths.insert(path);
    }
}

/// The watch of one path: on the directory, or on what would show that it, or the one file, comes to be.
#[derive(Default)]
pub(super) struct Armed {
    current: Option<(Target, RecommendedWatcher)>,
    /// Whether the user has been told that there are no events.
    told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    directory: PathBuf,
    /// Device and inode: a directory made anew under the same name is another one.
    identity: (u64, u64),
    only: Option<OsString>,
}

impl Target {
    /// What to watch for `path` as things stand: the directory itself, else its nearest parent that exists.
    fn of(path: &Path) -> Option<Self> {
        let mut only = None;
        for directory in path.ancestors() {
            // A relative path ends in an empty one.
            let directory = if directory.as_os_str().is_empty() {
                Path::new(HERE)
            } else {
                directory
            };
            if let Ok(meta) = directory.metadata()
                && meta.is_dir()
            {
                return Some(Self {
                    directory: directory.to_owned(),
                    identity: (meta.dev(), meta.ino()),
                    only,
                });
            }
            only = directory.file_name().map(OsStr::to_owned);
        }
        None
    }
}

impl Armed {
    /// Sees to it that the right directory is watched; true when that took a new watch.
    pub(super) fn follow(&mut self, path: &Path, inbox: &Arc<Inbox>) -> bool {
        let Some(target) = Target::of(path) else {
            self.current = None;
            return false;
        };
        if self.current.as_ref().is_some_and(|(t, _)| *t == target) {
            return false;
        }
        self.current = None;
        match watch(&target, inbox) {
            Ok(watcher) => {
                self.told = false;
                self.current = Some((target, watcher));
                true
            }
            Err(error) => {
                if !self.told {
                    let directory = target.directory.display();
                    tracing::warn!(%directory, %error, "no events from the manifest directory, looking by the clock alone");
                    self.told = true;
                }
                false
            }
        }
    }
}

fn watch(target: &Target, inbox: &Arc<Inbox>) -> notify::Result<RecommendedWatcher> {
    let (inbox, of) = (Arc::clone(inbox), target.clone());
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => inbox.event(&event, &of.directory, of.only.as_deref()),
            // Whatever was lost, a look finds it.
            Err(_) => inbox.wake.notify_one(),
        })?;
    watcher.watch(&target.directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
