//! Every change that a join makes to files, written down before it is made: so that a join that fails, or is killed, leaves
//! nothing behind, and `kubelet leave` undoes exactly what was done.
//!
//! The record is `join.json` in the root directory, mode 0600.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::digest;
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::service::Before;
use crate::whole_file;

/// What names of a node's pairs begin with, and of the key that waits for its certificate.
const PAIRS: [&str; 2] = ["kubelet-client", "kubelet-server"];
/// The links to the pairs in use: as a client, and of the node's API.
const CURRENT: [&str; 2] = ["kubelet-client-current.pem", "kubelet-server-current.pem"];
/// Modes of directories that a join makes.
const DIRECTORY_MODE: u32 = 0o755;

/// How far a join came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It runs, or was killed.
    #[default]
    Begun,
    /// The node has its certificate.
    Joined,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) node: String,
    pub(super) server: String,
    /// In the order made.
    changes: Vec<Change>,
    directories: Vec<PathBuf>,
    pki: PathBuf,
    /// Names in `pki` that were there before.
    pairs: Vec<String>,
    /// Where the link to the pair in use as a client led.
    current: Option<PathBuf>,
    /// Where the one of the node's API did.
    #[serde(default)]
    current_serving: Option<PathBuf>,
    /// How the service was; none where there is no systemd.
    pub(super) service: Option<Before>,
    /// Of the join that this one mends.
    earlier: Option<Box<Record>>,
    /// Mends a node that something else joined: nothing is kept of it.
    passing: bool,
}

impl Record {
    /// Of a join that begins.
    pub(super) fn new(node: &str, server: &str, service: Option<Before>) -> Self {
        Self {
            node: node.to_owned(),
            server: server.to_owned(),
            service,
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Change {
    path: PathBuf,
    /// Where the file of before is; none where there was none.
    before: Option<PathBuf>,
    /// SHA-256 of what was written; empty for what the agent writes.
    written: String,
}

/// The record of a join, and where it is kept.
#[derive(Debug)]
pub(super) struct Journal {
    file: PathBuf,
    pub(super) record: Record,
}

impl Journal {
    /// The record that is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Failure::file("read", file))?,
        };
        let record = serde_json::from_slice(&text)
            .map_err(|error| Failure::Other(format!("{} is damaged: {error}", file.display())))?;
        Ok(Some(Self {
            file: file.to_owned(),
            record,
        }))
    }

    /// Begins one. `earlier` is the record of a join that is mended; `mends` says that there is something to mend.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn begin(
        file: &Path,
        pki: &Path,
        earlier: Option<Self>,
        mends: bool,
        record: Record,
    ) -> Result<Self, Failure> {
        let [current, current_serving] = CURRENT.map(|link| fs::read_link(pki.join(link)).ok());
        let mut journal = Self {
            file: file.to_owned(),
            record: Record {
                pki: pki.to_owned(),
                pairs: pairs(pki),
                current,
                current_serving,
                passing: mends && earlier.is_none(),
                earlier: earlier.map(|earlier| Box::new(earlier.record)),
                ..record
            },
        };
        if let Some(directory) = file.parent() {
            make(&journal.note_missing(directory))?;
        }
        journal.save()?;
        Ok(journal)
    }

    fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| Failure::Other(error.to_string()))?;
        whole_file::replace(&self.file, &text, 0o600).map_err(Failure::file("write", &self.file))
    }

    /// Notes a directory and those above it that are not there yet, the uppermost first.
    fn note_missing(&mut self, directory: &Path) -> Vec<PathBuf> {
        let mut missing = Vec::new();
        let mut at = Some(directory);
        while let Some(path) = at.filter(|path| !path.exists()) {
            missing.push(path.to_owned());
            at = path.parent();
        }
        missing.reverse();
        self.record.directories.extend_from_slice(&missing);
        missing
    }

    /// Writes a file whole, keeping the one of before. One that is so already stays, and is not of the record.
    ///
    /// # Errors
    /// When it cannot be written, or the one before not be kept.
    pub(super) fn write(&mut self, path: &Path, text: &[u8], mode: u32) -> Result<(), Failure> {
        if fs::read(path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        self.expect(path, digest_of(text))?;
        whole_file::replace(path, text, mode).map_err(Failure::file("write", path))
    }

    /// Notes that somebody else is about to write, or remove, the file.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub(super) fn expect_written(&mut self, path: &Path) -> Result<(), Failure> {
        self.expect(path, String::new())
    }

    /// Notes a change, then makes ready for it: killed in between, nothing is there that the record does not know.
    fn expect(&mut self, path: &Path, written: String) -> Result<(), Failure> {
        let missing = path.parent().map(|directory| self.note_missing(directory));
        let before = match fs::metadata(path) {
            Ok(metadata) => Some((aside(path, "before-join"), metadata.mode() & 0o7777)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::file("read", path)(error)),
        };
        self.record.changes.push(Change {
            path: path.to_owned(),
            before: before.as_ref().map(|(aside, _)| aside.clone()),
            written,
        });
        self.save()?;
        make(&missing.unwrap_or_default())?;
        let Some((aside, mode)) = before else {
            return Ok(());
        };
        let text = fs::read(path).map_err(Failure::file("read", path))?;
        whole_file::replace(&aside, &text, mode).map_err(Failure::file("write", &aside))
    }

    /// Whether the agent has come to a certificate since this was begun.
    pub(super) fn has_certificate(&self) -> bool {
        let now = fs::read_link(self.record.pki.join(CURRENT[0])).ok();
        now.is_some() && now != self.record.current
    }

    /// The node has joined: what was done is kept for who leaves.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn commit(mut self) -> Result<(), Failure> {
        if self.record.passing {
            self.forget_backups(|_| true);
            return fs::remove_file(&self.file).map_err(Failure::file("remove", &self.file));
        }
        if let Some(mut earlier) = self.record.earlier.take() {
            let known = |path: &Path| earlier.changes.iter().any(|change| change.path == path);
            self.forget_backups(|change| known(&change.path));
            let mut new = std::mem::take(&mut self.record.changes);
            new.retain(|change| !known(&change.path));
            earlier.changes.append(&mut new);
            earlier.directories.append(&mut self.record.directories);
            self.record = Record {
                server: std::mem::take(&mut self.record.server),
                ..*earlier
            };
        }
        self.record.state = State::Joined;
        self.save()
    }

    fn forget_backups(&self, which: impl Fn(&Change) -> bool) {
        let changes = self.record.changes.iter().filter(|change| which(change));
        for before in changes.filter_map(|change| change.before.as_ref()) {
            // A copy that stays does no harm.
            let _ = fs::remove_file(before);
        }
    }

    /// Puts everything back, the last change first; goes on where something cannot be. Files that somebody has edited
    /// since are kept beside. Returns what went wrong, and the copies that were kept.
    pub(super) fn undo(mut self) -> (Vec<Failure>, Vec<PathBuf>) {
        let (mut failures, mut kept) = (Vec::new(), Vec::new());
        let record = &self.record;
        for change in record.changes.iter().rev() {
            let edited = !change.written.is_empty()
                && fs::read(&change.path).is_ok_and(|now| digest_of(&now) != change.written);
            if edited && record.state == State::Joined {
                let aside = aside(&change.path, "before-leave");
                match fs::rename(&change.path, &aside) {
                    Ok(()) => kept.push(aside),
                    Err(error) => failures.push(Failure::file("rename", &change.path)(error)),
                }
            }
            let undone = match &change.before {
                Some(before) => fs::rename(before, &change.path),
                None => fs::remove_file(&change.path),
            };
            // A copy that is not there was put back already, or never made: then the file is as it was.
            push(&mut failures, "undo", &change.path, undone);
            remove_unfinished(&mut failures, &change.path);
            if let Some(before) = &change.before {
                remove_unfinished(&mut failures, before);
            }
        }
        for name in pairs(&record.pki) {
            let path = record.pki.join(&name);
            if !record.pairs.contains(&name) {
                push(&mut failures, "remove", &path, fs::remove_file(&path));
            }
        }
        let targets = [&record.current, &record.current_serving];
        for (name, target) in CURRENT.iter().zip(targets) {
            let Some(target) = target else {
                continue;
            };
            let link = record.pki.join(name);
            if fs::read_link(&link).ok().as_ref() != Some(target) {
                let _ = fs::remove_file(&link);
                let linked = std::os::unix::fs::symlink(target, &link);
                push(&mut failures, "restore", &link, linked);
            }
        }
        let directories = std::mem::take(&mut self.record.directories);
        let remove_directories = || {
            for directory in directories.iter().rev() {
                // Whatever somebody has put there keeps it.
                let _ = fs::remove_dir(directory);
            }
        };
        // All but the record's own, which goes when the record has gone.
        remove_directories();
        remove_unfinished(&mut failures, &self.file);
        let removed = match self.record.earlier.take() {
            Some(earlier) => {
                self.record = *earlier;
                self.save()
            }
            None => fs::remove_file(&self.file).map_err(Failure::file("remove", &self.file)),
        };
        failures.extend(removed.err());
        remove_directories();
        (failures, kept)
    }
}

fn make(directories: &[PathBuf]) -> Result<(), Failure> {
    for path in directories {
        fs::create_dir(path).map_err(Failure::file("make", path))?;
        let mode = fs::Permissions::from_mode(DIRECTORY_MODE);
        fs::set_permissions(path, mode).map_err(Failure::file("make", path))?;
    }
    Ok(())
}

/// Removes what was written of the file at `path` before it could take its name.
fn remove_unfinished(failures: &mut Vec<Failure>, path: &Path) {
    let unfinished = whole_file::unfinished(path);
    push(
        failures,
        "remove",
        &unfinished,
        fs::remove_file(&unfinished),
    );
}

fn push(failures: &mut Vec<Failure>, what: &'static str, path: &Path, done: io::Result<()>) {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failures.push(Failure::file(what, path)(error));
        }
        _ => {}
    }
}

/// Names of the node's pairs in a directory.
fn pairs(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_pair = |name: &String| PAIRS.iter().any(|prefix| name.starts_with(prefix));
    names.filter(is_pair).collect()
}

/// `path.suffix`, or the first of `path.suffix.2` … that is not there.
fn aside(path: &Path, suffix: &str) -> PathBuf {
    let named = |count: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(match count {
            1 => format!(".{suffix}"),
            count => format!(".{suffix}.{count}"),
        });
        PathBuf::from(name)
    };
    let mut count = 1;
    while named(count).exists() {
        count += 1;
    }
    named(count)
}

fn digest_of(text: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, text);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
