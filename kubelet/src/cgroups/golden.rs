//! The files of the levels and of three pods, one of each class, beside Kubernetes' formulas: for both versions and both
//! drivers, in a tree of plain files.

use super::*;

use std::fs;
use std::sync::Arc;

use serde_json::json;

use super::systemd::tests::{FakeSystemd, Script};
use super::tests::weight_of;
use crate::pod::{Pod, PodUid};

const GUARANTEED: &str = "0d5ee94e-5e25-4e1c-8a7b-000000000001";
const BURSTABLE: &str = "0d5ee94e-5e25-4e1c-8a7b-000000000002";
const BEST_EFFORT: &str = "0d5ee94e-5e25-4e1c-8a7b-000000000003";

/// The levels as cgroupfs calls them.
const LEVELS: [&str; 6] = [
    "kubepods",
    "kubepods/burstable",
    "kubepods/besteffort",
    "kubepods/pod0d5ee94e-5e25-4e1c-8a7b-000000000001",
    "kubepods/burstable/pod0d5ee94e-5e25-4e1c-8a7b-000000000002",
    "kubepods/besteffort/pod0d5ee94e-5e25-4e1c-8a7b-000000000003",
];
/// And as systemd does.
const SLICES: [&str; 6] = [
    "kubepods.slice",
    "kubepods.slice/kubepods-burstable.slice",
    "kubepods.slice/kubepods-besteffort.slice",
    "kubepods.slice/kubepods-pod0d5ee94e_5e25_4e1c_8a7b_000000000001.slice",
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0d5ee94e_5e25_4e1c_8a7b_000000000002.slice",
    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0d5ee94e_5e25_4e1c_8a7b_000000000003.slice",
];

/// Files and values of one level, by the level's place in the lists above.
type Expected = &'static [(usize, &'static [(&'static str, &'static str)])];

// shares = thousandths of a cpu × 1024 / 1000; quota = thousandths × period / 1000.
const V1: Expected = &[
    (
        0,
        &[
            ("cpu.shares", "1536"),
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
            ("memory.limit_in_bytes", "1073741824"),
            ("pids.max", "1000"),
        ],
    ),
    (
        1,
        &[
            ("cpu.shares", "256"),
            ("hugetlb.2MB.limit_in_bytes", "4611686018427387904"),
        ],
    ),
    (
        2,
        &[
            ("cpu.shares", "2"),
            ("hugetlb.2MB.limit_in_bytes", "4611686018427387904"),
        ],
    ),
    (
        3,
        &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.shares", "512"),
            ("hugetlb.2MB.limit_in_bytes", "2097152"),
            ("memory.limit_in_bytes", "25165824"),
            ("pids.max", "77"),
        ],
    ),
    (
        4,
        &[
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "25500"),
            ("cpu.shares", "256"),
            ("hugetlb.2MB.limit_in_bytes", "0"),
            ("memory.limit_in_bytes", "16777216"),
            ("pids.max", "77"),
        ],
    ),
    (
        5,
        &[
            ("cpu.shares", "2"),
            ("hugetlb.2MB.limit_in_bytes", "0"),
            ("pids.max", "77"),
        ],
    ),
];

// weight = 1 + (shares - 2) × 9999 / 262142.
const V2: Expected = &[
    (
        0,
        &[
            ("cpu.weight", "59"),
            ("hugetlb.2MB.max", "4194304"),
            ("memory.max", "1073741824"),
            ("pids.max", "1000"),
        ],
    ),
    (
        1,
        &[
            ("cpu.weight", "10"),
            ("hugetlb.2MB.max", "4611686018427387904"),
        ],
    ),
    (
        2,
        &[
            ("cpu.weight", "1"),
            ("hugetlb.2MB.max", "4611686018427387904"),
        ],
    ),
    (
        3,
        &[
            ("cpu.max", "50000 100000"),
            ("cpu.weight", "20"),
            ("hugetlb.2MB.max", "2097152"),
            ("memory.max", "25165824"),
            ("pids.max", "77"),
        ],
    ),
    (
        4,
        &[
            ("cpu.max", "25500 100000"),
            ("cpu.weight", "10"),
            ("hugetlb.2MB.max", "0"),
            ("memory.max", "16777216"),
            ("pids.max", "77"),
        ],
    ),
    (
        5,
        &[
            ("cpu.weight", "1"),
            ("hugetlb.2MB.max", "0"),
            ("pids.max", "77"),
        ],
    ),
];

/// What the kernel would have in each level.
const FILES_V1: [&str; 8] = [
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpu.shares",
    "cpuset.cpus",
    "cpuset.mems",
    "hugetlb.2MB.limit_in_bytes",
    "memory.limit_in_bytes",
    "pids.max",
];
const FILES_V2: [&str; 6] = [
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "hugetlb.2MB.max",
    "memory.max",
    "pids.max",
];
const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids";

/// One hierarchy with all controllers, of plain files.
fn tree(version: Version, levels: &[&str]) -> (tempfile::TempDir, Hierarchy) {
    let temp = tempfile::tempdir().unwrap();
    for level in [""].iter().chain(levels) {
        let dir = temp.path().join(level);
        fs::create_dir_all(&dir).unwrap();
        let files: &[&str] = match version {
            Version::V1 => &FILES_V1,
            Version::V2 => &FILES_V2,
        };
        for file in files {
            fs::write(dir.join(file), "").unwrap();
        }
        if version == Version::V2 {
            for file in ["cgroup.controllers", "cgroup.subtree_control"] {
                fs::write(dir.join(file), CONTROLLERS).unwrap();
            }
        }
    }
    let controllers = CONTROLLERS.split(' ').map(str::to_owned).collect();
    let root = temp.path().to_owned();
    let hierarchy = Hierarchy {
        version,
        root,
        controllers,
    };
    (temp, hierarchy)
}

fn pods() -> [(Pod, PodUid); 3] {
    let pod = |uid: &str, resources: serde_json::Value| {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": uid},
            "spec": {"containers": [{"name": "c", "resources": resources}]}});
        (
            serde_json::from_value(pod).unwrap(),
            PodUid::parse(uid).unwrap(),
        )
    };
    [
        pod(
            GUARANTEED,
            json!({"limits": {"cpu": "500m", "memory": "24Mi", "hugepages-2Mi": "2Mi"}}),
        ),
        pod(
            BURSTABLE,
            json!({"requests": {"cpu": "250m", "memory": "8Mi"},
                "limits": {"cpu": "255m", "memory": "16Mi"}}),
        ),
        pod(BEST_EFFORT, json!({})),
    ]
}

fn config() -> CgroupsConfig {
    CgroupsConfig {
        pod_pids_limit: Some(77),
        node: NodeLimits {
            memory_bytes: Some(1 << 30),
            cpu_milli: Some(1500),
            pids: Some(1000),
            huge_pages: Some([(2 << 20, 4 << 20)].into()),
        },
        huge_page_sizes: vec![2 << 20],
        cpus: Some("0-1".to_owned()),
        ..CgroupsConfig::default()
    }
}

/// Everything an agent with three pods writes, and the cgroup parents it gives the runtime.
async fn run(
    version: Version,
    driver: Driver,
    hierarchy: Hierarchy,
    config: CgroupsConfig,
) -> Vec<String> {
    let cgroups = Arc::new(Cgroups::with_hierarchies(config, version, vec![hierarchy]));
    cgroups.begin(driver).await.unwrap();
    cgroups.limit_node().await.unwrap();
    let mut parents = Vec::new();
    for (pod, uid) in pods() {
        parents.push(cgroups.ensure_pod(&pod, &uid).await.unwrap());
    }
    cgroups.set_classes(&weight_of(250)).await.unwrap();
    cgroups.set_classes(&weight_of(250)).await.unwrap();
    assert_eq!(cgroups.list_pods().unwrap().len(), 3);
    parents
}

/// What was written into the levels.
fn written(root: &Path, levels: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for level in levels {
        let dir = root.join(level);
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let name = file.file_name().into_string().unwrap();
            if file.file_type().unwrap().is_dir() || name.starts_with("cgroup.") {
                continue;
            }
            let text = fs::read_to_string(file.path()).unwrap();
            if !text.is_empty() {
                lines.push(format!("{level}/{name} = {text}"));
            }
        }
    }
    lines
}

fn expected(expected: Expected, levels: &[&str]) -> Vec<String> {
    let lines = expected.iter().flat_map(|(level, files)| {
        let level = levels[*level];
        files
            .iter()
            .map(move |(file, value)| format!("{level}/{file} = {value}"))
    });
    lines.collect()
}

#[tokio::test]
async fn memory_is_kept_by_class_and_lesser_classes_leave_theirs() {
    let kept = |reserves| {
        Some(MemoryQos {
            throttling_factor: 0.9,
            reserves,
        })
    };
    let requests = ClassRequests {
        burstable_cpu_milli: 250,
        burstable_memory: 8 << 20,
        guaranteed_memory: 24 << 20,
    };
    for (memory_qos, class_reserve, values) in [
        (
            kept(true),
            None,
            [
                "kubepods memory.min 33554432",
                "kubepods/burstable memory.low 8388608",
                "pod1 memory.min 25165824",
                "pod2 memory.low 8388608",
            ]
            .as_slice(),
        ),
        (
            kept(false),
            None,
            &["kubepods memory.min 0", "kubepods/burstable memory.low 0"],
        ),
        (
            None,
            Some((50, 100 << 20)),
            &[
                "kubepods/burstable memory.max 92274688",
                "kubepods/besteffort memory.max 88080384",
            ],
        ),
    ] {
        let (temp, hierarchy) = tree(Version::V2, &LEVELS);
        for level in LEVELS {
            for file in ["memory.min", "memory.low"] {
                fs::write(temp.path().join(level).join(file), "").unwrap();
            }
        }
        let config = CgroupsConfig {
            memory_qos,
            class_reserve,
            ..config()
        };
        let version = Version::V2;
        let cgroups = Arc::new(Cgroups::with_hierarchies(config, version, vec![hierarchy]));
        cgroups.begin(Driver::Cgroupfs).await.unwrap();
        for (pod, uid) in pods() {
            cgroups.ensure_pod(&pod, &uid).await.unwrap();
        }
        cgroups.set_classes(&requests).await.unwrap();
        let (classes, pods) = LEVELS.split_at(3);
        let mut present = Vec::new();
        let named = classes.iter().map(|level| (*level, level.to_string()));
        let numbered = pods
            .iter()
            .zip(1..)
            .map(|(pod, n)| (*pod, format!("pod{n}")));
        for (level, name) in named.chain(numbered) {
            for file in ["memory.min", "memory.low", "memory.max"] {
                let text = fs::read_to_string(temp.path().join(level).join(file)).unwrap();
                let is_class = !name.starts_with("pod");
                if !text.is_empty() && (is_class || file != "memory.max") {
                    present.push(format!("{name} {file} {text}"));
                }
            }
        }
        assert_eq!(present, values);
    }
}

#[tokio::test]
async fn files_of_both_versions_with_cgroupfs() {
    for (version, values) in [(Version::V1, V1), (Version::V2, V2)] {
        let (temp, hierarchy) = tree(version, &LEVELS);
        let parents = Box::pin(run(version, Driver::Cgroupfs, hierarchy, config())).await;
        assert_eq!(written(temp.path(), &LEVELS), expected(values, &LEVELS));
        assert_eq!(
            parents,
            LEVELS[3..]
                .iter()
                .map(|l| format!("/{l}"))
                .collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn files_and_properties_of_both_versions_with_systemd() {
    for (version, values) in [(Version::V1, V1), (Version::V2, V2)] {
        let fake = FakeSystemd::new(Script::default());
        let (temp, hierarchy) = tree(version, &SLICES);
        let config = CgroupsConfig {
            systemd: fake.config(),
            ..config()
        };
        let parents = Box::pin(run(version, Driver::Systemd, hierarchy, config)).await;
        assert_eq!(
            parents,
            SLICES[3..]
                .iter()
                .map(|l| format!("/{l}"))
                .collect::<Vec<_>>()
        );

        // systemd keeps hundredths of a cpu, and has to be told of cpus lest it take the controller away.
        let mut values = expected(values, &SLICES);
        for line in &mut values {
            *line = line.replace("= 25500", "= 26000");
        }
        if version == Version::V2 {
            values.insert(1, "kubepods.slice/cpuset.cpus = 0-1".to_owned());
        }
        assert_eq!(written(temp.path(), &SLICES), values);

        let calls: Vec<String> = fake.calls().iter().map(|call| short(call)).collect();
        let properties = match version {
            Version::V1 => [
                "",
                "",
                " CPUShares=2",
                " MemoryLimit=1073741824 CPUShares=1536 TasksMax=1000",
                " MemoryLimit=25165824 CPUShares=512 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 TasksMax=77",
                " MemoryLimit=16777216 CPUShares=256 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=260000 TasksMax=77",
                " CPUShares=2 TasksMax=77",
                " CPUShares=256",
            ],
            Version::V2 => [
                " AllowedCPUs=[3]",
                "",
                " CPUWeight=1",
                " MemoryMax=1073741824 CPUWeight=59 TasksMax=1000 AllowedCPUs=[3]",
                " MemoryMax=25165824 CPUWeight=20 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=500000 TasksMax=77",
                " MemoryMax=16777216 CPUWeight=10 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=260000 TasksMax=77",
                " CPUWeight=1 TasksMax=77",
                " CPUWeight=10",
            ],
        };
        let unit = |level: usize| SLICES[level].rsplit('/').next().unwrap();
        let levels = [0, 1, 2, 0, 3, 4, 5, 1];
        let expected: Vec<String> = levels
            .into_iter()
            .zip(properties)
            .enumerate()
            .map(|(at, (level, properties))| {
                let call = match at {
                    3 | 7 => "SetUnitProperties",
                    _ => "StartTransientUnit",
                };
                format!("{call} {}{properties}", unit(level))
            })
            .collect();
        assert_eq!(calls, expected);
    }
}

/// Without what every slice is started with.
fn short(call: &str) -> String {
    let mut short = match (
        call.split_once(" Description="),
        call.split_once("DefaultDependencies=false"),
    ) {
        (Some((unit, _)), Some((_, limits))) => format!("{unit}{limits}"),
        _ => call.to_owned(),
    };
    if let Some((before, _)) = short.split_once("AllowedCPUs=") {
        assert!(call.contains("U8(3)"), "{call}");
        short = format!("{before}AllowedCPUs=[3]");
    }
    short
}
