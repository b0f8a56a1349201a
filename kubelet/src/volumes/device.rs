//! File systems on block devices of the node: each mounted once, for all pods that have it.
//!
//! As upstream, a device without anything on it is given a file system first. What has anything on it, be it only a
//! partition table, never is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::programs::{FORMATTING, Program, ProgramError};
use super::{SetUpError, VolumeError, teardown};
use crate::dir::Dir;
use crate::mounts;

/// Where they are mounted, in the root directory.
const MOUNTS: &str = "plugins/kubernetes.io/local-volume/mounts";
const PRIVATE: u32 = 0o750;
/// blkid(8) found nothing on the device.
const BLKID_NOTHING: i32 = 2;
/// fsck(8) has put something right; and could not.
const FSCK_CORRECTED: i32 = 1;
const FSCK_UNCORRECTED: i32 = 4;

/// The file systems that are mounted, below one directory.
#[derive(Debug)]
pub(super) struct Devices {
    mounts: PathBuf,
    /// The lock of each volume, held while it is mounted or given back: pods of one come and go at the same time.
    turns: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Devices {
    /// Those of an agent with this root directory.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            mounts: root.join(MOUNTS),
            turns: Mutex::default(),
        }
    }

    /// Does `work` while nobody else is at the volume `name`.
    fn alone<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let turns = || self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns().entry(name.to_owned()).or_default().clone();
        let done = {
            // It guards no data.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        // Two of them: this one's and the table's.
        turns().retain(|of, known| of != name || Arc::strong_count(known) > 2);
        done
    }

    /// Mounts for a volume the file system on a device: `of` are the volume's name, the device and the type, `options`
    /// whether it is read-only and what else. Says where. One that is mounted already stays as it is.
    pub(super) fn mount(
        &self,
        of: (&str, &Path, &str),
        options: (bool, Vec<String>),
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<PathBuf, SetUpError> {
        self.alone(of.0, || self.mount_alone(of, options, is_awaited))
    }

    fn mount_alone(
        &self,
        (name, device, fs_type): (&str, &Path, &str),
        (read_only, mut options): (bool, Vec<String>),
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<PathBuf, SetUpError> {
        let all = Dir::open_or_create(&self.mounts, PRIVATE)?;
        let path = all.path_of(name);
        match all.child(name) {
            Err(error) if error.is_mount() => return Ok(path),
            other => drop(other?),
        }
        all.ensure_child(name, PRIVATE)?;
        if read_only {
            options.push("ro".to_owned());
        }
        let failed = |source| SetUpError::Device {
            device: device.to_owned(),
            at: path.clone(),
            fs_type: fs_type.to_owned(),
            source,
        };
        let (device, target) = (text(device)?, text(&path)?);
        let ready = make_ready(device, fs_type, &options, is_awaited);
        options.push("defaults".to_owned());
        let mounted = ready.and_then(|()| {
            let mount = Program::mount(fs_type, &options.join(","), device, target);
            Ok(mount.succeed(is_awaited)?)
        });
        if let Err(error) = mounted {
            // It may have been mounted and then killed.
            let _ = teardown::unmount_below(&all, Some(name));
            let _ = all.remove_empty(name);
            return Err(match error {
                SetUpError::Program(source) => failed(source),
                other => other,
            });
        }
        Ok(path)
    }

    /// Unmounts that of the volume `name` where no pod has it any more. There may be none.
    pub(super) fn give_back(&self, name: &str) -> Result<(), VolumeError> {
        self.alone(name, || self.give_back_alone(name))
    }

    fn give_back_alone(&self, name: &str) -> Result<(), VolumeError> {
        if !self.mounts.exists() {
            return Ok(());
        }
        let all = Dir::open(&self.mounts)?;
        match all.child(name) {
            Err(error) if error.is_mount() => {}
            Ok(Some(_)) => return Ok(all.remove_empty(name)?),
            other => return Ok(other.map(drop)?),
        }
        let path = all.path_of(name);
        let others = mounts::of_same(&path).map_err(|source| VolumeError::Mounts {
            path: path.clone(),
            source,
        })?;
        if !others.is_empty() {
            return Ok(());
        }
        teardown::unmount_below(&all, Some(name))?;
        Ok(all.remove_empty(name)?)
    }
}

/// Paths are given to programs as text.
fn text(path: &Path) -> Result<&str, SetUpError> {
    let text = path.to_str();
    text.ok_or_else(|| SetUpError::Path(path.display().to_string()))
}

/// Gives `device` a file system where there is nothing on it; looks after one that may be written to.
fn make_ready(
    device: &str,
    fs_type: &str,
    options: &[String],
    is_awaited: &dyn Fn() -> bool,
) -> Result<(), SetUpError> {
    let read_only = options.iter().any(|option| option == "ro");
    match (is_blank(device, is_awaited)?, read_only) {
        (true, true) => Err(SetUpError::Unformatted(device.to_owned())),
        (true, false) => {
            let program = format!("mkfs.{fs_type}");
            let arguments: &[&str] = match fs_type {
                // Without blocks kept for root.
                "ext3" | "ext4" => &["-F", "-m0", device],
                "xfs" => &["-f", device],
                _ => &[device],
            };
            let make = Program::new(&program, arguments.iter().copied(), FORMATTING);
            tracing::info!(
                device,
                fs_type,
                "nothing is on the device: it is given a file system"
            );
            Ok(make.succeed(is_awaited).map(drop)?)
        }
        (false, true) => Ok(()),
        (false, false) => check(device, is_awaited),
    }
}

/// Whether there is nothing at all on `device` that blkid(8) knows.
fn is_blank(device: &str, is_awaited: &dyn Fn() -> bool) -> Result<bool, SetUpError> {
    let arguments = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device];
    let asked = Program::new("blkid", arguments, FORMATTING);
    let ended = asked.run(is_awaited)?;
    match ended.code {
        Some(0) => Ok(false),
        Some(BLKID_NOTHING) => Ok(true),
        _ => Err(SetUpError::Format {
            device: device.to_owned(),
            says: ended.output,
        }),
    }
}

/// Has fsck(8) repair what it can without asking.
fn check(device: &str, is_awaited: &dyn Fn() -> bool) -> Result<(), SetUpError> {
    match Program::new("fsck", ["-a", device], FORMATTING).run(is_awaited) {
        Ok(ended) => match ended.code {
            Some(FSCK_CORRECTED) => {
                tracing::info!(device, "fsck has corrected errors of the file system");
                Ok(())
            }
            Some(FSCK_UNCORRECTED) => Err(SetUpError::Errors {
                device: device.to_owned(),
                says: ended.output,
            }),
            _ => Ok(()),
        },
        // Without the program it is mounted as it is.
        Err(error @ ProgramError::Run { .. }) => {
            tracing::warn!(device, %error, "the file system is not checked");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
