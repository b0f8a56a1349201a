//! The network and the mount namespace of a private node, and commands that run in them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::cgroups::CgroupTree;

/// Directories of the machine that the node has its own of: (path, directory below the node's).
pub(super) const OWN_DIRECTORIES: [(&str, &str); 3] = [
    ("/run", "run"),
    ("/var/log", "varlog"),
    ("/var/lib", "varlib"),
];

/// The kernel settings a kubelet writes when it starts (`protectKernelDefaults: false`), below `/proc/sys`.
const KUBELET_SYSCTLS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The node's own address, of a range for benchmarks between isolated networks (RFC 2544).
pub const NODE_IP: &str = "198.18.0.1";

/// Both namespaces; removed when dropped.
pub(super) struct Namespaces {
    name: String,
    netns: PathBuf,
    /// The process that keeps the mount namespace.
    keeper: Child,
}

impl Namespaces {
    pub(super) fn create(name: &str, root: &Path, cgroups: &CgroupTree) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let netns = Path::new("/run/netns").join(name);
        let keeper = network(name).and_then(|()| keep_mounts(root, &netns, cgroups));
        match keeper {
            Ok(keeper) => Ok(Self {
                name: name.to_owned(),
                netns,
                keeper,
            }),
            Err(error) => {
                remove_netns(name);
                Err(error)
            }
        }
    }

    pub(super) fn netns(&self) -> &Path {
        &self.netns
    }

    /// The root directory, as the node's processes see it.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.keeper.id()))
    }

    pub(super) fn command(&self, cgroups: &CgroupTree, program: &OsStr) -> Command {
        // Not `ip netns exec`: that mounts a fresh /sys, without the cgroups.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .args(["--wd=/", "sh", "-c"])
            .arg(format!("{}exec \"$@\"", join_script(cgroups)))
            .arg("sh")
            .arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        remove_netns(&self.name);
    }
}

/// Removes a network namespace; one that is not there is fine.
pub(super) fn remove_netns(name: &str) {
    if Path::new("/run/netns").join(name).exists()
        && let Err(error) = ip(&["netns", "del", name])
    {
        eprintln!("{error:#}");
    }
}

/// Gives the namespace a loopback, and an address with a default route: a kubelet takes the node's address from there.
/// Nothing follows that route: whatever leads out (a name server, a cloud's metadata address) is refused at once,
/// where waiting for an answer would take many seconds.
fn network(name: &str) -> Result<()> {
    let address = format!("{NODE_IP}/24");
    for args in [
        &["link", "set", "lo", "up"][..],
        &[
            "link", "add", "eth0", "type", "veth", "peer", "name", "outside",
        ],
        &["addr", "add", &address, "dev", "eth0"],
        &["link", "set", "outside", "up"],
        &["link", "set", "eth0", "up"],
        &["route", "add", "default", "dev", "eth0"],
        &[
            "rule",
            "add",
            "pref",
            "100",
            "lookup",
            "main",
            "suppress_prefixlength",
            "0",
        ],
        &["rule", "add", "pref", "200", "unreachable"],
    ] {
        ip(&[&["-n", name][..], args].concat())?;
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("run ip (package iproute2)")?;
    ensure!(
        out.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    Ok(())
}

fn join_script(cgroups: &CgroupTree) -> String {
    cgroups
        .entrances()
        .map(|file| format!("echo $$ > '{}' && ", file.display()))
        .collect()
}

/// Starts the process that keeps the mount namespace, and waits until its mounts are there.
fn keep_mounts(root: &Path, netns: &Path, cgroups: &CgroupTree) -> Result<Child> {
    let root = root.display();
    // Shared again below the new root: containerd and a kubelet need propagation between their own mounts.
    let mut script = format!("{}mount --make-rshared /", join_script(cgroups));
    for (path, own) in OWN_DIRECTORIES {
        script.push_str(&format!(" && mount --bind '{root}/{own}' {path}"));
    }
    for key in KUBELET_SYSCTLS {
        let own = format!("{root}/sysctl/{}", key.replace('/', "."));
        if let Ok(value) = fs::read(Path::new("/proc/sys").join(key)) {
            fs::write(&own, value).with_context(|| format!("write {own}"))?;
            script.push_str(&format!(" && mount --bind '{own}' /proc/sys/{key}"));
        }
    }
    let ready = format!("{root}/mounts-are-ready");
    script.push_str(&format!(" && touch '{ready}' && exec sleep infinity"));
    // Not our own standard error: whoever reads that would wait for the keeper too when we are killed.
    let errors = format!("{root}/mounts.log");
    let log = fs::File::create(&errors).with_context(|| format!("create {errors}"))?;
    let mut keeper = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(["unshare", "--mount", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("make a mount namespace with nsenter and unshare (package util-linux)")?;
    for _ in 0..1000 {
        if Path::new(&ready).exists() {
            return Ok(keeper);
        }
        if let Some(status) = keeper.try_wait().context("wait for the mounts")? {
            let text = fs::read_to_string(&errors).unwrap_or_default();
            bail!("making the node's mounts failed: {status}: {}", text.trim());
        }
        sleep(Duration::from_millis(10));
    }
    let _ = keeper.kill();
    let _ = keeper.wait();
    bail!("the node's mounts were not there after ten seconds")
}
