//! A private node: containerd, CNI and cgroups that share nothing with the machine's own.
//!
//! Owns: a directory `/var/tmp/kubelet-test-XXXXXX`, a network and a mount namespace, one cgroup below the root of
//! every hierarchy (all of that directory's name), a containerd in them, and every process started there. Inputs:
//! Debian's containerd, runc, CNI plugins and the images of [`crate::images`]. Output: [`Node`], whose paths and
//! processes the tests use; dropping it undoes everything, after a panic too, and the next node removes what a
//! killed test run left. Spawns no task.
//!
//! In the node's mount namespace `/run`, `/var/log` and `/var/lib` are directories of the node, and the kernel
//! settings a kubelet writes are plain files: the machine's `/run/containerd`, `/var/lib/kubelet`,
//! `/var/log/containers` and sysctls are out of reach even for what has such paths built in.
//!
//! Deliberately not here: the agent ([`crate::agent`]), and anything that a user's node would need.

mod cgroups;
mod config;
mod namespaces;
mod root;
mod wipe;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::images;
use crate::wait;
use cgroups::CgroupTree;
use namespaces::Namespaces;
use root::Root;

pub use cgroups::{Hierarchy, hierarchies};
pub use namespaces::NODE_IP;

/// How long a fresh containerd may take to serve, on a machine busy with a build.
const CONTAINERD_START: Duration = Duration::from_secs(60);
/// The containerd namespace of CRI.
const CRI_NAMESPACE: &str = "k8s.io";

/// A private node. See the module.
// The order of the fields is the order in which they are dropped: processes, namespaces, directory.
pub struct Node {
    containerd: Mutex<Option<Child>>,
    cgroups: CgroupTree,
    namespaces: Namespaces,
    root: Root,
}

impl Node {
    /// A node with a running containerd that has the test images.
    ///
    /// # Errors
    /// When not root, when a package is missing, or when containerd does not come up; the text has its log's end.
    pub async fn start() -> Result<Self> {
        let node = Self::without_containerd()?;
        node.start_containerd().await?;
        Ok(node)
    }

    /// A node whose containerd does not run yet.
    ///
    /// # Errors
    /// When not root, or when a directory, namespace or cgroup cannot be made.
    pub fn without_containerd() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a private node needs root: it makes namespaces, mounts and cgroups"
        );
        let root = Root::create()?;
        for dir in [
            "manifests",
            "run",
            "varlib",
            "varlog",
            "cni",
            "sysctl",
            "pod-logs",
        ] {
            fs::create_dir(root.path().join(dir)).with_context(|| format!("create {dir}"))?;
        }
        let cgroups = CgroupTree::create(root.name())?;
        let namespaces = Namespaces::create(root.name(), root.path(), &cgroups)?;
        config::write(root.path())?;
        Ok(Self {
            containerd: Mutex::new(None),
            cgroups,
            namespaces,
            root,
        })
    }

    /// Starts containerd, waits until CRI answers, and loads the images.
    ///
    /// # Errors
    /// When it runs already, or does not come up.
    pub async fn start_containerd(&self) -> Result<()> {
        {
            let mut containerd = self.lock();
            ensure!(containerd.is_none(), "containerd runs already");
            let mut command = self.command("containerd");
            command
                .arg("--config")
                .arg(self.path("containerd.toml"))
                .stdin(Stdio::null())
                .stdout(self.log("containerd.log")?)
                .stderr(self.log("containerd.log")?);
            *containerd = Some(command.spawn().context("start containerd")?);
        }
        wait::eventually("containerd serves CRI", CONTAINERD_START, async || {
            if let Some(child) = self.lock().as_mut()
                && let Some(status) = child.try_wait()?
            {
                return Err(wait::Never(format!("containerd ended: {status}")).into());
            }
            let plugins = self.ctr(&["plugins", "ls", "id==cri"])?;
            match plugins.split_whitespace().last() {
                Some("ok") => Ok(()),
                _ => bail!("the CRI plugin: {plugins}"),
            }
        })
        .await
        .with_context(|| self.log_tail("containerd.log"))?;
        self.load_images()
    }

    /// Loads the test images into containerd. Twice costs little.
    ///
    /// # Errors
    /// When they cannot be made, or containerd does not take them.
    pub fn load_images(&self) -> Result<()> {
        let archive = images::archive(&crate::target_dir()?)?;
        let archive = archive.to_str().context("path of the image archive")?;
        self.ctr(&["images", "import", archive]).map(drop)
    }

    /// Kills containerd, and leaves its containers running, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_containerd(&self) -> Result<()> {
        let mut child = self.lock().take().context("containerd does not run")?;
        child.kill().context("kill containerd")?;
        child.wait().context("wait for containerd")?;
        Ok(())
    }

    /// Sends containerd a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_containerd(&self, signal: Signal) -> Result<()> {
        let child = self.lock();
        let child = child.as_ref().context("containerd does not run")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal).context("signal containerd")
    }

    /// Ends containerd as its unit does, and leaves its containers running.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_containerd(&self) -> Result<()> {
        self.signal_containerd(Signal::SIGTERM)?;
        let mut child = self.lock().take().context("containerd does not run")?;
        child.wait().context("wait for containerd").map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.containerd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A command that will run in the node's namespaces and cgroup. The process that is spawned is the program
    /// itself, so that its id and signals mean what they say.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespaces.command(&self.cgroups, program.as_ref())
    }

    /// Runs a program in the node and gives its standard output.
    ///
    /// # Errors
    /// When it fails; the text has its standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !out.status.success() {
            bail!(
                "{program} {}: {}: {}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs `ctr` against the node's containerd in the namespace of CRI and gives its standard output.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let socket = self.socket();
        let socket = socket.to_str().context("path of the socket")?;
        let mut all = vec!["-a", socket, "-n", CRI_NAMESPACE];
        all.extend_from_slice(args);
        self.run("ctr", &all)
    }

    /// The running tasks, sandboxes included: container id and process id seen from the machine.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn running(&self) -> Result<BTreeMap<String, Pid>> {
        let tasks = self.ctr(&["tasks", "ls"])?;
        let mut running = BTreeMap::new();
        for line in tasks.lines() {
            if let [id, pid, "RUNNING"] = line.split_whitespace().collect::<Vec<_>>()[..] {
                running.insert(id.to_owned(), Pid::from_raw(pid.parse()?));
            }
        }
        Ok(running)
    }

    /// The ids of a pod's running containers, its sandbox included.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn running_of(&self, pod_uid: &str) -> Result<Vec<String>> {
        let filter = format!("labels.\"io.kubernetes.pod.uid\"=={pod_uid}");
        let of_pod = self.ctr(&["containers", "ls", "-q", &filter])?;
        let running = self.running()?;
        Ok(of_pod
            .lines()
            .filter(|id| running.contains_key(*id))
            .map(str::to_owned)
            .collect())
    }

    /// The process id of a container's first process, seen from the machine.
    ///
    /// # Errors
    /// When containerd does not answer or has no running task of that container.
    pub fn container_pid(&self, container_id: &str) -> Result<Pid> {
        let id = container_id.trim_start_matches("containerd://");
        let running = self.running()?;
        let pid = running.get(id);
        pid.copied()
            .with_context(|| format!("container {id} does not run"))
    }

    /// Kills a container's first process with SIGKILL.
    ///
    /// # Errors
    /// As [`Node::container_pid`].
    pub fn kill_container(&self, container_id: &str) -> Result<()> {
        let pid = self.container_pid(container_id)?;
        kill(pid, Signal::SIGKILL).with_context(|| format!("kill process {pid} of {container_id}"))
    }

    /// Asks a port of the node with HTTP/1.0, from within its network namespace.
    ///
    /// # Errors
    /// As [`crate::http::get`].
    pub fn http_get(&self, authority: &str, path: &str) -> Result<crate::http::Response> {
        crate::http::get(self.namespaces.netns(), authority, path)
    }

    /// The file that stands for its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Path {
        self.namespaces.netns()
    }

    /// The node's name: of its directory, network namespace and cgroups.
    #[must_use]
    pub fn name(&self) -> &str {
        self.root.name()
    }

    /// A path below the node's directory; the same inside and outside of its mount namespace.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// containerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// The cgroup that is the root of the node's pods, as `cgroupRoot` wants it.
    #[must_use]
    pub fn cgroup_root(&self) -> String {
        format!("/{}", self.name())
    }

    /// The directory of a cgroup of the node: `below` is relative to its root, `controller` as cgroup v1 calls it.
    ///
    /// # Errors
    /// When no hierarchy has the controller.
    pub fn cgroup(&self, controller: &str, below: &str) -> Result<PathBuf> {
        self.cgroups.dir(controller, below)
    }

    /// Opens a log of the node's directory for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn log(&self, name: &str) -> Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(name))
            .with_context(|| format!("open {name}"))
    }

    /// The last lines of a log of the node's directory, under a heading.
    #[must_use]
    pub fn log_tail(&self, name: &str) -> String {
        const LINES: usize = 60;
        let text = fs::read(self.path(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        format!(
            "--- {name}, last {} of {} lines\n{}",
            lines.len() - from,
            lines.len(),
            lines[from..].join("\n")
        )
    }

    /// The directory with the static pods' manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.path("manifests")
    }

    /// Writes a manifest the way a careful user does: beside the directory, then moved in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, file: &str, manifest: &str) -> Result<()> {
        let draft = self.path(&format!(".{file}.draft"));
        fs::write(&draft, manifest).with_context(|| format!("write {}", draft.display()))?;
        fs::rename(&draft, self.manifests().join(file)).with_context(|| format!("put {file}"))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.manifests().join(file)).with_context(|| format!("remove {file}"))
    }

    /// A path as the node's own processes see it, with what is mounted in its mount namespace alone.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").unwrap_or(path);
        self.namespaces.root().join(path)
    }

    /// Where the runtime keeps the bundles of what runs: one directory a container or sandbox, of its id.
    #[must_use]
    pub fn bundles(&self) -> PathBuf {
        let tasks = "run/containerd-state/io.containerd.runtime.v2.task";
        self.path(tasks).join(CRI_NAMESPACE)
    }

    /// Reads a file of a host directory as the node sees it: below `/var/log`, `/var/lib` and `/run` it has its own.
    #[must_use]
    pub fn host_path(&self, path: &Path) -> PathBuf {
        for (prefix, own) in namespaces::OWN_DIRECTORIES {
            if let Ok(rest) = path.strip_prefix(prefix) {
                return self.path(own).join(rest);
            }
        }
        path.to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail("containerd.log"));
            eprintln!("{}", self.log_tail("kubelet.log"));
        }
        self.cgroups.kill_all();
        if let Some(mut child) = self.lock().take() {
            // Killed above; this reaps it.
            let _ = child.wait();
        }
    }
}
