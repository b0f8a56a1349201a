//! Whether a file is the one that was read: certificates, keys and the like are read again when they have changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells one state of a file from another; none for a file that is not there.
pub(crate) type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// The state that the file at `path` has now, links followed: mounted secrets change by a link.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((
        file.dev(),
        file.ino(),
        file.mtime(),
        file.mtime_nsec(),
        file.size(),
    ))
}
