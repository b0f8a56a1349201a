//! logind's drop-in file that has it wait for long enough.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::whole_file;

/// As upstream names it, so that either kubelet finds the other's.
const NAME: &str = "99-kubelet.conf";

/// The file was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(super) struct DropInError {
    path: PathBuf,
    source: io::Error,
}

/// Has logind wait for `delay` once it has read its configuration again. Gives the file's path.
pub(super) fn write(directory: &Path, delay: Duration) -> Result<PathBuf, DropInError> {
    let path = directory.join(NAME);
    let text = format!(
        "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n",
        delay.as_secs()
    );
    let failed = |source| DropInError {
        path: path.clone(),
        source,
    };
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(path);
    }
    fs::create_dir_all(directory).map_err(failed)?;
    // logind reads every file whose name ends in .conf; that of the unfinished one does not.
    whole_file::replace(&path, text.as_bytes(), 0o644).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_is_upstreams_file_and_is_written_once() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("systemd/logind.conf.d");
        let path = write(&directory, Duration::from_secs(90)).unwrap();
        assert_eq!(path, directory.join("99-kubelet.conf"));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=90\n"
        );
        let inode = || fs::metadata(&path).unwrap().ino();
        let first = inode();
        write(&directory, Duration::from_secs(90)).unwrap();
        assert_eq!(inode(), first);
        write(&directory, Duration::from_secs(30)).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("MaxSec=30\n"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_with_its_path() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write(&file, Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().ends_with("file/99-kubelet.conf"));
    }
}
