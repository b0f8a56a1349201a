//! Where a certificate and its key are kept: one file for each pair, and a link that names the one in use.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::whole_file;

/// A file that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", .path.display())]
pub struct StoreError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StoreError {
    pub(super) fn new(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// Pairs of one purpose in a directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    prefix: &'static str,
}

impl Store {
    /// Those of the node as a client, in `--cert-dir`.
    #[must_use]
    pub fn of_clients(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            prefix: "kubelet-client",
        }
    }

    /// Those of the node's API, in `--cert-dir`.
    #[must_use]
    pub fn of_servers(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            prefix: "kubelet-server",
        }
    }

    /// The link to the pair in use.
    #[must_use]
    pub fn current(&self) -> PathBuf {
        self.named("current")
    }

    /// The pair in use, as it is.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(&self) -> Result<Vec<u8>, StoreError> {
        let path = self.current();
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut text));
        read.map_err(StoreError::new("read", &path))?;
        Ok(text)
    }

    /// A certificate and its key that somebody put there by hand, in two files (upstream's third place to look).
    pub(super) fn by_hand(&self) -> (PathBuf, PathBuf) {
        let named = |end: &str| self.directory.join(format!("{}.{end}", self.prefix));
        (named("crt"), named("key"))
    }

    /// Keeps a new pair, and has the link name it. The one before stays where it is, as upstream leaves it.
    ///
    /// # Errors
    /// When a file cannot be written; the link is as it was then.
    pub fn update(&self, certificate: &[u8], key: &[u8], now: Timestamp) -> Result<(), StoreError> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).map_err(StoreError::new("make", directory))?;
        let name = now.strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let path = self.named(&name);
        let mut text = certificate.to_vec();
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(key);
        write_private(&path, &text)?;
        let (updated, current) = (self.named("updated"), self.current());
        // Left by an agent that ended between the two.
        match std::fs::remove_file(&updated) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::new("remove", &updated)(error));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(&path, &updated).map_err(StoreError::new("make", &updated))?;
        std::fs::rename(&updated, &current).map_err(StoreError::new("replace", &current))?;
        Ok(())
    }

    fn named(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{}-{what}.pem", self.prefix))
    }
}

/// Writes a file that only root reads: whole or not at all, and never readable by anybody else meanwhile.
pub(super) fn write_private(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    whole_file::replace(path, text, 0o600).map_err(StoreError::new("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pair_is_one_private_file_and_a_link_names_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::of_clients(&directory.path().join("pki"));
        assert!(
            store
                .read()
                .unwrap_err()
                .to_string()
                .starts_with("cannot read ")
        );
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        store
            .update(b"CERT", b"KEY\n", at("2026-01-02T03:04:05Z"))
            .unwrap();
        assert_eq!(store.read().unwrap(), b"CERT\nKEY\n");
        store
            .update(b"CERT2\n", b"KEY2\n", at("2026-01-03T03:04:05Z"))
            .unwrap();
        assert_eq!(store.read().unwrap(), b"CERT2\nKEY2\n");
        let target = std::fs::read_link(store.current()).unwrap();
        assert_eq!(
            target,
            directory
                .path()
                .join("pki/kubelet-client-2026-01-03-03-04-05.pem")
        );
        let mut names: Vec<_> = std::fs::read_dir(directory.path().join("pki"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "kubelet-client-2026-01-02-03-04-05.pem",
            "kubelet-client-2026-01-03-03-04-05.pem",
            "kubelet-client-current.pem",
        ];
        assert_eq!(names, expected);
        let mode = std::fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
