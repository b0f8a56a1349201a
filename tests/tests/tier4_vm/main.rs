//! The agent as a package and a service of a real system: systemd, cgroup v2, reboots. One emulated machine a system, and
//! the scenarios one after the other on it, because a boot takes longer than most of them.
//!
//! `make test-vm` runs Debian 12, `make test-vm-all` the others too. `VM_ONLY=word,word` leaves out the scenarios
//! without one of the words in their name, but for the installation and the pods that the others look at.

mod cgroups;
mod faults;
mod huge_pages;

mod install;
mod joining;
mod mounts;
mod names;
mod restarts;
mod service;
mod shutdown;
mod unused_images;
mod users;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::images;
use tests::vm::guest::{self, MANIFESTS, POD};
use tests::vm::package::Package;
use tests::vm::serial::Gone;
use tests::vm::{Machine, System};
use tokio::time::Instant;

/// The agent's configuration, as the package places it.
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// What it was, while a scenario has another one in its place.
const GOOD_CONFIG: &str = "/root/good.yaml";
/// Where pods leave notes that outlive them.
const NOTES: &str = "/var/lib/vm-test";

/// The pods that run from the second scenario on.
const PODS: [&str; 4] = [
    "default/besteffort-node",
    "default/burstable-node",
    "default/guaranteed-node",
    "default/hooked-node",
];

type Scenario = fn(&mut Session) -> Result<()>;

/// Scenarios that take minutes, and on Debian 12, the one system of `make test-vm`, run only when they are asked for.
const LONG: &[&str] = &["watchdog", "faults"];

/// In this order: each leaves the machine as the next one expects it.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("install", install::installs_by_the_readme),
    ("unit", service::unit_is_as_systemd_wants_it),
    ("cgroups", cgroups::pods_have_the_slices_of_the_formulas),
    ("memory-qos", cgroups::memory_is_kept_and_throttled),
    (
        "huge-pages",
        huge_pages::huge_pages_are_counted_mounted_and_limited,
    ),
    (
        "images",
        unused_images::unused_images_go_and_pinned_ones_stay,
    ),
    ("status", service::status_and_journal_can_be_read),
    ("reload", service::reload_reads_what_can_be_read_anew),
    ("restart-kubelet", restarts::a_restart_ends_nothing),
    ("upgrade", install::upgrade_and_downgrade_end_nothing),
    (
        "upgrade-refused",
        install::an_upgrade_that_would_fail_is_not_begun,
    ),
    (
        "restart-containerd",
        restarts::a_restart_of_the_runtime_ends_nothing,
    ),
    ("no-runtime", restarts::active_without_the_runtime),
    (
        "wrong-config",
        service::a_wrong_configuration_shows_in_the_status,
    ),
    (
        "watchdog",
        service::a_hung_agent_is_killed_and_its_pods_are_not,
    ),
    ("names", names::the_static_binary_resolves_names),
    ("mounts", mounts::images_are_volumes_and_read_only_goes_down),
    ("nfs", mounts::a_server_of_nfs_is_mounted_and_left),
    ("users", users::pods_have_users_of_their_own),
    ("quotas", users::a_volume_is_counted_by_the_kernel),
    ("join", joining::joins_and_leaves_and_ends_no_static_pod),
    (
        "swap",
        joining::burstable_pods_of_the_cluster_share_the_swap,
    ),
    (
        "reboot",
        shutdown::a_reboot_runs_pre_stop_hooks_and_brings_every_pod_back,
    ),
    (
        "shutdown-priorities",
        shutdown::a_reboot_ends_the_lower_priorities_first,
    ),
    ("power-cut", shutdown::a_power_cut_brings_every_pod_back),
    ("faults", faults::the_fault_harness_runs_here),
    ("purge", install::purges_clean),
];

/// A machine, and what was brought along.
struct Session {
    vm: Machine,
    system: System,
    package: Package,
    newer: Package,
    older: Package,
    _files: tempfile::TempDir,
}

impl Session {
    fn start(system: System) -> Result<Self> {
        let package = Package::find()?;
        let files = tempfile::tempdir().context("a directory for packages")?;
        // As Debian orders versions: ~ before the end, + behind it.
        let newer = package.as_version(&format!("{}+newer", package.version), files.path())?;
        let older = package.as_version(&format!("{}~older", package.version), files.path())?;
        let images = images::archive(&tests::target_dir()?)?;
        let mut bring = vec![
            ("images.tar".to_owned(), images),
            ("kubelet.deb".to_owned(), package.path.clone()),
            ("newer.deb".to_owned(), newer.path.clone()),
            ("older.deb".to_owned(), older.path.clone()),
        ];
        bring.extend(faults::files()?);
        bring.push(("cluster".to_owned(), built("cluster")?));
        bring.push(users::counted(files.path())?);
        let bring: Vec<(&str, &Path)> = bring
            .iter()
            .map(|(name, path)| (name.as_str(), path.as_path()))
            .collect();
        let mut vm = Machine::new(system, &bring)?;
        vm.power_on()?;
        Ok(Self {
            vm,
            system,
            package,
            newer,
            older,
            _files: files,
        })
    }

    /// Writes a manifest.
    fn manifest(&mut self, name: &str, text: &str) -> Result<()> {
        self.vm.put(&format!("{MANIFESTS}/{name}.yaml"), text)
    }

    /// Whether every container that ran before `act` still runs when the agent is settled after it.
    fn ends_nothing(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.vm.eventually("only the pods run", POD, |vm| {
            let running = guest::instances(vm)?;
            // A sandbox and a container each; a pod that was removed takes its time.
            ensure!(running.len() == 2 * PODS.len(), "running: {running:?}");
            Ok(running)
        })?;
        let restarts = guest::restarts(&mut self.vm, "default/burstable-node", "main")?;
        act(self)?;
        guest::all_ready(&mut self.vm, &PODS)?;
        let after = guest::instances(&mut self.vm)?;
        ensure!(before == after, "before: {before:#?}, after: {after:#?}");
        let counted = guest::restarts(&mut self.vm, "default/burstable-node", "main")?;
        ensure!(
            counted == restarts,
            "restart count {counted}, was {restarts}"
        );
        // One line for each time that the postStart hook ran, and none from preStop.
        let hooks = self.vm.ok(&format!("cat {NOTES}/hooked"))?;
        ensure!(hooks == "started", "hooks that ran: {hooks:?}");
        Ok(())
    }

    /// What helps to see why a scenario failed, into the console's log.
    fn explain(&mut self) {
        let limit = Duration::from_secs(60);
        for command in [
            "systemctl status -l kubelet containerd",
            "journalctl -u kubelet -n 200 --no-pager",
            "journalctl -u containerd -n 50 --no-pager",
            "ctr -n k8s.io tasks ls",
        ] {
            if let Err(error) = self.vm.run(command, limit) {
                println!("{error:#}");
                return;
            }
        }
    }
}

impl Session {
    /// Undoes what a scenario that failed half-way may have left, so that the next one is judged by itself.
    fn recover(&mut self) -> Result<()> {
        self.vm.ok(&format!(
            "[ ! -e {GOOD_CONFIG} ] || cp -p {GOOD_CONFIG} {CONFIG}; \
             systemctl start containerd; systemctl restart kubelet; \
             cd {MANIFESTS} && rm -f later.yaml mounts.yaml served.yaml named.yaml early.yaml late.yaml huge.yaml too-huge.yaml \
             own.yaml other.yaml hides.yaml"
        ))?;
        guest::all_ready(&mut self.vm, &PODS)?;
        self.vm
            .ok(&format!("echo started >{NOTES}/hooked"))
            .map(drop)
    }
}

fn suite(system: System) {
    let only = std::env::var("VM_ONLY").unwrap_or_default();
    let start = Instant::now();
    let mut session = match Session::start(system) {
        Ok(session) => session,
        Err(error) => panic!("{system}: {error:#}"),
    };
    let mut failed = Vec::new();
    for (name, scenario) in SCENARIOS {
        let asked = match only.as_str() {
            "" => !(system == System::Debian12 && LONG.contains(name)),
            only => {
                ["install", "cgroups"].contains(name) || only.split(',').any(|w| name.contains(w))
            }
        };
        if !asked {
            continue;
        }
        let begin = Instant::now();
        let result = scenario(&mut session);
        let took = begin.elapsed().as_secs_f32();
        match result {
            Ok(()) => println!("{system}: {name}: ok, {took:.1} s"),
            Err(error) => {
                println!("{system}: {name}: FAILED after {took:.1} s: {error:#}");
                session.explain();
                failed.push(*name);
                if *name == "install" || error.downcast_ref::<Gone>().is_some() {
                    break;
                }
                if let Err(error) = session.recover() {
                    println!("{system}: not recovered from that: {error:#}");
                }
            }
        }
    }
    let took = start.elapsed();
    assert!(
        failed.is_empty(),
        "{system}: {} after {took:.0?}; the console's log is {}, and ends:\n{}",
        failed.join(", "),
        session.vm.log().display(),
        session.vm.log_tail(60).unwrap_or_default()
    );
    println!("{system}: all after {took:.0?}");
}

#[test]
#[ignore = "needs an emulated machine: make test-vm"]
fn debian_12() {
    suite(System::Debian12);
}

#[test]
#[ignore = "needs an emulated machine: make test-vm-all"]
fn debian_13() {
    suite(System::Debian13);
}

#[test]
#[ignore = "needs an emulated machine: make test-vm-all"]
fn debian_testing() {
    suite(System::DebianTesting);
}

/// Major and minor version of the machine's containerd.
fn containerd_version(session: &mut Session) -> Result<(u32, u32)> {
    let version = session.vm.ok("containerd --version")?;
    println!("{}: {}", session.system, version.trim());
    let numbers = version.split_whitespace().find_map(|word| {
        let (major, rest) = word.trim_start_matches('v').split_once('.')?;
        let minor = rest.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    numbers.with_context(|| format!("no version: {version}"))
}

/// A file of the tests, by its path in the target directory of the running test.
fn built(path: &str) -> Result<PathBuf> {
    Ok(tests::profile_dir()?.join(path))
}
