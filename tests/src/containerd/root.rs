//! A private node's directory, who owns it, and the removal of those whose owner has died.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::cgroups::CgroupTree;
use super::namespaces;

/// Not below /tmp, which is a small tmpfs on many machines; short, because a unix socket's path has 108 bytes.
const PARENT: &str = "/var/tmp";
const PREFIX: &str = "kubelet-test-";
/// Locked by the process that owns the directory; the kernel lets go of it whichever way that process ends.
const OWNER: &str = "owner.lock";
/// Locked while a directory is made or removed, so that nobody sees one without its owner.
const REGISTRY: &str = "/run/lock/kubelet-test.lock";
/// How many nodes live on one machine at a time, whoever starts them: each is a whole containerd, and with more of
/// them than cores the waits of the tests would measure the machine.
const NODES_AT_ONCE: usize = 2;

/// The directory of one node; removed when dropped.
pub(super) struct Root {
    path: PathBuf,
    name: String,
    owner: Option<Flock<File>>,
}

impl Root {
    /// Removes what dead owners left, waits for a turn, and makes a directory.
    pub(super) fn create() -> Result<Self> {
        loop {
            let registry = lock_registry()?;
            if sweep()? < NODES_AT_ONCE {
                let path = tempfile::Builder::new()
                    .prefix(PREFIX)
                    .tempdir_in(PARENT)
                    .with_context(|| format!("create a directory in {PARENT}"))?
                    .keep();
                let owner = File::create(path.join(OWNER)).context("create the owner's lock")?;
                let owner = Flock::lock(owner, FlockArg::LockExclusiveNonblock)
                    .map_err(|(_, error)| error)
                    .context("take the owner's lock")?;
                let name = name_of(&path)?;
                return Ok(Self {
                    path,
                    name,
                    owner: Some(owner),
                });
            }
            drop(registry);
            sleep(Duration::from_millis(200));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let registry = lock_registry();
        if let Err(error) = remove_directory(&self.path) {
            eprintln!("{error:#}");
        }
        self.owner.take();
        drop(registry);
    }
}

fn lock_registry() -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(REGISTRY)
        .with_context(|| format!("open {REGISTRY}"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {REGISTRY}"))
}

/// Removes nodes whose owner has died, and counts the others.
fn sweep() -> Result<usize> {
    let mut alive = 0;
    for entry in fs::read_dir(PARENT).with_context(|| format!("read {PARENT}"))? {
        let path = entry?.path();
        let Ok(name) = name_of(&path) else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        match File::open(path.join(OWNER)).map(|f| Flock::lock(f, FlockArg::LockExclusiveNonblock))
        {
            Ok(Err((_, Errno::EWOULDBLOCK))) => alive += 1,
            Ok(Err((_, error))) => bail!("lock {}/{OWNER}: {error}", path.display()),
            Ok(Ok(_)) | Err(_) => {
                // Its processes, then its namespaces, which take its mounts with them, then its files.
                drop(CgroupTree::left_behind(&name)?);
                namespaces::remove_netns(&name);
                if let Err(error) = remove_directory(&path) {
                    eprintln!("{error:#}");
                }
            }
        }
    }
    Ok(alive)
}

fn name_of(path: &Path) -> Result<String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .with_context(|| format!("{} has no name", path.display()))
}

/// Removes a node's directory, unless something is mounted below it: a recursive removal through a forgotten bind
/// mount would delete what it leads to.
fn remove_directory(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|mount| Path::new(mount).starts_with(path))
        .collect();
    if !below.is_empty() {
        bail!(
            "{} is left in place: mounted below it are {below:?}",
            path.display()
        );
    }
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}
