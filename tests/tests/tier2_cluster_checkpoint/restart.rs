//! The agent alone is restarted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::agent::PodView as _;
use tests::cluster::{bound_pod, is_ready, path, with_double};
use tests::fake_runtime::ExecAnswer;
use tests::wait::eventually;

use super::{
    LIMIT, SECRET, add_objects, ask, begin_without_server, directory, ensure_env, kept, logged,
    needy, of_board, ready_since, replaced, running, shown_ready, undisturbed,
};

#[test]
fn pods_go_on_while_the_server_is_away_and_say_that_they_are_stale() {
    with_double(async |cluster, _, node| {
        node.with_socket("")?;
        add_objects(cluster).await?;
        node.start_agent()?;
        let mut pod = needy("a");
        pod["spec"]["automountServiceAccountToken"] = json!(true);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({ "exec": { "command": ["check"] }, "periodSeconds": 1, "failureThreshold": 1 });
        let fails = Arc::new(AtomicBool::new(false));
        let answer = fails.clone();
        node.runtime.exec("default/a/main", move |_| {
            ExecAnswer::code(i32::from(answer.load(Ordering::SeqCst)))
        });
        let a = cluster.add(&pod).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 4).await?;
        let (ran, since) = (running(node), ready_since(&of_board(node, "a")?));
        ensure!(!ask(node, &["get", "pods"]).await?.contains("Stale"));
        begin_without_server(cluster, node)?;
        let shown = shown_ready(node, "a").await?;
        ensure!(running(node) == ran, "something was restarted");
        ensure!(ready_since(&shown) == since, "Ready has flipped");
        logged(node, &["PodStale", "a_default"]).await?;
        let table = ask(node, &["get", "pods"]).await?;
        ensure!(table.contains("Running,Stale"), "{table}");
        let described = ask(node, &["describe", "pod", "a"]).await?;
        ensure!(described.contains("Stale:"), "{described}");
        let status = ask(node, &["status"]).await?;
        ensure!(
            status.contains("not heard") && status.contains("  default/a\n"),
            "{status}"
        );
        ensure!(
            !serde_json::to_string(&shown)?
                .to_lowercase()
                .contains("stale")
        );

        fails.store(true, Ordering::SeqCst);
        eventually("its probe is heard", LIMIT, async || {
            ensure!(!is_ready(&of_board(node, "a")?));
            Ok(())
        })
        .await?;
        fails.store(false, Ordering::SeqCst);
        shown_ready(node, "a").await?;

        let volumes = node.pod_dir(&a).join("volumes");
        let token = token_of(&a, &volumes)?;
        let before = fs::read_to_string(&token)?;
        ensure_env(&replaced(node, "a").await?)?;
        let secret = volumes.join("kubernetes.io~secret/s/k");
        ensure!(fs::read_to_string(secret)? == SECRET);
        ensure!(
            fs::read_to_string(&token)? == before,
            "the token is another one"
        );
        shown_ready(node, "a").await?;
        let ran = running(node);
        cluster.line.open();
        let told = |pod: &Pod| is_ready(pod) && pod.statuses()[0].restart_count == 1;
        cluster.pod_shows("the restart", "a", LIMIT, told).await?;
        logged(node, &["StalePodsReplaced", "confirmed=1"]).await?;
        undisturbed(node).await?;
        ensure!(running(node) == ran, "something was restarted");
        let table = ask(node, &["get", "pods"]).await?;
        ensure!(!table.contains("Stale"), "{table}");
        ensure!(!node.log().contains(SECRET), "a secret in the log");
        Ok(())
    });
}

fn token_of(pod: &Pod, volumes: &Path) -> Result<PathBuf> {
    let spec = pod.spec.clone().unwrap_or_default();
    let all = spec.volumes.unwrap_or_default();
    let own = all.iter().find(|volume| volume.projected.is_some());
    let name = &own.context("no volume")?.name;
    let token = volumes
        .join("kubernetes.io~projected")
        .join(name)
        .join("token");
    ensure!(token.exists());
    Ok(token)
}

#[test]
fn a_pod_that_was_deleted_meanwhile_is_ended_by_the_first_list() {
    with_double(async |cluster, double, node| {
        node.start_agent()?;
        let (a, b) = (
            cluster.add(&bound_pod("a")).await?,
            cluster.add(&bound_pod("b")).await?,
        );
        cluster.ready("a").await?;
        cluster.ready("b").await?;
        kept(node, &[&a, &b], 0).await?;
        begin_without_server(cluster, node)?;
        shown_ready(node, "a").await?;
        shown_ready(node, "b").await?;
        cluster.delete_pod("a", Some(0)).await?;
        double.expire();
        let of_b = node.runtime.running("default/b/main").pop();
        undisturbed(node).await?;
        cluster.line.open();
        node.gone(&a).await?;
        let now = node.runtime.running("default/b/main").pop();
        ensure!(now.map(|c| c.id) == of_b.map(|c| c.id));
        eventually("what was kept of it is gone", LIMIT, async || {
            let pods = directory(node).join("pods");
            ensure!(!pods.join(a.uid()).exists() && pods.join(b.uid()).exists());
            Ok(())
        })
        .await
    });
}

#[test]
fn a_pod_that_was_being_deleted_goes_on_ending() {
    with_double(async |cluster, _, node| {
        node.start_agent()?;
        let mut pod = bound_pod("a");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(3600);
        let a = cluster.add(&pod).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 0).await?;
        let file = directory(node).join("pods").join(a.uid());
        let before = fs::read(&file)?;
        // It does not end by itself while the agent looks.
        let container = node
            .runtime
            .running("default/a/main")
            .pop()
            .context("no a")?;
        node.runtime
            .fault(tests::fake_runtime::Fault::on("StopContainer").hangs());
        cluster.delete_pod("a", None).await?;
        eventually("that is kept, too", LIMIT, async || {
            ensure!(fs::read(&file)? != before);
            Ok(())
        })
        .await?;
        begin_without_server(cluster, node)?;
        node.runtime.clear_faults();
        ensure!(node.runtime.kill_container(&container.id, 0));
        // The API server, which has it, shows it until it hears of its end.
        eventually("it has ended", LIMIT, async || {
            ensure!(running(node).is_empty() && !node.pod_dir(&a).exists());
            Ok(())
        })
        .await?;
        cluster.line.open();
        cluster.gone(node, &a).await
    });
}

#[test]
fn an_agent_that_is_to_keep_nothing_leaves_its_pods_alone() {
    with_double(async |cluster, _, node| {
        node.start_agent()?;
        let a = cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 0).await?;
        node.with_socket("checkpointAPIPods: false\n")?;
        begin_without_server(cluster, node)?;
        undisturbed(node).await?;
        ensure!(running(node).len() == 1 && of_board(node, "a").is_err());
        ensure!(!directory(node).exists());
        let ran = running(node);
        cluster.line.open();
        shown_ready(node, "a").await?;
        ensure!(running(node) == ran && !directory(node).exists());
        Ok(())
    });
}

#[test]
fn a_server_that_is_there_is_heard_and_nothing_is_stale() {
    with_double(async |cluster, _, node| {
        node.start_agent()?;
        let a = cluster.add(&bound_pod("a")).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 0).await?;
        node.kill_agent()?;
        let change = json!({ "metadata": { "labels": { "new": "label" } } });
        cluster
            .client()
            .merge(&path("pods", "default", "a"), &change)
            .await?;
        node.start_agent()?;
        let shown = shown_ready(node, "a").await?;
        ensure!(shown.metadata.labels.is_some_and(|l| l.contains_key("new")));
        undisturbed(node).await?;
        ensure!(!node.log().contains("PodStale"));
        Ok(())
    });
}
