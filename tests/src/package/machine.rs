//! This Debian again, to be changed at will.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// Makes the machine in the directory `$1`, then stays. What is written to it lies on a tmpfs, for which an overlay is no
/// obstacle; the host's runtime directories are not seen. `/shared` is the directory `shared` of the host.
const HOLD: &str = r#"
set -e
mount -t tmpfs tmpfs "$1/top"
mkdir "$1/top/upper" "$1/top/work" "$1/top/root"
root="$1/top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/top/upper,workdir=$1/top/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup" "$root/run/systemd/system" "$root/shared"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --bind "$1/shared" "$root/shared"
rm -rf "$root/usr/sbin/policy-rc.d" "$root/var/lib/kubelet" "$root/etc/kubernetes" "$root/etc/default/kubelet" \
    "$root/etc/cni/net.d" "$root/var/log/pods" "$root/var/log/containers"
ip link set lo up
cp "$1/systemctl" "$root/usr/local/sbin/systemctl"
# Nobody may enter before its root is the machine's. Closing the pipe ends it, and with it everything in the namespaces.
exec chroot "$root" sh -c 'touch /run/this-is-the-machine; echo ready; exec cat'
"#;

/// Answers for the service of which `/run/kubelet.pid` has the process, and writes down everything that would change
/// anything. `restart` and `stop` end nothing: whether they were asked for is what tests look at.
const SYSTEMCTL: &str = r#"#!/bin/sh
pid=$(cat /run/kubelet.pid 2>/dev/null || echo 0)
[ -d "/proc/$pid" ] || pid=0
while [ "${1#--}" != "$1" ]; do shift; done
case "$*" in
*show*MainPID*) echo "$pid" ;;
*show*ActiveState*) if [ "$pid" = 0 ]; then echo inactive; else echo active; fi ;;
*show*LoadState*) echo loaded ;;
*show*) ;;
is-active*) shift; [ "$1" != --quiet ] || shift; grep -qxF "$1" /run/active 2>/dev/null ;;
is-enabled*) echo enabled ;;
*)
    echo "$*" >>/run/systemctl.log
    # Links of units are files.
    case "$1" in preset | enable | disable) exec /usr/bin/systemctl --quiet --root=/ "$1" kubelet.service ;; esac
    ;;
esac
"#;

/// A machine of its own; gone when dropped.
pub struct Machine {
    directory: TempDir,
    holder: Child,
    inside: u32,
}

impl Machine {
    /// Makes one. Needs root.
    ///
    /// # Errors
    /// When namespaces or mounts are not to be had.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("machine-").tempdir()?;
        for name in ["top", "shared"] {
            fs::create_dir(directory.path().join(name))?;
        }
        let systemctl = directory.path().join("systemctl");
        fs::write(&systemctl, SYSTEMCTL)?;
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755))?;
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
            .args(["--propagation", "private"])
            .args(["sh", "-c", HOLD, "sh"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let mut said = [0; 6];
        let mut output = holder.stdout.take().context("the holder's output")?;
        if output.read_exact(&mut said).is_err() {
            bail!("the machine was not made: {}", holder.wait()?);
        }
        let path = format!("/proc/{0}/task/{0}/children", holder.id());
        let children = fs::read_to_string(&path).with_context(|| path.clone())?;
        let inside = children
            .trim()
            .parse()
            .with_context(|| format!("the child of unshare: {children:?}"))?;
        Ok(Self {
            directory,
            holder,
            inside,
        })
    }

    /// The path on the host of what is `path` on the machine. Links are the host's.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inside))
    }

    /// The path on the host of the directory that is `/shared` on the machine.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// A command that runs the shell text `script` on the machine, and nowhere else: what tests do there must never reach the
    /// host.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let script = format!("test -e /run/this-is-the-machine || exit 99\n{script}");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.inside))
            .args(["--mount", "--net", "--pid", "--root", "--wd", "--"])
            .args(["sh", "-c", &script])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Runs the shell text `script`, whatever becomes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_run(&self, script: &str) -> Result<Output> {
        self.command(script).output().context("run nsenter")
    }

    /// What the shell text `script` prints, on both outputs.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.try_run(script)?;
        let said = text(&output);
        ensure!(
            output.status.success(),
            "{script}: {}: {said}",
            output.status
        );
        Ok(said)
    }

    /// What the shell text `script` says while it fails.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn fail(&self, script: &str) -> Result<String> {
        let output = self.try_run(script)?;
        let said = text(&output);
        ensure!(!output.status.success(), "{script} succeeded: {said}");
        Ok(said)
    }

    /// Puts a file of the host into `/shared`, and returns its path on the machine.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn share(&self, file: &Path) -> Result<String> {
        let name = file.file_name().context("a file's name")?;
        fs::copy(file, self.shared().join(name))
            .with_context(|| format!("share {}", file.display()))?;
        Ok(format!("/shared/{}", name.to_string_lossy()))
    }

    /// What `systemctl` was asked to do since the last time, a line each.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn asked_of_systemd(&self) -> Result<Vec<String>> {
        let said = self.run("cat /run/systemctl.log 2>/dev/null; rm -f /run/systemctl.log")?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Both outputs of a command.
#[must_use]
fn text(output: &Output) -> String {
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    said
}
