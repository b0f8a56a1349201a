//! Real containers that end: what brings which of them back, and what ends their pod.

mod ledger;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use ledger::{LASTING, LIMIT, condition, container, ended, last_end, manifest, restarted};
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

#[test]
fn containers_have_restart_policies_and_rules_of_their_own() {
    with_agent(async |node, agent| {
        let once = |code: u32| {
            format!(
                "test -e /out/$HOSTNAME.{code} || {{ touch /out/$HOSTNAME.{code}; exit {code}; }}\nsleep 100000 & wait"
            )
        };
        let rule = "  restartPolicy: Never\n  restartPolicyRules: [{ action: Restart, exitCodes: { operator: In, values: [42] } }]";
        let spec = format!(
            "restartPolicy: Never\ncontainers:{}{}{}{}",
            container("always", "  restartPolicy: Always", &once(1)),
            container("success", "  restartPolicy: OnFailure", "exit 0"),
            container("ruled", rule, &once(42)),
            container("unruled", rule, "exit 43"),
        );
        node.put("own.yaml", &manifest(node, "own", &spec)?)?;
        restarted(agent, "own", "always", 1).await?;
        let pod = restarted(agent, "own", "ruled", 1).await?;
        ensure!(
            last_end(&pod, "ruled")?.exit_code == 42,
            "{}",
            pod.describe()
        );
        throughout(
            "the others stay ended",
            Duration::from_secs(3),
            async || {
                let pod = agent.pod("own")?;
                ensure!(pod.phase() == "Running", "{}", pod.describe());
                ensure!(ended(&pod, "success")?.exit_code == 0);
                ensure!(ended(&pod, "unruled")?.exit_code == 43);
                for name in ["success", "unruled"] {
                    ensure!(
                        pod.container(name)?.restart_count == 0,
                        "{}",
                        pod.describe()
                    );
                }
                Ok(())
            },
        )
        .await
    });
}

#[test]
fn a_pod_is_done_when_its_containers_are_by_their_own_policies() {
    with_agent(async |node, agent| {
        let spec = format!(
            "restartPolicy: Always\ncontainers:{}",
            container("main", "  restartPolicy: Never", "say up; exit 3"),
        );
        node.put("done.yaml", &manifest(node, "done", &spec)?)?;
        agent.phase("done", "Failed", LIMIT).await?;
        throughout("it is not begun anew", Duration::from_secs(4), async || {
            let pod = agent.pod("done")?;
            ensure!(pod.phase() == "Failed", "{}", pod.describe());
            ensure!(ledger::lines(node, "done")? == ["main up"]);
            Ok(())
        })
        .await
    });
}

#[test]
fn a_pod_fails_when_its_active_deadline_passes() {
    with_agent(async |node, agent| {
        let spec = format!(
            "activeDeadlineSeconds: 6\ncontainers:{}",
            container("main", "", LASTING)
        );
        node.put("late.yaml", &manifest(node, "late", &spec)?)?;
        agent.ready("late", LIMIT).await?;
        let pod = agent.phase("late", "Failed", LIMIT).await?;
        let status = pod.status.clone().unwrap_or_default();
        ensure!(
            status.reason.as_deref() == Some("DeadlineExceeded")
                && status.message.as_deref()
                    == Some("Pod was active on the node longer than the specified deadline"),
            "{status:?}"
        );
        ensure!(condition(&pod, "Ready")?.reason.as_deref() == Some("PodFailed"));
        eventually("it has stopped", LIMIT, async || {
            ensure!(ledger::lines(node, "late")? == ["main up", "main asked", "main done"]);
            ended(&agent.pod("late")?, "main")
        })
        .await?;
        let end = ended(&agent.pod("late")?, "main")?;
        let (start, end) = (status.start_time, end.finished_at);
        let (start, end) = (start.context("a start")?, end.context("an end")?);
        // In whole seconds, and half a second for its last words; upstream looks each second.
        let took = end.0.as_second() - start.0.as_second();
        let most = if agent.is_foreign() { 10 } else { 7 };
        ensure!((6..=most).contains(&took), "it was ended after {took} s");
        throughout("it stays ended", Duration::from_secs(3), async || {
            ensure!(agent.pod("late")?.phase() == "Failed");
            ensure!(ledger::lines(node, "late")?.len() == 3);
            Ok(())
        })
        .await
    });
}

#[test]
fn an_active_deadline_goes_on_while_the_agent_is_away() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            // docs/deviations.md: without an API server, upstream counts from its own start.
            return Ok(());
        }
        let spec = format!(
            "activeDeadlineSeconds: 8\ncontainers:{}",
            container("main", "", LASTING)
        );
        node.put("late.yaml", &manifest(node, "late", &spec)?)?;
        let start = Instant::now();
        agent.ready("late", LIMIT).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        agent.kill()?;
        agent.start().await?;
        agent.ready("late", LIMIT).await?;
        let pod = agent.phase("late", "Failed", LIMIT).await?;
        let took = start.elapsed().as_secs_f32();
        ensure!((7.0..11.0).contains(&took), "it took {took} s");
        let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
        ensure!(reason == Some("DeadlineExceeded"), "{}", pod.describe());
        // And it is over for a later agent too.
        agent.kill()?;
        agent.start().await?;
        let pod = agent.phase("late", "Failed", LIMIT).await?;
        let reason = pod.status.as_ref().and_then(|s| s.reason.as_deref());
        ensure!(reason == Some("DeadlineExceeded"), "{}", pod.describe());
        ensure!(ledger::lines(node, "late")?.len() == 3);
        Ok(())
    });
}

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    with_agent(async |node, agent| {
        let limit = "  resources: { limits: { memory: 24Mi } }";
        let spec = format!(
            "restartPolicy: Never\ncontainers:{}",
            // `tail` keeps the last line, which never ends.
            container("main", limit, "exec tail /dev/zero"),
        );
        node.put("oom.yaml", &manifest(node, "oom", &spec)?)?;
        let pod = agent.phase("oom", "Failed", LIMIT).await?;
        let end = ended(&pod, "main")?;
        ensure!(
            end.exit_code == 137 && end.reason.as_deref() == Some("OOMKilled"),
            "{end:?}"
        );
        Ok(())
    });
}

#[test]
fn restart_counts_go_on_after_a_restart_of_the_agent() {
    with_agent(async |node, agent| {
        let spec = format!(
            "containers:{}",
            container("main", "", "say up\nsleep 100000 & wait")
        );
        node.put("count.yaml", &manifest(node, "count", &spec)?)?;
        let pod = agent.ready("count", LIMIT).await?;
        let kill = |pod: &Pod| {
            let id = pod.container("main")?.container_id.clone();
            node.kill_container(&id.context("an id")?)
        };
        kill(&pod)?;
        let before = restarted(agent, "count", "main", 1).await?;
        agent.kill()?;
        agent.start().await?;
        let after = restarted(agent, "count", "main", 1).await?;
        ensure!(
            after.instances() == before.instances(),
            "{}",
            after.describe()
        );
        ensure!(last_end(&after, "main")? == last_end(&before, "main")?);
        // While nobody looks it ends once more; the runtime forgets the one before.
        agent.kill()?;
        kill(&after)?;
        agent.start().await?;
        let pod = restarted(agent, "count", "main", 2).await?;
        ensure!(last_end(&pod, "main")?.exit_code == 137);
        eventually("its third line", LIMIT, async || {
            ensure!(ledger::lines(node, "count")? == ["main up"; 3]);
            Ok(())
        })
        .await
    });
}
