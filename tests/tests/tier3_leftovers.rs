//! Real containers: nothing is left of a probe's command that took too long, in whatever way it went on.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tests::agent::PodView as _;
use tests::scenario::with_agent;
use tests::wait::{eventually, throughout};

const LIMIT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// One test at a time: what is asked each second must not wait for the containers of another test.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Commands that do not end, in the ways in which they do not.
const HANGING: [(&str, &str); 6] = [
    ("alone", "exec sleep 1000"),
    ("children", "sleep 1000 & sleep 1000 & wait"),
    (
        "deaf",
        "trap '' TERM INT HUP; sleep 1000 & wait; sleep 1000",
    ),
    ("session", "setsid sh -c 'sleep 1000; :' & wait"),
    // It has ended, and what it left behind holds its output open.
    ("orphan", "sleep 1000 & exit 0"),
    ("pipe", "yes | while read x; do sleep 1000; done"),
];

#[test]
fn what_a_command_began_ends_with_it() {
    let _alone = alone();
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            // Upstream leaves the children to themselves: there is nothing to compare.
            return Ok(());
        }
        let mut containers = String::new();
        for (name, script) in HANGING {
            let script = script.replace('\'', "''");
            // Two at a time, which must not be taken for one another.
            containers += &format!(
                "  - name: {name}\n    image: busybox:1.36\n    command: [sh, -c, 'sleep 100000 & wait']\n    \
                 readinessProbe: {{ exec: {{ command: [sh, -c, '{script}'] }}, periodSeconds: 1, failureThreshold: 1 }}\n    \
                 livenessProbe: {{ exec: {{ command: [sh, -c, '{script}'] }}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 1000 }}\n"
            );
        }
        node.put("hang.yaml", &format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: hang\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n{containers}"
        ))?;
        let pod = eventually("they are asked", LIMIT, async || {
            let pod = agent.pod("hang")?;
            ensure!(pod.phase() == "Running" && pod.statuses().len() == HANGING.len());
            let log = agent.log()?;
            let late = log.matches("command timed out").count();
            // Beyond 25 the events of one object are throttled.
            ensure!(late > 3 * HANGING.len(), "{late} were late");
            Ok(pod)
        })
        .await?;
        // The holder that one of the two probes left behind may end with the other's, which then sees a command that went
        // well: it did.
        let fails = |c: &ContainerStatus| c.name == "orphan" || !c.ready;
        ensure!(
            pod.statuses()
                .iter()
                .all(|c| fails(c) && c.restart_count == 0),
            "{}",
            pod.describe()
        );
        // Two commands of three processes may be running, and the one of a probe before is gone.
        throughout("they do not pile up", 6 * SECOND, async || {
            for (name, _) in HANGING {
                let processes = processes_of(&pod, name)?;
                ensure!(processes <= 2 + 2 * 4, "{name}: {processes} processes");
            }
            Ok(())
        })
        .await?;
        node.remove("hang.yaml")?;
        agent.gone(&pod, LIMIT).await
    });
}

#[test]
fn nothing_is_left_of_a_command_that_took_too_long() {
    let _alone = alone();
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let state = node.path("state");
        fs::create_dir_all(&state)?;
        let bad = state.join("bad");
        let mut containers = String::new();
        for (name, script) in HANGING {
            let script = script.replace('\'', "''");
            containers += &format!(
                "  - name: {name}\n    image: busybox:1.36\n    command: [sh, -c, 'sleep 100000 & wait']\n    \
                 volumeMounts: [{{ name: state, mountPath: /state }}]\n    \
                 readinessProbe: {{ exec: {{ command: [sh, -c, 'test -e /state/bad || exit 0; {script}'] }}, periodSeconds: 1, failureThreshold: 1 }}\n"
            );
        }
        node.put("left.yaml", &format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: left\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             volumes:\n  - {{ name: state, hostPath: {{ path: {}, type: Directory }} }}\n  containers:\n{containers}",
            state.display()
        ))?;
        agent.ready("left", LIMIT).await?;
        fs::write(&bad, "bad")?;
        tokio::time::sleep(8 * SECOND).await;
        fs::remove_file(&bad)?;
        let pod = agent.ready("left", LIMIT).await?;
        // The container's own shell and its child, and what asks at this very moment.
        eventually("only what the containers are is left", LIMIT, async || {
            for (name, _) in HANGING {
                let processes = processes_of(&pod, name)?;
                ensure!(processes == 2, "{name}: {processes} processes");
            }
            Ok(())
        })
        .await
    });
}

/// The processes in the container's cgroup.
fn processes_of(pod: &Pod, container: &str) -> Result<usize> {
    let id = pod
        .container(container)?
        .container_id
        .clone()
        .unwrap_or_default();
    let id = id.trim_start_matches("containerd://").to_owned();
    ensure!(!id.is_empty(), "{container} has no id");
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end while it is looked at.
        let Ok(cgroups) = fs::read_to_string(path.join("cgroup")) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(path.join("stat")) else {
            continue;
        };
        if cgroups.contains(&id) && !stat.contains(") Z ") {
            count += 1;
        }
    }
    Ok(count)
}
