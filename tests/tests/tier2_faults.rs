//! The whole agent on a fake runtime whose calls fail, hang, and lose their answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::agent::PodView as _;
use tests::fake_runtime::{Code, Fault, Program};
use tests::in_process::{FakeNode, LIMIT, subject, with_agent, with_node};
use tests::wait::{eventually, throughout};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MAKING: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];

fn pod(name: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, \
         containers: [{{name: main, image: 'busybox:1'}}]}}}}"
    )
}

/// With what the method is about: a pod, or its container.
fn about(method: &str, name: &str) -> String {
    match method.ends_with("PodSandbox") {
        true => subject(name),
        false => subject(&format!("{name}/main")),
    }
}

async fn asked(node: &FakeNode, method: &str, times: usize) -> Result<()> {
    eventually(&format!("{times} × {method}"), LIMIT, async || {
        let calls = node.runtime.calls_of(method).len();
        ensure!(calls >= times, "{calls} calls");
        Ok(())
    })
    .await
}

async fn one_of_everything(node: &FakeNode) -> Result<()> {
    node.ready("a").await?;
    throughout("one sandbox, one container", SECOND, async || {
        let sandboxes = node.runtime.sandboxes().iter().filter(|s| s.ready).count();
        let running = node.running_now("a/main").len();
        ensure!(
            (sandboxes, running) == (1, 1),
            "{sandboxes} sandboxes, {running} containers"
        );
        Ok(())
    })
    .await
}

#[test]
fn a_call_that_fails_once_is_made_again() {
    for method in MAKING {
        with_agent(async |node| {
            node.runtime
                .fault(Fault::on(method).times(1).fails(Code::Internal, "not now"));
            node.put("a.yaml", &pod("a"))?;
            one_of_everything(node).await
        });
    }
}

#[test]
fn a_look_that_takes_longer_than_the_pause_after_a_failure_forgets_no_retry() {
    for method in MAKING {
        with_agent(async |node| {
            let fails = Fault::on(method).times(1);
            node.runtime.fault(fails.fails(Code::Internal, "not now"));
            let slow = Fault::on("ListPodSandbox").times(3);
            node.runtime.fault(slow.takes(3 * SECOND));
            node.put("a.yaml", &pod("a"))?;
            one_of_everything(node).await
        });
    }
}

#[test]
fn a_sandbox_that_cannot_be_looked_at_is_told_of_and_kept() {
    with_agent(async |node| {
        let fault = Fault::on("PodSandboxStatus").about(&subject("a")).times(1);
        node.runtime.fault(fault.fails(Code::Internal, "not now"));
        node.put("a.yaml", &pod("a"))?;
        one_of_everything(node).await?;
        let log = node.log();
        let text = "Unable to get pod sandbox status: rpc error: code = Internal desc = not now";
        ensure!(
            log.contains("FailedPodSandBoxStatus") && log.contains(text),
            "{log}"
        );
        Ok(())
    });
}

#[test]
fn an_answer_that_is_lost_makes_nothing_twice() {
    for method in MAKING {
        with_agent(async |node| {
            let lost = Fault::on(method).times(1);
            node.runtime
                .fault(lost.fails_afterwards(Code::Unknown, "lost"));
            node.put("a.yaml", &pod("a"))?;
            one_of_everything(node).await?;
            ensure!(node.runtime.containers().len() == 1 && node.runtime.sandboxes().len() == 1);
            Ok(())
        });
    }
}

#[test]
fn a_connection_that_breaks_before_the_answer_makes_nothing_twice() {
    for method in MAKING {
        with_agent(async |node| {
            node.runtime
                .fault(Fault::on(method).times(1).cuts_off_afterwards());
            node.put("a.yaml", &pod("a"))?;
            one_of_everything(node).await?;
            ensure!(node.runtime.containers().len() == 1 && node.runtime.sandboxes().len() == 1);
            Ok(())
        });
    }
}

#[test]
fn a_pod_that_always_fails_holds_up_no_other_and_can_be_deleted() {
    for method in MAKING {
        with_agent(async |node| {
            let fault = Fault::on(method).about(&about(method, "a"));
            node.runtime.fault(fault.fails(Code::Internal, "never"));
            node.put("a.yaml", &pod("a"))?;
            asked(node, method, 2).await?;
            node.put("b.yaml", &pod("b"))?;
            node.ready("b").await?;
            let failing = node.pod("a")?;
            ensure!(failing.phase() == "Pending", "{}", failing.describe());
            node.remove("a.yaml")?;
            node.gone(&failing).await?;
            quiet(node).await
        });
    }
}

/// Before long there is a second in which the runtime is asked a handful of things at the most: nothing turns in a circle.
async fn quiet(node: &FakeNode) -> Result<()> {
    eventually("a quiet second", LIMIT, async || {
        let before = node.runtime.calls().len();
        tokio::time::sleep(SECOND).await;
        let calls = node.runtime.calls().split_off(before);
        let methods: Vec<&str> = calls.iter().map(|call| call.method).collect();
        ensure!(
            methods.len() < 20,
            "{} calls: {:?}",
            methods.len(),
            &methods[..20]
        );
        Ok(())
    })
    .await
}

#[test]
fn pods_whose_calls_hang_hold_up_no_other_and_can_be_deleted() {
    for method in MAKING {
        with_agent(async |node| {
            // Many times what there are places for starts.
            let hanging: Vec<String> = (0..40).map(|n| format!("h{n}")).collect();
            for name in &hanging {
                node.runtime
                    .fault(Fault::on(method).about(&about(method, name)).hangs());
                node.put(&format!("{name}.yaml"), &pod(name))?;
            }
            asked(node, method, 1).await?;
            node.put("b.yaml", &pod("b"))?;
            let came = tokio::time::Instant::now();
            node.ready("b").await?;
            let took = came.elapsed();
            ensure!(took < 10 * SECOND, "b took {took:?}");
            // A manifest written just as the watch begins is read a second later than the others.
            let known = async || {
                hanging
                    .iter()
                    .map(|name| node.pod(name))
                    .collect::<Result<Vec<_>>>()
            };
            let stuck = eventually("every manifest is read", LIMIT, known)
                .await?
                .swap_remove(0);
            for name in &hanging {
                node.remove(&format!("{name}.yaml"))?;
            }
            node.gone(&stuck).await?;
            eventually("every pod's directory is gone", LIMIT, async || {
                let left = std::fs::read_dir(node.path("kubelet/pods"))?.count();
                ensure!(left == 1, "{left} are left");
                Ok(())
            })
            .await?;
            quiet(node).await
        });
    }
}

#[test]
fn a_start_that_outlives_its_deadline_makes_nothing_twice() {
    for method in MAKING {
        with_node(async |node| {
            node.configure("runtimeRequestTimeout", json!("1s"));
            node.start_agent()?;
            let slow = Fault::on(method).times(1);
            node.runtime.fault(slow.takes_regardless(5 * SECOND / 2));
            node.put("a.yaml", &pod("a"))?;
            node.ready("a").await?;
            tokio::time::sleep(3 * SECOND).await;
            eventually("one instance", LIMIT, async || {
                let sandboxes = node.runtime.sandboxes().iter().filter(|s| s.ready).count();
                let running = node.running_now("a/main").len();
                ensure!(
                    (sandboxes, running) == (1, 1),
                    "{sandboxes} sandboxes, {running} containers"
                );
                Ok(())
            })
            .await?;
            one_of_everything(node).await
        });
    }
}

#[test]
fn a_stop_that_fails_or_hangs_for_a_while_delays_only_its_successor() {
    for hangs in [false, true] {
        with_node(async |node| {
            node.configure("runtimeRequestTimeout", json!("1s"));
            node.start_agent()?;
            node.put("a.yaml", &pod("a"))?;
            let old = node.ready("a").await?;
            let fault = Fault::on("StopContainer").times(2);
            node.runtime.fault(match hangs {
                true => fault.hangs(),
                false => fault.fails(Code::Internal, "not now"),
            });
            node.put("a.yaml", &pod("a").replace("busybox:1", "busybox:2"))?;
            asked(node, "StopContainer", 1).await?;
            node.put("b.yaml", &pod("b"))?;
            node.ready("b").await?;
            node.gone(&old).await?;
            node.ready("a").await?;
            // One that hangs for longer than its grace period goes with its sandbox.
            let calls = node.runtime.calls_of("StopContainer").len();
            ensure!(calls == if hangs { 1 } else { 3 }, "{calls} calls");
            Ok(())
        });
    }
}

#[test]
fn a_sandbox_that_dies_is_made_anew() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a"))?;
        let before = node.ready("a").await?;
        node.runtime.kill_sandbox(&node.runtime.sandboxes()[0].id);
        eventually("it runs in a new sandbox", LIMIT, async || {
            ensure!(node.pod("a")?.instances() != before.instances());
            Ok(())
        })
        .await?;
        let after = node.ready("a").await?;
        ensure!(after.container("main")?.restart_count == 1);
        one_of_everything(node).await
    });
}

#[test]
fn a_container_that_never_started_does_not_outlive_its_sandbox() {
    with_agent(async |node| {
        node.runtime
            .fault(Fault::on("StartContainer").fails(Code::Internal, "not now"));
        node.put("a.yaml", &pod("a"))?;
        asked(node, "StartContainer", 1).await?;
        node.runtime.kill_sandbox(&node.runtime.sandboxes()[0].id);
        node.runtime.clear_faults();
        one_of_everything(node).await
    });
}

#[test]
fn an_exit_is_noticed_without_events_and_before_it_shows() {
    for events in [false, true] {
        with_node(async |node| {
            node.runtime.set_events(events);
            if events {
                node.runtime.show_ends_late(300 * MILLI);
            }
            node.start_agent()?;
            node.put("a.yaml", &pod("a"))?;
            node.ready("a").await?;
            node.runtime
                .kill_container(&node.running("a/main", 1).await?[0].id, 1);
            eventually("it was restarted", Duration::from_secs(10), async || {
                let pod = node.pod("a")?;
                ensure!(
                    pod.container("main")?.restart_count == 1,
                    "{}",
                    pod.describe()
                );
                Ok(())
            })
            .await?;
            one_of_everything(node).await
        });
    }
}

#[test]
fn one_pod_that_cannot_be_looked_at_keeps_no_other_waiting() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a"))?;
        node.put("b.yaml", &pod("b"))?;
        node.ready("a").await?;
        node.ready("b").await?;
        node.kill_agent()?;
        let status = Fault::on("ContainerStatus").about(&subject("a/main"));
        node.runtime.fault(status.hangs());
        node.start_agent()?;
        node.ready("b").await?;
        node.runtime
            .kill_container(&node.running("b/main", 1).await?[0].id, 1);
        eventually("b was restarted", LIMIT, async || {
            ensure!(node.pod("b")?.container("main")?.restart_count == 1);
            Ok(())
        })
        .await?;
        ensure!(node.runtime.running(&subject("a/main")).len() == 1);
        Ok(())
    });
}

#[test]
fn a_pod_that_is_gone_is_not_found_again() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a"))?;
        let pod = node.ready("a").await?;
        // The relist that follows the new connection sees the pod.
        node.runtime.restart_server().await?;
        tokio::time::sleep(2 * SECOND).await;
        node.remove("a.yaml")?;
        node.gone(&pod).await?;
        eventually("its traces are gone", 4 * LIMIT, async || {
            ensure!(node.runtime.containers().is_empty() && node.runtime.sandboxes().is_empty());
            Ok(())
        })
        .await?;
        tokio::time::sleep(SECOND).await;
        ensure!(!node.log().contains("no source has"), "it was found again");
        Ok(())
    });
}

#[test]
fn a_start_error_of_the_program_is_retried() {
    with_agent(async |node| {
        let programs = vec![Program::fails_to_start("no such file"), Program::forever()];
        node.runtime.programs("main", programs);
        node.put("a.yaml", &pod("a"))?;
        let pod = node.ready("a").await?;
        ensure!(
            pod.container("main")?.restart_count == 1,
            "{}",
            pod.describe()
        );
        Ok(())
    });
}
