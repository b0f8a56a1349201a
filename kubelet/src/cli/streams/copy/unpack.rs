//! An archive that a container sends, as files of this machine.
//!
//! Whatever is in it was written by whoever the container is, and `tar` there may be anything. So no name in it leads out
//! of the destination: one with `..` is left out, none is absolute, and each directory on the way is opened beneath the one
//! before it without following links (`openat2`). Links of either kind, devices and the like are not made at all; nothing
//! is given an owner or a mode. What is read of names is bounded. (CVE-2018-1002100, CVE-2019-1002101, CVE-2019-11246,
//! CVE-2019-11249 and CVE-2019-11251 were all of them `kubectl cp`.)

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::{CopyError, cleaned};

/// Most bytes of one name, or of one record of names.
const MOST_NAME: u64 = 64 << 10;
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// What is copied to where.
#[derive(Debug)]
pub(super) struct Below {
    /// What each name begins with, as `tar` writes it: the path without what leads to the root.
    prefix: Vec<OsString>,
    destination: PathBuf,
}

impl Below {
    /// `path` of the container.
    pub(super) fn of(path: &str, destination: &Path) -> Self {
        let path = cleaned(path);
        let parts = path
            .split('/')
            .filter(|part| !matches!(*part, "" | "." | ".."));
        Self {
            prefix: parts.map(OsString::from).collect(),
            destination: destination.to_owned(),
        }
    }
}

/// Writes what `from` has to its places. What is left out is told by `warn`.
///
/// # Errors
/// When it is no archive, is of something else, or cannot be written.
pub(super) fn unpack(
    from: impl Read,
    below: &Below,
    warn: &mut dyn FnMut(&str),
) -> Result<(), CopyError> {
    let mut archive = tar::Archive::new(from);
    let mut root = None;
    let mut long_name = None;
    // Raw: whatever extends a header is read here, where there is a bound to it.
    let entries = archive.entries().map_err(CopyError::Archive)?;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(CopyError::Archive)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut name = bounded(&mut entry)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                long_name = Some(name);
                continue;
            }
            EntryType::XHeader => {
                if let Some(name) = extended_path(&bounded(&mut entry)?)? {
                    long_name = Some(name);
                }
                continue;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => {
                bounded(&mut entry)?;
                continue;
            }
            _ => {}
        }
        let name = long_name.take();
        let name = name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        place(&mut entry, &name, below, &mut root, warn)?;
    }
    // What fills the last record up is not wanted, but whoever sends it is to come to its end, and to say how it was.
    let drained = io::copy(&mut archive.into_inner(), &mut io::sink());
    drained.map(drop).map_err(CopyError::Archive)
}

fn bounded(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, CopyError> {
    let mut bytes = Vec::new();
    let read = entry.take(MOST_NAME + 1).read_to_end(&mut bytes);
    let read = read.map_err(CopyError::Archive)?;
    match u64::try_from(read).is_ok_and(|read| read <= MOST_NAME) {
        true => Ok(bytes),
        false => Err(CopyError::Unusable("a name is longer than any can be")),
    }
}

/// The path in an extended header (POSIX pax, `LENGTH KEY=VALUE\n`).
fn extended_path(mut records: &[u8]) -> Result<Option<Vec<u8>>, CopyError> {
    let wrong = CopyError::Unusable("an extended header cannot be read");
    let mut path = None;
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ');
        let length = space.and_then(|at| std::str::from_utf8(&records[..at]).ok()?.parse().ok());
        let (Some(space), Some(length)) = (space, length) else {
            return Err(wrong);
        };
        let (Some(record), Some(rest)) = (records.get(space + 1..length), records.get(length..))
        else {
            return Err(wrong);
        };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(value) = record.strip_prefix(b"path=") {
            path = Some(value.to_vec());
        }
        if record.starts_with(b"size=") {
            // It stands for one that the header has no room for, and so all that follows is elsewhere.
            return Err(CopyError::Unusable("a file is too large for its header"));
        }
        records = rest;
    }
    Ok(path)
}

fn place(
    entry: &mut Entry<'_, impl Read>,
    name: &[u8],
    below: &Below,
    root: &mut Option<Root>,
    warn: &mut dyn FnMut(&str),
) -> Result<(), CopyError> {
    let shown = OsStr::from_bytes(name).display().to_string();
    if name.first() == Some(&b'/') {
        return Err(CopyError::Corrupted);
    }
    let parts = name.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<&OsStr> = parts.map(OsStr::from_bytes).collect();
    if parts.iter().any(|part| *part == "..") {
        warn(&format!(
            "warning: file {shown:?} is outside target destination, skipping"
        ));
        return Ok(());
    }
    let Some(rest) = strip(&parts, &below.prefix) else {
        return Err(CopyError::Corrupted);
    };
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Directory => Root::of(root, below)?.directory(rest).map(drop),
        EntryType::Regular | EntryType::Continuous => {
            let name = below.prefix.last().map(OsString::as_os_str);
            Root::of(root, below)?.file(rest, name, entry)
        }
        EntryType::Symlink | EntryType::Link => {
            let word = if kind == EntryType::Link {
                "hard link"
            } else {
                "symlink"
            };
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = OsStr::from_bytes(&target).display().to_string();
            warn(&format!(
                "warning: skipping {word}: {shown:?} -> {target:?}"
            ));
            Ok(())
        }
        _ => {
            warn(&format!(
                "warning: skipping {shown:?}: it is neither a file nor a directory"
            ));
            Ok(())
        }
    }
}

fn strip<'a, 'p>(parts: &'a [&'p OsStr], prefix: &[OsString]) -> Option<&'a [&'p OsStr]> {
    let (begin, rest) = parts.split_at_checked(prefix.len())?;
    let mut pairs = begin.iter().zip(prefix);
    pairs.all(|(part, prefix)| *part == prefix).then_some(rest)
}

/// The destination.
struct Root {
    path: PathBuf,
    /// It, where it is a directory; `None` while it is not there, and what comes is one file.
    handle: Option<OwnedFd>,
}

impl Root {
    fn of<'a>(root: &'a mut Option<Self>, below: &Below) -> Result<&'a mut Self, CopyError> {
        if root.is_none() {
            let path = below.destination.clone();
            let handle = match open_root(&path) {
                Ok(handle) => Some(handle),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(errno) => return Err(unwritten(&path, errno)),
            };
            *root = Some(Self { path, handle });
        }
        root.as_mut().ok_or(CopyError::Corrupted)
    }

    /// Opens the directory `parts` of it, and makes what is missing.
    fn directory(&mut self, parts: &[&OsStr]) -> Result<OwnedFd, CopyError> {
        if self.handle.is_none() {
            let made = std::fs::create_dir_all(&self.path);
            made.map_err(|error| CopyError::Write(self.path.clone(), error))?;
            let opened = open_root(&self.path).map_err(|errno| unwritten(&self.path, errno))?;
            self.handle = Some(opened);
        }
        let Some(handle) = &self.handle else {
            return Err(CopyError::Corrupted);
        };
        let mut path = self.path.clone();
        let copied = handle.try_clone();
        let mut at = copied.map_err(|error| CopyError::Write(path.clone(), error))?;
        for part in parts {
            path.push(part);
            at = child(&at, part).map_err(|errno| unwritten(&path, errno))?;
        }
        Ok(at)
    }

    /// Writes the file `parts`. When it is the one that was asked for, it goes by the destination's name, or, into a
    /// directory, by its own (`name`).
    fn file(
        &mut self,
        parts: &[&OsStr],
        name: Option<&OsStr>,
        content: &mut impl Read,
    ) -> Result<(), CopyError> {
        let (into, name) = match (parts.split_last(), &self.handle) {
            (Some((name, parents)), _) => (self.directory(parents)?, *name),
            (None, Some(_)) => (self.directory(&[])?, name.ok_or(CopyError::Corrupted)?),
            (None, None) => {
                let name = self.path.file_name().ok_or(CopyError::Corrupted)?;
                let parent = self
                    .path
                    .parent()
                    .filter(|path| !path.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                let made = std::fs::create_dir_all(parent);
                made.map_err(|error| CopyError::Write(parent.to_owned(), error))?;
                let into = open_root(parent).map_err(|errno| unwritten(parent, errno))?;
                (into, name)
            }
        };
        let shown = parts
            .iter()
            .fold(self.path.clone(), |path, part| path.join(part));
        let file = create(&into, name).map_err(|errno| unwritten(&shown, errno))?;
        let mut file = File::from(file);
        copy(content, &mut file, &shown)
    }
}

fn copy(from: &mut impl Read, to: &mut File, shown: &Path) -> Result<(), CopyError> {
    use io::Write as _;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).map_err(CopyError::Archive)?;
        if read == 0 {
            return Ok(());
        }
        let written = to.write_all(&buffer[..read]);
        written.map_err(|error| CopyError::Write(shown.to_owned(), error))?;
    }
}

/// The destination itself is the user's: links on the way to it are followed.
fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty())
}

/// The directory `name` of `parent`, made where it is missing.
fn child(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = || fs::openat2(parent, name, flags, Mode::empty(), BENEATH);
    match open() {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    match fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => open(),
        Err(errno) => Err(errno),
    }
}

/// The file `name` of `parent`, empty; what is there and no file stays.
fn create(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    // Without waiting, should it be a pipe.
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let file = fs::openat2(parent, name, flags, Mode::from_raw_mode(0o666), BENEATH)?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::EXIST);
    }
    fs::ftruncate(&file, 0)?;
    Ok(file)
}

fn unwritten(path: &Path, errno: Errno) -> CopyError {
    CopyError::Write(path.to_owned(), errno.into())
}
