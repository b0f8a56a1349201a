//! Files that change all at once: a reader sees all of one generation, or all of the next.
//!
//! ```text
//! <volume>/..2026_11_21_19_40_00.0123456789/   the files of one generation
//! <volume>/..data    -> ..2026_11_21_19_40_00.0123456789
//! <volume>/<name>    -> ..data/<name>          for each name at the top
//! ```
//! The link `..data` is replaced in one step. This layout is what programs know to watch (the Kubernetes document
//! "ConfigMaps", "Mounted ConfigMaps are updated automatically").

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{self, Uid};

use super::SetUpError;
use super::payload::{File, Payload};
use crate::dir::{Dir, DirError};

/// The link to the generation that counts.
const DATA: &str = "..data";
/// The same while it is made.
const NEW_DATA: &str = "..data_tmp";
/// What generations begin with, as those two do: no file of a volume may.
const OURS: &str = "..";
const DIR_MODE: u32 = 0o755;

/// Makes the files in `volume` those of `payload`, and no others; `own` gives a new generation to whom it belongs before
/// anybody sees it. Says whether anything was written: what is there already is left as it is.
pub(super) fn write(
    volume: &Dir,
    payload: &Payload,
    now: Timestamp,
    own: impl FnOnce(&Dir) -> Result<(), SetUpError>,
) -> Result<bool, SetUpError> {
    payload.check_size()?;
    let current = current(volume)?;
    let written = match &current {
        Some((_, data)) if holds(data, payload)? => false,
        _ => {
            let current = current.as_ref().map(|(name, _)| name.as_str());
            remove_generations(volume, current)?;
            let name = generation(now, current);
            fill(&volume.ensure_child(&name, DIR_MODE)?, payload)?;
            own(volume)?;
            volume.remove_file(NEW_DATA)?;
            volume.ensure_link(NEW_DATA, Path::new(&name))?;
            volume.rename(NEW_DATA, DATA)?;
            true
        }
    };
    // Also where nothing was written: an earlier life of the agent may have ended just here.
    let tops: BTreeSet<&str> = payload.tops().collect();
    show(volume, &tops)?;
    hide(volume, &tops)?;
    if written && let Some((old, _)) = &current {
        volume.remove_tree(old)?;
    }
    Ok(written)
}

/// The file at `path` of the generation that counts, up to `most` bytes; none where there is no such file.
pub(super) fn read(volume: &Dir, path: &str, most: u64) -> Result<Option<Vec<u8>>, DirError> {
    let Some((_, data)) = current(volume)? else {
        return Ok(None);
    };
    let read = in_its_dir(&data, path, false, |dir, name| dir.read_file(name, most))?;
    Ok(read.flatten())
}

/// The generation that counts, by name; none where there is none that can be used.
fn current(volume: &Dir) -> Result<Option<(String, Dir)>, DirError> {
    let Some(target) = volume.link_target(DATA)? else {
        return Ok(None);
    };
    let name = target.to_str().filter(|name| is_generation(name));
    let Some(name) = name else {
        return Ok(None);
    };
    let dir = volume.child(name)?;
    Ok(dir.map(|dir| (name.to_owned(), dir)))
}

fn is_generation(name: &str) -> bool {
    name.starts_with(OURS) && name.len() > OURS.len() && !name.contains('/')
}

/// A name that no generation has: `..<date and time>.<digits>`.
fn generation(now: Timestamp, current: Option<&str>) -> String {
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S");
    let digits = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    let name = format!("{OURS}{stamp}.{digits:010}");
    match current == Some(&name) {
        false => name,
        true => format!("{OURS}{stamp}.{:010}", digits + 1_000_000_000),
    }
}

/// Whether the files in `data` are those of `payload`, and no others.
fn holds(data: &Dir, payload: &Payload) -> Result<bool, DirError> {
    if count(data)? != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload.files() {
        let most = u64::try_from(file.data.len()).unwrap_or(u64::MAX);
        let present = in_its_dir(data, path, false, |dir, name| {
            dir.read_file(name, most.saturating_add(1))
        });
        // What cannot be read is not as it should be either.
        let present = present.ok().flatten().flatten();
        if present.as_deref() != Some(&*file.data) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many files there are in `dir` and below it.
fn count(dir: &Dir) -> Result<usize, DirError> {
    let directories = dir.subdirectories()?;
    let mut files = dir.names()?.len().saturating_sub(directories.len());
    for name in directories {
        if let Some(below) = dir.child(&name)? {
            files += count(&below)?;
        }
    }
    Ok(files)
}

/// Calls `act` with the directory that `path` lies in and its last name; directories are made where `make` says so, and
/// without one it is not called.
fn in_its_dir<T>(
    top: &Dir,
    path: &str,
    make: bool,
    act: impl FnOnce(&Dir, &str) -> Result<T, DirError>,
) -> Result<Option<T>, DirError> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut dir: Option<Dir> = None;
    for step in above.split('/').filter(|step| !step.is_empty()) {
        let parent = dir.as_ref().unwrap_or(top);
        let next = match make {
            true => Some(parent.ensure_child(step, DIR_MODE)?),
            false => parent.child(step)?,
        };
        match next {
            Some(next) => dir = Some(next),
            None => return Ok(None),
        }
    }
    act(dir.as_ref().unwrap_or(top), name).map(Some)
}

fn fill(generation: &Dir, payload: &Payload) -> Result<(), DirError> {
    for (path, file) in payload.files() {
        in_its_dir(generation, path, true, |dir, name| put(dir, name, file))?;
    }
    Ok(())
}

fn put(dir: &Dir, name: &str, file: &File) -> Result<(), DirError> {
    let fail = |source| DirError {
        action: "write",
        path: dir.path_of(name),
        source,
    };
    let mut made = dir.ensure_file(name, file.mode)?;
    made.write_all(&file.data).map_err(fail)?;
    match file.owner {
        Some(owner) => {
            fs::fchown(&made, Some(Uid::from_raw(owner)), None).map_err(|errno| fail(errno.into()))
        }
        None => Ok(()),
    }
}

/// Removes what earlier lives of the agent have not finished.
fn remove_generations(volume: &Dir, current: Option<&str>) -> Result<(), DirError> {
    for name in volume.subdirectories()? {
        if is_generation(&name) && Some(name.as_str()) != current {
            volume.remove_tree(&name)?;
        }
    }
    Ok(())
}

/// Makes the links by which files are seen.
fn show(volume: &Dir, tops: &BTreeSet<&str>) -> Result<(), DirError> {
    for top in tops {
        let target = Path::new(DATA).join(top);
        match volume.ensure_link(top, &target) {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                // A directory may be the mount point of a volume within this one. What else it is, somebody put there.
                let is_directory = volume
                    .child_or_mount(top)
                    .is_ok_and(|found| found.is_some());
                if !is_directory {
                    volume.remove_file(top)?;
                    volume.ensure_link(top, &target)?;
                }
            }
            done => done?,
        }
    }
    Ok(())
}

/// Removes the links by which files were seen that are no more.
fn hide(volume: &Dir, tops: &BTreeSet<&str>) -> Result<(), DirError> {
    for name in volume.names()? {
        if name.starts_with(OURS) || tops.contains(name.as_str()) {
            continue;
        }
        let target = volume.link_target(&name)?;
        if target.is_some_and(|target| target.starts_with(DATA)) {
            volume.remove_file(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
