//! A directory of small files, each named by the SHA-256 of what it is about.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::record::NoRecord;
use crate::errors::error_chain;
use crate::whole_file::{self, UNFINISHED};

/// How upstream's names begin.
const PREFIX: &str = "sha256-";
/// Bytes of a file; a larger one is none of ours.
const MOST: u64 = 4 << 20;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub(in crate::images) struct FileError {
    path: PathBuf,
    why: String,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// The name of the file about `what`.
pub(super) fn name_of(what: &str) -> String {
    format!("{PREFIX}{}", crate::images::sha256_hex(what.as_bytes()))
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self(path.to_owned()))
    }

    fn failed(path: &Path) -> impl FnOnce(io::Error) -> FileError {
        |error| FileError {
            path: path.to_owned(),
            why: error_chain(&error),
        }
    }

    /// The error of a file whose content is none.
    pub(super) fn spoilt(&self, what: &str, why: NoRecord) -> FileError {
        FileError {
            path: self.0.join(name_of(what)),
            why: why.to_string(),
        }
    }

    /// Writes the file about `what`, whole or not at all.
    pub(super) fn write(&self, what: &str, text: &str) -> Result<(), FileError> {
        let path = self.0.join(name_of(what));
        whole_file::replace(&path, text.as_bytes(), 0o600).map_err(Self::failed(&path))
    }

    /// The file about `what`, if there is one.
    pub(super) fn read(&self, what: &str) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.0.join(name_of(what));
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Self::failed(&path)(error)),
        }
    }

    /// Whether there is a file about `what`, whatever is in it.
    pub(super) fn holds(&self, what: &str) -> bool {
        self.0.join(name_of(what)).exists()
    }

    /// Removes the file about `what`; one that is not there is fine.
    pub(super) fn remove(&self, what: &str) -> Result<(), FileError> {
        self.remove_file(&name_of(what))
    }

    fn remove_file(&self, name: &str) -> Result<(), FileError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Self::failed(&path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the files whose names are not to be kept.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        for name in self.names().filter(|name| !keep(name)).collect::<Vec<_>>() {
            if let Err(error) = self.remove_file(&name) {
                tracing::warn!(%error, "the record of a pulled image cannot be removed");
            }
        }
    }

    /// Tells of each file its name and content; no content where it cannot be read.
    pub(super) fn each(&self, mut tell: impl FnMut(&str, &[u8])) {
        for name in self.names().collect::<Vec<_>>() {
            tell(&name, &read(&self.0.join(&name)).unwrap_or_default());
        }
    }

    pub(super) fn count(&self) -> usize {
        self.names().count()
    }

    /// The names of the finished files.
    fn names(&self) -> impl Iterator<Item = String> + use<> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        let names = files.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(PREFIX) && !name.ends_with(UNFINISHED))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}
