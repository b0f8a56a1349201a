//! The directory: `<root>/api-pods`, 0700, its files 0600, each replaced as a whole and synced.
//!
//! A file that cannot be opened is named in the log and set aside as `<name>.bad`, until what it was of is gone.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::seal::{Fault, Seal};
use crate::dir::{Dir, DirError};

/// The directory below the agent's root.
const DIRECTORY: &str = "api-pods";
/// Bytes of a file that are read: the largest object that an API server keeps (etcd's 1.5 MiB), in base64.
const MOST_BYTES: u64 = 4 << 20;
/// What the name of a file ends with while it is written.
const UNFINISHED: &str = ".tmp";
/// What the name of a file ends with that could not be opened.
const BAD: &str = ".bad";
/// The file whose time of change is that of the last renewal of the lease.
const LEASE: &str = "lease";

/// What a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Pods,
    Objects,
    /// The directory itself.
    Top,
}

impl Place {
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Pods => Some("pods"),
            Self::Objects => Some("objects"),
            Self::Top => None,
        }
    }
}

/// The directory, and how its files are closed.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    seal: Seal,
}

impl Store {
    /// Opens or makes it.
    pub(super) fn open(root: &Path, seal: Seal) -> Result<Self, DirError> {
        let top = Dir::open_or_create(root, 0o750)?.ensure_child(DIRECTORY, 0o700)?;
        for place in [Place::Pods, Place::Objects] {
            let dir = match place.name() {
                Some(name) => top.ensure_child(name, 0o700)?,
                None => continue,
            };
            for name in dir.names()?.iter().filter(|n| n.ends_with(UNFINISHED)) {
                dir.remove_file(name)?;
            }
        }
        let store = Self {
            path: top.path().to_owned(),
            seal,
        };
        store.close_anew();
        Ok(store)
    }

    /// Removes it, for an agent that is to keep nothing.
    pub(super) fn remove(root: &Path) -> Result<(), DirError> {
        match Dir::open(root) {
            Ok(root) => root.remove_tree(DIRECTORY),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Encrypts what was written before there was a key.
    fn close_anew(&self) {
        if !self.seal.has_key() {
            return;
        }
        for place in [Place::Pods, Place::Objects, Place::Top] {
            for name in self.names(place) {
                let content = self.opened(place, &name);
                if let Ok(Some(content)) = content
                    && let Err(error) = self.write(place, &name, &content)
                {
                    self.failed(&error, "encrypt");
                }
            }
        }
    }

    fn failed(&self, error: &DirError, what: &str) {
        let error = crate::errors::error_chain(error);
        tracing::warn!(path = %self.path.display(), error, "cannot {what} what is kept of the API server's pods");
    }

    fn dir(&self, place: Place) -> Result<Dir, DirError> {
        let top = Dir::open(&self.path)?;
        match place.name() {
            Some(name) => top.ensure_child(name, 0o700),
            None => Ok(top),
        }
    }

    /// The names of the files, those that were set aside under the names that they had.
    pub(super) fn names(&self, place: Place) -> Vec<String> {
        let names = self.dir(place).and_then(|dir| dir.names());
        let mut names = names.unwrap_or_else(|error| {
            self.failed(&error, "list");
            Vec::new()
        });
        names.retain(|name| !name.ends_with(UNFINISHED));
        names.retain(|name| place != Place::Top || !["pods", "objects", LEASE].contains(&&**name));
        for name in &mut names {
            if let Some(own) = name.strip_suffix(BAD) {
                *name = own.to_owned();
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The content of a file; none where there is none, or none that can be opened, which the log then says.
    pub(super) fn read(&self, place: Place, name: &str) -> Option<Vec<u8>> {
        match self.opened(place, name) {
            Ok(content) => content,
            Err(fault) => {
                self.tell(place, name, fault);
                None
            }
        }
    }

    fn opened(&self, place: Place, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let bytes = self
            .dir(place)
            .and_then(|dir| dir.read_file(name, MOST_BYTES));
        let Some(bytes) = bytes.map_err(|_| Fault::Form)? else {
            return Ok(None);
        };
        let opened = self.seal.open(name, &bytes)?;
        Ok(Some(opened.content))
    }

    /// Says that a file is of no use, and moves it aside; one for which only the key is missing stays.
    fn tell(&self, place: Place, name: &str, fault: Fault) {
        let Ok(dir) = self.dir(place) else {
            return;
        };
        let path = dir.path_of(name);
        if fault == Fault::NoKey {
            tracing::warn!(reason = "CheckpointUnusable", path = %path.display(), "a checkpoint is passed over: {fault}");
        } else {
            self.set_aside(place, name, &fault.to_string());
        }
    }

    /// Moves a file aside whose content is of no use, and says so.
    pub(super) fn set_aside(&self, place: Place, name: &str, why: &str) {
        let Ok(dir) = self.dir(place) else {
            return;
        };
        let bad = format!("{name}{BAD}");
        if let Err(error) = dir.rename(name, &bad) {
            self.failed(&error, "set aside a part of");
        }
        tracing::warn!(
            reason = "CheckpointUnusable",
            path = %dir.path_of(name).display(),
            set_aside = %dir.path_of(&bad).display(),
            "a checkpoint is set aside: {why}"
        );
    }

    /// Gives a file this content. One that has it, closed as files are now, is left alone.
    pub(super) fn write(&self, place: Place, name: &str, content: &[u8]) -> Result<(), DirError> {
        let dir = self.dir(place)?;
        if let Ok(Some(bytes)) = dir.read_file(name, MOST_BYTES)
            && let Ok(opened) = self.seal.open(name, &bytes)
            && opened.current
            && opened.content == content
        {
            return Ok(());
        }
        let error = |action: &'static str, source: io::Error| DirError {
            action,
            path: dir.path_of(name),
            source,
        };
        let closed = self.seal.close(name, content);
        let closed = closed.ok_or_else(|| error("encrypt", io::Error::other("no randomness")))?;
        let unfinished = format!("{name}{UNFINISHED}");
        let written = dir.rewrite(&unfinished, &closed, 0o600).and_then(|()| {
            let file = dir.ensure_file(&unfinished, 0o600)?;
            file.sync_all().map_err(|source| error("sync", source))?;
            dir.rename(&unfinished, name)
        });
        if let Err(error) = written {
            // On a full disk the part that was written is in the way. The error that counts is the first one.
            let _unremoved = dir.remove_file(&unfinished);
            return Err(error);
        }
        rustix::fs::fsync(dir.as_fd()).map_err(|errno| error("sync", errno.into()))
    }

    /// Removes a file, and what was set aside of it.
    pub(super) fn forget(&self, place: Place, name: &str) -> Result<(), DirError> {
        let dir = self.dir(place)?;
        dir.remove_file(name)?;
        dir.remove_file(&format!("{name}{BAD}"))
    }

    /// Notes that the lease was renewed at `time`. It is not waited for: after a power cut an older time stands there, which
    /// only restores less.
    pub(super) fn renewed(&self, time: Timestamp) -> Result<(), DirError> {
        let dir = self.dir(Place::Top)?;
        let file = dir.ensure_file(LEASE, 0o600)?;
        file.set_modified(time.into()).map_err(|source| DirError {
            action: "set the time of",
            path: dir.path_of(LEASE),
            source,
        })
    }

    /// When the lease was renewed last, as far as that was noted.
    pub(super) fn last_renewal(&self) -> Option<Timestamp> {
        let file = self.dir(Place::Top).ok()?.open_file(LEASE).ok()??;
        let time = file.metadata().ok()?.modified().ok()?;
        Timestamp::try_from(time).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    fn key(byte: u8) -> Seal {
        Seal::of_key(&[byte; 32]).unwrap()
    }

    #[test]
    fn files_are_roots_alone_and_written_only_when_they_change() {
        let root = tempfile::tempdir().unwrap();
        for seal in [Seal::Clear, key(1)] {
            let store = Store::open(root.path(), seal).unwrap();
            store.write(Place::Pods, "a", b"text").unwrap();
            let path = root.path().join("api-pods/pods/a");
            let modes = [
                mode(&root.path().join("api-pods")),
                mode(&root.path().join("api-pods/pods")),
                mode(&path),
            ];
            assert_eq!(modes, [0o700, 0o700, 0o600]);
            let before = std::fs::read(&path).unwrap();
            store.write(Place::Pods, "a", b"text").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), before);
            assert_eq!(store.read(Place::Pods, "a").as_deref(), Some(&b"text"[..]));
            store.write(Place::Pods, "a", b"other").unwrap();
            assert_eq!(store.read(Place::Pods, "a").as_deref(), Some(&b"other"[..]));
            assert_eq!(store.names(Place::Pods), ["a"]);
            store.forget(Place::Pods, "a").unwrap();
            assert!(store.names(Place::Pods).is_empty());
        }
    }

    #[test]
    fn what_was_written_in_clear_is_encrypted_as_soon_as_there_is_a_key() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("api-pods/objects/o");
        let clear = Store::open(root.path(), Seal::Clear).unwrap();
        clear.write(Place::Objects, "o", b"hush").unwrap();
        let holds = || {
            std::fs::read(&path)
                .unwrap()
                .windows(4)
                .any(|w| w == b"hush")
        };
        assert!(holds());
        let store = Store::open(root.path(), key(1)).unwrap();
        assert!(!holds());
        assert_eq!(
            store.read(Place::Objects, "o").as_deref(),
            Some(&b"hush"[..])
        );
        // An agent without the key leaves it where it is, for one that has it again.
        let without = Store::open(root.path(), Seal::Clear).unwrap();
        assert_eq!(without.read(Place::Objects, "o"), None);
        assert!(path.exists());
    }

    #[test]
    fn a_bad_file_is_set_aside_and_goes_with_what_it_was_of() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Seal::Clear).unwrap();
        store.write(Place::Pods, "a", b"text").unwrap();
        let path = root.path().join("api-pods/pods/a");
        let bad = root.path().join("api-pods/pods/a.bad");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        std::fs::write(root.path().join("api-pods/pods/b.tmp"), "half").unwrap();
        assert_eq!(store.read(Place::Pods, "a"), None);
        assert!(!path.exists() && bad.exists());
        let store = Store::open(root.path(), Seal::Clear).unwrap();
        assert_eq!(store.names(Place::Pods), ["a"]);
        store.forget(Place::Pods, "a").unwrap();
        assert!(!bad.exists());
        assert!(!root.path().join("api-pods/pods/b.tmp").exists());
    }

    #[test]
    fn the_time_of_the_lease_is_the_clocks_that_it_was_renewed_by() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Seal::Clear).unwrap();
        assert_eq!(store.last_renewal(), None);
        let time: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        store.renewed(time).unwrap();
        assert_eq!(store.last_renewal(), Some(time));
        assert!(store.names(Place::Top).is_empty());
    }

    #[test]
    fn an_agent_that_keeps_nothing_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        Store::remove(root.path()).unwrap();
        Store::open(root.path(), Seal::Clear)
            .unwrap()
            .write(Place::Top, "node", b"x")
            .unwrap();
        Store::remove(root.path()).unwrap();
        assert!(!root.path().join("api-pods").exists());
        assert!(root.path().exists());
        Store::remove(&root.path().join("gone")).unwrap();
    }
}
