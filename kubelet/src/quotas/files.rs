//! The two files, locked and replaced as upstream does it: whoever else changes them by the same rules loses nothing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation};

use super::projects::Projects;
use crate::dir::{Dir, DirError};

/// Directories and their projects.
pub(super) const PROJECTS: &str = "projects";
/// Projects and their names.
const PROJID: &str = "projid";
/// Mode of a file that was not there.
const MODE: u32 = 0o644;
/// No such file is larger, bytes: what is, is left alone.
const MOST: u64 = 4 << 20;

/// Why the files could not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error(transparent)]
    Dir(#[from] DirError),
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("{} is no text of less than {MOST} bytes", .0.display())]
    Text(PathBuf),
}

/// The files, locked until it is dropped.
pub(super) struct Locked {
    etc: Dir,
    projects: File,
    projid: File,
}

impl Locked {
    /// Opens and locks the files in `etc`, made where they are missing. Never waits for a lock.
    pub(super) fn open(etc: &Path) -> Result<Self, FilesError> {
        let etc = Dir::open(etc)?;
        let lock = |name: &str| {
            let file = match etc.open_file(name)? {
                Some(file) => file,
                None => etc.ensure_file(name, MODE)?,
            };
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(file),
                Err(errno) => Err(FilesError::Lock {
                    path: etc.path_of(name),
                    source: errno.into(),
                }),
            }
        };
        let (projects, projid) = (lock(PROJECTS)?, lock(PROJID)?);
        Ok(Self {
            projects,
            projid,
            etc,
        })
    }

    /// What they say.
    pub(super) fn read(&self) -> Result<Projects, FilesError> {
        let read = |name: &str| {
            let bytes = self.etc.read_file(name, MOST + 1)?.unwrap_or_default();
            let whole = u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST);
            let text = String::from_utf8(bytes).ok().filter(|_| whole);
            text.ok_or_else(|| FilesError::Text(self.etc.path_of(name)))
        };
        Ok(Projects::parse(&read(PROJECTS)?, &read(PROJID)?))
    }

    /// Replaces those that differ from what they say `now`, each with the mode that it has.
    pub(super) fn write(&self, now: &Projects, wanted: &Projects) -> Result<(), FilesError> {
        let ((directories, names), (old_directories, old_names)) = (wanted.text(), now.text());
        let write = |name: &str, file: &File, text: &str| {
            let mode = fs::fstat(file).map_or(MODE, |stat| stat.st_mode & 0o777);
            self.etc.replace(name, text.as_bytes(), mode)
        };
        // A name without a directory does no harm.
        if names != old_names {
            write(PROJID, &self.projid, &names)?;
        }
        if directories != old_directories {
            write(PROJECTS, &self.projects, &directories)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_made_replaced_and_keep_their_modes() {
        let etc = tempfile::tempdir().unwrap();
        let path = |name: &str| etc.path().join(name);
        let mode = |name: &str| path(name).metadata().unwrap().permissions().mode() & 0o777;
        std::fs::write(path(PROJID), "home:5\n").unwrap();
        std::fs::set_permissions(path(PROJID), Permissions::from_mode(0o640)).unwrap();
        let locked = Locked::open(etc.path()).unwrap();
        let now = locked.read().unwrap();
        let mut wanted = now.clone();
        wanted.add("/v", |_| Ok::<_, ()>(false)).unwrap();
        locked.write(&now, &wanted).unwrap();
        assert_eq!(locked.read().unwrap(), wanted);
        assert_eq!((mode(PROJECTS), mode(PROJID)), (MODE, 0o640));
        let text = std::fs::read_to_string(path(PROJID)).unwrap();
        assert_eq!(text, "home:5\nvolume1048577:1048577\n");
    }

    #[test]
    fn a_lock_and_a_link_are_respected() {
        let etc = tempfile::tempdir().unwrap();
        let held = Locked::open(etc.path()).unwrap();
        let refused = Locked::open(etc.path());
        assert!(matches!(refused.err(), Some(FilesError::Lock { .. })));
        drop(held);
        assert!(Locked::open(etc.path()).is_ok());
        std::fs::remove_file(etc.path().join(PROJID)).unwrap();
        std::os::unix::fs::symlink("/dev/null", etc.path().join(PROJID)).unwrap();
        assert!(Locked::open(etc.path()).is_err(), "upstream refuses it too");
    }

    #[test]
    fn what_is_no_text_is_left_alone() {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join(PROJECTS), [0xff, 0xfe]).unwrap();
        let locked = Locked::open(etc.path()).unwrap();
        assert!(matches!(locked.read(), Err(FilesError::Text(_))));
    }
}
