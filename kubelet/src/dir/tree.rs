//! Whole trees below a directory: removed, or visited.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{BENEATH, Dir, DirError, OPEN_DIR, failed};

/// Levels that removal and walks descend with a handle each, so that a deep tree exhausts neither handles nor stack.
pub(super) const MAX_DEPTH: u32 = 64;
/// Names read at once from a directory that may have very many.
pub(super) const BATCH: usize = 1024;
/// How often an emptied directory is tried again when others keep adding to it.
const REMOVE_PASSES: u32 = 16;

/// What [`Dir::walk`] calls.
pub type Visit<'a> = dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno> + 'a;

impl Dir {
    /// Removes `name` and all below it. Stops at the first thing that cannot be removed, a mount point above all;
    /// what is mounted is never touched. May be called again.
    ///
    /// # Errors
    /// When something below cannot be removed; the error names it.
    pub fn remove_tree(&self, name: &str) -> Result<(), DirError> {
        self.component(name)?;
        let not_dir = Some(Errno::NOTDIR.raw_os_error());
        let top = match self.child(name) {
            Ok(Some(top)) => top,
            Ok(None) => return Ok(()),
            Err(error) if error.source.raw_os_error() == not_dir => return self.remove_file(name),
            // A symbolic link itself is a file like others.
            Err(error) if self.link_target(name)?.is_none() => return Err(error),
            Err(_) => return self.remove_file(name),
        };
        let mut moved = 0;
        for _ in 1..REMOVE_PASSES {
            empty(&top, &top, 0, &mut moved)?;
            match self.remove_empty(name) {
                Err(error)
                    if error.source.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) => {}
                done => return done,
            }
        }
        self.remove_empty(name)
    }

    /// Calls `visit` with a handle (`O_PATH`) of everything below, links themselves included, and at last with that
    /// of the directory itself.
    ///
    /// # Errors
    /// The first error of `visit`, and when a directory cannot be read or is nested too deep.
    pub fn walk(&self, visit: &mut Visit<'_>) -> Result<(), DirError> {
        self.walk_from(visit, 0)?;
        visit(self.fd.as_fd()).map_err(|errno| failed("change", &self.path, errno))
    }

    fn walk_from(&self, visit: &mut Visit<'_>, depth: u32) -> Result<(), DirError> {
        if depth > MAX_DEPTH {
            return Err(failed("descend into", &self.path, Errno::NAMETOOLONG));
        }
        for (name, kind) in self.batch(usize::MAX)? {
            if let Some(child) = self.subdirectory(&name, kind)? {
                child.walk_from(visit, depth + 1)?;
                visit(child.as_fd()).map_err(|errno| failed("change", child.path(), errno))?;
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = BENEATH | ResolveFlags::NO_XDEV;
            let entry = fs::openat2(&self.fd, name.as_c_str(), flags, Mode::empty(), resolve);
            match entry.and_then(|entry| visit(entry.as_fd())) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let path = self.path_of(&name.to_string_lossy());
                    return Err(failed("change", &path, errno));
                }
            }
        }
        Ok(())
    }

    /// The handle of an entry if it is a directory.
    fn subdirectory(&self, name: &CString, kind: FileType) -> Result<Option<Self>, DirError> {
        if !matches!(kind, FileType::Directory | FileType::Unknown) {
            return Ok(None);
        }
        let path = self.path_of(&name.to_string_lossy());
        let resolve = BENEATH | ResolveFlags::NO_XDEV;
        match fs::openat2(&self.fd, name.as_c_str(), OPEN_DIR, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(Self { fd, path })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed("descend into", &path, errno)),
        }
    }
}

/// Removes everything in `dir`, which lies `depth` levels below `top`.
///
/// Directories that lie too deep are moved up into `top`, whose next pass gets them.
fn empty(top: &Dir, dir: &Dir, depth: u32, moved: &mut u64) -> Result<(), DirError> {
    loop {
        let batch = dir.batch(BATCH)?;
        if batch.is_empty() {
            return Ok(());
        }
        for (name, kind) in batch {
            let fail = |errno| failed("remove", &dir.path_of(&name.to_string_lossy()), errno);
            let flags = match dir.subdirectory(&name, kind)? {
                Some(child) if depth < MAX_DEPTH => {
                    empty(top, &child, depth + 1, moved)?;
                    AtFlags::REMOVEDIR
                }
                Some(_) => {
                    *moved += 1;
                    let up = format!(".kubelet-removing-{moved}");
                    match fs::renameat(dir, name.as_c_str(), top, up.as_str()) {
                        // The name is taken; the next pass over this directory tries the next one.
                        Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => continue,
                        Err(errno) => return Err(fail(errno)),
                    }
                }
                None => AtFlags::empty(),
            };
            match fs::unlinkat(dir, name.as_c_str(), flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                // Something was added meanwhile: the next pass gets it.
                Err(Errno::NOTEMPTY) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
    }
}
