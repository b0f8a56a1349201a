//! The whole agent on a fake runtime: which pods may run beside each other, and what becomes of the rest.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tests::agent::PodView as _;
use tests::fake_runtime::{Fault, Program};
use tests::in_process::{FakeNode, LIMIT, with_agent, with_node};
use tests::wait::{eventually, throughout};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A pod of one container, `main`, with the fields of `container` in it and those of `spec` beside it.
fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, {spec} \
         containers: [{{name: main, image: 'busybox:1', {container}}}]}}}}"
    )
}

fn on_port(name: &str, port: u16) -> String {
    let ports = format!("ports: [{{containerPort: 80, hostPort: {port}}}]");
    pod(name, "", &ports)
}

fn asking(name: &str, spec: &str, requests: &str) -> String {
    pod(
        name,
        spec,
        &format!("resources: {{requests: {{{requests}}}}}"),
    )
}

/// Waits until the pod is refused, and gives its reason and message as `/pods` shows them.
async fn refused(node: &FakeNode, name: &str) -> Result<(String, String)> {
    let pod = node.phase(name, "Failed").await?;
    ensure!(pod.statuses().is_empty(), "{}", pod.describe());
    reason(&pod)
}

fn reason(pod: &Pod) -> Result<(String, String)> {
    let status = pod.status.as_ref().context("no status")?;
    Ok((
        status.reason.clone().unwrap_or_default(),
        status.message.clone().unwrap_or_default(),
    ))
}

fn events_of(node: &FakeNode, words: &str) -> usize {
    let log = node.log();
    log.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn a_taken_port_names_its_holder_and_is_asked_for_again_when_the_holder_is_gone() {
    with_agent(async |node| {
        let slow = Program::forever().stopping_with(0, 300 * MILLI);
        node.runtime.program("main", slow);
        node.put("a.yaml", &on_port("a", 8080))?;
        let holder = node.ready("a").await?;
        node.put("b.yaml", &on_port("b", 8080))?;
        let (reason, message) = refused(node, "b").await?;
        ensure!(reason == "NodePorts", "{reason}");
        let expected = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                        pod ports; host port 8080/TCP is held by default/a-node";
        ensure!(message == expected, "{message}");
        ensure!(
            node.changes_of("b").is_empty(),
            "{:?}",
            node.changes_of("b")
        );
        // A pod that comes and goes elsewhere changes nothing, and says nothing again.
        node.put("c.yaml", &on_port("c", 8081))?;
        let other = node.ready("c").await?;
        node.remove("c.yaml")?;
        node.gone(&other).await?;
        ensure!(node.pod("b")?.phase() == "Failed");
        let told = events_of(node, "Predicate NodePorts failed");
        ensure!(told == 1, "the refusal was told {told} times");

        node.remove("a.yaml")?;
        let pod = node.ready("b").await?;
        node.gone(&holder).await?;
        let (reason, message) = self::reason(&pod)?;
        ensure!(
            reason.is_empty() && message.is_empty(),
            "{reason}: {message}"
        );
        ensure!(pod.container("main")?.restart_count == 0);
        // Its container was made after the holder's had ended.
        let changes = node.runtime.changes();
        let at = |what: &str| changes.iter().position(|change| change == what);
        let stopped = at("StopPodSandbox default/a-node").context("never stopped")?;
        let began = at("RunPodSandbox default/b-node").context("never began")?;
        ensure!(stopped < began, "{changes:?}");
        Ok(())
    });
}

#[test]
fn a_port_on_the_nodes_own_network_is_a_host_port() {
    with_agent(async |node| {
        node.put("a.yaml", &on_port("a", 8080))?;
        node.ready("a").await?;
        let ports = "ports: [{containerPort: 8080}]";
        node.put("b.yaml", &pod("b", "hostNetwork: true,", ports))?;
        let (reason, message) = refused(node, "b").await?;
        ensure!(reason == "NodePorts", "{reason}");
        ensure!(message.ends_with("held by default/a-node"), "{message}");
        // An edit that asks for another port is a new pod.
        let ports = "ports: [{containerPort: 8081}]";
        node.put("b.yaml", &pod("b", "hostNetwork: true,", ports))?;
        node.ready("b").await.map(drop)
    });
}

#[test]
fn an_edited_pod_gets_its_own_port_again() {
    with_agent(async |node| {
        let slow = Program::forever().stopping_with(0, 200 * MILLI);
        node.runtime.program("main", slow);
        node.put("a.yaml", &on_port("a", 8080))?;
        let old = node.ready("a").await?;
        node.put(
            "a.yaml",
            &pod(
                "a",
                "hostPID: true,",
                "ports: [{containerPort: 80, hostPort: 8080}]",
            ),
        )?;
        node.gone(&old).await?;
        node.ready("a").await?;
        ensure!(events_of(node, "NodePorts") == 0, "it met its predecessor");
        Ok(())
    });
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    with_agent(async |node| {
        node.put("a.yaml", &asking("a", "", "memory: 1Pi"))?;
        let (reason, message) = refused(node, "a").await?;
        // As upstream says it of a static pod, which is critical and so would have preempted others.
        ensure!(reason == "UnexpectedAdmissionError", "{reason}");
        ensure!(
            message.contains("preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: memory, q: "),
            "{message}"
        );
        ensure!(
            message.contains("Node didn't have enough resource: memory, requested: 1125899906842624, used: 0, capacity: "),
            "{message}"
        );
        ensure!(node.runtime.changes().is_empty());
        Ok(())
    });
}

#[test]
fn the_node_has_so_many_pods_and_the_next_one_waits_its_turn() {
    with_node(async |node| {
        node.configure("maxPods", json!(2));
        node.start_agent()?;
        for name in ["a", "b"] {
            node.put(&format!("{name}.yaml"), &pod(name, "", ""))?;
            node.ready(name).await?;
        }
        node.put("c.yaml", &pod("c", "", ""))?;
        node.put("d.yaml", &pod("d", "", ""))?;
        for name in ["c", "d"] {
            let (_, message) = refused(node, name).await?;
            ensure!(
                message.contains(
                    "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
                ),
                "{message}"
            );
        }
        node.remove("a.yaml")?;
        // One place, one pod.
        eventually("one of the two runs", LIMIT, async || {
            let phases = (
                node.pod("c")?.phase().to_owned(),
                node.pod("d")?.phase().to_owned(),
            );
            ensure!(phases.0 == "Running" || phases.1 == "Running", "{phases:?}");
            Ok(())
        })
        .await?;
        throughout("never both", SECOND, async || {
            let running = node.runtime.containers().into_iter().filter(|c| c.running);
            ensure!(running.count() <= 2, "more than two run");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_pod_that_has_ended_gives_its_place_away() {
    with_node(async |node| {
        node.runtime.program("main", Program::exits(0, 300 * MILLI));
        node.configure("maxPods", json!(1));
        node.start_agent()?;
        node.put("a.yaml", &pod("a", "restartPolicy: Never,", ""))?;
        node.phase("a", "Running").await?;
        node.put("b.yaml", &pod("b", "restartPolicy: Never,", ""))?;
        node.phase("a", "Succeeded").await?;
        node.phase("b", "Succeeded").await?;
        // Neither runs once more with the next agent, nor keeps a place from a third.
        node.kill_agent()?;
        node.start_agent()?;
        node.put("c.yaml", &pod("c", "restartPolicy: Never,", ""))?;
        node.phase("c", "Succeeded").await?;
        for name in ["a", "b"] {
            ensure!(node.pod(name)?.phase() == "Succeeded");
            let begun = node.changes_of(name).into_iter();
            ensure!(begun.filter(|c| c == "StartContainer main").count() == 1);
        }
        Ok(())
    });
}

#[test]
fn a_pod_that_runs_outlives_an_agent_under_whose_rules_it_would_not_fit() {
    with_agent(async |node| {
        // In the order of names, and of their first sight, the one that runs comes last.
        node.put("z.yaml", &on_port("z", 8080))?;
        let z = node.ready("z").await?;
        node.put("x.yaml", &asking("x", "", "cpu: 100m"))?;
        let x = node.ready("x").await?;
        node.kill_agent()?;
        node.put("a.yaml", &on_port("a", 8080))?;
        node.configure("maxPods", json!(1));
        let cores = std::thread::available_parallelism()?.get();
        let all_but_little = format!("{}m", cores * 1000 - 50);
        node.configure("systemReserved", json!({ "cpu": all_but_little }));
        let before = node.runtime.changes().len();
        node.start_agent()?;
        let (reason, message) = refused(node, "a").await?;
        ensure!(reason == "NodePorts", "{reason}: {message}");
        for old in [&z, &x] {
            let name = if old.uid() == z.uid() { "z" } else { "x" };
            let again = node.ready(name).await?;
            ensure!(again.instances() == old.instances(), "{}", again.describe());
        }
        throughout("nothing is changed", SECOND, async || {
            let changes = node.runtime.changes();
            ensure!(changes.len() == before, "{:?}", &changes[before..]);
            Ok(())
        })
        .await
    });
}

#[test]
fn a_refused_pod_is_decided_on_anew_by_the_next_agent() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "nodeSelector: {disk: fast},", ""))?;
        let (reason, message) = refused(node, "a").await?;
        ensure!(
            (reason.as_str(), message.as_str())
                == (
                    "NodeAffinity",
                    "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
                ),
            "{reason}: {message}"
        );
        node.kill_agent()?;
        node.put(
            "a.yaml",
            &pod("a", "nodeSelector: {kubernetes.io/os: linux},", ""),
        )?;
        node.put("b.yaml", &on_port("b", 8080))?;
        node.put("c.yaml", &on_port("c", 8080))?;
        node.start_agent()?;
        node.ready("a").await?;
        node.ready("b").await?;
        refused(node, "c").await?;
        node.kill_agent()?;
        node.remove("b.yaml")?;
        node.start_agent()?;
        node.ready("c").await.map(drop)
    });
}

#[test]
fn a_pod_of_higher_priority_takes_the_place_of_a_lower_one() {
    with_node(async |node| {
        let slow = Program::forever().stopping_with(0, 300 * MILLI);
        node.runtime.program("main", slow);
        node.configure("maxPods", json!(1));
        node.start_agent()?;
        node.put("low.yaml", &pod("low", "priority: 100,", ""))?;
        node.ready("low").await?;
        node.put("high.yaml", &pod("high", "priority: 1000,", ""))?;
        let high = node.ready("high").await?;
        let low = node.phase("low", "Failed").await?;
        let (reason, message) = self::reason(&low)?;
        ensure!(
            (reason.as_str(), message.as_str())
                == ("Preempting", "Preempted in order to admit critical pod"),
            "{reason}: {message}"
        );
        let conditions = low.status.as_ref().and_then(|s| s.conditions.clone());
        let target = conditions
            .unwrap_or_default()
            .into_iter()
            .find(|c| c.type_ == "DisruptionTarget");
        let target = target.context("no condition DisruptionTarget")?;
        ensure!(
            (
                target.status.as_str(),
                target.reason.as_deref(),
                target.message.as_deref()
            ) == (
                "True",
                Some("TerminationByKubelet"),
                Some("Pod was preempted by Kubelet to accommodate a critical pod.")
            ),
            "{target:?}"
        );
        let changes = node.runtime.changes();
        let at = |what: &str| changes.iter().position(|change| change == what);
        ensure!(
            at("StopPodSandbox default/low-node") < at("RunPodSandbox default/high-node"),
            "{changes:?}"
        );
        ensure!(events_of(node, "Preempted in order to admit critical pod") == 1);

        // The next agent knows both as they are.
        node.kill_agent()?;
        node.start_agent()?;
        let again = node.ready("high").await?;
        ensure!(again.instances() == high.instances());
        refused(node, "low").await?;
        // With the place free again the lower one runs again.
        node.remove("high.yaml")?;
        node.gone(&high).await?;
        let low = node.ready("low").await?;
        ensure!(
            low.container("main")?.restart_count == 1,
            "{}",
            low.describe()
        );
        Ok(())
    });
}

#[test]
fn the_lower_pod_comes_back_when_the_higher_one_goes() {
    with_node(async |node| {
        node.configure("maxPods", json!(1));
        node.start_agent()?;
        node.put("low.yaml", &pod("low", "priority: 100,", ""))?;
        node.ready("low").await?;
        node.put("high.yaml", &pod("high", "priority: 1000,", ""))?;
        let high = node.ready("high").await?;
        node.phase("low", "Failed").await?;
        throughout("it stays what it was", SECOND, async || {
            let (reason, _) = self::reason(&node.pod("low")?)?;
            ensure!(reason == "Preempting", "{reason}");
            Ok(())
        })
        .await?;
        node.remove("high.yaml")?;
        let low = node.ready("low").await?;
        node.gone(&high).await?;
        let conditions = low.status.as_ref().and_then(|s| s.conditions.clone());
        ensure!(
            conditions
                .unwrap_or_default()
                .iter()
                .all(|c| c.type_ != "DisruptionTarget")
        );
        let (reason, message) = self::reason(&low)?;
        ensure!(
            reason.is_empty() && message.is_empty(),
            "{reason}: {message}"
        );
        Ok(())
    });
}

#[test]
fn a_pull_that_hangs_holds_up_nobody_who_needs_the_place() {
    with_node(async |node| {
        node.runtime.fault(Fault::on("PullImage").times(1).hangs());
        node.configure("maxPods", json!(1));
        node.start_agent()?;
        node.put("low.yaml", &pod("low", "priority: 100,", ""))?;
        eventually("the pull has begun", LIMIT, async || {
            let changes = node.runtime.changes();
            ensure!(
                changes.iter().any(|c| c.starts_with("PullImage")),
                "{changes:?}"
            );
            Ok(())
        })
        .await?;
        node.put(
            "high.yaml",
            &pod("high", "priority: 1000,", "").replace("busybox:1", "other:1"),
        )?;
        node.ready("high").await?;
        let (reason, _) = self::reason(&node.phase("low", "Failed").await?)?;
        ensure!(reason == "Preempting", "{reason}");
        Ok(())
    });
}

#[test]
fn what_is_not_enforced_is_warned_of_and_runs() {
    with_agent(async |node| {
        node.put(
            "a.yaml",
            &pod(
                "a",
                "",
                "resources: {limits: {example.com/gpu: 1}, requests: {example.com/gpu: 1}}",
            ),
        )?;
        node.ready("a").await?;
        let words = "spec.containers[0].resources.requests[example.com/gpu] is ignored: nothing on this node offers it";
        ensure!(events_of(node, words) == 1, "{words}");
        Ok(())
    });
}
