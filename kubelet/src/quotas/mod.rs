//! Project quotas: volumes that the kernel counts (feature gate `LocalStorageCapacityIsolationFSQuotaMonitoring`).
//!
//! Owns: which directory below the pods' is of which project, and the lines that say so in `/etc/projects` and
//! `/etc/projid`, in upstream's form.
//! Inputs: emptyDir volumes on disk of pods with users of their own, whose processes cannot give files another project;
//! the kernel's counts. Outputs: what such a volume takes, files that are deleted and open among it, without a walk.
//! Tasks: none; functions block on the disk.
//! Does not: hold a volume to its size (that is eviction's, by what is counted here), nor count where the file system does
//! not: ext4 and XFS with project quotas only. Who asks walks through the files then.

mod files;
mod kernel;
mod projects;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs;

use crate::dir::Dir;
use crate::errors::error_chain;
use files::{FilesError, Locked};
use projects::FIRST;

/// Where the two files lie.
pub const ETC: &str = "/etc";

/// `statfs` magics of the file systems that count projects: `XFS_SUPER_MAGIC`, `EXT4_SUPER_MAGIC` (linux/magic.h).
const COUNTING: [u64; 2] = [0x5846_5342, 0xef53];

/// What a volume takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, directories, links.
    pub inodes: u64,
}

/// Why a volume has no project. It is walked through instead.
#[derive(Debug, thiserror::Error)]
enum ProjectError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("its path is no line of text")]
    Path,
    #[error("cannot find available quota ID")]
    NoneFree,
    #[error("the kernel does not count it")]
    Kernel(#[from] io::Error),
}

/// The volumes that the kernel counts. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Quotas {
    etc: PathBuf,
    /// The project of each volume, by its directory.
    known: Arc<Mutex<BTreeMap<PathBuf, u32>>>,
}

impl Quotas {
    /// With what the files in `etc` say of volumes below `pods` that are still there; lines of those that are not are
    /// removed.
    #[must_use]
    pub fn open(etc: &Path, pods: &Path) -> Self {
        let quotas = Self {
            etc: etc.to_owned(),
            known: Arc::default(),
        };
        if !etc.join(files::PROJECTS).exists() {
            return quotas;
        }
        let left = quotas.change(|projects| {
            projects.remove(|path| path.starts_with(pods) && !path.exists());
            Ok(projects.below(pods))
        });
        match left {
            Ok(left) => quotas.lock().extend(left),
            Err(error) => tracing::warn!(
                error = error_chain(&error),
                "project quotas: what earlier volumes have is not known; they are walked through"
            ),
        }
        quotas
    }

    /// Has the kernel count the volume `dir`, which is empty or has its project already, where its file system can.
    pub fn assign(&self, dir: &Dir) {
        let assigned = match counts(dir) {
            true => self.give_project(dir),
            false => return,
        };
        match assigned {
            Ok(id) => {
                tracing::debug!(path = %dir.path().display(), id, "the volume has a project");
                self.lock().insert(dir.path().to_owned(), id);
            }
            Err(error) => tracing::warn!(
                path = %dir.path().display(),
                error = error_chain(&error),
                "the volume has no project quota; it is walked through"
            ),
        }
    }

    /// What the volume `dir` takes; none where the kernel does not count it.
    #[must_use]
    pub fn usage(&self, dir: &Dir) -> Option<Usage> {
        let id = self.lock().get(dir.path()).copied()?;
        // Another one counts other files.
        let (has, inherits) = kernel::project(dir).ok()?;
        let is_whole = has == id && inherits;
        kernel::usage(dir, id).ok().filter(|_| is_whole)
    }

    /// Gives back the projects of the volumes in the directory `pod`, before they are removed. What is left of them on the disk keeps
    /// its project from being given again.
    pub fn release(&self, pod: &Path) {
        let had = {
            let mut known = self.lock();
            let before = known.len();
            known.retain(|path, _| !path.starts_with(pod));
            known.len() != before
        };
        if !had {
            return;
        }
        self.remove_lines(pod);
    }

    /// Removes the lines of what lies in `directory`, and its own.
    fn remove_lines(&self, directory: &Path) {
        let done = self.change(|projects| {
            projects.remove(|path| path.starts_with(directory));
            Ok(())
        });
        if let Err(error) = done {
            tracing::warn!(
                path = %directory.display(),
                error = error_chain(&error),
                "project quotas: the lines of what goes stay until the next start"
            );
        }
    }

    fn give_project(&self, dir: &Dir) -> Result<u32, ProjectError> {
        let path = dir.path().to_str();
        let path = path.filter(|path| !path.contains('\n'));
        let path = path.ok_or(ProjectError::Path)?;
        let (has, _) = kernel::project(dir)?;
        let id = self.change(|projects| {
            let id = projects.add(path, |id| -> Result<bool, ProjectError> {
                Ok(kernel::usage(dir, id)? != Usage::default())
            })?;
            id.ok_or(ProjectError::NoneFree)
        })?;
        if has != id {
            kernel::set_project(dir, id).inspect_err(|_| self.remove_lines(dir.path()))?;
        }
        Ok(id)
    }

    /// Changes the files by `change`, which sees what they say.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut projects::Projects) -> Result<T, ProjectError>,
    ) -> Result<T, ProjectError> {
        // In this process nobody else has the lock.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let locked = Locked::open(&self.etc)?;
        let now = locked.read()?;
        let mut wanted = now.clone();
        let done = change(&mut wanted)?;
        locked.write(&now, &wanted)?;
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the file system of `dir` counts projects.
fn counts(dir: &Dir) -> bool {
    let magic = fs::fstatfs(dir).map(|stat| u64::try_from(stat.f_type));
    let kind = magic.is_ok_and(|magic| magic.is_ok_and(|magic| COUNTING.contains(&magic)));
    kind && kernel::usage(dir, FIRST).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with these lines in its files.
    fn node(directories: &str, names: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let pods = root.path().join("pods");
        std::fs::create_dir_all(&pods).unwrap();
        let directories = directories.replace("PODS", pods.to_str().unwrap());
        std::fs::write(root.path().join("projects"), directories).unwrap();
        std::fs::write(root.path().join("projid"), names).unwrap();
        (root, pods)
    }

    fn files(root: &Path) -> (String, String) {
        let read = |name| std::fs::read_to_string(root.join(name)).unwrap();
        (read("projects"), read("projid"))
    }

    #[test]
    fn an_agent_begins_with_the_volumes_that_are_there() {
        let lines = "7:/srv\n1048577:PODS/a/volumes/v\n1048578:PODS/b/volumes/v\n";
        let (root, pods) = node(
            lines,
            "srv:7\nvolume1048577:1048577\nvolume1048578:1048578\n",
        );
        let volume = pods.join("a/volumes/v");
        std::fs::create_dir_all(&volume).unwrap();
        let quotas = Quotas::open(root.path(), &pods);
        let known: Vec<_> = quotas.lock().clone().into_iter().collect();
        assert_eq!(known, [(volume.clone(), 1_048_577)]);
        let (directories, names) = files(root.path());
        assert!(directories.starts_with("7:/srv\n1048577:") && directories.lines().count() == 2);
        assert_eq!(names, "srv:7\nvolume1048577:1048577\n");
        // The kernel says of it that it is of no project: nobody believes the file.
        assert_eq!(quotas.usage(&Dir::open(&volume).unwrap()), None);

        quotas.release(&pods.join("a"));
        assert_eq!(
            files(root.path()),
            ("7:/srv\n".to_owned(), "srv:7\n".to_owned())
        );
        assert!(quotas.lock().is_empty());
    }

    /// Of memory, for one.
    #[test]
    fn a_file_system_that_does_not_count_gives_no_project() {
        let (root, pods) = node("", "");
        let quotas = Quotas::open(root.path(), &pods);
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(memory.path()).unwrap();
        quotas.assign(&dir);
        assert_eq!(quotas.usage(&dir), None);
        assert_eq!(files(root.path()), (String::new(), String::new()));
        let nowhere = root.path().join("pods");
        drop(Quotas::open(&nowhere, &pods));
        assert!(!nowhere.join("projects").exists(), "none is made");
    }

    #[test]
    fn files_that_are_locked_are_left_alone() {
        let (root, pods) = node("1048577:PODS/a/v\n", "volume1048577:1048577\n");
        let held = Locked::open(root.path()).unwrap();
        let quotas = Quotas::open(root.path(), &pods);
        assert!(quotas.lock().is_empty());
        drop(held);
        assert!(files(root.path()).0.starts_with("1048577:"));
    }
}
