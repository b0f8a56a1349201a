//! Which entries of a directory are manifests, and how one is read. Blocking, but never on a pipe.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::tree::MAX_BYTES;

/// Opening a pipe that took a manifest's place must not hang (`O_NONBLOCK` of Linux on all architectures we run on).
const O_NONBLOCK: i32 = 0o4000;

/// The paths of all entries of the directory `path` that may be manifests, or `path` itself when it is no directory;
/// none when there is nothing there. Names that begin with a dot are passed over; what is no file is for the caller to
/// pass over, who may want to say so.
///
/// # Errors
/// When there is a directory that cannot be read.
pub fn entries(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let absent = |e: &io::Error| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    };
    match path.metadata() {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Ok(BTreeSet::from([path.to_owned()])),
        Err(e) if absent(&e) => return Ok(BTreeSet::new()),
        Err(e) => return Err(e),
    }
    let mut entries = BTreeSet::new();
    let read = match path.read_dir() {
        Ok(read) => read,
        Err(e) if absent(&e) => return Ok(entries),
        Err(e) => return Err(e),
    };
    for entry in read {
        let name = entry?.file_name();
        if !name.as_bytes().starts_with(b".") {
            entries.insert(path.join(name));
        }
    }
    Ok(entries)
}

/// All of a file, and what its open handle says of it after reading; one byte more than a manifest may have, at most.
pub(super) fn contents(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file any more"));
    }
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let meta = file.metadata()?;
    Ok((bytes, meta))
}
