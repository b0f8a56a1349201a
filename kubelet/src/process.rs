//! The agent's own process: limits, memory, and the locks that keep a second agent away.
//!
//! Owns: [`RootLock`] and [`LockFile`]; their files are locked as long as the values live. Inputs: the `process` part
//! of the configuration. Spawns nothing. Deliberately not here: signals, and the cgroup the agent runs in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::inotify::{Inotify, WatchFlags};

/// The lock below the root directory.
const ROOT_LOCK: &str = "agent.lock";
/// How often a held `--lock-file` is tried again.
const RETRY_LOCK: Duration = Duration::from_millis(250);

/// What could not be set up, and goes on without.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The limit of open files.
    #[error("cannot raise the limit of open files to {wanted}; it is {kept}")]
    OpenFiles {
        /// `maxOpenFiles`.
        wanted: u64,
        /// What it is now.
        kept: u64,
        /// Why.
        source: io::Error,
    },
    /// `oom_score_adj`.
    #[error("cannot set oom_score_adj to {0}")]
    OomScore(i32, #[source] io::Error),
    /// Transparent huge pages.
    #[error("cannot turn transparent huge pages off")]
    HugePages(#[source] io::Error),
}

/// Turns transparent huge pages off for this process, so that a touched thread stack is not 2 MiB resident at once.
/// To be called first in `main`; child processes inherit it.
///
/// # Errors
/// When the kernel has no such call (before Linux 3.15).
pub fn disable_huge_pages() -> Result<(), ProcessError> {
    prctl::set_thp_disable(true).map_err(|e| ProcessError::HugePages(e.into()))
}

/// Sets `RLIMIT_NOFILE` to `wanted`, or as near as the process may.
///
/// # Errors
/// When the limit is below `wanted` afterwards.
pub fn raise_open_files(wanted: u64) -> Result<(), ProcessError> {
    let outcome = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted);
    let Err(refused) = outcome else { return Ok(()) };
    let failed = |kept, source| ProcessError::OpenFiles {
        wanted,
        kept,
        source,
    };
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| failed(0, io::Error::from(e)))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted), hard)
            .map_err(|e| failed(soft, io::Error::from(e)))?;
    }
    let kept = hard.min(wanted).max(soft);
    if kept >= wanted {
        Ok(())
    } else {
        Err(failed(kept, refused.into()))
    }
}

/// Writes this process's `oom_score_adj`, -1000 to 1000.
///
/// # Errors
/// Without `CAP_SYS_RESOURCE` a lower value than before is refused.
pub fn set_oom_score_adj(value: i32) -> Result<(), ProcessError> {
    std::fs::write("/proc/self/oom_score_adj", value.to_string())
        .map_err(|e| ProcessError::OomScore(value, e))
}

/// Why a lock is not held.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error("another agent{} already runs on {}; stop it first", pid_words(.pid.as_ref()), .root.display())]
    Held {
        /// The root directory.
        root: PathBuf,
        /// The holder, when it says.
        pid: Option<u32>,
    },
    /// The file cannot be made, opened, locked or watched.
    #[error("cannot lock {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn pid_words(pid: Option<&u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn open(path: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| LockError::File {
            path: path.to_owned(),
            source,
        })
}

/// Whether the lock was free.
fn try_lock(file: &File, path: &Path) -> Result<bool, LockError> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => {
                return Err(LockError::File {
                    path: path.to_owned(),
                    source: e.into(),
                });
            }
        }
    }
}

/// The lock on the root directory: one agent for each. Held until dropped or the process ends.
#[derive(Debug)]
pub struct RootLock {
    _file: File,
}

impl RootLock {
    /// Whether `root` can be locked; makes no file where nobody ever did.
    ///
    /// # Errors
    /// As [`RootLock::acquire`].
    pub fn check(root: &Path) -> Result<(), LockError> {
        match root.join(ROOT_LOCK).exists() {
            true => Self::acquire(root).map(drop),
            false => Ok(()),
        }
    }

    /// Locks `root`, which must exist, and leaves this process's id for the next who asks.
    ///
    /// # Errors
    /// When another agent holds it, or the file cannot be used.
    pub fn acquire(root: &Path) -> Result<Self, LockError> {
        let path = root.join(ROOT_LOCK);
        let mut file = open(&path)?;
        let failed = |source| LockError::File {
            path: path.clone(),
            source,
        };
        if !try_lock(&file, &path)? {
            let mut text = String::new();
            // At most a line: whatever else is in there is not ours.
            Read::by_ref(&mut file)
                .take(32)
                .read_to_string(&mut text)
                .map_err(failed)?;
            return Err(LockError::Held {
                root: root.to_owned(),
                pid: text.trim().parse().ok(),
            });
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// `--lock-file`, held until dropped or the process ends.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    /// Locks `path`, and waits for who holds it, as upstream does.
    ///
    /// # Errors
    /// When the file cannot be made, opened or locked.
    pub async fn acquire(path: &Path) -> Result<Self, LockError> {
        let file = open(path)?;
        let mut said = false;
        while !try_lock(&file, path)? {
            if !said {
                tracing::info!(path = %path.display(), "Waiting for the lock file");
                said = true;
            }
            tokio::time::sleep(RETRY_LOCK).await;
        }
        Ok(Self {
            path: path.to_owned(),
            _file: file,
        })
    }

    /// Watches for another process that opens the file or removes it (`--exit-on-lock-contention`). The watch begins
    /// now; the future ends at the first such event.
    ///
    /// # Errors
    /// When the file cannot be watched.
    pub fn contention(&self) -> Result<Contention, LockError> {
        let failed = |source| LockError::File {
            path: self.path.clone(),
            source,
        };
        let watch = Inotify::new().map_err(failed)?;
        let events = WatchFlags::OPEN | WatchFlags::DELETE_SELF;
        watch.watch(&self.path, events).map_err(failed)?;
        Ok(Contention { watch })
    }
}

/// A watch on the lock file.
#[derive(Debug)]
pub struct Contention {
    watch: Inotify,
}

impl Contention {
    /// Ends when another process has opened or removed the lock file.
    ///
    /// # Errors
    /// When the watch breaks.
    pub async fn happened(&self) -> io::Result<()> {
        self.watch.happened().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_with_the_pid_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let first = RootLock::acquire(root.path()).unwrap();
        let refused = RootLock::acquire(root.path()).unwrap_err().to_string();
        assert_eq!(
            refused,
            format!(
                "another agent (process {}) already runs on {}; stop it first",
                std::process::id(),
                root.path().display()
            )
        );
        drop(first);
        RootLock::acquire(root.path()).unwrap();
    }

    #[test]
    fn a_root_that_is_not_there_is_named() {
        let error = RootLock::acquire(Path::new("/nonexistent/root")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot lock /nonexistent/root/agent.lock"
        );
    }

    #[tokio::test]
    async fn the_lock_file_is_waited_for_and_contention_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = LockFile::acquire(&path).await.unwrap();
        let contention = first.contention().unwrap();
        let wait = Duration::from_millis(50);
        assert!(
            tokio::time::timeout(wait, contention.happened())
                .await
                .is_err(),
            "nobody came yet"
        );

        let second = tokio::spawn({
            let path = path.clone();
            async move { LockFile::acquire(&path).await }
        });
        let seen = tokio::time::timeout(Duration::from_secs(10), contention.happened()).await;
        seen.expect("the second agent opens the file").unwrap();
        assert!(!second.is_finished());
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(10), second).await;
        second.expect("the lock is free").unwrap().unwrap();
    }

    #[test]
    fn huge_pages_can_be_turned_off() {
        disable_huge_pages().unwrap();
        assert_eq!(prctl::get_thp_disable(), Ok(true));
        prctl::set_thp_disable(false).unwrap();
    }

    #[test]
    fn the_oom_score_can_be_raised() {
        let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let before: i32 = before.trim().parse().unwrap();
        let higher = (before + 1).min(1000);
        set_oom_score_adj(higher).unwrap();
        let after = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(after.trim(), higher.to_string());
        assert!(
            set_oom_score_adj(2000)
                .unwrap_err()
                .to_string()
                .contains("2000")
        );
    }

    #[test]
    fn open_files_stay_as_near_as_allowed() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_open_files(hard).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert!(soft <= hard);
        // More than fs.nr_open allows to anybody.
        let error = raise_open_files(u64::MAX / 2).unwrap_err().to_string();
        assert!(error.ends_with(&format!("; it is {hard}")), "{error}");
    }
}
