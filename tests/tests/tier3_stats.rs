//! Real containers: what the endpoints tell of them is what the kernel counts, in the words that scrapers know.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::prometheus::{self, Metrics};
use tests::scenario::with_agent;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const READ_ONLY: &str = "127.0.0.1:10255";

/// One container that works, within limits, and has a probe; one that serves.
const BUSY: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: busy }\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
    - name: work\n    image: busybox:1.36\n    \
    command: [sh, -c, 'dd if=/dev/zero of=/data/big bs=1M count=8; dd if=/dev/zero of=/layer bs=1M count=2; while true; do echo line; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done']\n    \
    resources: { limits: { cpu: 200m, memory: 64Mi } }\n    \
    livenessProbe: { exec: { command: ['true'] }, periodSeconds: 1 }\n    \
    volumeMounts: [{ name: data, mountPath: /data }]\n  \
    - name: web\n    image: busybox:1.36\n    command: [httpd, -f, -p, '80', -h, /www]\n    \
    readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 1 }\n  \
    volumes: [{ name: data, emptyDir: {} }]\n";

fn get(node: &Node, path: &str) -> Result<String> {
    let answer = node.http_get(READ_ONLY, path)?;
    ensure!(
        answer.status == 200,
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    Ok(answer.body)
}

fn metrics(node: &Node, path: &str) -> Result<Metrics> {
    let text = get(node, path)?;
    prometheus::parse(&text).map_err(|why| anyhow!("{path}: {why}\n{text}"))
}

fn summary(node: &Node) -> Result<Value> {
    Ok(serde_json::from_str(&get(node, "/stats/summary")?)?)
}

/// The number at `path` in `value`.
fn number(value: &Value, path: &str) -> Result<u64> {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.with_context(|| format!("{path} in {value:#}"))
}

fn pod_of<'a>(summary: &'a Value, name: &str) -> Result<&'a Value> {
    let pods = summary["pods"].as_array().context("pods")?;
    let found = pods.iter().find(|pod| pod["podRef"]["name"] == name);
    found.with_context(|| format!("no {name} in {summary:#}"))
}

fn container_of<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    let containers = pod["containers"].as_array().context("containers")?;
    let found = containers
        .iter()
        .find(|container| container["name"] == name);
    found.with_context(|| format!("no {name} in {pod:#}"))
}

#[test]
fn what_a_pod_uses_is_told_on_every_endpoint() {
    with_agent(async |node, agent| {
        node.put("busy.yaml", BUSY)?;
        let pod = agent.ready("busy", LIMIT).await?;
        let full = pod.metadata.name.clone().context("name")?;
        of_resources(node, &full).await?;
        of_summary(node, &full).await?;
        of_cgroups(node, &full)?;
        of_probes(node, &full).await?;
        if !agent.is_foreign() {
            of_agent(node)?;
        }
        forgotten(node, agent, &full).await
    });
}

/// metrics-server asks for this, twice.
async fn of_resources(node: &Node, pod: &str) -> Result<()> {
    let of = [
        ("container", "work"),
        ("namespace", "default"),
        ("pod", pod),
    ];
    let usage = || {
        let told = metrics(node, "/metrics/resource")?;
        let sample = told
            .find("container_cpu_usage_seconds_total", &of)
            .context("no processor")?;
        let memory = told
            .value("container_memory_working_set_bytes", &of)
            .context("no memory")?;
        ensure!(memory > 0.0 && memory < f64::from(64 << 20), "{memory}");
        for name in ["container_start_time_seconds", "container_swap_usage_bytes"] {
            ensure!(told.find(name, &of).is_some(), "{name} is missing");
        }
        for name in [
            "pod_cpu_usage_seconds_total",
            "pod_memory_working_set_bytes",
        ] {
            ensure!(told.value(name, &of[1..]) > Some(0.0), "{name} is missing");
        }
        for name in [
            "node_cpu_usage_seconds_total",
            "node_memory_working_set_bytes",
        ] {
            ensure!(told.value(name, &[]) > Some(0.0), "{name} is missing");
        }
        Ok::<_, anyhow::Error>((sample.value, sample.at.context("no time")?))
    };
    let (before, at) = usage()?;
    eventually("the busy one used more", LIMIT, async || {
        let (after, later) = usage()?;
        ensure!(
            after > before + 0.1 && later > at,
            "{before} at {at}, {after} at {later}"
        );
        Ok(())
    })
    .await
}

async fn of_summary(node: &Node, name: &str) -> Result<()> {
    eventually(
        "the summary has a rate, a volume and a layer",
        LIMIT,
        async || {
            let summary = summary(node)?;
            let pod = pod_of(&summary, name)?;
            let work = container_of(pod, "work")?;
            let rate = number(work, "/cpu/usageNanoCores")?;
            // A fifth of a processor is all that it may use.
            ensure!((10_000_000..600_000_000).contains(&rate), "{rate}");
            let volume = number(pod, "/volume/0/usedBytes")?;
            ensure!(volume >= 8 << 20, "{volume}");
            let layer = number(work, "/rootfs/usedBytes")?;
            ensure!(layer >= 2 << 20, "{layer}");
            ensure!(number(work, "/logs/usedBytes")? > 0, "no log");
            let sum = number(pod, "/ephemeral-storage/usedBytes")?;
            ensure!(sum >= volume + layer, "{sum}");
            ensure!(pod["network"]["name"] == "eth0", "{}", pod["network"]);
            // The probe of the other one connects each second.
            ensure!(number(pod, "/network/rxBytes")? > 0, "nothing came");
            ensure!(
                number(pod, "/process_stats/process_count")? >= 3,
                "processes"
            );
            let limit =
                number(work, "/memory/availableBytes")? + number(work, "/memory/workingSetBytes")?;
            ensure!(limit == 64 << 20, "{limit}");
            for path in [
                "/node/fs/capacityBytes",
                "/node/runtime/imageFs/usedBytes",
                "/node/rlimit/maxpid",
            ] {
                ensure!(number(&summary, path)? > 0, "{path}");
            }
            let all_pods = summary["node"]["systemContainers"]
                .as_array()
                .context("system")?;
            ensure!(
                all_pods.iter().any(|one| one["name"] == "pods"),
                "{all_pods:?}"
            );
            Ok(())
        },
    )
    .await
}

fn of_cgroups(node: &Node, pod: &str) -> Result<()> {
    let told = metrics(node, "/metrics/cadvisor")?;
    let of = [
        ("container", "work"),
        ("namespace", "default"),
        ("pod", pod),
    ];
    let cpu = told
        .find("container_cpu_usage_seconds_total", &of)
        .context("no processor")?;
    ensure!(cpu.label("image").contains("busybox"), "{cpu:?}");
    ensure!(cpu.label("id").ends_with(cpu.label("name")), "{cpu:?}");
    for (name, least) in [
        ("container_cpu_cfs_periods_total", 1.0),
        ("container_cpu_cfs_throttled_periods_total", 1.0),
        ("container_memory_rss", 1.0),
        ("container_memory_usage_bytes", 1.0),
        ("container_processes", 1.0),
        ("container_file_descriptors", 3.0),
    ] {
        let value = told
            .value(name, &of)
            .with_context(|| format!("no {name}"))?;
        ensure!(value >= least, "{name} {value}");
    }
    let limit = told.value("container_spec_memory_limit_bytes", &of);
    ensure!(limit == Some(f64::from(64 << 20)), "{limit:?}");
    ensure!(told.value("container_spec_cpu_quota", &of) == Some(20_000.0));
    let network = told.find(
        "container_network_receive_bytes_total",
        &[
            ("interface", "eth0"),
            ("namespace", "default"),
            ("pod", pod),
        ],
    );
    let network = network.context("no network")?;
    ensure!(
        network.label("container").is_empty() && network.value > 0.0,
        "{network:?}"
    );
    ensure!(
        told.find("container_cpu_usage_seconds_total", &[("id", "/")])
            .is_some()
    );
    ensure!(told.value("machine_memory_bytes", &[]) > Some(0.0));
    Ok(())
}

async fn of_probes(node: &Node, pod: &str) -> Result<()> {
    let of = [("namespace", "default"), ("pod", pod)];
    eventually("both probes are counted", LIMIT, async || {
        let told = metrics(node, "/metrics/probes")?;
        for (container, kind) in [("work", "Liveness"), ("web", "Readiness")] {
            let mut labels = vec![("container", container), ("probe_type", kind)];
            labels.extend(of);
            let timed = told.value("prober_probe_duration_seconds_count", &labels);
            labels.push(("result", "successful"));
            let counted = told.value("prober_probe_total", &labels);
            ensure!(
                counted >= Some(1.0) && timed >= Some(1.0),
                "{kind}: {counted:?}, {timed:?}"
            );
        }
        Ok(())
    })
    .await
}

fn of_agent(node: &Node) -> Result<()> {
    let told = metrics(node, "/metrics")?;
    for (name, labels, least) in [
        ("kubelet_running_pods", &[][..], 1.0),
        (
            "kubelet_running_containers",
            &[("container_state", "running")],
            2.0,
        ),
        (
            "kubelet_runtime_operations_total",
            &[("operation_type", "start_container")],
            2.0,
        ),
        (
            "kubelet_runtime_operations_duration_seconds_count",
            &[("operation_type", "run_podsandbox")],
            1.0,
        ),
        ("kubelet_pod_start_duration_seconds_count", &[], 1.0),
        (
            "kubelet_pod_worker_duration_seconds_count",
            &[("operation_type", "create")],
            1.0,
        ),
        (
            "kubelet_started_containers_total",
            &[("container_type", "container")],
            2.0,
        ),
        ("kubelet_started_pods_total", &[], 1.0),
        (
            "kubelet_cgroup_manager_duration_seconds_count",
            &[("operation_type", "create")],
            1.0,
        ),
        ("kubelet_pleg_relist_duration_seconds_count", &[], 1.0),
        ("kubelet_active_pods", &[("static", "true")], 1.0),
        (
            "storage_operation_duration_seconds_count",
            &[
                ("operation_name", "volume_mount"),
                ("volume_plugin", "kubernetes.io/empty-dir"),
            ],
            1.0,
        ),
        (
            "volume_manager_total_volumes",
            &[
                ("plugin_name", "kubernetes.io/empty-dir"),
                ("state", "actual_state_of_world"),
            ],
            1.0,
        ),
        ("process_resident_memory_bytes", &[], 1e6),
    ] {
        let value = told.value(name, labels);
        let value = value.with_context(|| format!("no {name}{labels:?}"))?;
        ensure!(value >= least, "{name}{labels:?} {value}");
    }
    Ok(())
}

/// What has gone is in no answer.
async fn forgotten(node: &Node, agent: &Agent<'_>, name: &str) -> Result<()> {
    let pod = agent.pod("busy")?;
    node.remove("busy.yaml")?;
    agent.gone(&pod, LIMIT).await?;
    eventually("nothing is told of the pod", LIMIT, async || {
        for path in [
            "/metrics/resource",
            "/metrics/cadvisor",
            "/metrics/probes",
            "/stats/summary",
        ] {
            let text = get(node, path)?;
            ensure!(!text.contains(name), "{path} has {name}, uid {}", pod.uid());
        }
        Ok(())
    })
    .await
}
