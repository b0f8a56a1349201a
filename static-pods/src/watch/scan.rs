//! One look at all files: what is new, what has settled, what is gone. Blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::files::{contents, entries};
use super::inbox::News;
use super::{LastGood, ManifestSet, NothingKept, set};
use crate::identity::{self, NodeName};
use crate::manifest::{self, ManifestError, ManifestWarning, Problem, StaticPod};
use crate::tree::{MAX_BYTES, Position};

/// Reads the files and remembers what each held.
pub(super) struct Scanner {
    path: PathBuf,
    node: NodeName,
    settle: Duration,
    pub(super) last_good: Box<dyn LastGood>,
    files: BTreeMap<Arc<Path>, FileState>,
    /// Entries that are no files, which the user has been told of.
    told: BTreeSet<PathBuf>,
    /// Why the directory itself cannot be read.
    unreadable: Option<String>,
    /// When each UID was first seen, while it is there.
    seen: BTreeMap<String, String>,
    previous: ManifestSet,
    /// When the first look was.
    started: Option<Instant>,
}

/// How many settling times a file that is never at rest may keep the first set back.
const PATIENCE: u32 = 10;

/// What one file held when it was last read.
#[derive(Default)]
struct FileState {
    /// The version read; `None` before the first.
    identity: Option<Identity>,
    /// A newer version that may still be being written, and since when it has been as it is.
    fresh: Option<(Identity, Instant)>,
    pods: Vec<StaticPod>,
    problems: Vec<ManifestError>,
    warnings: Vec<ManifestWarning>,
}

impl FileState {
    fn holding(&self) -> set::Holding<'_> {
        set::Holding {
            pods: &self.pods,
            problems: &self.problems,
            warnings: &self.warnings,
        }
    }
}

/// One version of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// How long ago the file last changed in any way; nothing when that is in the future.
    fn age(&self, wall: SystemTime) -> Option<Duration> {
        let (seconds, nanos) = self.modified.max(self.changed);
        let since_epoch = Duration::new(seconds.try_into().ok()?, nanos.try_into().ok()?);
        wall.duration_since(UNIX_EPOCH)
            .ok()?
            .checked_sub(since_epoch)
    }
}

/// What a look found.
pub(super) struct Outcome {
    /// The new set, when it is another one.
    pub(super) set: Option<ManifestSet>,
    /// When a fresh file may have settled.
    pub(super) look_again: Option<Instant>,
}

impl Scanner {
    pub(super) fn new(path: PathBuf, node: NodeName, settle: Duration) -> Self {
        Self {
            path,
            node,
            settle,
            last_good: Box::new(NothingKept),
            files: BTreeMap::new(),
            told: BTreeSet::new(),
            unreadable: None,
            seen: BTreeMap::new(),
            previous: ManifestSet::default(),
            started: None,
        }
    }

    pub(super) fn scan(&mut self, news: &News, now: Instant, wall: SystemTime) -> Outcome {
        let started = *self.started.get_or_insert(now);
        let mut changed = false;
        let mut look_again = None;
        let mut ready = self.previous.ready;
        match entries(&self.path) {
            Ok(entries) => {
                changed |= self.unreadable.take().is_some();
                changed |= self.drop_missing(&entries);
                for path in entries {
                    let (read, due) = self.file(&path, news, now, wall);
                    changed |= read;
                    look_again = due.into_iter().chain(look_again).min();
                }
                // What a file holds that has never been read may be running already.
                let unread =
                    |f: &FileState| f.identity.is_none() && f.fresh.is_some() && f.pods.is_empty();
                ready |= !self.files.values().any(unread)
                    || now.duration_since(started) >= self.settle * PATIENCE;
            }
            // A directory that cannot be read is no empty directory: its pods stay.
            Err(e) => {
                let why = e.to_string();
                if self.unreadable.as_ref() != Some(&why) {
                    let path = self.path.display();
                    tracing::warn!(%path, error = %why, "manifests unreadable, their pods stay");
                    self.unreadable = Some(why);
                    changed = true;
                }
            }
        }
        changed |= ready != self.previous.ready;
        let set = changed.then(|| self.publish(ready));
        Outcome { set, look_again }
    }

    fn publish(&mut self, ready: bool) -> ManifestSet {
        let mut set = set::merge(self.files.values().map(FileState::holding));
        if let Some(why) = &self.unreadable {
            set.problems
                .push(problem(&self.path, Problem::Unreadable(why.clone())));
        }
        for clash in set.problems.iter().filter(|p| p.is_clash()) {
            if !self.previous.problems.contains(clash) {
                tracing::warn!(path = %clash.path.display(), problem = %clash, "pod not run");
            }
        }
        let files = self.files.values();
        let present: BTreeSet<_> = files.flat_map(|f| &f.pods).map(StaticPod::uid).collect();
        self.seen.retain(|uid, _| present.contains(uid.as_str()));
        set.ready = ready;
        set.generation = self.previous.generation + 1;
        self.previous = set.clone();
        set
    }

    fn drop_missing(&mut self, entries: &BTreeSet<PathBuf>) -> bool {
        self.told.retain(|path| entries.contains(path));
        let gone: Vec<_> = self
            .files
            .keys()
            .filter(|p| !entries.contains(&***p))
            .cloned()
            .collect();
        for path in &gone {
            self.remove(path);
        }
        !gone.is_empty()
    }

    /// Whether there was something to remove.
    fn remove(&mut self, path: &Path) -> bool {
        let Some(state) = self.files.remove(path) else {
            return false;
        };
        self.last_good.forget(path);
        tracing::info!(path = %path.display(), pods = %names(&state.pods), "manifest removed");
        true
    }

    /// Looks at one entry: whether the set changed, and when to look at it again.
    fn file(
        &mut self,
        path: &Path,
        news: &News,
        now: Instant,
        wall: SystemTime,
    ) -> (bool, Option<Instant>) {
        let meta = match path.metadata() {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                return (self.remove(path), None);
            }
            Err(e) => {
                return (
                    self.refuse(path, Problem::Unreadable(e.to_string()), wall),
                    None,
                );
            }
        };
        if !meta.is_file() {
            if self.told.insert(path.to_owned()) {
                let kind = if meta.is_dir() {
                    "a directory; manifests are not looked for in it"
                } else {
                    "not a file"
                };
                tracing::info!(path = %path.display(), "ignored: {kind}");
            }
            return (self.remove(path), None);
        }
        self.told.remove(path);
        let identity = Identity::of(&meta);
        let state = self.files.get(path);
        if state.is_some_and(|s| s.identity == Some(identity)) {
            if let Some(state) = self.files.get_mut(path) {
                state.fresh = None;
            }
            return (false, None);
        }
        let fresh = state.and_then(|s| s.fresh);
        let since = fresh
            .filter(|(i, _)| *i == identity)
            .map_or(now, |(_, since)| since);
        let settled = complete(path, news)
            || now.duration_since(since) >= self.settle
            || identity.age(wall).is_some_and(|age| age >= self.settle);
        if settled && let Some(changed) = self.read(path, identity, wall) {
            return (changed, None);
        }
        let known = self.files.contains_key(path);
        let state = self.files.entry(path.into()).or_default();
        state.fresh = Some((identity, since));
        // At the very first look a broken or fresh file may have pods that run already.
        if !known {
            let pods = self.remembered(path, wall);
            let found = !pods.is_empty();
            if let Some(state) = self.files.get_mut(path) {
                state.pods = pods;
            }
            return (found, Some(since + self.settle));
        }
        (false, Some(since + self.settle))
    }

    /// Reads a file that was `identity`; `None` when it is not any more.
    fn read(&mut self, path: &Path, identity: Identity, wall: SystemTime) -> Option<bool> {
        if identity.size > MAX_BYTES as u64 {
            let changed = self.refuse(path, Problem::TooLarge, wall);
            self.set_identity(path, identity);
            return Some(changed);
        }
        let bytes = match contents(path) {
            Ok((bytes, meta)) if Identity::of(&meta) == identity => bytes,
            Ok(_) => return None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                return Some(self.refuse(path, Problem::Unreadable(e.to_string()), wall));
            }
        };
        self.accept(path, identity, &bytes, wall);
        Some(true)
    }

    fn set_identity(&mut self, path: &Path, identity: Identity) {
        if let Some(state) = self.files.get_mut(path) {
            state.identity = Some(identity);
            state.fresh = None;
        }
    }

    /// Puts what `bytes` hold in the place of what the file held before.
    fn accept(&mut self, path: &Path, identity: Identity, bytes: &[u8], wall: SystemTime) {
        let found = manifest::read_manifest(path, bytes, &self.node);
        let known = self.files.get(path).is_some_and(|s| s.identity.is_some());
        let before = match self.files.remove(path) {
            Some(state) => state.pods,
            None if found.problems.is_empty() => Vec::new(),
            None => self.remembered(path, wall),
        };
        let mut pods: Vec<_> = found.pods.into_iter().map(|p| self.mark(p, wall)).collect();
        for pod in &mut pods {
            // The same pod stays the same allocation, and the receivers see that nothing changed.
            if let Some(old) = before.iter().find(|old| old.pod == pod.pod) {
                pod.pod = Arc::clone(&old.pod);
            }
        }
        if found.problems.is_empty() {
            self.last_good.store(path, bytes);
        } else {
            // Any pod of before may be the one that is broken now.
            let kept = before
                .iter()
                .filter(|old| !pods.iter().any(|p| p.key() == old.key()));
            let kept: Vec<_> = kept.cloned().collect();
            pods.extend(kept);
        }
        report(
            path,
            known,
            &before,
            &pods,
            &found.problems,
            &found.warnings,
        );
        let state = FileState {
            identity: Some(identity),
            fresh: None,
            pods,
            problems: found.problems,
            warnings: found.warnings,
        };
        self.files.insert(path.into(), state);
    }

    /// Sets when the agent first saw the pod.
    fn mark(&mut self, mut pod: StaticPod, wall: SystemTime) -> StaticPod {
        let uid = pod.uid().to_owned();
        let seen = self.seen.entry(uid).or_insert_with(|| rfc3339(wall));
        identity::set_seen(Arc::make_mut(&mut pod.pod), seen);
        pod
    }

    /// The pods of the last good version that is kept for `path`.
    fn remembered(&mut self, path: &Path, wall: SystemTime) -> Vec<StaticPod> {
        let Some(bytes) = self.last_good.load(path) else {
            return Vec::new();
        };
        let pods = manifest::read_manifest(path, &bytes, &self.node).pods;
        pods.into_iter().map(|p| self.mark(p, wall)).collect()
    }

    /// Notes why a file gives nothing new; its pods stay. Whether that is news.
    fn refuse(&mut self, path: &Path, why: Problem, wall: SystemTime) -> bool {
        let error = problem(path, why);
        if !self.files.contains_key(path) {
            let pods = self.remembered(path, wall);
            let state = FileState {
                pods,
                ..FileState::default()
            };
            self.files.insert(path.into(), state);
        }
        let Some(state) = self.files.get_mut(path) else {
            return false;
        };
        // A later version of the file is read however it looks.
        state.identity = None;
        state.fresh = None;
        if state.problems.as_slice() == [error.clone()] {
            return false;
        }
        tracing::warn!(reason = "ManifestRefused", path = %path.display(), problem = %error, kept = %names(&state.pods), "manifest refused");
        state.problems = vec![error];
        true
    }
}

fn problem(path: &Path, problem: Problem) -> ManifestError {
    let at = Position::START;
    let path = path.into();
    ManifestError { path, at, problem }
}

/// Whether the events say that the writer of `path` is through.
fn complete(path: &Path, news: &News) -> bool {
    let Some(name) = path.file_name() else {
        return false;
    };
    let link = || path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    news.complete.contains(name) || ((news.links_moved || news.created.contains(name)) && link())
}

fn rfc3339(wall: SystemTime) -> String {
    use k8s_openapi::jiff::Timestamp;
    let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or_default();
    let nanos = i32::try_from(since_epoch.subsec_nanos()).unwrap_or_default();
    let time = Timestamp::new(seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_string()
}

fn names(pods: &[StaticPod]) -> String {
    let keys: Vec<_> = pods.iter().map(|p| p.key().to_string()).collect();
    keys.join(", ")
}

/// One line for what happened to a file, and one for each thing that is wrong or odd in it.
fn report(
    path: &Path,
    known: bool,
    before: &[StaticPod],
    pods: &[StaticPod],
    problems: &[ManifestError],
    warnings: &[ManifestWarning],
) {
    let path = path.display();
    for problem in problems {
        tracing::warn!(reason = "ManifestRefused", %path, %problem, kept = %names(before), "manifest refused");
    }
    for warning in warnings {
        tracing::warn!(%path, %warning, "manifest odd");
    }
    if problems.is_empty() {
        let what = if known { "changed" } else { "added" };
        tracing::info!(%path, pods = %names(pods), "manifest {what}");
    }
}
