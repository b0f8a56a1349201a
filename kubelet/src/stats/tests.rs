//! Trees of files as the kernel shows them, of both versions of cgroups.

mod places;
mod summary;

use std::path::Path;

use cri_proto::{ConnectOptions, Connection};
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::*;
use crate::cgroups::{CgroupMount, Version};
use crate::csi::CsiConfig;
use crate::images::VerificationPolicy;
use crate::logs::LogsConfig;
use crate::pod::{Pod, PodUid, QosClass};
use crate::runtime::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox};
use crate::status::{Phase, PodStatus};

pub(crate) const UID: &str = "0d5ee94e-5e25-4e1c-8a7b-1d2f3a4b5c6d";
pub(crate) const SANDBOX: &str = "5a5a";
pub(crate) const CONTAINER: &str = "c0c0";
pub(crate) const WALL: &str = "2026-11-21T23:02:28Z";
/// Of the pod in a burstable class, whose container is never restarted in a test: nanoseconds since the epoch.
const CREATED: i64 = 1_795_302_078_802_050_600;

const DEV: &str = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n";

/// A node of files, with one pod.
pub(crate) struct Fixture {
    pub(crate) stats: Arc<Stats>,
    pub(crate) temp: tempfile::TempDir,
}

fn put(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn memory_stat_v1(scale: u64) -> String {
    format!(
        "cache 1\nrss 2\npgfault {}\npgmajfault {scale}\ntotal_cache {}\ntotal_rss {}\ntotal_swap {scale}\ntotal_mapped_file {}\n\
         total_active_file {}\ntotal_inactive_file {}\n",
        scale * 7,
        scale * 1000,
        scale * 2000,
        scale * 300,
        scale * 400,
        scale * 500
    )
}

fn memory_stat_v2(scale: u64) -> String {
    format!(
        "anon {}\nfile {}\nkernel {}\nfile_mapped {}\nactive_file {}\ninactive_file {}\npgfault {}\npgmajfault {scale}\n",
        scale * 2000,
        scale * 1000,
        scale * 50,
        scale * 300,
        scale * 400,
        scale * 500,
        scale * 7
    )
}

/// One cgroup of version 1: the files lie in as many trees as there are controllers.
fn level_v1(root: &Path, path: &str, scale: u64, quota: i64) {
    let file = |controller: &str, name: &str, content: &str| {
        put(root, &format!("{controller}/{path}{name}"), content);
    };
    file(
        "cpuacct",
        "cpuacct.usage",
        &format!("{}\n", scale * 1_000_000_000),
    );
    file(
        "cpuacct",
        "cpuacct.stat",
        &format!("user {}\nsystem {}\n", scale * 60, scale * 40),
    );
    file("cpu", "cpu.shares", "10\n");
    file("cpu", "cpu.cfs_quota_us", &format!("{quota}\n"));
    file("cpu", "cpu.cfs_period_us", "100000\n");
    file(
        "cpu",
        "cpu.stat",
        "nr_periods 22\nnr_throttled 3\nthrottled_time 1500000000\nnr_bursts 1\nburst_time 5\n",
    );
    file(
        "memory",
        "memory.usage_in_bytes",
        &format!("{}\n", scale * 3000),
    );
    file("memory", "memory.stat", &memory_stat_v1(scale));
    let unlimited = "9223372036854771712\n";
    let limit = if quota > 0 { "67108864\n" } else { unlimited };
    file("memory", "memory.limit_in_bytes", limit);
    file("memory", "memory.memsw.limit_in_bytes", limit);
    file("memory", "memory.soft_limit_in_bytes", unlimited);
    file(
        "memory",
        "memory.max_usage_in_bytes",
        &format!("{}\n", scale * 4000),
    );
    file(
        "memory",
        "memory.kmem.usage_in_bytes",
        &format!("{}\n", scale * 50),
    );
    file("memory", "memory.failcnt", "4\n");
    file(
        "memory",
        "memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    );
    file("pids", "pids.current", &format!("{scale}\n"));
    file("pids", "pids.max", "max\n");
    file("pids", "cgroup.procs", "42\n");
    file(
        "blkio",
        "blkio.throttle.io_service_bytes_recursive",
        "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\nTotal 12288\n",
    );
    file(
        "blkio",
        "blkio.throttle.io_serviced_recursive",
        "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    );
    for controller in ["cpu", "cpuacct", "memory", "blkio"] {
        file(controller, "cgroup.procs", "42\n");
    }
}

/// The same of version 2.
fn level_v2(root: &Path, path: &str, scale: u64, quota: i64) {
    let file = |name: &str, content: &str| put(root, &format!("{path}{name}"), content);
    file(
        "cpu.stat",
        &format!(
            "usage_usec {}\nuser_usec {}\nsystem_usec {}\nnr_periods 22\nnr_throttled 3\nthrottled_usec 1500000\nnr_bursts 1\nburst_usec 0\n",
            scale * 1_000_000,
            scale * 600_000,
            scale * 400_000
        ),
    );
    file("memory.stat", &memory_stat_v2(scale));
    file(
        "io.stat",
        "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
    );
    file("cgroup.procs", "42\n");
    for (name, total) in [("cpu", 1_000_000), ("memory", 2_000_000), ("io", 3_000_000)] {
        file(
            &format!("{name}.pressure"),
            &format!(
                "some avg10=1.50 avg60=2.00 avg300=0.25 total={total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
            ),
        );
    }
    if path.is_empty() {
        return;
    }
    file("cpu.weight", "1\n");
    let max = if quota > 0 {
        format!("{quota} 100000\n")
    } else {
        "max 100000\n".to_owned()
    };
    file("cpu.max", &max);
    file("memory.current", &format!("{}\n", scale * 3000));
    file("memory.swap.current", &format!("{scale}\n"));
    file("memory.peak", &format!("{}\n", scale * 4000));
    file("memory.max", if quota > 0 { "67108864\n" } else { "max\n" });
    file(
        "memory.swap.max",
        if quota > 0 { "67108864\n" } else { "max\n" },
    );
    file("memory.low", "0\n");
    file("memory.events", "low 0\nhigh 0\nmax 4\noom 0\noom_kill 2\n");
    file("pids.current", &format!("{scale}\n"));
    file("pids.max", "max\n");
}

fn proc_files(proc: &Path) {
    put(
        proc,
        "meminfo",
        "MemTotal: 1000 kB\nMemFree: 400 kB\nSwapTotal: 80 kB\nSwapFree: 60 kB\n",
    );
    put(proc, "stat", "btime 1795238216\n");
    put(proc, "loadavg", "0.1 0.2 0.3 1/188 42\n");
    put(
        proc,
        "self/cgroup",
        "4:memory:/a\n2:cpu,cpuacct:/b\n0::/c\n",
    );
    put(
        proc,
        "1/net/dev",
        &format!(
            "{DEV} eth0: 956144571 2 0 0 0 0 0 0 2051500 4 0 0 0 0 0 0\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        ),
    );
    put(
        proc,
        "42/net/dev",
        &format!("{DEV} eth0: 11352 162 1 2 0 0 0 0 6288 90 3 4 0 0 0 0\n"),
    );
    put(
        proc,
        "42/limits",
        "Limit Soft Hard Units\nMax open files            20000                20000                files\n",
    );
    std::fs::create_dir_all(proc.join("42/fd")).unwrap();
    for (name, target) in [("0", "/dev/null"), ("1", "pipe:[1]"), ("3", "socket:[7]")] {
        std::os::unix::fs::symlink(target, proc.join("42/fd").join(name)).unwrap();
    }
}

pub(crate) fn pod() -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("web-node".to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some(UID.to_owned());
    let mut web = Container {
        name: "web".to_owned(),
        ..Container::default()
    };
    let requests = serde_json::json!({"requests": {"cpu": "10m"}});
    web.resources = Some(serde_json::from_value(requests).unwrap());
    pod.spec = Some(PodSpec {
        containers: vec![web],
        ..PodSpec::default()
    });
    pod
}

pub(crate) fn observed() -> ObservedPod {
    ObservedPod {
        sandboxes: vec![ObservedSandbox {
            id: SANDBOX.into(),
            attempt: 0,
            ready: true,
            created_at: CREATED,
            ips: Vec::new(),
            host_network: false,
        }],
        containers: vec![
            container(CONTAINER, 1, ContainerState::Running),
            container("dead", 0, ContainerState::Exited),
        ],
    }
}

fn container(id: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: id.into(),
        sandbox: SANDBOX.into(),
        name: "web".into(),
        attempt,
        state,
        created_at: CREATED,
        started_at: CREATED,
        finished_at: 0,
        exit_code: 0,
        reason: "".into(),
        message: "".into(),
        image: "docker.io/library/busybox:1.35".into(),
        image_ref: "sha256:1".into(),
        hash: "".into(),
        log_path: "".into(),
        grace_seconds: None,
        user: None,
        stop_signal: None,
        recursive_read_only: None,
    }
}

/// A node of `version` with one pod that has one container. Within a tokio runtime.
pub(crate) fn fixture(version: Version) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("cgroup");
    std::fs::create_dir_all(&root).unwrap();
    let pod_path = format!("kubepods/burstable/pod{UID}/");
    let levels = [
        (String::new(), 1000, -1),
        ("kubepods/".to_owned(), 100, -1),
        ("kubepods/burstable/".to_owned(), 90, -1),
        (pod_path.clone(), 80, -1),
        (format!("{pod_path}{SANDBOX}/"), 10, -1),
        (format!("{pod_path}{CONTAINER}/"), 50, 10_000),
    ];
    for (path, scale, quota) in &levels {
        match version {
            Version::V1 => level_v1(&root, path, *scale, *quota),
            Version::V2 => level_v2(&root, path, *scale, *quota),
        }
    }
    let mount = |root: std::path::PathBuf, controllers: &[&str]| CgroupMount {
        root,
        controllers: controllers.iter().map(ToString::to_string).collect(),
    };
    let mounts = match version {
        Version::V1 => ["cpu", "cpuacct", "memory", "pids", "blkio", "freezer"]
            .map(|name| mount(root.join(name), &[name]))
            .to_vec(),
        Version::V2 => vec![mount(root.clone(), &["cpu", "io", "memory", "pids"])],
    };
    let proc = temp.path().join("proc");
    proc_files(&proc);
    let sys = temp.path().join("sys");
    put(
        &sys,
        "dev/block/8:0/uevent",
        "MAJOR=8\nMINOR=0\nDEVNAME=sda\n",
    );
    let agent = temp.path().join("agent");
    let dirs = PodDirs::new(&agent).unwrap();
    let logs = PodLogs::new(LogsConfig {
        pod_logs_dir: temp.path().join("logs"),
        links_dir: temp.path().join("links"),
    })
    .unwrap();
    let uid = PodUid::parse(UID).unwrap();
    let connection = Connection::with_dialer("nobody", ConnectOptions::default(), || async {
        Err::<tokio::io::DuplexStream, _>(std::io::ErrorKind::NotFound.into())
    });
    let observer = Observer::new(connection.runtime(), dirs.clone(), logs.clone());
    observer.show(&uid, observed());
    let board = StatusBoard::new();
    board.writer(&uid).unwrap().set(&Arc::new(pod()), running());
    let (clock, _) = Clock::manual(WALL.parse().unwrap());
    let policy = VerificationPolicy::default();
    let pulls = PullRecords::open(&agent, policy, clock.clone()).unwrap();
    let stats = Stats::new(StatsInputs {
        node_name: "node".to_owned(),
        board,
        observer,
        cgroups: Arc::new(Cgroups::fixture(version, &mounts)),
        claims: Claims::new(dirs.clone()),
        csi: Csi::new(CsiConfig::default(), dirs.clone()),
        quotas: None,
        pulls: Some(Arc::new(pulls)),
        providers: Some("sha256:0".to_owned()),
        dirs,
        logs,
        root: agent,
        runtime: connection.runtime(),
        images: connection.images(),
        clock,
        volumes_every: Some(Duration::from_secs(60)),
        proc,
        sys,
    });
    Fixture { stats, temp }
}

fn running() -> PodStatus {
    PodStatus {
        phase: Phase::Running,
        reason: None,
        message: None,
        start_time: None,
        conditions: Vec::new(),
        init_containers: Vec::new(),
        containers: Vec::new(),
        ephemeral_containers: Vec::new(),
        pod_ips: Vec::new(),
        host_ips: Vec::new(),
        qos: QosClass::Burstable,
    }
}

#[tokio::test]
async fn both_versions_have_the_same_numbers() {
    for version in [Version::V1, Version::V2] {
        let fixture = fixture(version);
        let readings = fixture.stats.read(Depth::Everything).await.unwrap();
        let pod = &readings.pods[0];
        assert_eq!(readings.pods.len(), 1);
        assert_eq!(pod.containers.len(), 1, "what has ended has no numbers");
        let container = &pod.containers[0];
        assert_eq!(
            container.level.path,
            format!("/kubepods/burstable/pod{UID}/{CONTAINER}")
        );
        let numbers = &container.level.numbers;
        let cpu = numbers.cpu.as_ref().unwrap();
        assert_eq!(cpu.usage_nanos, 50_000_000_000, "{version:?}");
        assert_eq!(
            (cpu.user_nanos, cpu.system_nanos),
            (30_000_000_000, 20_000_000_000)
        );
        assert_eq!(
            (cpu.quota_micros, cpu.period_micros),
            (Some(10_000), Some(100_000))
        );
        assert_eq!(cpu.throttling.periods, 22);
        assert_eq!(cpu.throttling.throttled_periods, 3);
        assert_eq!(cpu.throttling.throttled_nanos, 1_500_000_000);
        let memory = numbers.memory.as_ref().unwrap();
        assert_eq!(memory.usage, 150_000);
        assert_eq!(
            memory.working_set, 125_000,
            "without inactive pages of files"
        );
        assert_eq!((memory.cache, memory.rss), (50_000, 100_000));
        assert_eq!((memory.swap, memory.most), (50, 200_000));
        assert_eq!((memory.mapped, memory.kernel), (15_000, 2_500));
        assert_eq!((memory.faults, memory.major_faults), (350, 50));
        assert_eq!((memory.limit_hits, memory.oom_kills), (4, 2));
        assert_eq!(memory.limit, Some(67_108_864));
        let disk = DiskTraffic {
            device: "/dev/sda".to_owned(),
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(numbers.disks, [disk]);
        assert_eq!((numbers.threads, numbers.threads_most), (Some(50), None));
        let processes = container.level.processes.unwrap();
        assert_eq!(processes.count, 1);
        assert_eq!((processes.files, processes.sockets), (Some(3), Some(1)));
        assert_eq!(processes.files_limit, Some(20000));

        let of_pod = pod.level.as_ref().unwrap().numbers.clone();
        assert_eq!(of_pod.memory.unwrap().limit, None);
        assert_eq!(of_pod.cpu.unwrap().quota_micros, None);
        let sandbox = pod.sandbox.as_ref().unwrap();
        assert_eq!(sandbox.id, SANDBOX);
        let interfaces = pod.interfaces.as_ref().unwrap();
        assert_eq!(interfaces[0].received.bytes, 11352);
        assert_eq!(readings.interfaces.len(), 1, "not lo");

        let node = &readings.node;
        assert_eq!(node.path, "/");
        assert_eq!(
            node.numbers.cpu.as_ref().unwrap().usage_nanos,
            1_000_000_000_000
        );
        let memory = node.numbers.memory.as_ref().unwrap();
        let used = match version {
            Version::V1 => 3_000_000,
            // The root of version 2 has no such file: all that the machine uses.
            Version::V2 => 600 * 1024,
        };
        assert_eq!(memory.usage, used);
        assert_eq!(memory.working_set, used - 500_000);
        assert_eq!(readings.all_pods.unwrap().path, "/kubepods");
        assert_eq!(readings.classes.len(), 1, "no best effort pods yet");
        assert!(readings.own.is_none(), "processor and memory differ");
    }
}

#[tokio::test]
async fn only_version_2_has_pressure() {
    let pressure = async |version| {
        let fixture = fixture(version);
        let readings = fixture.stats.read(Depth::Pressure).await.unwrap();
        readings.pods[0].containers[0].level.numbers.pressure
    };
    assert_eq!(pressure(Version::V1).await, None);
    let found = pressure(Version::V2).await.unwrap();
    let some = Stall {
        total_micros: 1_000_000,
        avg10: 1.5,
        avg60: 2.0,
        avg300: 0.25,
    };
    assert_eq!(found.cpu.some, some);
    assert_eq!(found.io.some.total_micros, 3_000_000);
    assert_eq!(found.memory.full.total_micros, 7);
}
