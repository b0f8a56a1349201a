//! On the machine's real hierarchies, below a cgroup of the test's own.

use super::*;

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

const MOUNTS: &str = "/sys/fs/cgroup";

/// A cgroup root of one test in each hierarchy, gone with it.
struct Sandbox {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Sandbox {
    /// `None`, with a message, where the test may not make cgroups.
    fn new(hierarchies: Vec<Hierarchy>) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: making cgroups needs root");
            return None;
        }
        let name = format!(
            "kubelet-unit-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        for hierarchy in &hierarchies {
            let root = Dir::open(&hierarchy.root).unwrap();
            hierarchy.ensure_level(&root, &name).unwrap();
        }
        Some(Self { name, hierarchies })
    }

    fn cgroups(&self, config: CgroupsConfig) -> Cgroups {
        let config = CgroupsConfig {
            cgroup_root: format!("/{}", self.name),
            ..config
        };
        let version = self.hierarchies[0].version;
        Cgroups::with_hierarchies(config, version, self.hierarchies.clone()).unwrap()
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
    if Cgroups::detect(Path::new(MOUNTS)).ok() != Some(Version::V1) {
        eprintln!("skipped: this machine has no cgroup v1");
        return None;
    }
    Sandbox::new(hierarchy::find(Version::V1, Path::new(MOUNTS)).unwrap())
}

fn v2() -> Option<Sandbox> {
    for root in [MOUNTS, "/sys/fs/cgroup/unified"].map(Path::new) {
        if Cgroups::detect(root).ok() == Some(Version::V2) {
            return Sandbox::new(hierarchy::find(Version::V2, root).unwrap());
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

#[test]
fn version_1_levels_have_their_values() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig {
        pod_pids_limit: Some(77),
        node: NodeLimits {
            memory_bytes: Some(1 << 30),
            cpu_milli: Some(1500),
            pids: Some(1000),
        },
        ..CgroupsConfig::default()
    });
    cgroups.ensure_node_levels().unwrap();
    cgroups.ensure_node_levels().unwrap();
    let (pod, uid) = burstable();
    assert!(!cgroups.list_pods().unwrap().contains(&uid));
    let parent = cgroups.ensure_pod(&pod, &uid).unwrap();
    assert_eq!(
        parent,
        format!("/{}/kubepods/burstable/pod{uid}", sandbox.name)
    );
    assert_eq!(cgroups.ensure_pod(&pod, &uid).unwrap(), parent);
    assert!(cgroups.list_pods().unwrap().contains(&uid));
    assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&uid));
    cgroups.set_qos_shares(250).unwrap();

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

    cgroups.remove_pod(&uid).unwrap();
    cgroups.remove_pod(&uid).unwrap();
    assert!(!cgroups.list_pods().unwrap().contains(&uid));
    assert!(cgroups.list_pods().unwrap().is_empty());
}

#[test]
fn guaranteed_and_best_effort_pods_have_their_places() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig::default());
    let (best_effort, uid) = pod(json!({"containers": [{"name": "c"}]}));
    let (guaranteed, _) = pod(json!({"containers": [{"name": "c", "resources":
        {"limits": {"cpu": "1", "memory": "16Mi"}}}]}));
    let name = &sandbox.name;
    // Even where nobody made the levels before.
    assert_eq!(
        cgroups.ensure_pod(&best_effort, &uid).unwrap(),
        format!("/{name}/kubepods/besteffort/pod{uid}")
    );
    assert_eq!(
        cgroups.ensure_pod(&guaranteed, &uid).unwrap(),
        format!("/{name}/kubepods/pod{uid}")
    );
    cgroups.remove_pod(&uid).unwrap();
    assert!(cgroups.list_pods().unwrap().is_empty());
}

#[test]
fn removal_kills_what_is_left_and_nothing_else() {
    for sandbox in [v1(), v2()].into_iter().flatten() {
        let cgroups = sandbox.cgroups(CgroupsConfig::default());
        let (pod, uid) = burstable();
        cgroups.ensure_pod(&pod, &uid).unwrap();
        let other = PodUid::parse(&format!("{uid}0")).unwrap();
        cgroups.ensure_pod(&pod, &other).unwrap();

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
        cgroups.remove_pod(&uid).unwrap();
        assert_eq!(reaper.join().unwrap(), Some(9));
        assert!(neighbour.runs());
        assert_eq!(cgroups.list_pods().unwrap(), std::slice::from_ref(&other));
        for path in sandbox.paths(&format!("kubepods/burstable/pod{uid}")) {
            assert!(!path.exists(), "{path:?}");
        }
        let reaper = std::thread::spawn(move || neighbour.0.wait().unwrap());
        cgroups.remove_pod(&other).unwrap();
        reaper.join().unwrap();
    }
}

#[test]
fn a_cgroup_lost_in_one_hierarchy_is_noticed_and_made_again() {
    let Some(sandbox) = v1() else { return };
    let cgroups = sandbox.cgroups(CgroupsConfig::default());
    let (pod, uid) = burstable();
    cgroups.ensure_pod(&pod, &uid).unwrap();
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
    cgroups.ensure_pod(&pod, &uid).unwrap();
    assert!(lost.exists());
    cgroups.remove_pod(&uid).unwrap();
}

#[test]
fn a_missing_cgroup_root_is_named() {
    let Some(sandbox) = v1() else { return };
    let config = CgroupsConfig {
        cgroup_root: format!("/{}/none", sandbox.name),
        ..CgroupsConfig::default()
    };
    let cgroups =
        Cgroups::with_hierarchies(config, Version::V1, sandbox.hierarchies.clone()).unwrap();
    let error = cgroups.ensure_node_levels().unwrap_err();
    assert!(matches!(error, CgroupsError::RootMissing(_)), "{error}");
    assert!(
        error.to_string().ends_with("/none does not exist"),
        "{error}"
    );
}

#[test]
fn without_levels_sandboxes_go_into_the_root() {
    let cgroups = |root: &str| {
        let config = CgroupsConfig {
            per_qos: false,
            cgroup_root: root.to_owned(),
            ..CgroupsConfig::default()
        };
        Cgroups::with_hierarchies(config, Version::V1, Vec::new()).unwrap()
    };
    let (pod, uid) = burstable();
    assert_eq!(cgroups("").ensure_pod(&pod, &uid).unwrap(), "/");
    assert_eq!(cgroups("/a/b").ensure_pod(&pod, &uid).unwrap(), "/a/b");
    assert!(!cgroups("").list_pods().unwrap().contains(&uid));
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |config| Cgroups::with_hierarchies(config, Version::V1, Vec::new());
    let systemd = CgroupsConfig {
        driver: Driver::Systemd,
        ..CgroupsConfig::default()
    };
    assert!(matches!(with(systemd), Err(CgroupsError::DriverNotBuilt)));
    let backwards = CgroupsConfig {
        cgroup_root: "/a/../b".to_owned(),
        ..CgroupsConfig::default()
    };
    assert!(matches!(with(backwards), Err(CgroupsError::BadRoot(_))));
}
