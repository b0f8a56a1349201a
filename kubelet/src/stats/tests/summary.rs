//! The answer to `/stats/summary`.

use serde_json::{Value, json};

use super::*;

async fn answer(fixture: &Fixture, brief: bool) -> Value {
    let summary = fixture.stats.summary(brief).await.unwrap();
    serde_json::to_value(summary).unwrap()
}

/// Names of an object's fields.
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_brief_one_has_upstreams_fields() {
    let fixture = fixture(Version::V1);
    let summary = answer(&fixture, true).await;
    assert_eq!(fields(&summary), ["node", "pods"]);
    assert_eq!(
        fields(&summary["node"]),
        [
            "cpu",
            "memory",
            "nodeName",
            "startTime",
            "swap",
            "systemContainers"
        ]
    );
    let pod = &summary["pods"][0];
    assert_eq!(
        fields(pod),
        ["containers", "cpu", "memory", "podRef", "startTime", "swap"]
    );
    assert_eq!(
        pod["podRef"],
        json!({"name": "web-node", "namespace": "default", "uid": UID})
    );
    assert_eq!(pod["startTime"], "2026-11-21T23:01:18Z");
    let container = &pod["containers"][0];
    assert_eq!(
        fields(container),
        ["cpu", "memory", "name", "startTime", "swap"]
    );
    assert_eq!(
        container["cpu"],
        json!({
            "time": WALL,
            "usageCoreNanoSeconds": 50_000_000_000u64,
            "psi": zero_psi(),
        }),
        "no rate before there was another reading"
    );
    assert_eq!(
        container["memory"],
        json!({
            "time": WALL,
            "availableBytes": 67_108_864 - 125_000,
            "usageBytes": 150_000,
            "workingSetBytes": 125_000,
            "rssBytes": 100_000,
            "pageFaults": 350,
            "majorPageFaults": 50,
            "psi": zero_psi(),
        })
    );
    assert_eq!(
        container["swap"],
        json!({"time": WALL, "swapAvailableBytes": 67_108_864 - 50, "swapUsageBytes": 50})
    );
    assert!(pod["memory"].get("availableBytes").is_none(), "no limit");
    let node = &summary["node"];
    assert_eq!(
        node["memory"]["availableBytes"], 0,
        "a machine of 1000 KiB, in use"
    );
    assert_eq!(node["swap"]["swapAvailableBytes"], 80 * 1024 - 1000);
    assert_eq!(node["systemContainers"][0]["name"], "pods");
    assert_eq!(node["startTime"], "2026-11-21T05:16:56Z");
}

fn zero_psi() -> Value {
    let zero = json!({"total": 0, "avg10": 0, "avg60": 0, "avg300": 0});
    json!({"full": zero, "some": zero})
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_has_rates() {
    let fixture = fixture(Version::V2);
    answer(&fixture, true).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    let usage = fixture.temp.path().join(format!(
        "cgroup/kubepods/burstable/pod{UID}/{CONTAINER}/cpu.stat"
    ));
    // Five seconds more.
    std::fs::write(usage, "usage_usec 55000000\n").unwrap();
    let summary = answer(&fixture, true).await;
    let pod = &summary["pods"][0];
    assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 500_000_000);
    assert_eq!(pod["cpu"]["usageNanoCores"], 0);
    assert_eq!(summary["node"]["cpu"]["usageNanoCores"], 0);
    assert_eq!(pod["containers"][0]["cpu"]["psi"]["some"]["avg10"], 1.5);
}

#[tokio::test]
async fn the_full_one_has_disks_and_networks_even_without_the_runtime() {
    let fixture = fixture(Version::V2);
    let uid = PodUid::parse(UID).unwrap();
    let inputs = fixture.stats.inputs();
    let dir = inputs.dirs.ensure(&uid).unwrap();
    dir.write_etc_hosts(b"127.0.0.1 localhost\n").unwrap();
    let volumes = dir.path().join("volumes");
    put(
        &volumes,
        "kubernetes.io~empty-dir/data/file",
        &"x".repeat(100_000),
    );
    put(&volumes, "kubernetes.io~secret/key/file", "x");
    let name = crate::pod::PodName::of(&pod());
    let logs = inputs.logs.ensure_container(&name, &uid, "web").unwrap();
    std::fs::write(logs.join("0.log"), "x".repeat(5000)).unwrap();

    let summary = answer(&fixture, false).await;
    let node = &summary["node"];
    assert_eq!(
        fields(node),
        [
            "cpu",
            "fs",
            "io",
            "memory",
            "network",
            "nodeName",
            "rlimit",
            "runtime",
            "startTime",
            "swap",
            "systemContainers"
        ]
    );
    assert_eq!(node["network"]["name"], "eth0");
    assert_eq!(node["network"]["rxBytes"], 956_144_571);
    assert_eq!(node["rlimit"]["curproc"], 188);
    assert_eq!(node["runtime"], json!({}), "the runtime does not answer");
    let fs = &node["fs"];
    assert!(fs["capacityBytes"].as_u64() > fs["usedBytes"].as_u64());

    let pod = &summary["pods"][0];
    assert_eq!(
        fields(pod),
        [
            "containers",
            "cpu",
            "ephemeral-storage",
            "io",
            "memory",
            "network",
            "podRef",
            "process_stats",
            "startTime",
            "swap",
            "volume"
        ]
    );
    assert_eq!(
        pod["network"],
        json!({
            "time": WALL, "name": "eth0", "rxBytes": 11352, "rxErrors": 1, "txBytes": 6288, "txErrors": 3,
            "interfaces": [{"name": "eth0", "rxBytes": 11352, "rxErrors": 1, "txBytes": 6288, "txErrors": 3}],
        })
    );
    assert_eq!(
        pod["process_stats"],
        json!({"process_count": 2}),
        "the sandbox's and the container's"
    );
    let names: Vec<&Value> = pod["volume"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["name"])
        .collect();
    assert_eq!(names, ["data", "key"]);
    assert_eq!(pod["volume"][0]["inodesUsed"], 2);
    let data = pod["volume"][0]["usedBytes"].as_u64().unwrap();
    assert!(data >= 100_000, "{data}");
    let logs = &pod["containers"][0]["logs"];
    assert_eq!(logs["inodesUsed"], 1);
    let sum = pod["ephemeral-storage"]["usedBytes"].as_u64().unwrap();
    let logs = logs["usedBytes"].as_u64().unwrap();
    assert!(
        logs >= 5000 && sum >= data + logs,
        "{sum} = {data} + {logs} + hosts"
    );
    assert_eq!(
        pod["ephemeral-storage"]["inodesUsed"], 4,
        "directory, file, log, hosts; no secret"
    );
}

#[tokio::test(start_paused = true)]
async fn what_volumes_take_is_looked_at_each_period() {
    let fixture = fixture(Version::V2);
    let uid = PodUid::parse(UID).unwrap();
    let dir = fixture.stats.inputs().dirs.ensure(&uid).unwrap();
    let data = dir.path().join("volumes/kubernetes.io~empty-dir/data");
    std::fs::create_dir_all(&data).unwrap();
    let inodes = async || {
        let summary = answer(&fixture, false).await;
        summary["pods"][0]["volume"][0]["inodesUsed"].as_u64()
    };
    assert_eq!(inodes().await, Some(1));
    std::fs::write(data.join("more"), "x").unwrap();
    assert_eq!(inodes().await, Some(1), "it was looked at just now");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(inodes().await, Some(2));
}
