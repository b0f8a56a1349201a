//! Termination messages: `pods/<uid>/containers/<name>/<8 hex>`, one file for each instance of a container.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{CONTAINERS, PRIVATE, PodDir, PodDirError};
use crate::dir::{Dir, DirError};

/// How much of a termination message is read, bytes from its end (the Kubernetes document "Determine the reason for
/// pod failure").
pub const MAX_TERMINATION_MESSAGE: u64 = 4096;

impl PodDir {
    /// The file for the termination message of the instance `attempt` of `container`: 0666, since whoever runs in
    /// the container writes it, and made empty where it is missing. Idempotent: content that is there stays.
    ///
    /// The files of instances before the previous one are removed, so that a crash loop leaves two.
    ///
    /// # Errors
    /// When it cannot be made, or `container` is no plain name.
    pub fn ensure_termination_log(
        &self,
        container: &str,
        attempt: u32,
    ) -> Result<PathBuf, PodDirError> {
        let containers = self.dir.ensure_child(CONTAINERS, PRIVATE)?;
        let dir = containers.ensure_child(container, PRIVATE)?;
        let name = file_name(attempt);
        dir.ensure_file(&name, 0o666)?;
        for present in dir.names()? {
            if attempt_of(&present).is_some_and(|old| old.saturating_add(1) < attempt) {
                dir.remove_file(&present)?;
            }
        }
        Ok(dir.path_of(&name))
    }

    /// The last 4096 bytes of the termination message of `container` in `host_path`, the file that the runtime says
    /// is mounted for it; empty where there is no such file. Only the file's name counts: whatever directory
    /// `host_path` names, the pod's own is read. Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn termination_message(
        &self,
        container: &str,
        host_path: &Path,
    ) -> Result<String, PodDirError> {
        let Some(name) = host_path.file_name().and_then(OsStr::to_str) else {
            return Ok(String::new());
        };
        let Some(dir) = self.container_dir(container)? else {
            return Ok(String::new());
        };
        let Some(mut file) = dir.open_file(name)? else {
            return Ok(String::new());
        };
        let message =
            last_bytes(&mut file, MAX_TERMINATION_MESSAGE).map_err(|source| DirError {
                action: "read",
                path: dir.path_of(name),
                source,
            })?;
        Ok(String::from_utf8_lossy(&message).into_owned())
    }

    fn container_dir(&self, container: &str) -> Result<Option<Dir>, DirError> {
        match self.dir.child(CONTAINERS)? {
            Some(containers) => containers.child(container),
            None => Ok(None),
        }
    }
}

/// Whether the end of a container's log stands in for its termination message (`FallbackToLogsOnError`): only after
/// a failure, and never for a container that could not even run.
#[must_use]
pub fn falls_back_to_logs(
    policy: Option<&str>,
    exit_code: i32,
    reason: &str,
    message_is_empty: bool,
) -> bool {
    policy == Some("FallbackToLogsOnError")
        && exit_code != 0
        && reason != "ContainerCannotRun"
        && message_is_empty
}

/// The last `most` bytes of `file`, or fewer where it shrinks meanwhile.
fn last_bytes(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let start = file.metadata()?.len().saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn file_name(attempt: u32) -> String {
    format!("{attempt:08x}")
}

fn attempt_of(name: &str) -> Option<u32> {
    let is_ours = name.len() == 8 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(name, 16).ok().filter(|_| is_ours)
}
