//! Container logs on the node: `<podLogsDir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`, which the runtime
//! writes, and the links to them in `/var/log/containers`.
//!
//! Owns: those directories and links, the rotation of the files, reading them, the removal of both.
//! Inputs: pods by name and UID, log paths as the runtime has them. Outputs: directories for the runtime, the number
//! of the next instance of a container whose history is lost, the end of a log, or what somebody wants of it (`read`).
//! Tasks: `rotation` (one, for the life of the agent): looks at the logs of running containers that are written to,
//! rotates them and has the runtime begin new ones. All other functions block on the disk.
//! Deliberately not here: writing logs (the runtime does).

mod look;
mod read;
mod rotation;
mod schedule;
mod tail;
mod task;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::dir::{Dir, DirError};
use crate::pod::{PodName, PodUid};

pub use read::{LogOptions, LogReading, ReadLogError, Streams};
pub use rotation::{Rotation, RotationLimits};
pub use task::{RotationConfig, run_rotation};

/// What the names of links to logs end with.
const SUFFIX: &str = ".log";
/// Longest name of a file (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Anybody on the node may list logs, as with upstream.
const OPEN: u32 = 0o755;

/// Why logs could not be made, read, rotated or removed. Each is worth another try.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// A file or directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A log could not be read or compressed.
    #[error("cannot {action} the log {}", path.display())]
    File {
        /// `read`, `look at` or `compress`.
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Where logs are.
#[derive(Clone, Debug)]
pub struct LogsConfig {
    /// `podLogsDir`: `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// Where the links are: `/var/log/containers`.
    pub links_dir: PathBuf,
}

impl Default for LogsConfig {
    /// The places every log collector knows.
    fn default() -> Self {
        Self {
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            links_dir: PathBuf::from("/var/log/containers"),
        }
    }
}

/// What one round of [`PodLogs::collect`] did.
#[derive(Debug, Default)]
pub struct Collected {
    /// Directories and links removed.
    pub removed: usize,
    /// What could not be removed; the rest was.
    pub errors: Vec<LogsError>,
}

/// The logs of all pods.
#[derive(Clone, Debug)]
pub struct PodLogs {
    config: LogsConfig,
}

impl PodLogs {
    /// Makes both directories where they are missing.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn new(config: LogsConfig) -> Result<Self, LogsError> {
        Dir::open_or_create(&config.pod_logs_dir, 0o750)?;
        Dir::open_or_create(&config.links_dir, OPEN)?;
        Ok(Self { config })
    }

    /// Makes the log directory of a pod, 0755: what the sandbox is created with. Idempotent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn ensure_pod(&self, name: &PodName, uid: &PodUid) -> Result<PathBuf, LogsError> {
        Ok(self.ensure_pod_dir(name, uid)?.path().to_owned())
    }

    /// Makes the log directory of a container, 0755, before the runtime makes the container. Idempotent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn ensure_container(
        &self,
        name: &PodName,
        uid: &PodUid,
        container: &str,
    ) -> Result<PathBuf, LogsError> {
        let dir = self
            .ensure_pod_dir(name, uid)?
            .ensure_child(container, OPEN)?;
        Ok(dir.path().to_owned())
    }

    /// What `attempt` the next instance of a container gets when the runtime remembers none: one more than that of
    /// the newest log, or 0. So the restart count survives the removal of containers.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn next_attempt(
        &self,
        name: &PodName,
        uid: &PodUid,
        container: &str,
    ) -> Result<u32, LogsError> {
        let Some(dir) = self.container_dir(name, uid, container)? else {
            return Ok(0);
        };
        let names = dir.names()?;
        let newest = names.iter().filter_map(|name| attempt_of(name)).max();
        Ok(newest.map_or(0, |newest| newest.saturating_add(1)))
    }

    /// Removes the logs, rotated ones too, of all instances of a container but those in `keep`: a crash loop leaves
    /// no more logs than it leaves containers.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune_instances(
        &self,
        name: &PodName,
        uid: &PodUid,
        container: &str,
        keep: &[u32],
    ) -> Result<(), LogsError> {
        let Some(dir) = self.container_dir(name, uid, container)? else {
            return Ok(());
        };
        for file in dir.names()? {
            if attempt_of(&file).is_some_and(|attempt| !keep.contains(&attempt)) {
                dir.remove_file(&file)?;
            }
        }
        Ok(())
    }

    /// Removes what is left of the instance `container_id` that the runtime has forgotten: its link, and all logs of
    /// the container but those of the instances in `keep`.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_instance(
        &self,
        name: &PodName,
        uid: &PodUid,
        container: &str,
        container_id: &str,
        keep: &[u32],
    ) -> Result<(), LogsError> {
        let links = Dir::open(&self.config.links_dir)?;
        links.remove_file(&link_name(name, container, container_id))?;
        self.prune_instances(name, uid, container, keep)
    }

    /// Links `<pod>_<namespace>_<container>-<id>.log` in the directory of links to the log of a container.
    /// Idempotent.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn link(
        &self,
        name: &PodName,
        container: &str,
        container_id: &str,
        log_path: &Path,
    ) -> Result<(), LogsError> {
        let links = Dir::open(&self.config.links_dir)?;
        Ok(links.ensure_link(&link_name(name, container, container_id), log_path)?)
    }

    /// The end of a log in place of a termination message: the last 80 lines, at most 2048 bytes, without what the
    /// runtime writes before each. Empty where there is no such log below the directory of logs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last_lines(&self, log_path: &Path) -> Result<String, LogsError> {
        let Some((dir, name)) = self.file_of(log_path)? else {
            return Ok(String::new());
        };
        let Some(mut file) = dir.open_file(&name)? else {
            return Ok(String::new());
        };
        tail::last_lines(&mut file).map_err(|source| LogsError::File {
            action: "read",
            path: log_path.to_owned(),
            source,
        })
    }

    /// Rotates the log of a running container if it has grown beyond the limits, and says what to do next. `now` is
    /// the node's local time and names the rotated file. Needs no room on the disk.
    ///
    /// # Errors
    /// When a file cannot be renamed or removed.
    pub fn rotate(
        &self,
        log_path: &Path,
        limits: &RotationLimits,
        now: jiff::civil::DateTime,
    ) -> Result<Rotation, LogsError> {
        match self.file_of(log_path)? {
            Some((dir, name)) => rotation::rotate(&dir, &name, limits, now),
            None => Ok(Rotation::NotNeeded),
        }
    }

    /// Removes the oldest rotated file of a log, so that it goes on on a disk that is full; says whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn make_room(&self, log_path: &Path) -> Result<bool, LogsError> {
        match self.file_of(log_path)? {
            Some((dir, name)) => rotation::remove_oldest(&dir, &name),
            None => Ok(false),
        }
    }

    /// Compresses what was rotated of a log but the newest file; what there is no room for stays as it is. Blocks for as
    /// long as that takes, and may go on while the log is rotated again.
    ///
    /// # Errors
    /// When a file cannot be read, compressed or renamed.
    pub fn compress_older(&self, log_path: &Path) -> Result<(), LogsError> {
        match self.file_of(log_path)? {
            Some((dir, name)) => rotation::compress_older(&dir, &name),
            None => Ok(()),
        }
    }

    /// Gives a rotated log its name back, after the runtime could not reopen it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn undo_rotation(&self, log_path: &Path, rotated: &str) -> Result<(), LogsError> {
        match self.file_of(log_path)? {
            // A new log there means that the runtime reopened it after all, and writes there.
            Some((dir, name)) if dir.file_size(&name)?.is_none() => Ok(dir.rename(rotated, &name)?),
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the logs of one pod.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_pod(&self, name: &PodName, uid: &PodUid) -> Result<(), LogsError> {
        let root = Dir::open(&self.config.pod_logs_dir)?;
        Ok(root.remove_tree(&pod_dir_name(name, uid))?)
    }

    /// Removes the logs of pods that are not in `live`, and then links to logs that are gone; at most `most` of
    /// each. Only directories that are named as a pod's, and links into the directory of logs, are looked at.
    #[must_use]
    pub fn collect(&self, live: &BTreeSet<PodUid>, most: usize) -> Collected {
        let mut collected = Collected::default();
        for done in [
            self.collect_dirs(live, most, &mut collected),
            self.collect_links(most, &mut collected),
        ] {
            collected.errors.extend(done.err());
        }
        collected
    }

    fn collect_dirs(
        &self,
        live: &BTreeSet<PodUid>,
        most: usize,
        collected: &mut Collected,
    ) -> Result<(), LogsError> {
        let root = Dir::open(&self.config.pod_logs_dir)?;
        let names = root.subdirectories()?;
        let unknown = names
            .iter()
            .filter(|name| uid_of(name).is_some_and(|uid| !live.contains(&uid)));
        for name in unknown.take(most) {
            match root.remove_tree(name) {
                Ok(()) => collected.removed += 1,
                Err(error) => collected.errors.push(error.into()),
            }
        }
        Ok(())
    }

    fn collect_links(&self, most: usize, collected: &mut Collected) -> Result<(), LogsError> {
        let links = Dir::open(&self.config.links_dir)?;
        // The names in each directory that links point into, read once.
        let mut seen = BTreeMap::new();
        let mut removed = 0;
        for name in links.names()? {
            if removed >= most {
                break;
            }
            let Some(target) = links.link_target(&name)? else {
                continue;
            };
            match self.is_dead(&target, &mut seen) {
                Ok(false) => {}
                Ok(true) => match links.remove_file(&name) {
                    Ok(()) => removed += 1,
                    Err(error) => collected.errors.push(error.into()),
                },
                Err(error) => collected.errors.push(error),
            }
        }
        collected.removed += removed;
        Ok(())
    }

    /// Whether a link to `target` leads to a log that is gone. One that is just being rotated is not: the rotated
    /// file lies beside it.
    fn is_dead(
        &self,
        target: &Path,
        seen: &mut BTreeMap<PathBuf, Vec<String>>,
    ) -> Result<bool, LogsError> {
        let Some([_, _, file]) = self.names_of(target) else {
            return Ok(false);
        };
        let parent = target.parent().unwrap_or(target).to_owned();
        let names = match seen.entry(parent) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let names = match self.file_of(target)? {
                    Some((dir, _)) => dir.names()?,
                    None => Vec::new(),
                };
                new.insert(names)
            }
        };
        let is_log = |name: &String| match name.strip_prefix(file) {
            Some(rest) => rest.is_empty() || rest.starts_with('.'),
            None => false,
        };
        Ok(!names.iter().any(is_log))
    }

    /// `<pod>`, `<container>` and `<file>` of a path below the directory of logs.
    fn names_of<'a>(&self, log_path: &'a Path) -> Option<[&'a str; 3]> {
        let below = log_path.strip_prefix(&self.config.pod_logs_dir).ok()?;
        let names: Option<Vec<&str>> = below
            .components()
            .map(|component| match component {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        names?.try_into().ok()
    }

    /// The directory of the log `log_path` and its name in it; `None` where there is no such directory.
    fn file_of(&self, log_path: &Path) -> Result<Option<(Dir, String)>, LogsError> {
        let Some([pod, container, file]) = self.names_of(log_path) else {
            return Ok(None);
        };
        let Some(pod) = Dir::open(&self.config.pod_logs_dir)?.child(pod)? else {
            return Ok(None);
        };
        let dir = pod.child(container)?;
        Ok(dir.map(|dir| (dir, file.to_owned())))
    }

    fn ensure_pod_dir(&self, name: &PodName, uid: &PodUid) -> Result<Dir, LogsError> {
        let root = Dir::open(&self.config.pod_logs_dir)?;
        Ok(root.ensure_child(&pod_dir_name(name, uid), OPEN)?)
    }

    /// The directory of a container's logs; none where it has none.
    pub(crate) fn container_dir(
        &self,
        name: &PodName,
        uid: &PodUid,
        container: &str,
    ) -> Result<Option<Dir>, LogsError> {
        let root = Dir::open(&self.config.pod_logs_dir)?;
        match root.child(&pod_dir_name(name, uid))? {
            Some(pod) => Ok(pod.child(container)?),
            None => Ok(None),
        }
    }
}

/// The name of a pod's log directory.
fn pod_dir_name(name: &PodName, uid: &PodUid) -> String {
    format!("{}_{}_{uid}", name.namespace, name.name)
}

/// The UID in the name of a log directory, `None` where it is no pod's.
fn uid_of(dir_name: &str) -> Option<PodUid> {
    let is_name = |part: &str| {
        let legal =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
        !part.is_empty() && part.bytes().all(legal)
    };
    let mut parts = dir_name.splitn(3, '_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    match is_name(namespace) && is_name(name) {
        true => PodUid::parse(uid).ok(),
        false => None,
    }
}

/// The name of a container's link, cut so that it fits with its suffix.
fn link_name(name: &PodName, container: &str, container_id: &str) -> String {
    let mut link = format!("{name}_{container}-{container_id}");
    let mut end = link.len().min(MAX_NAME - SUFFIX.len());
    while !link.is_char_boundary(end) {
        end -= 1;
    }
    link.truncate(end);
    link + SUFFIX
}

/// The instance that `<n>.log` or `<n>.log.<rotated>` belongs to.
fn attempt_of(file: &str) -> Option<u32> {
    let (number, rest) = file.split_once('.')?;
    let is_log = rest == "log" || rest.starts_with("log.");
    let is_number = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    number.parse().ok().filter(|_| is_log && is_number)
}

#[cfg(test)]
mod tests;
