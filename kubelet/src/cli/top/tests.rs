use clap::Parser as _;
use serde_json::json;

use super::super::arguments::{Command, Line, Used};
use super::*;

const FIRST: &str = r#"# HELP container_cpu_usage_seconds_total x
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="main",namespace="default",pod="web-n1"} 1.5 1700000000000
container_cpu_usage_seconds_total{container="side",namespace="default",pod="web-n1"} 10 1700000000000
container_cpu_usage_seconds_total{container="main",namespace="kube-system",pod="dns-n1"} 3 1700000000000
container_memory_working_set_bytes{container="main",namespace="default",pod="web-n1"} 1e+06 1700000000000
node_cpu_usage_seconds_total 100 1700000000000
node_memory_working_set_bytes 1e+09 1700000000000
pod_cpu_usage_seconds_total{namespace="default",pod="web-n1"} 11.5 1700000000000
resource_scrape_error 0
"#;
const SECOND: &str = r#"container_cpu_usage_seconds_total{container="main",namespace="default",pod="web-n1"} 1.5021 1700000002000
container_cpu_usage_seconds_total{container="side",namespace="default",pod="web-n1"} 0.5 1700000002000
container_cpu_usage_seconds_total{container="main",namespace="kube-system",pod="dns-n1"} 4 1700000002000
container_cpu_usage_seconds_total{container="main",namespace="default",pod="new-n1"} 4 1700000002000
container_memory_working_set_bytes{container="main",namespace="default",pod="web-n1"} 1.048576e+07 1700000002000
container_memory_working_set_bytes{container="side",namespace="default",pod="web-n1"} 3145727 1700000002000
container_memory_working_set_bytes{container="main",namespace="kube-system",pod="dns-n1"} 2097152 1700000002000
container_memory_working_set_bytes{container="main",namespace="default",pod="new-n1"} 2097152 1700000002000
node_cpu_usage_seconds_total 101 1700000002000
node_memory_working_set_bytes 1073741824 1700000002000
pod_cpu_usage_seconds_total{namespace="default",pod="web-n1"} 12 1700000002000
pod_memory_working_set_bytes{namespace="default",pod="web-n1"} 99 1700000002000
"#;

fn readings() -> Readings {
    Readings {
        first: parse(FIRST),
        second: parse(SECOND),
    }
}

fn shown(line: &str) -> String {
    let words = ["kubelet", "top", "pods"].into_iter();
    let words = words.chain(line.split_whitespace());
    let arguments = match Line::try_parse_from(words).unwrap().command {
        Command::Top(Used::Pods(arguments)) => arguments,
        other => panic!("{other:?}"),
    };
    let all = readings().pods();
    let namespace = arguments.scope.namespace();
    let shown = all.iter();
    let shown = shown.filter(|pod| namespace.is_none_or(|wanted| wanted == pod.namespace));
    table(shown.collect(), &arguments)
}

#[test]
fn columns_are_kubectls() {
    // What has begun between the readings is not shown; what was started anew counts from zero.
    assert_eq!(
        shown(""),
        "NAME     CPU(cores)   MEMORY(bytes)\nweb-n1   252m         12Mi\n"
    );
    assert_eq!(
        shown("-A --no-headers"),
        "default       web-n1   252m   12Mi\nkube-system   dns-n1   500m   2Mi\n"
    );
    assert_eq!(
        shown("-A --containers --sort-by cpu"),
        "\
NAMESPACE     POD      NAME   CPU(cores)   MEMORY(bytes)
kube-system   dns-n1   main   500m         2Mi
default       web-n1   side   250m         2Mi
default       web-n1   main   2m           10Mi
"
    );
    let by_memory = shown("--containers --sort-by memory --no-headers");
    assert!(by_memory.starts_with("web-n1   main   2m "), "{by_memory}");
}

#[test]
fn the_node_is_measured_against_what_pods_may_have() {
    let mut overview = json!({
        "version": "0.1.0", "node": "n1", "upSeconds": 1, "unhealthy": null, "runtime": "/r", "runtimeAway": null,
        "manifests": null, "kubeconfig": null, "sourcesRead": true, "steps": [],
        "allocatable": {"cpu": 4000, "memory": 4_294_967_296_i64},
    });
    let used = readings().node().unwrap();
    let table = |overview: &serde_json::Value, bare| {
        node_table(
            &serde_json::from_value(overview.clone()).unwrap(),
            used,
            bare,
        )
    };
    assert_eq!(
        table(&overview, false),
        "\
NAME   CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)
n1     500m         12%      1024Mi          25%
"
    );
    // By an older agent.
    overview.as_object_mut().unwrap().remove("allocatable");
    assert_eq!(
        table(&overview, true),
        "n1   500m   <unknown>   1024Mi   <unknown>\n"
    );
}

#[test]
fn the_aliases_are_kubectls() {
    for words in ["top pod web", "top po", "top no", "top nodes --no-headers"] {
        let words = ["kubelet"].into_iter().chain(words.split(' '));
        assert!(Line::try_parse_from(words).is_ok());
    }
    assert!(Line::try_parse_from(["kubelet", "top", "pods", "--sort-by", "name"]).is_err());
}
