//! The whole agent on a fake runtime: agent, runtime and machine go away and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::agent::PodView as _;
use tests::fake_runtime::{Code, Fault, Program};
use tests::in_process::{FakeNode, LIMIT, with_agent, with_node};
use tests::wait::{eventually, throughout};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pod(name: &str, version: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 3, \
         containers: [{{name: main, image: 'busybox:1', env: [{{name: VERSION, value: '{version}'}}]}}]}}}}"
    )
}

/// The agent asks for no change while nothing changes.
async fn calm(node: &FakeNode, span: Duration) -> Result<()> {
    let before = node.runtime.changes().len();
    throughout("nothing is changed", span, async || {
        let changes = node.runtime.changes();
        ensure!(changes.len() == before, "{:?}", &changes[before..]);
        Ok(())
    })
    .await
}

#[test]
fn a_new_agent_adopts_what_runs_and_ends_what_went() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        node.put("b.yaml", &pod("b", "1"))?;
        let kept = node.ready("a").await?;
        let gone = node.ready("b").await?;
        node.kill_agent()?;
        node.remove("b.yaml")?;
        node.start_agent()?;
        node.gone(&gone).await?;
        let again = node.ready("a").await?;
        ensure!(again.instances() == kept.instances());
        let time = |pod: &Pod| pod.status.as_ref().and_then(|s| s.start_time.clone());
        ensure!(time(&again) == time(&kept), "the pod's start time changed");
        calm(node, SECOND).await
    });
}

#[test]
fn an_edit_while_the_agent_was_away_stops_the_old_pod_first() {
    with_agent(async |node| {
        node.runtime
            .program("main", Program::forever().stopping_with(0, 500 * MILLI));
        node.put("a.yaml", &pod("a", "1"))?;
        let old = node.ready("a").await?;
        node.kill_agent()?;
        node.put("a.yaml", &pod("a", "2"))?;
        node.start_agent()?;
        node.gone(&old).await?;
        let new = node.ready("a").await?;
        ensure!(new.uid() != old.uid());
        let log = node.log();
        ensure!(!log.contains("panick"), "{log}");
        Ok(())
    });
}

#[test]
fn a_restart_amid_a_start_makes_nothing_twice() {
    with_node(async |node| {
        // Wherever the agent is killed, the next one goes on from there.
        for pause in [1, 5, 10, 20, 40, 80, 160] {
            node.start_agent()?;
            node.put("a.yaml", &pod("a", &pause.to_string()))?;
            tokio::time::sleep(MILLI * pause).await;
            node.kill_agent()?;
        }
        node.start_agent()?;
        // A manifest that was written just before is read a second later; until then its predecessor runs on.
        eventually("the last manifest is read", LIMIT, async || {
            let pod = node.pod("a")?;
            let spec = pod.spec.unwrap_or_default();
            let env = spec.containers.into_iter().filter_map(|c| c.env);
            let last = env.flatten().any(|var| var.value.as_deref() == Some("160"));
            ensure!(last, "not yet");
            Ok(())
        })
        .await?;
        node.ready("a").await?;
        node.running("a/main", 1).await?;
        calm(node, SECOND).await
    });
}

#[test]
fn all_containers_start_anew_though_the_agent_is_killed_on_the_way() {
    for call in ["StopContainer", "RemoveContainer", "CreateContainer"] {
        with_agent(async |node| {
            let programs = vec![Program::exits(88, SECOND / 2), Program::forever()];
            node.runtime.programs("main", programs);
            node.put(
                "a.yaml",
                "# YAML
                {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {restartPolicy: Never,
                  containers: [{name: other, image: 'busybox:1'}, {name: main, image: 'busybox:1', restartPolicy: Never,
                    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]}]}}",
            )?;
            node.ready("a").await?;
            node.runtime.forget_calls();
            node.runtime.fault(Fault::on(call).hangs());
            eventually("the agent has come so far", LIMIT, async || {
                ensure!(!node.runtime.calls_of(call).is_empty());
                Ok(())
            })
            .await?;
            node.kill_agent()?;
            node.runtime.clear_faults();
            node.start_agent()?;
            eventually("both have started anew", LIMIT, async || {
                let pod = node.pod("a")?;
                for name in ["main", "other"] {
                    let status = pod.container(name)?;
                    ensure!(
                        status.restart_count == 1 && status.ready,
                        "{call}: {}",
                        pod.describe()
                    );
                }
                Ok(())
            })
            .await?;
            calm(node, SECOND).await
        });
    }
}

#[test]
fn a_container_that_was_made_and_not_started_is_started_by_the_next_agent() {
    with_agent(async |node| {
        node.runtime.fault(Fault::on("StartContainer").hangs());
        node.put("a.yaml", &pod("a", "1"))?;
        let started = |node: &FakeNode| !node.runtime.calls_of("StartContainer").is_empty();
        eventually("it is being started", LIMIT, async || {
            ensure!(started(node));
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        node.runtime.clear_faults();
        node.start_agent()?;
        node.ready("a").await?;
        ensure!(node.runtime.containers().len() == 1);
        Ok(())
    });
}

#[test]
fn a_termination_that_was_cut_short_leaves_no_mark_on_a_pod_that_is_wanted_again() {
    with_agent(async |node| {
        node.runtime
            .program("main", Program::forever().ignoring_stop());
        node.put("a.yaml", &pod("a", "1"))?;
        let pod_before = node.ready("a").await?;
        node.remove("a.yaml")?;
        eventually("it is being stopped", LIMIT, async || {
            ensure!(!node.runtime.calls_of("StopContainer").is_empty());
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        node.put("a.yaml", &pod("a", "1"))?;
        node.start_agent()?;
        node.ready("a").await?;
        tokio::time::sleep(4 * SECOND).await;
        node.ready("a").await?;
        let before = node.runtime.calls_of("StopContainer").len();
        let removed = tokio::time::Instant::now();
        node.remove("a.yaml")?;
        node.gone(&pod_before).await?;
        ensure!(node.runtime.calls_of("StopContainer").len() > before);
        ensure!(
            removed.elapsed() >= 2800 * MILLI,
            "the grace period was {:?}",
            removed.elapsed()
        );
        Ok(())
    });
}

#[test]
fn the_runtime_may_be_away_at_the_start_and_later() {
    with_node(async |node| {
        node.runtime.stop_server().await;
        node.start_agent()?;
        node.put("a.yaml", &pod("a", "1"))?;
        node.phase("a", "Pending").await?;
        node.runtime.restart_server().await?;
        let first = node.ready("a").await?;
        node.runtime.stop_server().await;
        let main = &node.running_now("a/main")[0];
        node.runtime.kill_container(&main.id, 1);
        node.put("b.yaml", &pod("b", "1"))?;
        node.phase("b", "Pending").await?;
        node.runtime.restart_server().await?;
        node.ready("b").await?;
        eventually("a was restarted", LIMIT, async || {
            ensure!(node.pod("a")?.instances() != first.instances());
            Ok(())
        })
        .await?;
        node.ready("a").await?;
        calm(node, SECOND).await
    });
}

#[test]
fn a_pod_deleted_while_the_runtime_is_away_ends_when_it_is_back() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let gone = node.ready("a").await?;
        node.runtime.stop_server().await;
        node.remove("a.yaml")?;
        tokio::time::sleep(300 * MILLI).await;
        node.runtime.restart_server().await?;
        node.gone(&gone).await
    });
}

#[test]
fn after_a_reboot_every_pod_begins_anew() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        node.put("b.yaml", &pod("b", "1"))?;
        node.ready("a").await?;
        node.ready("b").await?;
        node.kill_agent()?;
        node.runtime.reboot().await?;
        node.start_agent()?;
        for name in ["a", "b"] {
            node.running(&format!("{name}/main"), 1).await?;
            let pod = node.ready(name).await?;
            ensure!(
                pod.container("main")?.restart_count == 1,
                "{}",
                pod.describe()
            );
        }
        Ok(())
    });
}

#[test]
fn a_torn_record_costs_no_container() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        let record = node.pod_dir(&before).join("record.json");
        eventually("its record is written", LIMIT, async || {
            ensure!(record.exists());
            Ok(())
        })
        .await?;
        node.kill_agent()?;
        let text = std::fs::read(&record)?;
        std::fs::write(&record, &text[..text.len() / 2])?;
        node.start_agent()?;
        let after = node.ready("a").await?;
        ensure!(after.instances() == before.instances());
        calm(node, SECOND).await
    });
}

#[test]
fn what_cannot_be_looked_at_at_the_start_is_not_made_again() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        // The pod goes on in its second sandbox.
        let sandbox = node.runtime.sandboxes()[0].id.clone();
        node.runtime.kill_sandbox(&sandbox);
        eventually("it runs in a new sandbox", LIMIT, async || {
            ensure!(node.runtime.sandboxes().iter().any(|s| s.ready));
            let now = node.pod("a")?;
            ensure!(now.instances() != before.instances() && now.container("main")?.ready);
            Ok(())
        })
        .await?;
        let before = node.ready("a").await?;
        node.kill_agent()?;
        let broken = Fault::on("ContainerStatus").times(1);
        node.runtime.fault(broken.fails(Code::Internal, "not now"));
        node.runtime.forget_calls();
        node.start_agent()?;
        let after = node.ready("a").await?;
        ensure!(after.instances() == before.instances());
        let changes = node.runtime.changes();
        ensure!(changes.is_empty(), "{changes:?}");
        Ok(())
    });
}
