//! Real containers: the order in which a pod's containers start and stop, and what has all of them start anew.

mod ledger;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use ledger::{LASTING, LIMIT, condition, container, ended, last_end, manifest, restarted};
use tests::agent::PodView as _;
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::eventually;

const SIDECAR: &str = "  restartPolicy: Always";

/// The pod's running sandbox: what runs of it and is none of its containers.
fn sandbox(node: &Node, pod: &Pod) -> Result<String> {
    let status = pod.status.as_ref().context("a status")?;
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let ids: Vec<String> = all.filter_map(|s| s.container_id.clone()).collect();
    let running = node.running_of(pod.uid())?;
    let sandbox = running
        .into_iter()
        .find(|id| !ids.contains(&format!("containerd://{id}")));
    sandbox.context("the pod has no running sandbox")
}

#[test]
fn sidecars_start_in_order_and_stop_last_in_reverse() {
    with_agent(async |node, agent| {
        let init = [
            container("first", "", "say up; sleep 0.5; say done"),
            container("one", SIDECAR, LASTING),
            container("second", "", "say up; sleep 0.5; say done"),
            container("two", SIDECAR, LASTING),
        ];
        let spec = format!(
            "initContainers:{}\ncontainers:{}{}",
            init.concat(),
            container("main", "", LASTING),
            container("other", "", LASTING)
        );
        node.put("order.yaml", &manifest(node, "order", &spec)?)?;
        let pod = agent.ready("order", LIMIT).await?;
        let up = eventually("all are up", LIMIT, async || {
            let up = ledger::lines(node, "order")?;
            ensure!(up.len() == 8, "{up:?}");
            Ok(up)
        })
        .await?;
        let begin = [
            "first up",
            "first done",
            "one up",
            "second up",
            "second done",
            "two up",
        ];
        ensure!(up[..6] == begin, "{up:?}");
        for name in ["one", "two"] {
            let status = pod.container(name)?;
            ensure!(status.ready && status.started == Some(true), "{status:?}");
        }
        node.remove("order.yaml")?;
        agent.gone(&pod, LIMIT).await?;
        let end = ledger::lines(node, "order")?.split_off(8);
        // The regular ones side by side, then one sidecar after the other.
        let mut regular: Vec<&str> = end[..4].iter().map(String::as_str).collect();
        ensure!(
            regular[..2].iter().all(|line| line.ends_with("asked")),
            "{end:?}"
        );
        regular.sort_unstable();
        let all = ["main asked", "main done", "other asked", "other done"];
        ensure!(regular == all, "{end:?}");
        let sidecars = ["two asked", "two done", "one asked", "one done"];
        ensure!(end[4..] == sidecars, "{end:?}");
        Ok(())
    });
}

#[test]
fn a_sidecar_comes_back_and_goes_when_all_else_is_done() {
    with_agent(async |node, agent| {
        let main = "say up\nuntil test -e /out/enough; do sleep 0.1; done\nsay done";
        let spec = format!(
            "restartPolicy: Never\ninitContainers:{}\ncontainers:{}",
            container("side", SIDECAR, LASTING),
            container("main", "", main)
        );
        node.put("side.yaml", &manifest(node, "side", &spec)?)?;
        let before = agent.ready("side", LIMIT).await?;
        let first = before.container("side")?.container_id.clone();
        node.kill_container(&first.context("an id")?)?;
        let after = restarted(agent, "side", "side", 1).await?;
        ensure!(
            after.instances() == before.instances(),
            "{}",
            after.describe()
        );
        ensure!(after.phase() == "Running" && condition(&after, "Initialized")?.status == "True");
        ensure!(last_end(&after, "side")?.exit_code == 137);
        fs::write(node.path("out-side/enough"), "")?;
        let pod = agent.phase("side", "Succeeded", LIMIT).await?;
        ensure!(ended(&pod, "main")?.exit_code == 0, "{}", pod.describe());
        let lines = ledger::lines(node, "side")?;
        ensure!(
            lines[lines.len() - 3..] == ["main done", "side asked", "side done"],
            "{lines:?}"
        );
        Ok(())
    });
}

#[test]
fn one_container_may_have_all_of_them_start_anew() {
    with_agent(async |node, agent| {
        let rule = "  restartPolicy: Never\n  restartPolicyRules: [{ action: RestartAllContainers, exitCodes: { operator: In, values: [88] } }]";
        let asks = "say up\ntest -e /out/once || { until test -e /out/go; do sleep 0.1; done; touch /out/once; exit 88; }\nsleep 100000 & wait";
        let spec = format!(
            "restartPolicy: Never\ninitContainers:{}{}\ncontainers:{}{}",
            container("init", "", "say up"),
            container("side", SIDECAR, LASTING),
            container("main", rule, asks),
            container("other", "", "say up\necho said\nsleep 100000 & wait"),
        );
        node.put("all.yaml", &manifest(node, "all", &spec)?)?;
        let before = agent.ready("all", LIMIT).await?;
        let home = sandbox(node, &before)?;
        let initialised = condition(&before, "Initialized")?.last_transition_time;
        eventually("all are up", LIMIT, async || {
            ensure!(ledger::lines(node, "all")?.len() == 4);
            Ok(())
        })
        .await?;
        fs::write(node.path("out-all/go"), "")?;
        restarted(agent, "all", "main", 1).await?;
        let after = agent.ready("all", LIMIT).await?;
        let up = eventually("all are up once more", LIMIT, async || {
            let lines = ledger::lines(node, "all")?;
            let up: Vec<String> = lines.into_iter().filter(|l| l.ends_with("up")).collect();
            ensure!(up.len() == 8, "{up:?}");
            Ok(up)
        })
        .await?;
        for round in [&up[..4], &up[4..]] {
            ensure!(round[..2] == ["init up", "side up"], "{up:?}");
        }
        ensure!(sandbox(node, &after)? == home, "another sandbox");
        ensure!(after.ip() == before.ip());
        for name in ["init", "side", "main", "other"] {
            let status = after.container(name)?;
            ensure!(status.restart_count == 1, "{status:?}");
        }
        for name in ["main", "other"] {
            let last = last_end(&after, name)?;
            ensure!(
                last.exit_code == 137 && last.reason.as_deref() == Some("RestartingAllContainers"),
                "{last:?}"
            );
        }
        let restarting = condition(&after, "AllContainersRestarting")?;
        ensure!(restarting.status == "False", "{restarting:?}");
        ensure!(condition(&after, "Initialized")?.last_transition_time == initialised);
        // The log of the instance that was removed is still there.
        let log = agent.container_log(&after, "other")?;
        ensure!(log == "said\nsaid\n", "{log:?}");
        Ok(())
    });
}

#[test]
fn a_lost_sandbox_has_the_pod_initialised_again() {
    with_agent(async |node, agent| {
        let spec = format!(
            "initContainers:{}{}\ncontainers:{}",
            container("init", "", "say up"),
            container("side", SIDECAR, LASTING),
            container("main", "", LASTING)
        );
        node.put("lost.yaml", &manifest(node, "lost", &spec)?)?;
        let before = agent.ready("lost", LIMIT).await?;
        eventually("all are up", LIMIT, async || {
            ensure!(ledger::lines(node, "lost")?.len() == 3);
            Ok(())
        })
        .await?;
        let home = sandbox(node, &before)?;
        node.kill_container(&home)?;
        restarted(agent, "lost", "main", 1).await?;
        let after = agent.ready("lost", LIMIT).await?;
        ensure!(sandbox(node, &after)? != home);
        for name in ["init", "side", "main"] {
            ensure!(
                after.container(name)?.restart_count == 1,
                "{name}: {}",
                after.describe()
            );
        }
        eventually("all are up once more, in order", LIMIT, async || {
            let lines = ledger::lines(node, "lost")?;
            let up: Vec<&str> = lines
                .iter()
                .filter_map(|line| line.strip_suffix(" up"))
                .collect();
            ensure!(
                up == ["init", "side", "main", "init", "side", "main"],
                "{lines:?}"
            );
            Ok(())
        })
        .await
    });
}
