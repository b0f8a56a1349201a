//! The manifest directory (or the one manifest file), kept up with.
//!
//! Owns: which files there are, what each last held, the node's set of static pods, and of the ConfigMaps and Secrets
//! that they refer to. Inputs: the directory, one below it that is for objects alone where the options name one, inotify
//! events of both, a clock for `config.seen`. Outputs: a watch channel of [`ManifestSet`]. Spawns: one blocking read at a
//! time, and a thread of `notify` a directory; the loop itself is [`ManifestSource::run`], for the caller to spawn.
//!
//! ```text
//! inotify ──> Inbox (coalesces) ──┐
//! rescan, each check_every ───────┼──> Scanner (blocking: stat, read, parse) ──> ManifestSet ──> watch
//! settle, while a file is fresh ──┘
//! ```
//!
//! A file counts once its writer is through: at its close, its move into place, or when nothing of it has changed for
//! a second; the first half of a YAML file is often valid. A name that goes is given a moment to come again. A file that cannot be read or is wrong keeps the pods it
//! gave last. At rest there is no timer but the rescan.
//!
//! Deliberately not here: running pods, telling mirror pods, keeping the last good version across restarts (a
//! [`LastGood`] does).

mod files;
mod following;
mod inbox;
mod scan;
mod set;
mod state;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::identity::NodeName;
use crate::manifest::{Manifest, ManifestError, ManifestWarning, PodKey, StaticPod};
use crate::object::{LocalObject, ObjectKey, Objects};
pub use files::entries;
use inbox::{Armed, Inbox};
use scan::Scanner;

/// How often the directory is read again without an event (`fileCheckFrequency`, v1beta1 default).
pub const DEFAULT_CHECK_EVERY: Duration = Duration::from_secs(20);
/// How long a file must stay as it is before it counts, when nothing says that its writer is through.
pub const DEFAULT_SETTLE: Duration = Duration::from_secs(1);

/// How long a name that went is waited for. Editors move a file aside, write a new one in its place and remove the old
/// one: looked at in between, the pod would be gone, or be another one of the file moved aside.
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// Where the manifests are, and how to look.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// A directory of manifests, or one manifest (`staticPodPath`). It need not exist yet.
    pub path: PathBuf,
    /// The node the pods run on.
    pub node: NodeName,
    /// Time between two looks at all files, events aside; zero stands for the default.
    pub check_every: Duration,
    /// How long a file must stay as it is before it counts.
    pub settle: Duration,
    /// Which pods may refer to ConfigMaps and Secrets of manifests.
    pub objects: Objects,
    /// The directory of objects alone, below `path`. It need not exist yet.
    pub objects_path: Option<PathBuf>,
}

impl SourceOptions {
    /// Options with the default times, and without objects.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, node: NodeName) -> Self {
        Self {
            path: path.into(),
            node,
            check_every: DEFAULT_CHECK_EVERY,
            settle: DEFAULT_SETTLE,
            objects: Objects::Off,
            objects_path: None,
        }
    }
}

/// The static pods of the node, as the manifests have them now.
#[derive(Clone, Debug, Default)]
pub struct ManifestSet {
    /// The pods, one a namespace and name.
    pub pods: BTreeMap<PodKey, StaticPod>,
    /// The ConfigMaps and Secrets that they may refer to.
    pub objects: BTreeMap<ObjectKey, Arc<LocalObject>>,
    /// What is wrong with files and pods, by file.
    pub problems: Vec<ManifestError>,
    /// What is odd in pods that run, by file.
    pub warnings: Vec<ManifestWarning>,
    /// Whether all files have been read once. Until then a pod that is not in the set may yet come; so it may while the
    /// directory has never been readable. A directory that is not there is empty, and ready.
    pub ready: bool,
    /// Counts the changes of the set.
    pub generation: u64,
}

impl ManifestSet {
    /// The set that `manifests`, in the order of their paths, make when nothing of them changes.
    #[must_use]
    pub fn of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let holdings = manifests.into_iter().map(|m| set::Holding {
            pods: &m.pods,
            objects: &m.objects,
            problems: &m.problems,
            warnings: &m.warnings,
        });
        Self {
            ready: true,
            ..set::merge(holdings)
        }
    }
}

/// Keeps the last good text of each manifest, for a restart of the agent at which the file is broken. Called from a
/// blocking thread.
pub trait LastGood: Send {
    /// The text kept for `path`.
    fn load(&mut self, path: &Path) -> Option<Vec<u8>>;
    /// Keeps `bytes`, all of whose pods were good, for `path`.
    fn store(&mut self, path: &Path, bytes: &[u8]);
    /// Drops what is kept for `path`, which is gone.
    fn forget(&mut self, path: &Path);
}

/// Remembers, across restarts of the agent, what static pods make of objects. Called from a blocking thread.
pub trait ObjectMemory: Send {
    /// Stands for what `pod` refers to among `objects`, and tells nothing of it: another content, another number. An
    /// object that is gone counts as it was last.
    fn version(&mut self, pod: &Pod, objects: &BTreeMap<ObjectKey, Arc<LocalObject>>) -> u128;
    /// The pods with these namespaces and names, as their manifests have them, are all that refer to objects, and are
    /// about to be published.
    fn users(&mut self, pods: BTreeSet<(String, String)>);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingKept;

impl LastGood for NothingKept {
    fn load(&mut self, _: &Path) -> Option<Vec<u8>> {
        None
    }
    fn store(&mut self, _: &Path, _: &[u8]) {}
    fn forget(&mut self, _: &Path) {}
}

/// Wall time, for `config.seen` and the age of files.
type Clock = Box<dyn Fn() -> SystemTime + Send>;

/// Reads manifests and publishes the set of static pods. See the module for how.
pub struct ManifestSource {
    path: PathBuf,
    objects_path: Option<PathBuf>,
    check_every: Duration,
    scanner: Scanner,
    clock: Clock,
    sets: watch::Sender<Arc<ManifestSet>>,
    inbox: Arc<Inbox>,
}

/// Has a [`ManifestSource`] look at its files without being told that anything happened to them.
#[derive(Clone, Debug)]
pub struct Rescan {
    inbox: Arc<Inbox>,
}

impl Rescan {
    /// Has all files looked at, and waits until that is done and its outcome published: for as long as reading takes.
    pub async fn look(&self) {
        self.inbox.look().await;
    }
}

impl ManifestSource {
    /// A source and the channel of its sets. Nothing is read before [`ManifestSource::run`].
    #[must_use]
    pub fn new(
        options: SourceOptions,
        clock: impl Fn() -> SystemTime + Send + 'static,
    ) -> (Self, watch::Receiver<Arc<ManifestSet>>) {
        let (sets, receiver) = watch::channel(Arc::default());
        let check_every = match options.check_every {
            Duration::ZERO => DEFAULT_CHECK_EVERY,
            other => other,
        };
        let source = Self {
            path: options.path.clone(),
            objects_path: options.objects_path.clone(),
            check_every,
            scanner: Scanner::new(options),
            clock: Box::new(clock),
            sets,
            inbox: Arc::default(),
        };
        (source, receiver)
    }

    /// A handle to have the files looked at.
    #[must_use]
    pub fn rescan(&self) -> Rescan {
        let inbox = Arc::clone(&self.inbox);
        Rescan { inbox }
    }

    /// The same source with a memory of its own for last good manifests.
    #[must_use]
    pub fn with_last_good(mut self, last_good: impl LastGood + 'static) -> Self {
        self.scanner.last_good = Box::new(last_good);
        self
    }

    /// The same source with a memory of its own for what pods make of objects. Without one no pod is replaced for an object.
    #[must_use]
    pub fn with_object_memory(mut self, memory: impl ObjectMemory + 'static) -> Self {
        self.scanner.following.memory = Some(Box::new(memory));
        self
    }

    /// Keeps up with the manifests until dropped.
    pub async fn run(self) -> Infallible {
        let Self {
            path,
            objects_path,
            check_every,
            mut scanner,
            clock,
            sets,
            inbox,
        } = self;
        let paths: Vec<PathBuf> = std::iter::once(path).chain(objects_path).collect();
        let mut armed: Vec<Armed> = paths.iter().map(|_| Armed::default()).collect();
        // Both, whatever the first says.
        let follow = |armed: &mut Vec<Armed>| {
            let each = armed.iter_mut().zip(&paths);
            each.map(|(armed, path)| armed.follow(path, &inbox))
                .fold(false, |one, other| one | other)
        };
        loop {
            let look_number = inbox.begin();
            // The watch comes before the look, so that no change falls between them.
            follow(&mut armed);
            let news = inbox.take();
            let (now, wall) = (Instant::now(), clock());
            let look = tokio::task::spawn_blocking(move || {
                let outcome = scanner.scan(&news, now, wall);
                (scanner, outcome)
            });
            let outcome = match look.await {
                Ok((back, outcome)) => {
                    scanner = back;
                    outcome
                }
                Err(e) => match e.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down and takes this task with it.
                    Err(_) => match std::future::pending::<Infallible>().await {},
                },
            };
            if let Some(set) = outcome.set {
                sets.send_replace(Arc::new(set));
            }
            inbox.finish(look_number);
            if follow(&mut armed) {
                continue;
            }
            let rescan = now + check_every;
            let next = outcome.look_again.map_or(rescan, |at| at.min(rescan));
            // Both arms are safe to cancel: an event leaves a permit, and the sleep is made anew each round.
            tokio::select! {
                () = inbox.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            if inbox.has_removal() {
                tokio::time::sleep(REMOVAL_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
