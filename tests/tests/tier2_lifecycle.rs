//! The whole agent on a fake runtime: what it asks of the runtime over the life of a pod.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::agent::PodView as _;
use tests::fake_runtime::{FakeRuntime, Fault, Program};
use tests::in_process::{FakeNode, LIMIT, subject, with_agent, with_node};
use tests::wait::{eventually, throughout};

const MILLI: Duration = Duration::from_millis(1);

/// A pod of one container, `main`, whose environment has `version`; `extra` goes into its spec.
fn pod(name: &str, version: &str, extra: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, {extra} \
         containers: [{{name: main, image: 'busybox:1', env: [{{name: VERSION, value: '{version}'}}]}}]}}}}"
    )
}

fn version_of(container: &tests::fake_runtime::Container) -> String {
    let mut envs = container.config.envs.iter();
    let version = envs.find(|env| env.key == "VERSION");
    version
        .map(|env| String::from_utf8_lossy(&env.value).into_owned())
        .unwrap_or_default()
}

#[test]
fn an_active_deadline_that_is_moved_counts_at_once() {
    with_agent(async |node| {
        let manifest = |seconds: u32| {
            let limit = format!("activeDeadlineSeconds: {seconds},");
            pod("a", "1", &limit).replace("name: a}", "name: a, uid: fixed}")
        };
        node.put("a.yaml", &manifest(2))?;
        let start = tokio::time::Instant::now();
        let before = node.ready("a").await?;
        node.put("a.yaml", &manifest(1000))?;
        throughout("the later one counts", 3000 * MILLI, async || {
            let pod = node.pod("a")?;
            ensure!(pod.instances() == before.instances(), "{}", pod.describe());
            Ok(())
        })
        .await?;
        node.put("a.yaml", &manifest(5))?;
        eventually("the earlier one counts", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(pod.phase() == "Failed", "{}", pod.describe());
            Ok(())
        })
        .await?;
        let took = start.elapsed();
        ensure!(4500 * MILLI < took && took < 9000 * MILLI, "{took:?}");
        Ok(())
    });
}

#[test]
fn containers_start_in_order_and_stop_in_reverse() {
    with_agent(async |node| {
        node.runtime.program("init", Program::exits(0, 50 * MILLI));
        node.put(
            "a.yaml",
            "# YAML
            {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {terminationGracePeriodSeconds: 2,
              initContainers: [{name: init, image: 'busybox:1'}, {name: side, image: 'busybox:1', restartPolicy: Always}],
              containers: [{name: one, image: 'busybox:1'}, {name: two, image: 'busybox:1'}]}}",
        )?;
        let pod = node.ready("a").await?;
        let begin = [
            "RunPodSandbox",
            "CreateContainer init",
            "StartContainer init",
            "CreateContainer side",
            "StartContainer side",
            "CreateContainer one",
            "StartContainer one",
            "CreateContainer two",
            "StartContainer two",
        ];
        ensure!(node.changes_of("a") == begin, "{:?}", node.changes_of("a"));
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        let mut end = node.changes_of("a").split_off(begin.len());
        end[..2].sort();
        let stops = [
            "StopContainer one",
            "StopContainer two",
            "StopContainer side",
            "StopPodSandbox",
        ];
        ensure!(end == stops, "{end:?}");
        Ok(())
    });
}

#[test]
fn an_edit_stops_the_old_pod_before_the_new_one_begins() {
    with_agent(async |node| {
        let slow = Program::forever().stopping_with(0, 300 * MILLI);
        node.runtime.program("main", slow);
        node.put("a.yaml", &pod("a", "1", ""))?;
        let old = node.ready("a").await?;
        node.put("a.yaml", &pod("a", "2", ""))?;
        node.gone(&old).await?;
        let new = node.ready("a").await?;
        ensure!(new.uid() != old.uid());
        let versions: Vec<String> = node
            .running("a/main", 1)
            .await?
            .iter()
            .map(version_of)
            .collect();
        ensure!(versions == ["2"], "{versions:?}");
        let changes = node.changes_of("a");
        let stopped = changes.iter().position(|c| c == "StopPodSandbox");
        let began = changes.iter().rposition(|c| c == "RunPodSandbox");
        ensure!(stopped < began, "{changes:?}");
        Ok(())
    });
}

#[test]
fn a_deaf_container_is_killed_after_its_grace_period() {
    with_agent(async |node| {
        node.runtime
            .program("main", Program::forever().ignoring_stop());
        node.put("a.yaml", &pod("a", "1", ""))?;
        let pod = node.ready("a").await?;
        let removed = tokio::time::Instant::now();
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        ensure!(removed.elapsed() >= 1900 * MILLI, "{:?}", removed.elapsed());
        let all = node.runtime.containers();
        ensure!(all.len() == 1 && all[0].exit_code == 137, "{all:?}");
        Ok(())
    });
}

#[test]
fn a_manifest_put_back_revives_its_pod_with_its_restart_count() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1", ""))?;
        let first = node.ready("a").await?;
        node.remove("a.yaml")?;
        node.gone(&first).await?;
        node.put("a.yaml", &pod("a", "1", ""))?;
        let again = node.ready("a").await?;
        ensure!(again.uid() == first.uid());
        ensure!(
            again.container("main")?.restart_count == 1,
            "{}",
            again.describe()
        );
        Ok(())
    });
}

#[test]
fn edits_back_and_forth_end_in_the_last_state() {
    with_agent(async |node| {
        let slow = Program::forever().stopping_with(0, 20 * MILLI);
        node.runtime.program("main", slow);
        for round in 0..12 {
            node.put("a.yaml", &pod("a", ["x", "y", "z"][round % 3], ""))?;
            tokio::time::sleep(MILLI * [3, 40, 150, 1][round % 4]).await;
            if round % 5 == 4 {
                node.remove("a.yaml")?;
                tokio::time::sleep(30 * MILLI).await;
            }
        }
        node.put("a.yaml", &pod("a", "last", ""))?;
        eventually("the last version runs alone", LIMIT, async || {
            let running: Vec<String> = node.running_now("a/main").iter().map(version_of).collect();
            ensure!(running == ["last"], "{running:?}");
            ensure!(node.pod("a")?.phase() == "Running");
            Ok(())
        })
        .await
    });
}

#[test]
fn fifty_pods_at_once() {
    with_agent(async |node| {
        node.runtime
            .fault(Fault::on("RunPodSandbox").takes(20 * MILLI));
        for number in 0..50 {
            node.put(
                &format!("{number}.yaml"),
                &pod(&format!("p{number}"), "1", ""),
            )?;
        }
        eventually("all run", LIMIT, async || {
            let ready = node
                .pods()
                .iter()
                .filter(|p| p.phase() == "Running")
                .count();
            ensure!(ready == 50, "{ready} run");
            Ok(())
        })
        .await?;
        ensure!(node.runtime.sandboxes().len() == 50 && node.runtime.containers().len() == 50);
        for number in 0..50 {
            node.remove(&format!("{number}.yaml"))?;
        }
        eventually("all are gone", LIMIT, async || {
            let left = node
                .runtime
                .containers()
                .iter()
                .filter(|c| c.running)
                .count();
            let shown = node.pods().len();
            ensure!(left == 0 && shown == 0, "{left} run, {shown} are shown");
            Ok(())
        })
        .await
    });
}

#[test]
fn restart_policies_end_in_their_phases() {
    with_agent(async |node| {
        node.runtime
            .program("good/main", Program::exits(0, 20 * MILLI));
        for name in ["never-0", "failure-0"] {
            node.runtime.program(
                &subject(&format!("{name}/main")),
                Program::exits(0, 20 * MILLI),
            );
        }
        node.runtime
            .program(&subject("never-3/main"), Program::exits(3, 20 * MILLI));
        let retries = vec![Program::exits(3, 20 * MILLI), Program::exits(0, 20 * MILLI)];
        node.runtime.programs(&subject("failure-3/main"), retries);
        for (name, policy) in [
            ("never-0", "Never"),
            ("never-3", "Never"),
            ("failure-0", "OnFailure"),
            ("failure-3", "OnFailure"),
        ] {
            node.put(
                &format!("{name}.yaml"),
                &pod(name, "1", &format!("restartPolicy: {policy},")),
            )?;
        }
        node.phase("never-0", "Succeeded").await?;
        node.phase("never-3", "Failed").await?;
        node.phase("failure-0", "Succeeded").await?;
        let retried = node.phase("failure-3", "Succeeded").await?;
        ensure!(retried.container("main")?.restart_count == 1);
        ended(node).await
    });
}

/// Pods that have ended keep no sandbox, and nothing of them is started again.
async fn ended(node: &FakeNode) -> Result<()> {
    eventually("no sandbox is ready", LIMIT, async || {
        ensure!(node.runtime.sandboxes().iter().all(|s| !s.ready));
        Ok(())
    })
    .await?;
    let count = node.runtime.containers().len();
    throughout("nothing is started", Duration::from_secs(1), async || {
        ensure!(node.runtime.containers().len() == count);
        Ok(())
    })
    .await
}

#[test]
fn the_second_restart_of_a_crash_loop_waits() {
    with_node(async |node| {
        node.configure(
            "crashLoopBackOff",
            json!({"maxContainerRestartPeriod": "2s"}),
        );
        node.configure("featureGates", json!({"KubeletCrashLoopBackOffMax": true}));
        node.start_agent()?;
        node.runtime.program("main", Program::exits(1, 10 * MILLI));
        node.put("a.yaml", &pod("a", "1", ""))?;
        node.waiting("a", "main", "CrashLoopBackOff").await?;
        eventually("three instances have run", LIMIT, async || {
            ensure!(node.runtime.calls_of("StartContainer").len() >= 3);
            Ok(())
        })
        .await?;
        let starts = node.runtime.calls_of("StartContainer");
        let first = starts[1].began - starts[0].began;
        let second = starts[2].began - starts[1].began;
        ensure!(first < 1000 * MILLI, "the first restart waited {first:?}");
        ensure!(
            second >= 2000 * MILLI,
            "the second restart waited {second:?}"
        );
        Ok(())
    });
}

#[test]
fn images_that_are_missing_appear() {
    with_agent(async |node| {
        let missing =
            || Fault::on("PullImage").fails(tests::fake_runtime::Code::NotFound, "no such image");
        node.runtime.fault(missing());
        node.put("a.yaml", &pod("a", "1", ""))?;
        node.put(
            "never.yaml",
            &pod("never", "1", "")
                .replace("image: 'busybox:1'", "image: other, imagePullPolicy: Never"),
        )?;
        node.waiting("a", "main", "ErrImagePull").await?;
        node.waiting("never", "main", "ErrImageNeverPull").await?;
        node.runtime.clear_faults();
        node.runtime.add_image("other");
        node.ready("a").await?;
        node.ready("never").await?;
        Ok(())
    });
}

#[test]
fn a_pod_has_its_address_while_its_image_is_pulled() {
    with_agent(async |node| {
        node.runtime.fault(Fault::on("PullImage").hangs());
        node.put("a.yaml", &pod("a", "1", ""))?;
        eventually("an address", LIMIT, async || {
            let pods = node.pods();
            let status = pods.first().and_then(|pod| pod.status.as_ref());
            ensure!(status.is_some_and(|s| s.pod_ip.is_some()), "{status:?}");
            Ok(())
        })
        .await?;
        node.waiting("a", "main", "ContainerCreating").await?;
        node.runtime.clear_faults();
        Ok(())
    });
}

#[test]
fn the_status_of_others_goes_on_while_an_image_is_pulled() {
    with_agent(async |node| {
        let hangs = Fault::on("PullImage").when(|call| call.subject.contains("other"));
        node.runtime.fault(hangs.hangs());
        let manifest = pod("a", "1", "")
            .replace("main, image: 'busybox:1'", "main, image: other")
            .replace(
                "containers: [",
                "containers: [{name: first, image: 'busybox:1'}, ",
            );
        node.put("a.yaml", &manifest)?;
        let first = node.running("a/first", 1).await?;
        eventually("the first one shows", LIMIT, async || {
            let pod = node.pod("a")?;
            ensure!(pod.container("first")?.ready, "{}", pod.describe());
            Ok(())
        })
        .await?;
        node.runtime.kill_container(&first[0].id, 7);
        eventually("its end shows", LIMIT, async || {
            let pod = node.pod("a")?;
            let state = pod.container("first")?.state.clone();
            let ended = state.and_then(|state| state.terminated);
            ensure!(
                ended.is_some_and(|end| end.exit_code == 7),
                "{}",
                pod.describe()
            );
            Ok(())
        })
        .await?;
        node.runtime.clear_faults();
        Ok(())
    });
}

#[test]
fn containers_of_others_are_left_alone() {
    with_node(async |node| {
        let theirs = foreign_container(&node.runtime).await?;
        node.start_agent()?;
        node.put("a.yaml", &pod("a", "1", ""))?;
        let pod = node.ready("a").await?;
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        let still = node.runtime.container(&theirs);
        ensure!(still.is_some_and(|c| c.running));
        Ok(())
    });
}

/// A container that runs, made by somebody else.
async fn foreign_container(runtime: &FakeRuntime) -> Result<String> {
    use cri_proto::v1;
    runtime.add_image("busybox");
    let client = runtime
        .connection(cri_proto::ConnectOptions::default())
        .runtime();
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "theirs".into(),
            namespace: "default".into(),
            uid: "theirs".into(),
            attempt: 0,
        }),
        ..Default::default()
    };
    let sandbox_id = client
        .run_pod_sandbox(sandbox.clone(), String::new())
        .await?;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "theirs".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "busybox".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = client
        .create_container(&sandbox_id, container, sandbox)
        .await?;
    client.start_container(&id).await?;
    Ok(id)
}
