//! What is reserved for the node's daemons: kept from pods, enforced on the daemons' own cgroups where that is configured,
//! and refused where it cannot be.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::BUSYBOX;
use tests::manifest::PodManifest;
use tests::scenario::with_nothing;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: i64 = 1 << 20;

#[test]
fn reserved_resources_are_kept_from_pods_and_daemons_are_held_to_theirs() {
    with_nothing(async |node, agent| {
        agent.configure(
            "kubeReserved",
            json!({ "cpu": "250m", "memory": "256Mi", "pid": "500" }),
        )?;
        agent.configure(
            "systemReserved",
            json!({ "cpu": "100m", "memory": "128Mi" }),
        )?;
        let words = json!(["pods", "kube-reserved", "system-reserved-compressible"]);
        agent.configure("enforceNodeAllocatable", words)?;
        for (field, name) in [
            ("kubeReservedCgroup", "kube"),
            ("systemReservedCgroup", "system"),
        ] {
            agent.configure(field, format!("{}/{name}", node.cgroup_root()))?;
        }
        node.start_containerd().await?;

        // They are the administrator's to make.
        let said = format!(
            "Failed to enforce Kube Reserved Cgroup Limits on \"{}/kube\": ",
            node.cgroup_root()
        );
        refuses(agent, &said).await?;
        make(node, "kube")?;
        make(node, "system")?;
        agent.start().await?;

        let cores = i64::try_from(std::thread::available_parallelism()?.get())?;
        let (memory, most) = (total_memory()?, most_pids()?);
        eventually("all have theirs, and pods the rest", LIMIT, async || {
            is(node, "memory", "kubepods", memory - 384 * MIB)?;
            is(node, "pids", "kubepods", most - 500)?;
            is(node, "cpu", "kubepods", (cores * 1000 - 350) * 1024 / 1000)?;
            is(node, "memory", "kube", 256 * MIB)?;
            is(node, "pids", "kube", 500)?;
            is(node, "cpu", "kube", 256)?;
            // Compressible is the processor alone.
            is(node, "cpu", "system", 102)
        })
        .await?;
        ensure!(read(node, "memory", "system")? > memory, "it is limited");
        for message in [
            format!(
                "Updated limits on kube reserved cgroup {}/kube",
                node.cgroup_root()
            ),
            format!(
                "Updated limits on system reserved cgroup {}/system",
                node.cgroup_root()
            ),
            "Updated Node Allocatable limit across pods".to_owned(),
        ] {
            eventually(&message, LIMIT, async || {
                let events = agent.events()?;
                let told = events.iter().any(|event| {
                    event.reason == "NodeAllocatableEnforced" && event.message == message
                });
                ensure!(told, "{events:?}");
                Ok(())
            })
            .await?;
        }
        node.put("pod.yaml", &pod("fits", cores * 1000 - 500))?;
        agent.ready("fits", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn reserved_cpus_take_the_place_of_amounts() {
    with_nothing(async |node, agent| {
        let cores = i64::try_from(std::thread::available_parallelism()?.get())?;
        agent.configure("reservedSystemCPUs", "0")?;
        agent.configure("kubeReserved", json!({ "cpu": "900m" }))?;
        agent.configure("systemReserved", json!({ "cpu": "900m" }))?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("large.yaml", &pod("large", (cores - 1) * 1000 + 100))?;
        eventually("it does not fit", LIMIT, async || {
            let large = agent.pod("large")?;
            let message = large.status.as_ref().and_then(|s| s.message.clone());
            let message = message.with_context(|| large.describe())?;
            let lacks = "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]";
            ensure!(message.contains(lacks), "{message}");
            let left = (cores - 1) * 1000;
            let more = format!(
                "resource: cpu, requested: {}, used: 0, capacity: {left}",
                left + 100
            );
            ensure!(agent.is_foreign() || message.contains(&more), "{message}");
            Ok(())
        })
        .await?;
        node.put("fits.yaml", &pod("fits", (cores - 1) * 1000 - 100))?;
        agent.ready("fits", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_reserved_ends_the_agent_in_upstreams_words() {
    with_nothing(async |node, agent| {
        node.start_containerd().await?;
        let v1 = !fs::exists("/sys/fs/cgroup/cgroup.controllers")?;
        let mut cases = vec![
            (
                "reservedSystemCPUs",
                json!("0,4095"),
                json!(null),
                "reserved-cpus: 0,4095 is not a subset of online-cpus: ",
            ),
            (
                "systemReserved",
                json!({ "memory": "1000Ti" }),
                json!({}),
                "invalid Node Allocatable configuration. Resource \"memory\" has a reservation of ",
            ),
            (
                "qosReserved",
                json!({ "cpu": "10%" }),
                json!({}),
                "--qos-reserved value failed to parse: cannot reserve \"cpu\" resource",
            ),
        ];
        if v1 {
            cases.push((
                "memorySwap",
                json!({ "swapBehavior": "LimitedSwap" }),
                json!({}),
                "swap feature is enabled and LimitedSwap but it is only supported with cgroupv2",
            ));
        }
        for (field, value, without, said) in cases {
            agent.configure(field, value)?;
            refuses(agent, said).await?;
            agent.configure(field, without)?;
        }
        agent.start().await
    });
}

#[test]
fn with_swap_on_the_agent_starts_only_when_told_to() {
    with_nothing(async |node, agent| {
        let swaps = node.path("swaps");
        let table = "Filename Type Size Used Priority\n/swapfile file 1024 0 -2\n";
        fs::write(&swaps, table)?;
        let swaps = swaps.display().to_string();
        node.run("mount", &["--bind", &swaps, "/proc/swaps"])?;
        node.start_containerd().await?;
        agent.configure("failSwapOn", true)?;
        refuses(agent, "running with swap on is not supported").await?;
        agent.configure("failSwapOn", false)?;
        agent.configure("memorySwap", json!({ "swapBehavior": "NoSwap" }))?;
        agent.start().await?;
        node.put("pod.yaml", &pod("calm", 10))?;
        agent.ready("calm", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn cgroups_of_pods_that_nobody_knows_go() {
    with_nothing(async |node, agent| {
        node.start_containerd().await?;
        agent.start().await?;
        node.put("pod.yaml", &pod("known", 10))?;
        let known = agent.ready("known", LIMIT).await?;
        agent.terminate().await?;
        let orphan = "kubepods/burstable/pod0d5ee94e-5e25-4e1c-8a7b-1d2f3a4b5c6d";
        // Not a pod's: the administrator's, whatever it is for.
        let other = "kubepods/other";
        make(node, orphan)?;
        make(node, other)?;
        agent.start().await?;
        eventually("the orphan is gone", LIMIT * 2, async || {
            for controller in ["cpu", "memory", "pids"] {
                let path = node.cgroup(controller, orphan)?;
                ensure!(!path.exists(), "{} is there", path.display());
            }
            Ok(())
        })
        .await?;
        ensure!(node.cgroup("memory", other)?.exists());
        let own = format!("kubepods/burstable/pod{}", known.uid());
        ensure!(node.cgroup("memory", &own)?.exists());
        ensure!(agent.pod("known")?.phase() == "Running");
        Ok(())
    });
}

async fn refuses(agent: &Agent<'_>, said: &str) -> Result<()> {
    agent.spawn()?;
    let status = eventually("the agent ends", LIMIT, async || {
        agent.ended()?.context("it runs")
    })
    .await?;
    ensure!(!status.success(), "{status}");
    // Its lines have quotes escaped.
    let log = agent.log()?.replace('\\', "");
    ensure!(log.contains(said), "{said}: {log}");
    Ok(())
}

/// Makes a cgroup of the node in every hierarchy.
fn make(node: &Node, name: &str) -> Result<()> {
    for controller in [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "pids",
        "hugetlb",
        "name=systemd",
    ] {
        // A machine may have some of them only.
        if let Ok(path) = node.cgroup(controller, name) {
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The limit of a level of the node: shares of cgroup v1, and for no limit a large number.
fn read(node: &Node, controller: &str, level: &str) -> Result<i64> {
    let dir: PathBuf = node.cgroup(controller, level)?;
    let files = match controller {
        "memory" => ["memory.limit_in_bytes", "memory.max"],
        "pids" => ["pids.max"; 2],
        _ => ["cpu.shares", "cpu.weight"],
    };
    let texts = files.map(|file| fs::read_to_string(dir.join(file)).ok());
    let [old, new] = texts;
    let text = old.or(new).with_context(|| dir.display().to_string())?;
    Ok(text.trim().parse().unwrap_or(i64::MAX))
}

fn is(node: &Node, controller: &str, level: &str, expected: i64) -> Result<()> {
    let found = read(node, controller, level)?;
    let page = 4096;
    // The kernel keeps memory in whole pages; shares become weights on version 2.
    let fits = match controller {
        "memory" => found / page == expected / page,
        "cpu" if !node.cgroup("cpu", level)?.join("cpu.shares").exists() => {
            found == 1 + (expected - 2) * 9999 / 262_142
        }
        _ => found == expected,
    };
    ensure!(fits, "{controller} of {level}: {found}, not {expected}");
    Ok(())
}

fn total_memory() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kibibytes.context("no MemTotal")?.parse::<i64>()? * 1024)
}

fn most_pids() -> Result<i64> {
    let read = |name: &str| -> Result<i64> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"))?;
        Ok(text.trim().parse()?)
    };
    Ok(read("pid_max")?.min(read("threads-max")?))
}

fn pod(name: &str, cpu_milli: i64) -> String {
    let wants = json!({ "requests": { "cpu": format!("{cpu_milli}m") } });
    PodManifest::of(name, BUSYBOX, &["sleep", "100000"])
        .main("resources", wants)
        .text()
}
