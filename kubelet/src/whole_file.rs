//! Files that are replaced whole or not at all.
//!
//! **Owns** nothing. **Does not** look at paths that a pod can influence: those are written by directory handles
//! ([`crate::dir`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// How the name of a file that is being written ends, after the name it will have. Upstream's are called so too.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Puts a file of `bytes` in the place of `path`, with its mode from the first byte on. A power cut leaves the file before
/// or this one, and this one from the return on. Blocks on the disk.
///
/// # Errors
/// When it cannot be written; the file before is as it was then, and nothing is left beside it.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished(path);
    // One of an agent that was killed in between.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let replaced =
        write_beside(&unfinished, bytes, mode).and_then(|()| fs::rename(&unfinished, path));
    if let Err(error) = replaced {
        // On a full disk the part that was written is in the way. The error that counts is the first one.
        let _unremoved = fs::remove_file(&unfinished);
        return Err(error);
    }
    match path.parent() {
        Some(directory) if directory != Path::new("") => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// What the file at `path` is called while it is being written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A new file: a link that somebody put there is not followed.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_stays_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        for (bytes, mode) in [(b"one", 0o644), (b"two", 0o600)] {
            replace(&path, bytes, mode).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            let found = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
            assert_eq!(names(home.path()), ["state"]);
        }
    }

    #[test]
    fn what_a_killed_agent_left_is_no_hindrance_and_a_link_there_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (home.path().join("state"), home.path().join("elsewhere"));
        fs::write(home.path().join("state.tmp"), "half").unwrap();
        replace(&path, b"whole", 0o600).unwrap();
        fs::write(&elsewhere, "another's").unwrap();
        std::os::unix::fs::symlink(&elsewhere, home.path().join("state.tmp")).unwrap();
        replace(&path, b"again", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "another's");
        assert_eq!(names(home.path()), ["elsewhere", "state"]);
    }

    #[test]
    fn a_file_that_cannot_be_put_in_place_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        fs::create_dir(&path).unwrap();
        replace(&path, b"bytes", 0o600).unwrap_err();
        assert_eq!(names(home.path()), ["state"]);
        replace(&home.path().join("none/state"), b"bytes", 0o600).unwrap_err();
    }
}
