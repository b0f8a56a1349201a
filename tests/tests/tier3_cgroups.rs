//! What pods and all of them together may use: the kernel's files beside Kubernetes' formulas.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
/// No limit, in the kernel's files of either version.
const NONE: i64 = i64::MAX;

#[test]
fn levels_pods_and_containers_have_what_the_formulas_say() {
    with_agent(async |node, agent| {
        node.put("limits.yaml", include_str!("../../examples/limits.yaml"))?;
        node.put("guaranteed.yaml", GUARANTEED)?;
        node.put("besteffort.yaml", BEST_EFFORT)?;
        node.put("heavy.yaml", HEAVY)?;

        let cores = std::thread::available_parallelism()?.get();
        let memory = total_memory()?;
        // Nothing is reserved, so that all pods together have the machine.
        expect(
            node,
            "kubepods",
            &Limits {
                shares: i64::try_from(cores)? * 1024,
                quota: -1,
                memory,
            },
        )
        .await?;
        let pids = [
            number(Path::new("/proc/sys/kernel/pid_max"))?,
            number(Path::new("/proc/sys/kernel/threads-max"))?,
        ];
        let most = number(&node.cgroup("pids", "kubepods")?.join("pids.max"))?;
        ensure!(Some(&most) == pids.iter().min(), "{most} of {pids:?}");

        // 100m and 200m of a cpu: 100 × 1024 / 1000, 200 × 100000 / 1000.
        let pod = agent.ready("limits", LIMIT).await?;
        let level = format!("kubepods/burstable/pod{}", pod.uid());
        let limits = Limits {
            shares: 102,
            quota: 20_000,
            memory: 32 << 20,
        };
        expect(node, &level, &limits).await?;
        expect(node, &format!("{level}/{}", id_of(&pod)?), &limits).await?;
        class_is(&pod, "Burstable")?;
        oom_score_is(node, &level, &pod, burstable_score(16 << 20, memory))?;

        let pod = agent.ready("guaranteed", LIMIT).await?;
        let level = format!("kubepods/pod{}", pod.uid());
        let limits = Limits {
            shares: 512,
            quota: 50_000,
            memory: 24 << 20,
        };
        expect(node, &level, &limits).await?;
        expect(node, &format!("{level}/{}", id_of(&pod)?), &limits).await?;
        class_is(&pod, "Guaranteed")?;
        oom_score_is(node, &level, &pod, -997)?;

        // A request without a limit: the pod has none either.
        let pod = agent.ready("heavy", LIMIT).await?;
        let level = format!("kubepods/burstable/pod{}", pod.uid());
        let unlimited = Limits {
            shares: 2,
            quota: -1,
            memory: NONE,
        };
        expect(node, &level, &unlimited).await?;
        class_is(&pod, "Burstable")?;
        oom_score_is(node, &level, &pod, burstable_score(512 << 20, memory))?;

        // All burstable pods together weigh what they ask for in sum, those of the last class next to nothing.
        let burstable = Limits {
            shares: 102,
            ..unlimited
        };
        expect(node, "kubepods/burstable", &burstable).await?;
        expect(node, "kubepods/besteffort", &unlimited).await?;

        let pod = agent.ready("besteffort", LIMIT).await?;
        let level = format!("kubepods/besteffort/pod{}", pod.uid());
        expect(node, &level, &unlimited).await?;
        class_is(&pod, "BestEffort")?;
        oom_score_is(node, &level, &pod, 1000)?;

        // The pod's cgroups go with it.
        node.remove("besteffort.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        let path = node.cgroup("memory", &level)?;
        eventually("the pod's cgroup is gone", LIMIT, async || {
            ensure!(!path.exists(), "{} is there", path.display());
            Ok(())
        })
        .await
    });
}

const GUARANTEED: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: guaranteed
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "100000"]
    resources:
      limits: { cpu: 500m, memory: 24Mi }
"#;

const BEST_EFFORT: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: besteffort
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "100000"]
"#;

const HEAVY: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: heavy
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, "100000"]
    resources:
      requests: { memory: 512Mi }
"#;

/// Waits until the level `below` has `limits`; those of the classes and of the node may come a moment after the pods.
async fn expect(node: &Node, below: &str, limits: &Limits) -> Result<()> {
    eventually("the limits of a cgroup", LIMIT, async || {
        let present = Limits::read(node, below)?;
        ensure!(present == *limits, "{below}: {present:?}, not {limits:?}");
        Ok(())
    })
    .await
}

fn class_is(pod: &Pod, class: &str) -> Result<()> {
    let present = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    ensure!(present == Some(class), "{present:?}, not {class}");
    Ok(())
}

/// The score of the container's first process. containerd may be told not to go below its own
/// (`restrict_oom_score_adj`), which is that of the test.
fn oom_score_is(node: &Node, level: &str, pod: &Pod, score: i64) -> Result<()> {
    let procs = node
        .cgroup("memory", &format!("{level}/{}", id_of(pod)?))?
        .join("cgroup.procs");
    let procs = fs::read_to_string(&procs).with_context(|| procs.display().to_string())?;
    let pid = procs
        .lines()
        .next()
        .context("the container has no process")?;
    let present = number(&Path::new("/proc").join(pid).join("oom_score_adj"))?;
    let least = number(Path::new("/proc/self/oom_score_adj"))?;
    let expected = score.max(least);
    ensure!(present == expected, "{level}: {present}, not {expected}");
    Ok(())
}

/// Between those of the other two classes, the lower the more of the machine's memory was asked for.
fn burstable_score(request: i64, memory: i64) -> i64 {
    (1000 - 1000 * request / memory).clamp(3, 999)
}

/// All memory of the machine, bytes.
fn total_memory() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kibibytes: i64 = kibibytes.context("no MemTotal")?.trim().parse()?;
    Ok(kibibytes * 1024)
}

/// The limits of one cgroup in the units of cgroup v1: shares, microseconds in 100 ms (-1: none), bytes ([`NONE`]: none).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    shares: i64,
    quota: i64,
    memory: i64,
}

impl Limits {
    fn read(node: &Node, below: &str) -> Result<Self> {
        let cpu = node.cgroup("cpu", below)?;
        let memory = node.cgroup("memory", below)?;
        if cpu.join("cpu.shares").exists() {
            ensure!(number(&cpu.join("cpu.cfs_period_us"))? == 100_000);
            let bytes = number(&memory.join("memory.limit_in_bytes"))?;
            return Ok(Self {
                shares: number(&cpu.join("cpu.shares"))?,
                quota: number(&cpu.join("cpu.cfs_quota_us"))?,
                // "No limit" is the largest number of whole pages.
                memory: if bytes > 1 << 60 { NONE } else { bytes },
            });
        }
        let max = fs::read_to_string(cpu.join("cpu.max")).context("cpu.max")?;
        let quota = max.split_whitespace().next().unwrap_or_default();
        let memory = fs::read_to_string(memory.join("memory.max")).context("memory.max")?;
        // The inverse of the kubelet's conversion of shares to a weight; runc 1.3 has another one.
        let weight = number(&cpu.join("cpu.weight"))?;
        Ok(Self {
            shares: (weight - 1) * 262_142 / 9_999 + 2,
            quota: quota.parse().unwrap_or(-1),
            memory: memory.trim().parse().unwrap_or(NONE),
        })
    }
}

fn number(path: &Path) -> Result<i64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("{}: {text}", path.display()))
}

fn id_of(pod: &Pod) -> Result<String> {
    let id = pod.container("main")?.container_id.clone();
    let id = id.context("no container id")?;
    Ok(id.trim_start_matches("containerd://").to_owned())
}
