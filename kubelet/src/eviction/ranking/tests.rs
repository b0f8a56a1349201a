use serde_json::{Value, json};

use super::*;
use crate::config::EvictionConfig;
use crate::eviction::signals::Amount;
use crate::eviction::thresholds::thresholds;
use crate::eviction::usage::ContainerUsage;

const MEBI: u64 = 1 << 20;

fn pod(name: &str, spec: Value) -> Arc<Pod> {
    let spec = match spec {
        Value::Null => json!({"containers": [{"name": "c"}]}),
        other => other,
    };
    let pod =
        json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn asking(name: &str, priority: i32, requests: Value) -> Arc<Pod> {
    let container = json!({"name": "c", "resources": {"requests": requests}});
    pod(
        name,
        json!({"priority": priority, "containers": [container]}),
    )
}

fn using(pod: Arc<Pod>, memory: u64) -> Candidate {
    let usage = Usage {
        memory: memory * MEBI,
        ..Usage::default()
    };
    Candidate {
        pod,
        usage: Some(usage),
    }
}

fn order(mut all: Vec<Candidate>, signal: Signal, layout: Layout) -> Vec<String> {
    rank(&mut all, signal, layout);
    let names = all.iter().filter_map(|one| one.pod.metadata.name.clone());
    names.collect()
}

#[test]
fn memory_goes_by_what_is_beyond_the_request_then_by_priority() {
    let all = vec![
        using(asking("within", -10, json!({"memory": "100Mi"})), 100),
        using(asking("much", 0, json!({"memory": "10Mi"})), 80),
        using(asking("little", 0, json!({"memory": "10Mi"})), 20),
        using(asking("important", 7, json!({})), 500),
        Candidate {
            pod: pod("unknown", Value::Null),
            usage: None,
        },
    ];
    assert_eq!(
        order(all, Signal::Memory, Layout::One),
        ["unknown", "much", "little", "important", "within"]
    );
}

#[test]
fn process_ids_go_by_priority_then_by_their_number() {
    let with = |name, priority, processes| {
        let usage = Usage {
            processes,
            ..Usage::default()
        };
        Candidate {
            pod: asking(name, priority, json!({})),
            usage: Some(usage),
        }
    };
    let all = vec![with("few", 0, 2), with("many", 0, 900), with("low", -1, 1)];
    assert_eq!(
        order(all, Signal::Pids, Layout::One),
        ["low", "many", "few"]
    );
}

fn on_disk(
    name: &str,
    requests: Value,
    layer: (u64, u64),
    logs: (u64, u64),
    volume: (u64, u64),
) -> Candidate {
    let spec = json!({
        "containers": [{"name": "c", "resources": {"requests": requests}}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}],
    });
    let taken = |(mebi, inodes): (u64, u64)| Taken {
        bytes: mebi * MEBI,
        inodes,
    };
    let container = ContainerUsage {
        name: "c".to_owned(),
        memory: None,
        layer: Some(taken(layer)),
        logs: Some(taken(logs)),
    };
    let volumes = [("v", taken(volume)), ("m", taken((1000, 1000)))];
    let usage = Usage {
        containers: vec![container],
        volumes: volumes.map(|(name, taken)| (name.to_owned(), taken)).into(),
        ..Usage::default()
    };
    Candidate {
        pod: pod(name, spec),
        usage: Some(usage),
    }
}

#[test]
fn disks_go_by_what_lies_on_the_one_that_is_full() {
    let all = || {
        vec![
            on_disk("layer", json!({}), (50, 1), (0, 0), (0, 0)),
            on_disk("logs", json!({}), (0, 0), (30, 2), (0, 0)),
            on_disk("volume", json!({}), (0, 0), (0, 0), (40, 9)),
            on_disk(
                "asks",
                json!({"ephemeral-storage": "100Mi"}),
                (20, 0),
                (20, 0),
                (20, 0),
            ),
        ]
    };
    let of = |signal, layout| order(all(), signal, layout);
    assert_eq!(
        of(Signal::NodefsBytes, Layout::One),
        ["layer", "volume", "logs", "asks"]
    );
    let nodefs = of(Signal::NodefsBytes, Layout::Images);
    assert_eq!(nodefs[..2], ["volume", "logs"], "layers lie elsewhere");
    assert_eq!(of(Signal::ImagefsBytes, Layout::Images)[0], "layer");
    let split = of(Signal::NodefsBytes, Layout::Split);
    assert_eq!(split[0], "layer", "they lie with the root directory");
    assert_eq!(
        of(Signal::NodefsInodes, Layout::One)[..3],
        ["volume", "logs", "layer"],
        "and a request for bytes spares nobody's inodes"
    );
}

fn due(hard: &[(&str, &str)]) -> Vec<Threshold> {
    let hard = hard.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    let config = EvictionConfig {
        hard: hard.collect(),
        soft: std::collections::BTreeMap::new(),
        soft_grace_period: std::collections::BTreeMap::new(),
        minimum_reclaim: std::collections::BTreeMap::new(),
        pressure_transition: std::time::Duration::ZERO,
        max_pod_grace_seconds: None,
    };
    thresholds(&config, false).unwrap()
}

fn short(signal: Signal, capacity: u64, available: u64) -> Observations {
    let mut observed = Observations::default();
    let amount = Amount {
        capacity,
        available,
    };
    observed.put(signal, amount);
    observed
}

#[test]
fn the_message_is_upstreams() {
    let mut candidate = using(asking("p", 0, json!({"memory": "10Mi"})), 50);
    if let Some(usage) = &mut candidate.usage {
        let container = ContainerUsage {
            name: "c".to_owned(),
            memory: Some(50 * MEBI),
            ..ContainerUsage::default()
        };
        usage.containers = vec![container];
    }
    let observed = short(Signal::Memory, 1 << 30, 90 * MEBI);
    let memory = due(&[("memory.available", "100Mi")]);
    assert_eq!(
        message(&candidate, Signal::Memory, &memory, &observed),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container c was using 50Mi, request is 10Mi, has larger consumption of memory. "
    );
    let disk = on_disk("d", json!({}), (50, 1), (14, 0), (0, 0));
    let observed = short(Signal::NodefsBytes, 1000 * MEBI, 51_216_384);
    assert_eq!(
        message(
            &disk,
            Signal::NodefsBytes,
            &due(&[("nodefs.available", "50%")]),
            &observed
        ),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 500Mi, available: 50016Ki. Container c was using 64Mi, request is 0, has larger consumption of ephemeral-storage. "
    );
    let observed = short(Signal::NodefsInodes, 10_000, 49_000);
    assert_eq!(
        message(
            &disk,
            Signal::NodefsInodes,
            &due(&[("nodefs.inodesFree", "50k")]),
            &observed
        ),
        "The node was low on resource: inodes. Threshold quantity: 50k, available: 49k. "
    );
    let spec = json!({
        "resources": {"requests": {"memory": "20Mi"}},
        "containers": [{"name": "c"}],
    });
    let whole = using(pod("p", spec), 30);
    let observed = short(Signal::Memory, 1 << 30, 90 * MEBI);
    assert_eq!(
        message(&whole, Signal::Memory, &memory, &observed),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Pod p was using 30Mi, request is 20Mi, has larger consumption of memory. "
    );
}
