//! An API server that is away, deaf, busy or forgetful disturbs nothing that runs, and is caught up with afterwards. On the
//! double; what is about connections also on a real API server when `KUBEBUILDER_ASSETS` is set.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tests::agent::{NODE_NAME, PodView as _};
use tests::apiserver::Fault;
use tests::cluster::{Cluster, LIMIT, bound_pod, is_ready, with_cluster, with_double};
use tests::in_process::FakeNode;
use tests::wait::{eventually, throughout};

const MANIFEST: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {terminationGracePeriodSeconds: 1, \
                        containers: [{name: main, image: 'busybox:1'}]}}";
/// How soon a server that is back must show what is so: the back-off's cap and some.
const CAUGHT_UP: Duration = Duration::from_secs(45);

fn ids(node: &FakeNode) -> Vec<String> {
    let running = node.runtime.containers().into_iter().filter(|c| c.running);
    running.map(|c| c.id).collect()
}

/// A node with an API pod `a` and a static pod `s`, both told as ready.
async fn settled(cluster: &Cluster, node: &FakeNode) -> Result<()> {
    node.configure("nodeStatusUpdateFrequency", json!("1s"));
    node.configure("nodeStatusReportFrequency", json!("5m"));
    node.put("s.yaml", MANIFEST)?;
    node.start_agent()?;
    cluster.node_condition("Ready", "True").await?;
    cluster.add(&bound_pod("a")).await?;
    cluster.ready("a").await?;
    cluster.ready(&format!("s-{NODE_NAME}")).await?;
    Ok(())
}

async fn undisturbed(node: &FakeNode, span: Duration) -> Result<()> {
    let before = ids(node);
    throughout("nothing is restarted", span, async || {
        let now = ids(node);
        ensure!(now == before, "{before:?} became {now:?}");
        Ok(())
    })
    .await
}

/// A pod that is new to the node runs, and the server knows it.
async fn converges(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.add(&bound_pod(name)).await?;
    cluster
        .pod_shows("ready", name, CAUGHT_UP, is_ready)
        .await?;
    Ok(())
}

#[test]
fn a_server_that_is_away_disturbs_nothing() {
    with_cluster(async |cluster, node| {
        settled(cluster, node).await?;
        cluster.line.refuse();
        undisturbed(node, Duration::from_secs(6)).await?;
        // Crashes are seen to, and static pods come and go.
        for name in [
            "default/a/main".to_owned(),
            format!("default/s-{NODE_NAME}/main"),
        ] {
            let container = node.runtime.running(&name).pop();
            let container = container.with_context(|| format!("{name} does not run"))?;
            ensure!(node.runtime.kill_container(&container.id, 1));
            eventually(&format!("{name} restarts"), LIMIT, async || {
                let now = node.runtime.running(&name);
                ensure!(now.len() == 1 && now[0].id != container.id);
                Ok(())
            })
            .await?;
        }
        node.put("t.yaml", &MANIFEST.replace("name: s", "name: t"))?;
        node.ready("t").await?;
        let during = Timestamp::now();
        cluster.line.open();
        for name in ["a".to_owned(), format!("s-{NODE_NAME}")] {
            cluster
                .pod_shows("the restart", &name, CAUGHT_UP, |pod| {
                    is_ready(pod) && pod.statuses()[0].restart_count == 1
                })
                .await?;
        }
        cluster
            .pod_shows("a mirror", &format!("t-{NODE_NAME}"), CAUGHT_UP, is_ready)
            .await?;
        converges(cluster, "b").await?;
        let after = cluster.asked(during, "*", "*")?;
        ensure!(after.len() <= 100, "{} requests on return", after.len());
        Ok(())
    });
}

#[test]
fn a_cut_that_lasts_is_survived() {
    with_cluster(async |cluster, node| {
        settled(cluster, node).await?;
        for _ in 0..5 {
            cluster.line.cut();
            undisturbed(node, Duration::from_secs(1)).await?;
        }
        converges(cluster, "b").await
    });
}

#[test]
fn static_pods_start_without_a_server() {
    with_cluster(async |cluster, node| {
        cluster.line.refuse();
        node.put("s.yaml", MANIFEST)?;
        node.start_agent()?;
        let pod = node.ready("s").await?;
        node.put("t.yaml", &MANIFEST.replace("name: s", "name: t"))?;
        node.ready("t").await?;
        cluster.line.open();
        cluster.node_condition("Ready", "True").await?;
        cluster
            .pod_shows("a mirror", &format!("s-{NODE_NAME}"), CAUGHT_UP, is_ready)
            .await?;
        ensure!(node.pod("s")?.instances() == pod.instances());
        converges(cluster, "b").await
    });
}

#[test]
fn an_agent_that_restarts_without_a_server_leaves_its_pods_alone() {
    with_cluster(async |cluster, node| {
        settled(cluster, node).await?;
        let before = ids(node);
        node.kill_agent()?;
        cluster.line.refuse();
        node.start_agent()?;
        node.ready("s").await?;
        undisturbed(node, Duration::from_secs(6)).await?;
        cluster.line.open();
        converges(cluster, "b").await?;
        let now = ids(node);
        ensure!(
            before.iter().all(|id| now.contains(id)),
            "{before:?} {now:?}"
        );
        Ok(())
    });
}

#[test]
fn a_line_that_goes_silent_is_found_out() {
    with_cluster(async |cluster, node| {
        settled(cluster, node).await?;
        cluster.line.silence();
        undisturbed(node, Duration::from_secs(5)).await?;
        node.put("t.yaml", &MANIFEST.replace("name: s", "name: t"))?;
        node.ready("t").await?;
        cluster.line.open();
        // Connections that went silent stay so: it is for the client to doubt them (upstream: 45 s).
        cluster.add(&bound_pod("b")).await?;
        let doubted = Duration::from_secs(90);
        cluster.pod_shows("ready", "b", doubted, is_ready).await?;
        cluster
            .pod_shows("a mirror", &format!("t-{NODE_NAME}"), doubted, is_ready)
            .await?;
        Ok(())
    });
}

#[test]
fn a_server_that_stands_still_for_a_while_keeps_its_watches() {
    with_cluster(async |cluster, node| {
        settled(cluster, node).await?;
        cluster.line.hold();
        // Its mirror is asked for over the connection of the watches.
        node.put("t.yaml", &MANIFEST.replace("name: s", "name: t"))?;
        node.ready("t").await?;
        // A renewal of the lease falls into it, and gets no answer in time.
        undisturbed_of(node, "s", Duration::from_secs(13)).await?;
        let back = Timestamp::now();
        cluster.line.open();
        cluster
            .pod_shows("a mirror", &format!("t-{NODE_NAME}"), CAUGHT_UP, is_ready)
            .await?;
        converges(cluster, "b").await?;
        let opened = cluster.asked(back, "watch", "*")?;
        ensure!(opened.is_empty(), "{opened:#?}");
        Ok(())
    });
}

/// Every request of the node meets `fault` for a while: nothing is disturbed, there are no more than `most` of them, and then
/// all is well.
fn under(fault: impl Fn(Fault) -> Fault, most: usize) {
    with_double(async |cluster, double, node| {
        settled(cluster, node).await?;
        let from = Timestamp::now();
        double.fault(fault(
            Fault::on("*", "*").by(&format!("system:node:{NODE_NAME}")),
        ));
        double.end_watches();
        let span = Duration::from_secs(8);
        undisturbed(node, span).await?;
        let asked = cluster.asked(from, "*", "*")?;
        ensure!(asked.len() <= most, "{} requests in {span:?}", asked.len());
        let container = node.runtime.running("default/a/main").pop();
        let container = container.context("it does not run")?;
        ensure!(node.runtime.kill_container(&container.id, 1));
        double.clear_faults();
        cluster
            .pod_shows("the restart", "a", CAUGHT_UP, |pod| {
                is_ready(pod) && pod.statuses()[0].restart_count == 1
            })
            .await?;
        converges(cluster, "b").await
    });
}

#[test]
fn a_server_that_has_too_much_to_do_is_spared() {
    under(|fault| fault.too_many(1), 60);
}

#[test]
fn a_server_that_asks_for_time_is_given_it() {
    under(|fault| fault.too_many(5), 20);
}

#[test]
fn a_server_that_fails_is_asked_again_later() {
    under(Fault::breaks, 60);
}

#[test]
fn conflicts_are_got_over() {
    with_double(async |cluster, double, node| {
        double.fault(Fault::on("patch", "*").times(5).conflicts());
        double.fault(Fault::on("update", "*").times(3).conflicts());
        settled(cluster, node).await?;
        let before = ids(node);
        double.fault(Fault::on("patch", "*/pods/*/status").times(5).conflicts());
        converges(cluster, "b").await?;
        let now = ids(node);
        ensure!(
            before.iter().all(|id| now.contains(id)),
            "{before:?} {now:?}"
        );
        Ok(())
    });
}

#[test]
fn versions_that_expire_are_asked_for_anew() {
    with_double(async |cluster, double, node| {
        settled(cluster, node).await?;
        let before = ids(node);
        for round in 0..3 {
            double.expire();
            cluster.delete_pod("a", Some(0)).await.ok();
            undisturbed_of(node, "s", Duration::from_millis(500)).await?;
            converges(cluster, &format!("b{round}")).await?;
        }
        let own = format!("default/s-{NODE_NAME}/main");
        let own: Vec<String> = node
            .runtime
            .running(&own)
            .into_iter()
            .map(|c| c.id)
            .collect();
        ensure!(own.len() == 1 && before.contains(&own[0]), "{own:?}");
        let lists = cluster.asked(Timestamp::UNIX_EPOCH, "list", "/api/v1/pods")?;
        ensure!(lists.len() <= 8, "{} lists", lists.len());
        Ok(())
    });
}

async fn undisturbed_of(node: &FakeNode, name: &str, span: Duration) -> Result<()> {
    let own = format!("default/{name}-{NODE_NAME}/main");
    throughout("it runs", span, async || {
        ensure!(node.runtime.running(&own).len() == 1);
        Ok(())
    })
    .await
}

#[test]
fn a_pod_that_went_unseen_is_ended() {
    with_double(async |cluster, double, node| {
        settled(cluster, node).await?;
        let pod = cluster.pod("a").await?;
        cluster.line.refuse();
        cluster.delete_pod("a", Some(0)).await?;
        double.expire();
        cluster.line.open();
        node.gone(&pod).await
    });
}
