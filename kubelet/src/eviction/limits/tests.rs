use serde_json::{Value, json};

use super::*;
use crate::eviction::usage::ContainerUsage;
use crate::stats::Taken;

const MEBI: u64 = 1 << 20;

fn pod(spec: Value) -> Pod {
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"}, "spec": spec});
    serde_json::from_value(pod).unwrap()
}

fn taken(mebi: u64) -> Taken {
    Taken {
        bytes: mebi * MEBI,
        inodes: 1,
    }
}

fn usage(layer: u64, logs: u64, volume: u64) -> Usage {
    let container = ContainerUsage {
        name: "c".to_owned(),
        memory: None,
        layer: Some(taken(layer)),
        logs: Some(taken(logs)),
    };
    Usage {
        containers: vec![container],
        volumes: [("v".to_owned(), taken(volume))].into(),
        ephemeral: (layer + logs + volume) * MEBI,
        ..Usage::default()
    }
}

#[test]
fn a_volume_may_be_as_full_as_its_limit_and_no_fuller() {
    let sized = |limit: &str| {
        let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": limit}}]);
        pod(json!({"containers": [{"name": "c"}], "volumes": volumes}))
    };
    let one = |limit, volume| passed(&sized(limit), &usage(0, 0, volume), Layout::One);
    assert_eq!(one("10Mi", 10), None);
    let found = one("10Mi", 11).unwrap();
    assert_eq!(found.signal, "emptydirfs.limit");
    assert_eq!(
        found.message,
        "Usage of EmptyDir volume \"v\" exceeds the limit \"10Mi\". "
    );
    assert_eq!(one("0", 11), None, "no limit is meant");
    assert!(Limited::of(&sized("1Mi")).any());
}

fn limited(limits: &[&str]) -> Pod {
    let container = |(at, limit): (usize, &&str)| {
        let name = ["c", "d"][at];
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    };
    let containers: Vec<Value> = limits.iter().enumerate().map(container).collect();
    pod(json!({"containers": containers, "volumes": [{"name": "v", "emptyDir": {}}]}))
}

#[test]
fn a_pod_may_take_what_its_containers_may_in_sum() {
    let both = limited(&["10Mi", "20Mi"]);
    assert!(Limited::of(&both).containers && !Limited::of(&both).volumes);
    assert_eq!(passed(&both, &usage(5, 5, 20), Layout::One), None);
    let found = passed(&both, &usage(5, 5, 21), Layout::One).unwrap();
    assert_eq!(found.signal, "ephemeralpodfs.limit");
    assert_eq!(
        found.message,
        "Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. "
    );
}

#[test]
fn a_container_may_take_so_much_for_its_layer_and_its_logs() {
    let both = limited(&["10Mi", "20Mi"]);
    let found = passed(&both, &usage(6, 5, 0), Layout::One).unwrap();
    assert_eq!(found.signal, "ephemeralcontainerfs.limit");
    assert_eq!(
        found.message,
        "Container c exceeded its local ephemeral storage limit \"10Mi\". "
    );
    let apart = passed(&both, &usage(6, 5, 0), Layout::Images);
    assert_eq!(apart, None, "its layer lies on another disk");
    assert_eq!(
        passed(
            &pod(json!({"containers": [{"name": "c"}]})),
            &usage(99, 99, 99),
            Layout::One
        ),
        None
    );
}

#[test]
fn what_the_kernel_holds_to_its_limit_is_not_looked_at() {
    let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}}]);
    let in_memory = pod(json!({"containers": [{"name": "c"}], "volumes": volumes}));
    assert!(!Limited::of(&in_memory).any());
}
