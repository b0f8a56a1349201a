//! One look at all files: what is new, what has settled, what is gone. Blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::files::{contents, entries};
use super::following::Following;
use super::inbox::News;
use super::state::{FileState, Held, Identity};
use super::told::{self, report, rfc3339};
use super::{LastGood, ManifestSet, NothingKept, SourceOptions, set};
use crate::identity::{self, NodeName};
use crate::manifest::{Manifest, ManifestError, Problem, Reading, StaticPod};
use crate::object::{Access, Objects};
use crate::tree::{MAX_BYTES, Position};

/// Reads the files and remembers what each held.
pub(super) struct Scanner {
    path: PathBuf,
    node: NodeName,
    settle: Duration,
    objects: Objects,
    /// The directory of objects alone.
    objects_path: Option<PathBuf>,
    pub(super) last_good: Box<dyn LastGood>,
    pub(super) following: Following,
    files: BTreeMap<Arc<Path>, FileState>,
    /// Entries that are no files, which the user has been told of.
    told: BTreeSet<PathBuf>,
    /// Which directories cannot be read, and why.
    unreadable: BTreeMap<PathBuf, String>,
    /// When each UID was first seen, while it is there.
    seen: BTreeMap<String, String>,
    previous: ManifestSet,
    /// When the first look was.
    started: Option<Instant>,
}

/// How many settling times a file that is never at rest may keep the first set back.
const PATIENCE: u32 = 10;

/// What a look found.
pub(super) struct Outcome {
    /// The new set, when it is another one.
    pub(super) set: Option<ManifestSet>,
    /// When a fresh file may have settled.
    pub(super) look_again: Option<Instant>,
}

impl Scanner {
    pub(super) fn new(options: SourceOptions) -> Self {
        let SourceOptions {
            path,
            node,
            settle,
            objects,
            objects_path,
            check_every: _,
        } = options;
        Self {
            path,
            node,
            settle,
            objects,
            objects_path,
            last_good: Box::new(NothingKept),
            following: Following::default(),
            files: BTreeMap::new(),
            told: BTreeSet::new(),
            unreadable: BTreeMap::new(),
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
        let unreadable = self.unreadable.clone();
        match self.entries() {
            Ok(entries) => {
                self.unreadable.remove(&self.path);
                changed |= self.drop_missing(&entries);
                for path in entries {
                    let (read, due) = self.file(&path, news, now, wall);
                    changed |= read;
                    look_again = due.into_iter().chain(look_again).min();
                }
                // What a file holds that has never been read may be running already.
                let unread =
                    |f: &FileState| f.identity.is_none() && f.fresh.is_some() && f.held.is_empty();
                ready |= !self.files.values().any(unread)
                    || now.duration_since(started) >= self.settle * PATIENCE;
            }
            // A directory that cannot be read is no empty directory: its pods stay.
            Err(e) => self.cannot_read(self.path.clone(), &e),
        }
        changed |= unreadable != self.unreadable;
        changed |= ready != self.previous.ready;
        let set = changed.then(|| self.publish(ready, wall));
        Outcome { set, look_again }
    }

    /// The files there are.
    fn entries(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut found = entries(&self.path)?;
        // What else there may be under its name is for `file` to tell.
        let is_directory = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_dir());
        let Some(beside) = self.objects_path.clone().filter(is_directory) else {
            return Ok(found);
        };
        found.remove(&beside);
        match entries(&beside) {
            Ok(inside) => {
                self.unreadable.remove(&beside);
                found.extend(inside);
            }
            Err(error) => {
                let known = self.files.keys().filter(|path| path.starts_with(&beside));
                found.extend(known.map(|path| path.to_path_buf()));
                self.cannot_read(beside, &error);
            }
        }
        Ok(found)
    }

    fn cannot_read(&mut self, directory: PathBuf, error: &io::Error) {
        let why = error.to_string();
        if self.unreadable.get(&directory) != Some(&why) {
            let path = directory.display();
            tracing::warn!(%path, error = %why, "manifests unreadable, what they held stays");
            self.unreadable.insert(directory, why);
        }
    }

    fn publish(&mut self, ready: bool, wall: SystemTime) -> ManifestSet {
        let mut set = set::merge(self.files.values().map(FileState::holding));
        for (directory, why) in &self.unreadable {
            set.problems
                .push(problem(directory, Problem::Unreadable(why.clone())));
        }
        for clash in set.problems.iter().filter(|p| p.is_clash()) {
            if !self.previous.problems.contains(clash) {
                tracing::warn!(path = %clash.path.display(), problem = %clash, "does not count");
            }
        }
        let seen = &mut self.seen;
        self.following.identify(&mut set, &mut |uid| {
            let time = seen.entry(uid.to_owned());
            time.or_insert_with(|| rfc3339(wall)).clone()
        });
        let pods = self.files.values().flat_map(|f| &f.held.pods);
        let pods = pods.chain(set.pods.values());
        let present: BTreeSet<_> = pods.map(StaticPod::uid).collect();
        self.seen.retain(|uid, _| present.contains(uid.as_str()));
        if ready {
            self.following.remember(&set, &self.node);
        }
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
        tracing::info!(path = %path.display(), pods = %told::pods(&state.held), objects = told::objects(&state.held), "manifest removed");
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
            let held = self.remembered(path, wall);
            let found = !held.is_empty();
            if let Some(state) = self.files.get_mut(path) {
                state.held = held;
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
        let (bytes, access) = match contents(path) {
            Ok((bytes, meta)) if Identity::of(&meta) == identity => (bytes, Access::of(&meta)),
            Ok(_) => return None,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                return Some(self.refuse(path, Problem::Unreadable(e.to_string()), wall));
            }
        };
        self.accept(path, (identity, access), &bytes, wall);
        Some(true)
    }

    fn set_identity(&mut self, path: &Path, identity: Identity) {
        if let Some(state) = self.files.get_mut(path) {
            state.identity = Some(identity);
            state.fresh = None;
        }
    }

    /// What `bytes` hold; `access` is none where they are the agent's own.
    fn holds(&self, path: &Path, bytes: &[u8], access: Option<Access>) -> Manifest {
        let beside = self.objects_path.as_deref();
        let reading = Reading {
            objects: &self.objects,
            access,
            objects_only: beside.is_some_and(|beside| path.starts_with(beside)),
            ..Reading::new(&self.node)
        };
        reading.read(path, bytes)
    }

    /// Puts what `bytes` hold in the place of what the file held before.
    fn accept(
        &mut self,
        path: &Path,
        (identity, access): (Identity, Access),
        bytes: &[u8],
        wall: SystemTime,
    ) {
        let mut found = self.holds(path, bytes, Some(access));
        let known = self.files.get(path).is_some_and(|s| s.identity.is_some());
        let plain = found.problems.is_empty() && found.objects.is_empty();
        let before = match self.files.remove(path) {
            Some(state) => state.held,
            None if plain => Held::default(),
            None => self.remembered(path, wall),
        };
        let mut held = Held {
            pods: found.pods.into_iter().map(|p| self.mark(p, wall)).collect(),
            objects: found.objects,
        };
        for (at, problem) in held.without_broken_promises(&before) {
            let path = path.into();
            found.problems.push(ManifestError { path, at, problem });
        }
        held.share(&before);
        if found.problems.is_empty() {
            self.last_good.store(path, bytes);
        } else {
            held.keep(&before);
        }
        report(
            path,
            known,
            &before,
            &held,
            &found.problems,
            &found.warnings,
        );
        let state = FileState {
            identity: Some(identity),
            fresh: None,
            held,
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

    /// What the last good version held that is kept for `path`.
    fn remembered(&mut self, path: &Path, wall: SystemTime) -> Held {
        let Some(bytes) = self.last_good.load(path) else {
            return Held::default();
        };
        let found = self.holds(path, &bytes, None);
        Held {
            pods: found.pods.into_iter().map(|p| self.mark(p, wall)).collect(),
            objects: found.objects,
        }
    }

    /// Notes why a file gives nothing new; its pods stay. Whether that is news.
    fn refuse(&mut self, path: &Path, why: Problem, wall: SystemTime) -> bool {
        let error = problem(path, why);
        if !self.files.contains_key(path) {
            let state = FileState {
                held: self.remembered(path, wall),
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
        tracing::warn!(reason = "ManifestRefused", path = %path.display(), problem = %error, kept = %told::pods(&state.held), objects = told::objects(&state.held), "manifest refused");
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
    let link = || path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    news.complete.contains(path) || ((news.links_moved || news.created.contains(path)) && link())
}
