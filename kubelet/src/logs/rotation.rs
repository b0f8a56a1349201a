//! Rotation of one container's log: `N.log` becomes `N.log.<local time>`, older ones are compressed, the oldest go.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::LogsError;
use crate::dir::Dir;

/// What the name of a rotated log ends with once it is compressed.
pub(super) const COMPRESSED: &str = ".gz";
/// What it ends with while it is being compressed.
pub(super) const UNFINISHED: &str = ".tmp";

/// How much a container's logs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationLimits {
    /// `containerLogMaxSize`, bytes: a log of this size is rotated.
    pub max_size: u64,
    /// `containerLogMaxFiles`, the one that is written to included; 2 or more.
    pub max_files: u32,
}

impl Default for RotationLimits {
    /// The defaults of `KubeletConfiguration`: 10 MiB, 5 files.
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 5,
        }
    }
}

/// What a rotation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The log is small enough.
    NotNeeded,
    /// The log is gone though its container runs: the runtime is to reopen it (`ReopenContainerLog`).
    Missing,
    /// The log was renamed: the runtime is to reopen it. When it cannot, the log gets its name back.
    Rotated {
        /// The log's name now, in the same directory.
        name: String,
    },
}

/// Rotates `log` in `dir`. After a crash at any point the next call goes on.
pub(super) fn rotate(
    dir: &Dir,
    log: &str,
    limits: &RotationLimits,
    now: jiff::civil::DateTime,
) -> Result<Rotation, LogsError> {
    match dir.file_size(log)? {
        None => return Ok(Rotation::Missing),
        Some(size) if size < limits.max_size => return Ok(Rotation::NotNeeded),
        Some(_) => {}
    }
    let rotated = format!("{log}.{}", now.strftime("%Y%m%d-%H%M%S"));
    if dir.file_size(&rotated)?.is_some() {
        // Within the second of the last rotation: the next round will do.
        return Ok(Rotation::NotNeeded);
    }

    let names = rotated_logs(dir, log)?;
    let is_unused = |name: &String| {
        name.ends_with(UNFINISHED) || names.contains(&format!("{name}{COMPRESSED}"))
    };
    let (unused, mut used): (Vec<_>, Vec<_>) = names.iter().cloned().partition(is_unused);
    // Room for the log itself and the one that is about to be rotated.
    let keep = usize::try_from(limits.max_files.saturating_sub(2)).unwrap_or(usize::MAX);
    let excess = used.drain(..used.len().saturating_sub(keep));
    for name in unused.into_iter().chain(excess) {
        dir.remove_file(&name)?;
    }
    for name in used.iter().filter(|name| !name.ends_with(COMPRESSED)) {
        compress(dir, name)?;
    }
    dir.rename(log, &rotated)?;
    Ok(Rotation::Rotated { name: rotated })
}

/// The rotated files of `log`, the oldest first: their names sort by time.
fn rotated_logs(dir: &Dir, log: &str) -> Result<Vec<String>, LogsError> {
    let prefix = format!("{log}.");
    let mut names = dir.names()?;
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    Ok(names)
}

/// Replaces `name` by `name.gz`, through `name.tmp`.
fn compress(dir: &Dir, name: &str) -> Result<(), LogsError> {
    let Some(mut log) = dir.open_file(name)? else {
        return Ok(());
    };
    let unfinished = format!("{name}{UNFINISHED}");
    dir.remove_file(&unfinished)?;
    let file = dir.ensure_file(&unfinished, 0o640)?;
    let mut write = || -> io::Result<()> {
        // Whoever may read the log may read it compressed.
        file.set_permissions(log.metadata()?.permissions())?;
        let mut encoder = GzEncoder::new(io::BufWriter::new(&file), Compression::default());
        io::copy(&mut log, &mut encoder)?;
        encoder.finish()?.flush()
    };
    if let Err(source) = write() {
        // On a disk that is full it is in the way. What cannot be removed the next rotation removes.
        let _ = dir.remove_file(&unfinished);
        return Err(LogsError::File {
            action: "compress",
            path: dir.path_of(name),
            source,
        });
    }
    dir.rename(&unfinished, &format!("{name}{COMPRESSED}"))?;
    Ok(dir.remove_file(name)?)
}
