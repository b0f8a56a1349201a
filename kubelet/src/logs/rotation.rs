//! Rotation of one container's log: `N.log` becomes `N.log.<local time>`, older ones are compressed, the oldest go.
//!
//! Nothing here needs room on the disk but compression, which is left out where there is none: what is over goes first,
//! then the log is renamed, and the runtime makes the new one.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::LogsError;
use crate::dir::Dir;

/// What the name of a rotated log ends with once it is compressed.
pub(super) const COMPRESSED: &str = ".gz";
/// What it ends with while it is being compressed.
pub(super) const UNFINISHED: &str = ".tmp";
/// What a second rotation within a second, or one after the clock was set back, may add to a name: `_001` to this.
const MOST_IN_A_SECOND: u32 = 999;
/// How long `<local time>` in a name is: `YYYYMMDD-HHMMSS`.
const TIME: usize = 15;

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

impl RotationLimits {
    /// What the rotated files of a log may take together, bytes. The log that is written to comes on top, so that all
    /// of them take (files + 1) × size and what is written before the agent has rotated it.
    fn rotated_bytes(&self) -> u64 {
        self.max_size.saturating_mul(u64::from(self.max_files))
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
    let size = match dir.file_size(log)? {
        None => return Ok(Rotation::Missing),
        Some(size) if size < limits.max_size => return Ok(Rotation::NotNeeded),
        Some(size) => size,
    };
    let names = rotated_logs(dir, log)?;
    let rotated = name_after(log, names.last().map(String::as_str), now);
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
    // Each is larger than the limit by what was written until it was rotated: together they stay within theirs.
    let mut left = limits.rotated_bytes().saturating_sub(size);
    let mut kept = 0;
    for name in used.iter().rev() {
        let size = dir.file_size(name)?.unwrap_or(0);
        if size > left {
            break;
        }
        left -= size;
        kept += 1;
    }
    let (over, kept) = used.split_at(used.len() - kept);
    for name in over {
        dir.remove_file(name)?;
    }
    // On a disk that is full the new log has the room of older ones: the oldest first, and only what it takes.
    for name in kept {
        if dir.free_bytes()? >= limits.max_size {
            break;
        }
        dir.remove_file(name)?;
    }
    dir.rename(log, &rotated)?;
    Ok(Rotation::Rotated { name: rotated })
}

/// Removes the oldest of the rotated files of `log`; says whether there was one.
pub(super) fn remove_oldest(dir: &Dir, log: &str) -> Result<bool, LogsError> {
    let names = rotated_logs(dir, log)?;
    if let Some(oldest) = names.first() {
        dir.remove_file(oldest)?;
    }
    Ok(!names.is_empty())
}

/// Compresses the rotated files of `log` but the newest, which readers may still be at. What there is no room for stays
/// as it is.
pub(super) fn compress_older(dir: &Dir, log: &str) -> Result<(), LogsError> {
    let names = rotated_logs(dir, log)?;
    let Some((_, older)) = names.split_last() else {
        return Ok(());
    };
    let is_plain = |name: &&String| !name.ends_with(COMPRESSED) && !name.ends_with(UNFINISHED);
    for name in older.iter().filter(is_plain) {
        let Some(size) = dir.file_size(name)? else {
            continue;
        };
        if dir.free_bytes()? < size {
            return Ok(());
        }
        compress(dir, name)?;
    }
    Ok(())
}

/// The rotated files of `log`, the oldest first: their names sort by time.
fn rotated_logs(dir: &Dir, log: &str) -> Result<Vec<String>, LogsError> {
    let prefix = format!("{log}.");
    let mut names = dir.names()?;
    names.retain(|name| name.starts_with(&prefix));
    names.sort_by(|one, other| (stem(one), one).cmp(&(stem(other), other)));
    Ok(names)
}

/// The name of a rotated log less what tells its form.
fn stem(name: &str) -> &str {
    let plain = name.strip_suffix(COMPRESSED).unwrap_or(name);
    plain.strip_suffix(UNFINISHED).unwrap_or(plain)
}

/// The name of `log` when it is rotated now: it sorts after `newest`, whatever the clock says. Upstream's, with a
/// number where that alone would not do.
fn name_after(log: &str, newest: Option<&str>, now: jiff::civil::DateTime) -> String {
    let plain = format!("{log}.{}", now.strftime("%Y%m%d-%H%M%S"));
    let Some(newest) = newest.map(stem).filter(|newest| **newest >= *plain) else {
        return plain;
    };
    let end = log.len() + 1 + TIME;
    let (time, number) = (newest.get(..end), newest.get(end..));
    let number = match number.and_then(|number| number.strip_prefix('_')) {
        Some(number) => number.parse::<u32>().ok(),
        None => Some(0),
    };
    match (time, number) {
        (Some(time), Some(number)) if number < MOST_IN_A_SECOND => {
            format!("{time}_{:03}", number + 1)
        }
        // A name that is not the agent's.
        _ => format!("{newest}_001"),
    }
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
        // Others have filled the disk meanwhile.
        if source.kind() == io::ErrorKind::StorageFull {
            return Ok(());
        }
        return Err(LogsError::File {
            action: "compress",
            path: dir.path_of(name),
            source,
        });
    }
    // The log may have been rotated meanwhile, and this file been too much.
    if dir.file_size(name)?.is_none() {
        return Ok(dir.remove_file(&unfinished)?);
    }
    dir.rename(&unfinished, &format!("{name}{COMPRESSED}"))?;
    Ok(dir.remove_file(name)?)
}
