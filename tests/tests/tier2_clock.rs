//! The whole agent on a fake runtime: the machine's wall clock is stepped.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::jiff::SignedDuration;
use tests::agent::PodView as _;
use tests::fake_runtime::Program;
use tests::in_process::{FakeNode, LIMIT, with_agent};
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const TEN_YEARS: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
const STEPS: [SignedDuration; 2] = [TEN_YEARS, TEN_YEARS.checked_neg().unwrap()];

fn pod(name: &str, grace: u32) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: {grace}, \
         containers: [{{name: main, image: 'busybox:1'}}]}}}}"
    )
}

/// Steps the clock, and with `restart` while no agent runs.
fn step(node: &FakeNode, step: SignedDuration, restart: bool) -> Result<()> {
    if restart {
        node.kill_agent()?;
    }
    node.step_clock(step);
    if restart {
        node.start_agent()?;
    }
    Ok(())
}

/// Each step, while the agent runs and while it does not.
fn each_step(test: impl AsyncFn(&FakeNode, SignedDuration, bool) -> Result<()>) {
    for by in STEPS {
        for restart in [false, true] {
            with_agent(async |node| {
                test(node, by, restart).await.map_err(|error| {
                    error.context(format!("stepped by {by:#}, agent restarted: {restart}"))
                })
            });
        }
    }
}

#[test]
fn a_step_changes_nothing_for_pods_that_run() {
    each_step(async |node, by, restart| {
        node.put("a.yaml", &pod("a", 2))?;
        let before = node.ready("a").await?;
        // A record is written once a second at most.
        tokio::time::sleep(2 * SECOND).await;
        let changes = node.runtime.changes().len();
        step(node, by, restart)?;
        node.ready("a").await?;
        throughout("nothing is changed", 2 * SECOND, async || {
            let now = node.runtime.changes();
            ensure!(now.len() == changes, "{:?}", &now[changes..]);
            Ok(())
        })
        .await?;
        let after = node.ready("a").await?;
        ensure!(after.instances() == before.instances());
        let (before, after) = (before.status, after.status);
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        ensure!(before.start_time == after.start_time, "start time");
        ensure!(
            before.conditions == after.conditions,
            "{:?} became {:?}",
            before.conditions,
            after.conditions
        );
        ensure!(before.container_statuses == after.container_statuses);
        // And what comes later is begun and ended as ever.
        node.put("b.yaml", &pod("b", 2))?;
        let later = node.ready("b").await?;
        node.runtime
            .kill_container(&node.running("a/main", 1).await?[0].id, 1);
        eventually("a restart takes the usual course", LIMIT, async || {
            let pod = node.pod("a")?;
            let main = pod.container("main")?;
            ensure!(main.restart_count == 1 && main.ready, "{}", pod.describe());
            Ok(())
        })
        .await?;
        node.remove("b.yaml")?;
        node.gone(&later).await
    });
}

#[test]
fn a_step_neither_ends_nor_prolongs_a_back_off() {
    each_step(async |node, by, restart| {
        let crashes = vec![
            Program::exits(1, SECOND / 10),
            Program::exits(1, SECOND / 10),
        ];
        let programs = crashes.into_iter().chain([Program::forever()]).collect();
        node.runtime.programs("main", programs);
        node.put("a.yaml", &pod("a", 2))?;
        node.waiting("a", "main", "CrashLoopBackOff").await?;
        let waits = Instant::now();
        // The record of it is written within a second.
        tokio::time::sleep(2 * SECOND).await;
        step(node, by, restart)?;
        node.waiting("a", "main", "CrashLoopBackOff").await?;
        let again = node.ready("a").await?;
        let waited = waits.elapsed();
        ensure!(again.container("main")?.restart_count == 2);
        ensure!(
            9 * SECOND < waited && waited < 16 * SECOND,
            "it waited for {waited:?} instead of ten seconds"
        );
        Ok(())
    });
}

#[test]
fn a_step_neither_ends_nor_prolongs_an_active_deadline() {
    each_step(async |node, by, restart| {
        let manifest = pod("a", 2).replace("spec: {", "spec: {activeDeadlineSeconds: 9, ");
        let begun = Instant::now();
        node.put("a.yaml", &manifest)?;
        let before = node.ready("a").await?;
        // A record is written once a second at most.
        tokio::time::sleep(2 * SECOND).await;
        step(node, by, restart)?;
        ensure!(node.ready("a").await?.instances() == before.instances());
        let failed = eventually("it fails", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(pod.phase() == "Failed", "{}", pod.describe());
            Ok(pod)
        })
        .await?;
        let active = begun.elapsed();
        let status = failed.status.unwrap_or_default();
        ensure!(status.reason.as_deref() == Some("DeadlineExceeded"));
        ensure!(
            8 * SECOND < active && active < 14 * SECOND,
            "it was active for {active:?} instead of nine seconds"
        );
        Ok(())
    });
}

#[test]
fn a_step_shortens_no_grace_period() {
    each_step(async |node, by, restart| {
        node.runtime
            .program("main", Program::forever().ignoring_stop());
        node.put("a.yaml", &pod("a", 8))?;
        let pod = node.ready("a").await?;
        node.remove("a.yaml")?;
        eventually("it is being stopped", LIMIT, async || {
            ensure!(!node.runtime.calls_of("StopContainer").is_empty());
            Ok(())
        })
        .await?;
        let stopping = Instant::now();
        tokio::time::sleep(SECOND).await;
        step(node, by, restart)?;
        node.gone(&pod).await?;
        let took = stopping.elapsed();
        ensure!(
            7 * SECOND < took && took < 14 * SECOND,
            "it took {took:?} instead of eight seconds"
        );
        Ok(())
    });
}
