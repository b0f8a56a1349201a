//! Directories held by handle.
//!
//! Everything the agent does below a directory that a pod can influence goes through a [`Dir`]: names are single
//! components, symbolic links are not followed, and mounts are not crossed (`openat2`, man page section "RESOLVE").
//! So neither a link a container planted nor a forgotten bind mount leads to a file that is not the pod's.
//!
//! All functions block on the disk.

mod tree;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use tree::Visit;

/// What did not work, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct DirError {
    /// What was being done: `open`, `create`, `remove` …
    pub action: &'static str,
    /// Where, for people to read.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl DirError {
    /// Whether the reason is that something is mounted there.
    #[must_use]
    pub fn is_mount(&self) -> bool {
        [Errno::XDEV, Errno::BUSY]
            .map(|errno| Some(errno.raw_os_error()))
            .contains(&self.source.raw_os_error())
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
const OPEN_DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory whose path is the administrator's: links and mounts on the way are followed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: path.to_owned(),
            }),
            Err(errno) => Err(failed("open", path, errno)),
        }
    }

    /// As [`Dir::open`], with missing levels created with `mode` (less the umask).
    ///
    /// # Errors
    /// When it cannot be created or opened.
    pub fn open_or_create(path: &Path, mode: u32) -> Result<Self, DirError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(mode);
        builder.create(path).map_err(|source| DirError {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
        Self::open(path)
    }

    /// Where it is, for messages and for the runtime; no further path is made from it to open something.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in it, for messages and for the runtime.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory `name` in it, `None` where there is none.
    ///
    /// # Errors
    /// When `name` is no single component, no directory, a symbolic link, or a mount point ([`DirError::is_mount`]).
    pub fn child(&self, name: &str) -> Result<Option<Self>, DirError> {
        self.open_child(name, BENEATH | ResolveFlags::NO_XDEV)
    }

    /// As [`Dir::child`], and also when something is mounted at `name`.
    ///
    /// # Errors
    /// When `name` is no single component, no directory or a symbolic link.
    pub fn child_or_mount(&self, name: &str) -> Result<Option<Self>, DirError> {
        self.open_child(name, BENEATH)
    }

    fn open_child(&self, name: &str, resolve: ResolveFlags) -> Result<Option<Self>, DirError> {
        self.component(name)?;
        match fs::openat2(&self.fd, name, OPEN_DIR, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: self.path_of(name),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("open", &self.path_of(name), errno)),
        }
    }

    /// The directory `name` in it, created with exactly `mode` where it is missing.
    ///
    /// # Errors
    /// As [`Dir::child`], and when it cannot be created.
    pub fn ensure_child(&self, name: &str, mode: u32) -> Result<Self, DirError> {
        self.component(name)?;
        let fail = |errno| failed("create", &self.path_of(name), errno);
        let mode = Mode::from_raw_mode(mode);
        match fs::mkdirat(&self.fd, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let child = self.child(name)?.ok_or_else(|| fail(Errno::NOENT))?;
        // The umask, or a crash between the two steps the last time, may have left other bits.
        let stat = fs::fstat(&child.fd).map_err(fail)?;
        if Mode::from_raw_mode(stat.st_mode) != mode {
            fs::fchmod(&child.fd, mode).map_err(fail)?;
        }
        Ok(child)
    }

    /// All names in it, unsorted, without those that are not UTF-8. For directories that only the agent and the
    /// runtime write to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self) -> Result<Vec<String>, DirError> {
        let entries = self.batch(usize::MAX)?;
        let names = entries.into_iter().map(|(name, _)| name.into_string().ok());
        Ok(names.flatten().collect())
    }

    /// The names of the directories in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn subdirectories(&self) -> Result<Vec<String>, DirError> {
        let entries = self.batch(usize::MAX)?.into_iter();
        let directories = entries.filter(|(_, kind)| *kind == FileType::Directory);
        let names = directories.map(|(name, _)| name.into_string().ok());
        Ok(names.flatten().collect())
    }

    /// Up to `most` entries.
    fn batch(&self, most: usize) -> Result<Vec<(CString, FileType)>, DirError> {
        let fail = |errno| failed("read", &self.path, errno);
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                entries.push((entry.file_name().to_owned(), entry.file_type()));
            }
            if entries.len() >= most {
                break;
            }
        }
        Ok(entries)
    }

    /// Opens the regular file `name` for reading; `None` where there is none. Never waits, as opening a named pipe
    /// would.
    ///
    /// # Errors
    /// When it cannot be opened or is no regular file.
    pub fn open_file(&self, name: &str) -> Result<Option<File>, DirError> {
        self.open_regular(name, OFlags::RDONLY, "open", Mode::empty())
    }

    fn open_regular(
        &self,
        name: &str,
        flags: OFlags,
        action: &'static str,
        mode: Mode,
    ) -> Result<Option<File>, DirError> {
        self.component(name)?;
        let fail = |errno| failed(action, &self.path_of(name), errno);
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = BENEATH | ResolveFlags::NO_XDEV;
        let fd = match fs::openat2(&self.fd, name, flags, mode, resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        let stat = fs::fstat(&fd).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(DirError {
                action,
                path: self.path_of(name),
                source: io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"),
            });
        }
        Ok(Some(File::from(fd)))
    }

    /// The regular file `name`, created empty where it is missing, with exactly `mode`, open for reading and writing.
    ///
    /// # Errors
    /// When it cannot be created or is no regular file.
    pub fn ensure_file(&self, name: &str, mode: u32) -> Result<File, DirError> {
        let fail = |errno| failed("create", &self.path_of(name), errno);
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = self
            .open_regular(name, flags, "create", mode)?
            .ok_or_else(|| fail(Errno::NOENT))?;
        let stat = fs::fstat(&file).map_err(fail)?;
        if Mode::from_raw_mode(stat.st_mode) != mode {
            fs::fchmod(&file, mode).map_err(fail)?;
        }
        Ok(file)
    }

    /// Gives the file `name` the content `bytes` without changing the file itself: for files that are bind-mounted
    /// into containers, which keep seeing the old one if it is replaced. A file that has the content is left alone.
    ///
    /// # Errors
    /// When it cannot be created, read or written.
    pub fn rewrite(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), DirError> {
        let mut file = self.ensure_file(name, mode)?;
        let fail = |source| DirError {
            action: "write",
            path: self.path_of(name),
            source,
        };
        let mut present = Vec::new();
        let limit = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let more = limit.saturating_add(1);
        (&file).take(more).read_to_end(&mut present).map_err(fail)?;
        if present == bytes {
            return Ok(());
        }
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        file.set_len(limit).map_err(fail)
    }

    /// Puts a file with the content `bytes` in the place of `name`, in one step that outlives a power cut.
    ///
    /// # Errors
    /// When it cannot be written, synced or put in place.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), DirError> {
        let unfinished = format!("{name}.tmp");
        self.rewrite(&unfinished, bytes, mode)?;
        let file = self.ensure_file(&unfinished, mode)?;
        file.sync_all().map_err(|source| DirError {
            action: "sync",
            path: self.path_of(&unfinished),
            source,
        })?;
        self.rename(&unfinished, name)
    }

    /// The content of the file `name`, up to `most` bytes; `None` where there is no such file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_file(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, DirError> {
        let Some(file) = self.open_file(name)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let read = file.take(most).read_to_end(&mut content);
        read.map_err(|source| DirError {
            action: "read",
            path: self.path_of(name),
            source,
        })?;
        Ok(Some(content))
    }

    /// Writes `text` in one call to the file `name`, which must exist: how the kernel's files are set. `false` where
    /// there is no such file.
    ///
    /// # Errors
    /// When it cannot be opened or the kernel refuses the value.
    pub fn set(&self, name: &str, text: &str) -> Result<bool, DirError> {
        let Some(mut file) = self.open_regular(name, OFlags::WRONLY, "set", Mode::empty())? else {
            return Ok(false);
        };
        match file.write_all(text.as_bytes()) {
            Ok(()) => Ok(true),
            Err(source) => Err(DirError {
                action: "set",
                path: self.path_of(name),
                source,
            }),
        }
    }

    /// Makes the symbolic link `name` to `target`, in place of one that is there.
    ///
    /// # Errors
    /// When it cannot be made, or when something that is no link has the name.
    pub fn ensure_link(&self, name: &str, target: &Path) -> Result<(), DirError> {
        self.component(name)?;
        let fail = |errno| failed("link", &self.path_of(name), errno);
        match fs::symlinkat(target, &self.fd, name) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        match self.link_target(name)? {
            Some(present) if present == target => Ok(()),
            Some(_) => {
                fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(fail)?;
                fs::symlinkat(target, &self.fd, name).map_err(fail)
            }
            None => Err(fail(Errno::EXIST)),
        }
    }

    /// Where the symbolic link `name` points to, as written; `None` where there is no such link.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn link_target(&self, name: &str) -> Result<Option<PathBuf>, DirError> {
        self.component(name)?;
        match fs::readlinkat(&self.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsStr::from_bytes(target.to_bytes())))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(failed("read", &self.path_of(name), errno)),
        }
    }

    /// Gives `from` the name `to`, in place of what has it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), DirError> {
        self.component(from)?;
        self.component(to)?;
        fs::renameat(&self.fd, from, &self.fd, to)
            .map_err(|errno| failed("rename", &self.path_of(from), errno))
    }

    /// Size in bytes of the regular file `name`; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be looked up.
    pub fn file_size(&self, name: &str) -> Result<Option<u64>, DirError> {
        self.component(name)?;
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(u64::try_from(stat.st_size).ok())
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("look up", &self.path_of(name), errno)),
        }
    }

    /// The regular file several directories down, as a handle that names it and reads nothing (`O_PATH`): `names` are
    /// the directories' and its own. `None` where there is none.
    ///
    /// # Errors
    /// As [`Dir::child`] for each of the directories, and when the file cannot be looked up.
    pub fn file_below(&self, names: &[&str]) -> Result<Option<File>, DirError> {
        for name in names {
            self.component(name)?;
        }
        let path = names.join("/");
        let fail = |errno| failed("look up", &self.path_of(&path), errno);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = BENEATH | ResolveFlags::NO_XDEV;
        let file = match fs::openat2(&self.fd, &*path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        let stat = fs::fstat(&file).map_err(fail)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_file.then(|| File::from(file)))
    }

    /// Bytes that are free to write on its file system, by a process without privileges.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn free_bytes(&self) -> Result<u64, DirError> {
        let stat = fs::fstatvfs(&self.fd).map_err(|e| failed("ask the disk of", &self.path, e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Removes the file or link `name`; one that is not there is removed already.
    ///
    /// # Errors
    /// When it cannot be removed or is a directory.
    pub fn remove_file(&self, name: &str) -> Result<(), DirError> {
        self.component(name)?;
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.path_of(name), errno)),
        }
    }

    /// Removes the directory `name` if it is empty; one that is not there is removed already.
    ///
    /// # Errors
    /// When it is not empty, a mount point, or no directory.
    pub fn remove_empty(&self, name: &str) -> Result<(), DirError> {
        self.component(name)?;
        match fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("remove", &self.path_of(name), errno)),
        }
    }

    fn component(&self, name: &str) -> Result<(), DirError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(DirError {
                action: "use the name",
                path: self.path.join(name.replace(['/', '\0'], "\u{fffd}")),
                source: io::Error::new(io::ErrorKind::InvalidInput, "it is not a single name"),
            });
        }
        Ok(())
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel has refused.
pub(crate) fn failed(action: &'static str, path: &Path, errno: Errno) -> DirError {
    DirError {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests;
