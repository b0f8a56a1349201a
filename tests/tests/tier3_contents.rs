//! A real container that reads a volume while its ConfigMap is updated, again and again. The API server is the double.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::agent::Agent;
use tests::cluster::{Cluster, bound_pod, path};
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(90);
/// How often the object changes.
const UPDATES: u64 = 10_000;

/// As a program does it: the link to the generation is followed once, and all is read beneath it. One that goes meanwhile is
/// read again. Says how many generations it saw whole when it sees the last one.
const READER: &str = r#"
seen=0 last=
while true; do
    cd /m/..data/ 2>/dev/null || continue
    { read -r a <a && read -r b <b; } 2>/dev/null || continue
    [ "$a" = "$b" ] || { echo "mixed: $a $b"; exit 1; }
    [ "$a" = "$last" ] || seen=$((seen + 1))
    last=$a
    [ "$a" != end ] || break
done
echo "whole: $seen"
exec sleep 100000
"#;

#[test]
fn a_reader_sees_whole_generations_over_ten_thousand_updates() {
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        let (_bridge, agent) = cluster.reach_from(node, Agent::new(node)?)?;
        agent.start().await?;
        cluster.node_condition("Ready", "True").await?;
        let data =
            |value: &str| json!({"data": {"a": format!("{value}\n"), "b": format!("{value}\n")}});
        let mut map = data("0");
        map["metadata"] = json!({"name": "m"});
        cluster.add_object("configmaps", &map).await?;
        let mut pod = bound_pod("reader");
        pod["spec"]["volumes"] = json!([{"name": "m", "configMap": {"name": "m"}}]);
        pod["spec"]["containers"][0] = json!({
            "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", READER],
            "volumeMounts": [{"name": "m", "mountPath": "/m"}],
        });
        cluster.add(&pod).await?;
        let reader = cluster.ready("reader").await?;
        let object = path("configmaps", "default", "m");
        let updates = (1..=UPDATES).map(|number| data(&number.to_string()));
        let updates = updates.chain([data("end")]);
        cluster.client().merge_all(&object, updates).await?;
        let log = eventually("the reader has seen the last", LIMIT, async || {
            let log = agent.container_log(&reader, "main")?;
            ensure!(log.ends_with('\n'), "{log}");
            Ok(log)
        })
        .await?;
        let whole = log.trim().strip_prefix("whole: ").map(str::parse::<u64>);
        // Several updates may be one change of the files.
        ensure!(matches!(whole, Some(Ok(seen)) if seen > 100), "{log}");
        println!("of {UPDATES} updates the reader saw {log}");
        agent.terminate().await?;
        Ok(())
    });
}
