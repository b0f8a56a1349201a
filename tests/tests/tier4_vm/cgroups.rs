//! The slices of pods, beside the formulas of the Kubernetes documents for cgroup v2 (KEP-2254) and QoS classes.

use anyhow::{Context as _, Result, bail, ensure};
use tests::agent::PodView as _;
use tests::vm::guest::{self, POD};
use tests::vm::machine::COMMAND;

use super::{CONFIG, GOOD_CONFIG, NOTES, PODS, Session};

const MIB: u64 = 1 << 20;
/// Requested by the burstable pod.
const BURSTABLE_MEMORY: u64 = 32 * MIB;

const GUARANTEED: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done']
    resources:
      limits: {cpu: 200m, memory: 64Mi}
";

const BURSTABLE: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: burstable}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done']
    resources:
      requests: {cpu: 100m, memory: 32Mi}
      limits: {memory: 64Mi}
";

const BESTEFFORT: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: besteffort}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done']
";

/// A pod that comes once memory is kept, and goes before it is no more.
const KEPT: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: kept}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, '100000']
    resources:
      requests: {memory: 16Mi}
      limits: {memory: 48Mi}
";

/// The pod of the hooks: each writes a line.
fn hooked() -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: hooked}}
spec:
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done']
    lifecycle:
      postStart: {{exec: {{command: [sh, -c, 'echo started >>/notes/hooked']}}}}
      preStop: {{exec: {{command: [sh, -c, 'echo stopped >>/notes/hooked; sync']}}}}
    volumeMounts:
    - {{name: notes, mountPath: /notes}}
  volumes:
  - name: notes
    hostPath: {{path: {NOTES}, type: DirectoryOrCreate}}
"
    )
}

/// `cpu.weight` of a request in thousandths of a processor.
fn weight(milli: u64) -> u64 {
    let shares = (milli * 1024 / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

/// What a cgroup's files hold.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    weight: String,
    cpu: String,
    memory: String,
    pids: String,
}

fn limits(session: &mut Session, path: &str) -> Result<Limits> {
    let text = session.vm.ok(&format!(
        "cd /sys/fs/cgroup{path} && cat cpu.weight cpu.max memory.max pids.max"
    ))?;
    let [weight, cpu, memory, pids] = text.lines().collect::<Vec<_>>()[..] else {
        bail!("{path}: {text}");
    };
    let [weight, cpu, memory, pids] = [weight, cpu, memory, pids].map(str::to_owned);
    Ok(Limits {
        weight,
        cpu,
        memory,
        pids,
    })
}

pub(super) fn pods_have_the_slices_of_the_formulas(session: &mut Session) -> Result<()> {
    let kind = session.vm.ok("stat -fc %T /sys/fs/cgroup")?;
    ensure!(kind == "cgroup2fs", "the machine has {kind}");
    session.manifest("guaranteed", GUARANTEED)?;
    session.manifest("burstable", BURSTABLE)?;
    session.manifest("besteffort", BESTEFFORT)?;
    session.manifest("hooked", &hooked())?;
    let pods = guest::all_ready(&mut session.vm, &PODS)?;

    let setting = format!("sed -n 's/^podPidsLimit: *//p' {CONFIG}");
    let pids = match session.vm.ok(&setting)?.as_str() {
        "" | "-1" => "max".to_owned(),
        limit => limit.to_owned(),
    };
    let total = session
        .vm
        .ok("awk '/^MemTotal:/ {print $2}' /proc/meminfo")?;
    let capacity = 1024 * total.parse::<u64>().context("MemTotal")?;
    let burstable_adjustment = 1000 - 1000 * BURSTABLE_MEMORY / capacity;

    for (name, class, expected, adjustment) in [
        (
            PODS[2],
            "",
            (weight(200), "20000 100000", (64 * MIB).to_string()),
            "-997".to_owned(),
        ),
        (
            PODS[1],
            "burstable",
            (weight(100), "max 100000", (64 * MIB).to_string()),
            burstable_adjustment.clamp(3, 999).to_string(),
        ),
        (
            PODS[0],
            "besteffort",
            (weight(0), "max 100000", "max".to_owned()),
            "1000".to_owned(),
        ),
    ] {
        let pod = pods.get(name).with_context(|| format!("no pod {name}"))?;
        let id = pod.container("main")?.container_id.as_deref();
        let id = id.and_then(|id| id.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("{name} has no container"))?;
        let uid = pod.uid().replace('-', "_");
        let slice = match class {
            "" => format!("/kubepods.slice/kubepods-pod{uid}.slice"),
            _ => format!("/kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice"),
        };
        let found = session.vm.ok(&format!(
            "pid=$(ctr -n k8s.io tasks ls | awk '$1 == \"{id}\" {{print $2}}'); \
             cat /proc/$pid/cgroup /proc/$pid/oom_score_adj"
        ))?;
        let want = format!("0::{slice}/cri-containerd-{id}.scope\n{adjustment}");
        ensure!(found == want, "{name}: {found}, wanted: {want}");
        let (weight, cpu, memory) = expected;
        let want = Limits {
            weight: weight.to_string(),
            cpu: cpu.to_owned(),
            memory,
            pids: pids.clone(),
        };
        let found = limits(session, &slice)?;
        ensure!(found == want, "{name}: {found:?}, wanted: {want:?}");
        // systemd knows of it too, or it would take the values back when it reloads.
        let unit = slice.rsplit('/').next().unwrap_or_default();
        let told = session
            .vm
            .ok(&format!("systemctl show {unit} -P CPUWeight"))?;
        ensure!(told == weight.to_string(), "{unit}: CPUWeight is {told}");
    }

    // Both QoS levels, a class's requests summed up; the hooked pod is of the best effort's too.
    for (class, milli) in [("burstable", 100), ("besteffort", 0)] {
        let found = limits(session, &format!("/kubepods.slice/kubepods-{class}.slice"))?;
        let want = weight(milli).to_string();
        ensure!(found.weight == want, "{class}: {found:?}, wanted: {want}");
        ensure!(found.memory == "max", "{class}: {found:?}");
    }
    node_level(session, capacity)
}

pub(super) fn memory_is_kept_and_throttled(session: &mut Session) -> Result<()> {
    let vm = &mut session.vm;
    vm.ok(&format!("cp -p {CONFIG} {GOOD_CONFIG}"))?;
    let gates = vm.run(&format!("grep -q '^featureGates:' {CONFIG}"), COMMAND)?;
    ensure!(gates.status != 0, "the package's configuration has gates");
    let fields = "'featureGates: {MemoryQoS: true}' 'memoryReservationPolicy: TieredReservation'";
    vm.ok(&format!(
        "printf '%s\\n' {fields} >>{CONFIG}; systemctl restart kubelet"
    ))?;
    guest::active(vm)?;
    session.manifest("kept", KEPT)?;
    let mut names = PODS.to_vec();
    names.push("default/kept-node");
    let pods = guest::all_ready(&mut session.vm, &names)?;
    let pod = pods.get("default/kept-node").context("no pod kept")?;
    let id = pod.container("main")?.container_id.as_deref();
    let id = id.and_then(|id| id.strip_prefix("containerd://"));
    let id = id.context("kept has no container")?;
    let uid = pod.uid().replace('-', "_");
    let class = "/kubepods.slice/kubepods-burstable.slice";
    let slice = format!("{class}/kubepods-burstable-pod{uid}.slice");
    let own = format!("{slice}/cri-containerd-{id}.scope");
    // 64 MiB of the Guaranteed pod, 32 and 16 of the Burstable ones; 16 and nine tenths of 32 MiB, in whole pages.
    let high = (16 * MIB + 32 * MIB * 9 / 10) / 4096 * 4096;
    let wanted = [
        ("/kubepods.slice/memory.min".to_owned(), 112 * MIB),
        (format!("{class}/memory.low"), 48 * MIB),
        (format!("{slice}/memory.low"), 16 * MIB),
        (format!("{own}/memory.low"), 16 * MIB),
        (format!("{own}/memory.high"), high),
    ];
    session.vm.eventually("memory is kept", POD, |vm| {
        for (file, bytes) in &wanted {
            let found = vm.ok(&format!("cat /sys/fs/cgroup{file}"))?;
            ensure!(found == bytes.to_string(), "{file}: {found}, not {bytes}");
        }
        Ok(())
    })?;
    let vm = &mut session.vm;
    let told = vm.ok("systemctl show kubepods.slice -P MemoryMin")?;
    ensure!(told == (112 * MIB).to_string(), "MemoryMin is {told}");
    let metrics = vm.ok("curl -s --unix-socket /var/lib/kubelet/agent.sock http://localhost/metrics | grep memory_qos_node")?;
    for (name, bytes) in [("min", 64 * MIB), ("low", 48 * MIB)] {
        let sample = metrics.lines().find_map(|line| {
            line.strip_prefix(&format!("kubelet_memory_qos_node_memory_{name}_bytes "))
        });
        let told = sample.context("no such sample")?.parse::<f64>()?;
        #[expect(clippy::cast_precision_loss, reason = "some MiB")]
        let wanted = bytes as f64;
        ensure!((told - wanted).abs() < 1.0, "{metrics}");
    }
    vm.ok("rm /etc/kubernetes/manifests/kept.yaml")?;
    guest::all_ready(vm, &PODS)?;
    vm.ok(&format!(
        "cp -p {GOOD_CONFIG} {CONFIG}; systemctl restart kubelet"
    ))?;
    // What was kept stays until somebody says otherwise, as with upstream.
    vm.ok("systemctl set-property --runtime kubepods.slice MemoryMin=0")?;
    vm.ok("systemctl set-property --runtime kubepods-burstable.slice MemoryLow=0")?;
    guest::active(vm)
}

/// The level of all pods: what the machine has, less what the configuration reserves.
fn node_level(session: &mut Session, capacity: u64) -> Result<()> {
    let reserved = session.vm.run(
        &format!("grep -E '^(system|kube)Reserved:' {CONFIG}"),
        COMMAND,
    )?;
    let found = limits(session, "/kubepods.slice")?;
    let memory: u64 = found.memory.parse().context("memory.max of kubepods")?;
    if reserved.text.is_empty() {
        ensure!(memory == capacity, "{found:?}, of {capacity}");
        let processors = session.vm.ok("nproc")?;
        let want = weight(1000 * processors.parse::<u64>().context("nproc")?);
        ensure!(found.weight == want.to_string(), "{found:?}, of {want}");
    } else {
        ensure!(memory < capacity, "{found:?}, of {capacity}");
    }
    Ok(())
}
