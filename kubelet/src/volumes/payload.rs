//! The files that the agent writes into a volume.

use std::collections::BTreeMap;
use std::fmt;

use super::SetUpError;
use crate::objects::Bytes;

/// Bytes of a path, and of one name in it (`PATH_MAX` and `NAME_MAX`, linux/limits.h).
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
/// Bytes of all files of one volume. Objects of the API have at most one and a half MiB each (etcd's limit of a request).
const MAX_BYTES: usize = 64 << 20;

/// A file of a volume. Its Debug does not show its content.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct File {
    pub(super) data: Bytes,
    /// Permission bits.
    pub(super) mode: u32,
    /// Whose it is; none: root's.
    pub(super) owner: Option<u32>,
}

impl File {
    pub(super) fn new(data: Bytes, mode: i32) -> Self {
        Self {
            data,
            mode: mode.unsigned_abs() & 0o777,
            owner: None,
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} bytes, {:o})", self.data.len(), self.mode)
    }
}

/// The files of a volume by their paths in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Payload(BTreeMap<String, File>);

impl Payload {
    /// Puts `file` at `path`, in place of one that is there.
    pub(super) fn put(&mut self, path: &str, file: File) -> Result<(), SetUpError> {
        self.0.insert(clean(path)?, file);
        Ok(())
    }

    /// Takes over all files of `other`.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Path and file, sorted by path. A path is one or more names with single slashes between them.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.0.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// The names that the volume shows at its top.
    pub(super) fn tops(&self) -> impl Iterator<Item = &str> {
        let tops = self.0.keys().map(|path| path.split('/').next());
        tops.flatten()
    }

    /// Whether all of it is of a size that is written.
    pub(super) fn check_size(&self) -> Result<(), SetUpError> {
        let bytes: usize = self.0.values().map(|file| file.data.len()).sum();
        match bytes > MAX_BYTES {
            true => Err(SetUpError::TooLarge(bytes)),
            false => Ok(()),
        }
    }
}

/// `path` without what means nothing in it. Upstream's texts.
fn clean(path: &str) -> Result<String, SetUpError> {
    let wrong = |why: String| Err(SetUpError::Path(why));
    if path.is_empty() {
        return wrong(format!("must not be empty: {path:?}"));
    }
    if path.starts_with('/') {
        return wrong(format!("must be relative path: {path}"));
    }
    if path.len() > MAX_PATH {
        return wrong(format!(
            "must be less than or equal to {MAX_PATH} characters"
        ));
    }
    let names: Vec<&str> = path.split('/').collect();
    for name in &names {
        if *name == ".." {
            return wrong(format!("must not contain '..': {path}"));
        }
        if name.len() > MAX_NAME {
            return wrong(format!(
                "filenames must be less than or equal to {MAX_NAME} characters"
            ));
        }
    }
    if names.first().is_some_and(|name| name.starts_with("..")) {
        return wrong(format!("must not start with '..': {path}"));
    }
    let names: Vec<&str> = names
        .into_iter()
        .filter(|n| !matches!(*n, "" | "."))
        .collect();
    match names.is_empty() || path.contains('\0') {
        true => wrong(format!("is no file: {path:?}")),
        false => Ok(names.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_volume() {
        for (path, expected) in [("a", "a"), ("a//b/./c", "a/b/c"), ("a/..b", "a/..b")] {
            assert_eq!(clean(path).unwrap(), expected);
        }
        let long = "a".repeat(256);
        for (path, error) in [
            ("", "invalid path: must not be empty: \"\""),
            ("/a", "invalid path: must be relative path: /a"),
            ("a/../b", "invalid path: must not contain '..': a/../b"),
            ("..data", "invalid path: must not start with '..': ..data"),
            ("./.", "invalid path: is no file: \"./.\""),
            (
                &long,
                "invalid path: filenames must be less than or equal to 255 characters",
            ),
        ] {
            assert_eq!(clean(path).unwrap_err().to_string(), error);
        }
    }
}
