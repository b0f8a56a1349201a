//! Real containers: the order in which a pod's containers start and stop, and what brings which of them back.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod, PodCondition};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

/// A manifest whose containers share `/out`, a directory of the node.
fn manifest(node: &Node, name: &str, spec: &str) -> Result<String> {
    let out = node.path(&format!("out-{name}"));
    fs::create_dir_all(&out)?;
    let spec = spec.replace("\n", "\n  ");
    Ok(format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: 10
  volumes:
  - name: out
    hostPath: {{ path: {}, type: Directory }}
  {}
"#,
        out.display(),
        spec.trim()
    ))
}

/// What the containers of the pod have written, in the order in which they did.
fn ledger(node: &Node, name: &str) -> Result<Vec<String>> {
    let path = node.path(&format!("out-{name}/ledger"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A container that runs `script`, with `more` fields. `say` puts a line of its own into the ledger.
fn container(name: &str, more: &str, script: &str) -> String {
    let script = script.replace('\n', "\n      ");
    format!(
        r#"
- name: {name}
  image: busybox:1.36
  volumeMounts: [{{ name: out, mountPath: /out }}]
{more}
  command:
  - sh
  - -c
  - |
      say() {{ echo {name} $1 >> /out/ledger; }}
      {script}"#
    )
}

/// Says when it starts and when it is asked to stop, and takes half a second for that.
const LASTING: &str =
    "trap 'say asked; sleep 0.5; say done; exit 0' TERM\nsay up\nsleep 100000 & wait";

const SIDECAR: &str = "  restartPolicy: Always";

fn ended(pod: &Pod, name: &str) -> Result<ContainerStateTerminated> {
    let state = pod.container(name)?.state.clone().unwrap_or_default();
    state.terminated.with_context(|| pod.describe())
}

fn last_end(pod: &Pod, name: &str) -> Result<ContainerStateTerminated> {
    let last = pod.container(name)?.last_state.clone().unwrap_or_default();
    last.terminated.with_context(|| pod.describe())
}

fn condition(pod: &Pod, kind: &str) -> Result<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|c| c.type_ == kind);
    found
        .cloned()
        .with_context(|| format!("no condition {kind}"))
}

/// Waits until the container has been started again `times` times and is ready.
async fn restarted(agent: &Agent<'_>, pod: &str, container: &str, times: i32) -> Result<Pod> {
    eventually(&format!("{container} is back"), LIMIT, async || {
        let pod = agent.pod(pod)?;
        let status = pod.container(container)?;
        ensure!(
            status.restart_count == times && status.ready,
            "{}",
            pod.describe()
        );
        Ok(pod)
    })
    .await
}

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
            let up = ledger(node, "order")?;
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
        let end = ledger(node, "order")?.split_off(8);
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
        let lines = ledger(node, "side")?;
        ensure!(
            lines[lines.len() - 3..] == ["main done", "side asked", "side done"],
            "{lines:?}"
        );
        Ok(())
    });
}

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
            ensure!(ledger(node, "done")? == ["main up"]);
            Ok(())
        })
        .await
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
            ensure!(ledger(node, "all")?.len() == 4);
            Ok(())
        })
        .await?;
        fs::write(node.path("out-all/go"), "")?;
        restarted(agent, "all", "main", 1).await?;
        let after = agent.ready("all", LIMIT).await?;
        let up = eventually("all are up once more", LIMIT, async || {
            let lines = ledger(node, "all")?;
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
            ensure!(ledger(node, "late")? == ["main up", "main asked", "main done"]);
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
            ensure!(ledger(node, "late")?.len() == 3);
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
        ensure!(ledger(node, "late")?.len() == 3);
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
            ensure!(ledger(node, "count")? == ["main up"; 3]);
            Ok(())
        })
        .await
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
            ensure!(ledger(node, "lost")?.len() == 3);
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
            let lines = ledger(node, "lost")?;
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
