//! On the machine's real hierarchies, below a cgroup of the test's own.

use super::*;

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::systemd::tests::{FakeSystemd, Script};
use crate::pod::{Pod, PodUid};

const MOUNTS: &str = "/sys/fs/cgroup";

/// A cgroup root of one test in each hierarchy, gone with it.
struct Sandbox {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Sandbox {
    /// `None`, with a message, where the test may not make cgroups.
    fn new(hierarchies: Vec<Hierarchy>, driver: Driver) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making cgroups needs root");
            return None;
        }
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = match driver {
            Driver::Cgroupfs => format!("kubelet-unit-{process}-{count}"),
            Driver::Systemd => format!("kubelet_unit_{process}_{count}.slice"),
        };
        for hierarchy in &hierarchies {
            let root = Dir::open(&hierarchy.root).unwrap();
            hierarchy.ensure_level(&root, &name).unwrap();
        }
        Some(Self { name, hierarchies })
    }

    async fn cgroups(&self, config: CgroupsConfig) -> Arc<Cgroups> {
        let (root, driver) = match self.name.strip_suffix(".slice") {
            None => (self.name.as_str(), Driver::Cgroupfs),
            Some(root) => (root, Driver::Systemd),
        };
        let config = CgroupsConfig {
            cgroup_root: format!("/{root}"),
            ..config
        };
        let version = self.hierarchies[0].version;
        let cgroups = Cgroups::with_hierarchies(config, version, self.hierarchies.clone());
        cgroups.begin(driver).await.unwrap();
        Arc::new(cgroups)
    }

    fn paths(&self, below: &str) -> Vec<PathBuf> {
        let roots = self.hierarchies.iter().map(|h| &h.root);
        roots
            .map(|root| root.join(&self.name).join(below))
            .collect()
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let hierarchy = self.hierarchies.iter().find(|h| h.has(controller))?;
        let path = hierarchy.root.join(&self.name).join(file);
        Some(std::fs::read_to_string(path).unwrap().trim().to_owned())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            let root = Dir::open(&hierarchy.root).unwrap();
            removal::remove(&root, &self.name).unwrap();
        }
    }
}

fn v1() -> Option<Sandbox> {
    v1_with(Driver::Cgroupfs)
}

fn v1_with(driver: Driver) -> Option<Sandbox> {
    if Cgroups::detect(Path::new(MOUNTS)).ok() != Some(Version::V1) {
        eprintln!("skipped: this machine has no cgroup v1");
        return None;
    }
    Sandbox::new(
        hierarchy::find(Version::V1, Path::new(MOUNTS)).unwrap(),
        driver,
    )
}

fn v2() -> Option<Sandbox> {
    for root in [MOUNTS, "/sys/fs/cgroup/unified"].map(Path::new) {
        if Cgroups::detect(root).ok() == Some(Version::V2) {
            return Sandbox::new(
                hierarchy::find(Version::V2, root).unwrap(),
                Driver::Cgroupfs,
            );
        }
    }
    eprintln!("skipped: this machine has no cgroup v2");
    None
}

fn pod(spec: serde_json::Value) -> (Pod, PodUid) {
    let uid = "0d5ee94e-5e25-4e1c-8a7b-1d2f3a4b5c6d";
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let uid = PodUid::of(&pod).unwrap();
    (pod, uid)
}

/// Burstable pods that ask for so much cpu, and for nothing else.
pub(super) fn weight_of(burstable_cpu_milli: i64) -> ClassRequests {
    ClassRequests {
        burstable_cpu_milli,
        ..ClassRequests::default()
    }
}

fn burstable() -> (Pod, PodUid) {
    pod(json!({"containers": [{"name": "c", "resources":
        {"requests": {"cpu": "250m", "memory": "8Mi"}, "limits": {"cpu": "500m", "memory": "16Mi"}}}]}))
}

/// A process that would run for long.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn enter(&self, cgroup: &Path) {
        std::fs::write(cgroup.join("cgroup.procs"), self.0.id().to_string()).unwrap();
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn version_1_levels_have_their_values() {
    let Some(sandbox) = v1() else { return };
    let config = CgroupsConfig {
        pod_pids_limit: Some(77),
        node: NodeLimits {
            memory_bytes: Some(1 << 30),
            cpu_milli: Some(1500),
            pids: Some(1000),
            huge_pages: None,
        },
        ..CgroupsConfig::default()
    };
    let cgroups = sandbox.cgroups(config).await;
    cgroups.begin(Driver::Cgroupfs).await.unwrap();
    cgroups.limit_node().await.unwrap();
    cgroups.limit_node().await.unwrap();
    let (pod, uid) = burstable();
    assert!(!cgroups.list_pods().unwrap().contains(&uid));
    let parent = cgroups.ensure_pod(&pod, &uid).await.unwrap();
    assert_eq!(
        parent,
        format!("/{}/kubepods/burstable/pod{uid}", sandbox.name)
    );
    assert_eq!(cgroups.ensure_pod(&pod, &uid).await.unwrap(), parent);
    assert!(cgroups.list_pods().unwrap().contains(&uid));
    assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&uid));
    cgroups.set_classes(&weight_of(250)).await.unwrap();

    let pod_dir = format!("kubepods/burstable/pod{uid}");
    for (controller, file, value) in [
        ("cpu", "kubepods/cpu.shares", "1536"),
        ("memory", "kubepods/memory.limit_in_bytes", "1073741824"),
        ("pids", "kubepods/pids.max", "1000"),
        ("cpu", "kubepods/burstable/cpu.shares", "256"),
        ("cpu", "kubepods/besteffort/cpu.shares", "2"),
        ("cpu", &format!("{pod_dir}/cpu.shares"), "256"),
        ("cpu", &format!("{pod_dir}/cpu.cfs_quota_us"), "50000"),
        ("cpu", &format!("{pod_dir}/cpu.cfs_period_us"), "100000"),
        (
            "memory",
            &format!("{pod_dir}/memory.limit_in_bytes"),
            "16777216",
        ),
        ("pids", &format!("{pod_dir}/pids.max"), "77"),
    ] {
        if let Some(present) = sandbox.read(controller, file) {
            assert_eq!(present, value, "{file}");
        }
    }
    let root_cpus = sandbox.read("cpuset", "cpuset.cpus");
    let pod_cpus = sandbox.read("cpuset", &format!("{pod_dir}/cpuset.cpus"));
    assert_eq!(root_cpus, pod_cpus);
    assert_ne!(pod_cpus.as_deref(), Some(""));

    cgroups.remove_pod(&uid).await.unwrap();
    cgroups.remove_pod(&uid).await.unwrap();
    assert!(!cgroups.list_pods().unwrap().contains(&uid));
    assert!(cgroups.list_pods().unwrap().is_empty());
}

#[tokio::test]
async fn cgroups_of_daemons_are_held_to_what_is_theirs_and_never_made() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig::default()).await;
    let limits = NodeLimits {
        memory_bytes: Some(64 << 20),
        cpu_milli: Some(250),
        pids: Some(100),
        huge_pages: Some(BTreeMap::new()),
    };
    let name = format!("/{}/daemons", sandbox.name);
    let error = cgroups.limit_reserved(&name, &limits).await.unwrap_err();
    let said = error.to_string();
    let begins = format!(
        "cgroup [\"{}\", \"daemons\"] has some missing paths: ",
        sandbox.name
    );
    assert!(
        said.starts_with(&begins) && said.contains("/memory/"),
        "{said}"
    );
    assert!(sandbox.paths("daemons").iter().all(|path| !path.exists()));

    let whole = sandbox.hierarchies.clone();
    for hierarchy in &whole {
        let root = Dir::open(&hierarchy.root).unwrap();
        let root = root.child(&sandbox.name).unwrap().unwrap();
        hierarchy.ensure_level(&root, "daemons").unwrap();
    }
    cgroups.limit_reserved(&name, &limits).await.unwrap();
    cgroups.limit_reserved(&name, &limits).await.unwrap();
    for (controller, file, value) in [
        ("cpu", "daemons/cpu.shares", "256"),
        ("memory", "daemons/memory.limit_in_bytes", "67108864"),
        ("pids", "daemons/pids.max", "100"),
    ] {
        let present = sandbox.read(controller, file);
        assert!(present.is_none_or(|present| present == value), "{file}");
    }
}

#[tokio::test]
async fn guaranteed_and_best_effort_pods_have_their_places() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig::default()).await;
    let (best_effort, uid) = pod(json!({"containers": [{"name": "c"}]}));
    let (guaranteed, _) = pod(json!({"containers": [{"name": "c", "resources":
        {"limits": {"cpu": "1", "memory": "16Mi"}}}]}));
    let name = &sandbox.name;
    // Even where nobody made the levels before.
    assert_eq!(
        cgroups.ensure_pod(&best_effort, &uid).await.unwrap(),
        format!("/{name}/kubepods/besteffort/pod{uid}")
    );
    assert_eq!(
        cgroups.ensure_pod(&guaranteed, &uid).await.unwrap(),
        format!("/{name}/kubepods/pod{uid}")
    );
    cgroups.remove_pod(&uid).await.unwrap();
    assert!(cgroups.list_pods().unwrap().is_empty());
}

#[tokio::test]
async fn removal_kills_what_is_left_and_nothing_else() {
    for sandbox in [v1(), v2()].into_iter().flatten() {
        let cgroups = sandbox.cgroups(CgroupsConfig::default()).await;
        let (pod, uid) = burstable();
        cgroups.ensure_pod(&pod, &uid).await.unwrap();
        let other = PodUid::parse(&format!("{uid}0")).unwrap();
        cgroups.ensure_pod(&pod, &other).await.unwrap();

        let (mut left, mut neighbour) = (Sleeper::new(), Sleeper::new());
        for path in sandbox.paths(&format!("kubepods/burstable/pod{uid}/container/deeper")) {
            std::fs::create_dir_all(&path).unwrap();
            // cpusets of version 1 want to be filled level by level.
            for level in [path.parent().unwrap(), &path] {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(value) = std::fs::read(level.parent().unwrap().join(file)) {
                        let _ = std::fs::write(level.join(file), value);
                    }
                }
            }
            left.enter(&path);
            // A paused container does not hold up the removal.
            let _ = rustix::fs::open(
                path.join("freezer.state"),
                rustix::fs::OFlags::WRONLY,
                rustix::fs::Mode::empty(),
            )
            .map(|file| rustix::io::write(file, b"FROZEN").unwrap());
        }
        for path in sandbox.paths(&format!("kubepods/burstable/pod{other}")) {
            neighbour.enter(&path);
        }
        // A test's child stays a zombie in its cgroup until it is waited for.
        let reaper = std::thread::spawn(move || {
            let status = left.0.wait().unwrap();
            std::os::unix::process::ExitStatusExt::signal(&status)
        });
        cgroups.remove_pod(&uid).await.unwrap();
        assert_eq!(reaper.join().unwrap(), Some(9));
        assert!(neighbour.runs());
        assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&other));
        for path in sandbox.paths(&format!("kubepods/burstable/pod{uid}")) {
            assert!(!path.exists(), "{path:?}");
        }
        let reaper = std::thread::spawn(move || neighbour.0.wait().unwrap());
        cgroups.remove_pod(&other).await.unwrap();
        reaper.join().unwrap();
    }
}

#[tokio::test]
async fn a_cgroup_lost_in_one_hierarchy_is_noticed_and_made_again() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig::default()).await;
    let (pod, uid) = burstable();
    cgroups.ensure_pod(&pod, &uid).await.unwrap();
    let memory = sandbox
        .hierarchies
        .iter()
        .find(|h| h.has("memory"))
        .unwrap();
    let lost = memory
        .root
        .join(&sandbox.name)
        .join(format!("kubepods/burstable/pod{uid}"));
    std::fs::remove_dir(&lost).unwrap();
    assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&uid));
    cgroups.ensure_pod(&pod, &uid).await.unwrap();
    assert!(lost.exists());
    cgroups.remove_pod(&uid).await.unwrap();
}

#[tokio::test]
async fn a_missing_cgroup_root_is_named() {
    let Some(sandbox) = v1() else { return };
    let config = CgroupsConfig {
        cgroup_root: format!("/{}/none", sandbox.name),
        ..CgroupsConfig::default()
    };
    let cgroups = Cgroups::with_hierarchies(config, Version::V1, sandbox.hierarchies.clone());
    let error = cgroups.begin(Driver::Cgroupfs).await.unwrap_err();
    assert!(matches!(error, CgroupsError::RootMissing(_)), "{error}");
    assert!(
        error.to_string().ends_with(
            "/none of cgroupRoot does not exist: make it, or set cgroupRoot to one that does"
        ),
        "{error}"
    );
    // Nothing is taken on by halves.
    let (pod, uid) = burstable();
    let error = cgroups.ensure_pod(&pod, &uid).await.unwrap_err();
    assert!(matches!(error, CgroupsError::DriverUnknown), "{error}");
}

#[tokio::test]
async fn without_levels_sandboxes_go_into_the_root() {
    let (pod, uid) = burstable();
    for (root, parent) in [("", "/"), ("/a/b", "/a/b")] {
        let config = CgroupsConfig {
            per_qos: false,
            cgroup_root: root.to_owned(),
            ..CgroupsConfig::default()
        };
        let cgroups = Cgroups::with_hierarchies(config, Version::V1, Vec::new());
        cgroups.begin(Driver::Cgroupfs).await.unwrap();
        assert_eq!(cgroups.ensure_pod(&pod, &uid).await.unwrap(), parent);
        assert!(!cgroups.list_pods().unwrap().contains(&uid));
    }
}

#[tokio::test]
async fn a_driver_that_does_not_fit_is_refused() {
    let refusal = async |config| {
        let cgroups = Cgroups::with_hierarchies(config, Version::V1, Vec::new());
        cgroups.begin(Driver::Systemd).await.unwrap_err()
    };
    let mut config = CgroupsConfig::default();
    config.systemd.booted = "/nonexistent/systemd/system".into();
    assert_eq!(
        refusal(config.clone()).await.to_string(),
        "the cgroup driver is systemd, but systemd does not run this machine (/nonexistent/systemd/system is no \
         directory): set cgroupDriver to cgroupfs, and the runtime to the same (containerd: SystemdCgroup = false)"
    );
    config.systemd.booted = "/".into();
    config.systemd.endpoints = vec![Endpoint::Private("/nonexistent/private".into())];
    assert_eq!(
        refusal(config).await.to_string(),
        "cannot reach systemd over D-Bus: /nonexistent/private: I/O error: No such file or directory (os error 2); \
         is dbus running, and the agent root?"
    );
}

#[tokio::test]
async fn a_pod_with_systemd_has_its_files_in_every_hierarchy_and_leaves_none() {
    let Some(sandbox) = v1_with(Driver::Systemd) else {
        return;
    };
    let fake = FakeSystemd::new(Script::default());
    let config = CgroupsConfig {
        systemd: fake.config(),
        ..CgroupsConfig::default()
    };
    let cgroups = sandbox.cgroups(config).await;
    let (pod, uid) = burstable();
    let parent = cgroups.ensure_pod(&pod, &uid).await.unwrap();
    let below = parent.strip_prefix(&format!("/{}/", sandbox.name)).unwrap();
    let shares = sandbox.read("cpu", &format!("{below}/cpu.shares"));
    assert_eq!(shares.as_deref(), Some("256"));
    let memory = sandbox.read("memory", &format!("{below}/memory.limit_in_bytes"));
    assert_eq!(memory.as_deref(), Some("16777216"));
    assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&uid));

    let mut left = Sleeper::new();
    for path in sandbox.paths(below) {
        assert!(path.exists(), "{path:?}");
        left.enter(&path);
    }
    let reaper = std::thread::spawn(move || left.0.wait().unwrap());
    fake.calls();
    cgroups.remove_pod(&uid).await.unwrap();
    reaper.join().unwrap();
    let unit = below.rsplit('/').next().unwrap();
    assert_eq!(
        fake.calls(),
        [
            format!("StopUnit {unit}"),
            format!("ResetFailedUnit {unit}")
        ]
    );
    assert!(sandbox.paths(below).iter().all(|path| !path.exists()));
    // Nothing is asked of systemd for a pod that has nothing.
    cgroups.remove_pod(&uid).await.unwrap();
    assert!(fake.calls().is_empty());
}
