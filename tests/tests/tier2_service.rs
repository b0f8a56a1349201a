//! The agent as a service: what a service manager and a journal are told, SIGHUP, SIGTERM, and starts that are refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kubelet::service::Environment;
use nix::sys::signal::Signal;
use serde_json::json;
use tests::fake_runtime::{Fault, Program};
use tests::in_process::{FakeNode, LIMIT, with_node};
use tests::service::{Listener, ServedAgent, Serving, field};
use tests::wait::{eventually, throughout};
use tonic::Code;

const SECOND: Duration = Duration::from_secs(1);

fn pod(name: &str) -> String {
    format!(
        "# YAML\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 2, \
         containers: [{{name: main, image: 'busybox:1'}}]}}}}"
    )
}

/// A port of the loopback that nobody has, and an agent that serves its health there.
fn with_health(node: &FakeNode) -> Result<String> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    node.configure("healthzPort", json!(port));
    Ok(format!("127.0.0.1:{port}"))
}

fn healthz(authority: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn ready_comes_with_the_manifests_and_healthz_and_not_with_the_runtime() {
    with_node(async |node| {
        let health = with_health(node)?;
        node.put("a.yaml", &pod("a"))?;
        node.runtime.stop_server().await;
        let (agent, ready) = ServedAgent::start(node, &Serving::default()).await?;
        ensure!(healthz(&health)?.starts_with("HTTP/1.1 200 "));
        let messages = agent.manager.messages();
        let earlier = &messages[..ready - 1];
        ensure!(
            earlier.iter().all(|m| m.starts_with("STATUS=")),
            "{earlier:?}"
        );
        let socket = node.runtime.socket().display().to_string();
        let waits = format!("waiting for the runtime at {socket}: ");
        let (seen, line) = agent
            .status("waiting", 0, |line| line.starts_with(&waits))
            .await?;
        ensure!(line[waits.len()..].contains(" (os error "), "{line}");

        node.runtime.restart_server().await?;
        let (seen, _) = agent
            .status("running", seen, |line| line == "1 pod running")
            .await?;
        node.runtime.program("main", Program::exits(1, SECOND));
        node.put("b.yaml", &pod("b"))?;
        let crash = "2 pods, 1 failing: default/b-node CrashLoopBackOff";
        let (seen, _) = agent.status(crash, seen, |line| line == crash).await?;
        node.put("c.yaml", "apiVersion: v1\nkind: Pod\nspec: {}\n")?;
        let refused = format!(
            "{crash}; 1 manifest refused: {}:",
            node.path("manifests/c.yaml").display()
        );
        agent
            .status(&refused, seen, |line| line.starts_with(&refused))
            .await?;
        Ok(())
    });
}

#[test]
fn a_pod_whose_sandbox_fails_is_named_until_it_has_one_however_it_came() {
    with_node(async |node| {
        with_health(node)?;
        let (agent, _) = ServedAgent::start(node, &Serving::default()).await?;
        let fails = Fault::on("RunPodSandbox").times(2);
        node.runtime.fault(fails.fails(Code::Unknown, "no room"));
        node.put("a.yaml", &pod("a"))?;
        let failing = "1 pod, 1 failing: default/a-node FailedCreatePodSandBox";
        let (seen, _) = agent.status(failing, 0, |line| line == failing).await?;
        let (seen, _) = agent
            .status("running", seen, |line| line == "1 pod running")
            .await?;
        // Made, but the answer is lost: the agent finds it.
        let lost = Fault::on("RunPodSandbox").times(1);
        node.runtime
            .fault(lost.fails_afterwards(Code::Unknown, "lost"));
        node.put("b.yaml", &pod("b"))?;
        agent
            .status("both run", seen, |line| line == "2 pods running")
            .await?;
        Ok(())
    });
}

#[test]
fn sigterm_says_stopping_and_leaves_the_pods() {
    with_node(async |node| {
        node.put("a.yaml", &pod("a"))?;
        let (agent, ready) = ServedAgent::start(node, &Serving::default()).await?;
        let (seen, _) = agent
            .status("running", ready - 1, |line| line == "1 pod running")
            .await?;
        agent.signal(Signal::SIGTERM)?;
        let (_, stopping) = agent
            .manager
            .message("STOPPING=1", seen, |m| field(m, "STOPPING") == Some("1"))
            .await?;
        ensure!(
            field(&stopping, "STATUS") == Some("stopping; pods go on running"),
            "{stopping}"
        );
        ensure!(agent.ended().await?.code() == Some(0));
        ensure!(node.running_now("a/main").len() == 1);
        ensure!(node.runtime.calls_of("StopContainer").is_empty());
        Ok(())
    });
}

/// The last entry of the journal, and the exit code.
async fn refused(node: &FakeNode, serving: Serving) -> Result<(i32, String, String)> {
    let agent = ServedAgent::spawn(node, &serving)?;
    let code = agent.ended().await?.code().context("an exit code")?;
    let (_, status) = agent.status("a status", 0, |_| true).await?;
    let last = match serving.journal {
        true => agent.journal.message("an entry", 0, |_| true).await?.1,
        false => agent
            .stderr()?
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned(),
    };
    ensure!(agent.manager.messages().len() == 1, "and nothing else");
    Ok((code, status, last))
}

#[test]
fn a_start_that_is_refused_says_why_in_the_status_and_the_last_line() {
    with_node(async |node| {
        node.configure("imageGCLowThresholdPercent", json!(100));
        let file = node.path("kubelet.yaml").display().to_string();
        let (code, status, entry) = refused(node, Serving::default()).await?;
        ensure!(code == 78, "{code}");
        ensure!(
            status.starts_with(&format!("cannot start: {file}:"))
                && status.contains("imageGCLowThresholdPercent"),
            "{status}"
        );
        ensure!(field(&entry, "PRIORITY") == Some("3"), "{entry}");
        ensure!(
            field(&entry, "REASON") == Some("ConfigurationRefused")
                && field(&entry, "MESSAGE_ID").is_some(),
            "{entry}"
        );
        let message = field(&entry, "MESSAGE").unwrap_or_default();
        ensure!(
            message.starts_with(&format!(
                "\"{}",
                status.split('"').next().unwrap_or_default()
            )),
            "{message}\n{status}"
        );
        Ok(())
    });
}

#[test]
fn without_a_journal_the_reason_is_the_last_line_on_standard_error() {
    with_node(async |node| {
        node.configure("maxPods", json!("many"));
        let serving = Serving {
            journal: false,
            ..Serving::default()
        };
        let (code, status, line) = refused(node, serving).await?;
        ensure!(code == 78, "{code}");
        let why = status.strip_prefix("cannot start: ").unwrap_or_default();
        ensure!(
            !why.is_empty() && line == format!("kubelet: {why}"),
            "{line}\n{status}"
        );
        Ok(())
    });
}

#[test]
fn a_command_line_and_a_watchdog_that_are_wrong_say_so() {
    with_node(async |node| {
        let serving = Serving {
            flags: vec!["--max-podz=3".to_owned()],
            ..Serving::default()
        };
        let (code, status, entry) = refused(node, serving).await?;
        ensure!(code == 64, "{code}");
        ensure!(status.contains("max-podz"), "{status}");
        ensure!(
            field(&entry, "REASON") == Some("CommandLineRefused"),
            "{entry}"
        );
        Ok(())
    });
    with_node(async |node| {
        let serving = Serving {
            watchdog_usec: Some("1000000"),
            ..Serving::default()
        };
        let (code, status, _) = refused(node, serving).await?;
        ensure!(code == 78, "{code}");
        ensure!(
            status.contains("WatchdogSec of the unit must be more than 1s"),
            "{status}"
        );
        Ok(())
    });
}

#[test]
fn a_node_of_a_cluster_without_kubeconfigs_ends_with_the_reason() {
    with_node(async |node| {
        let serving = Serving {
            flags: vec![
                "--kubeconfig=/nonexistent/kubelet.conf".to_owned(),
                "--bootstrap-kubeconfig=/nonexistent/bootstrap.conf".to_owned(),
            ],
            ..Serving::default()
        };
        let agent = ServedAgent::spawn(node, &serving)?;
        ensure!(agent.ended().await?.code() == Some(1));
        let why = "ended: neither --kubeconfig=/nonexistent/kubelet.conf nor --bootstrap-kubeconfig=/nonexistent/bootstrap.conf is there: ";
        agent
            .status(why, 0, |line| line.starts_with(why))
            .await
            .map(drop)
    });
}

#[test]
fn entries_of_the_journal_have_fields_and_standard_error_stays_empty() {
    with_node(async |node| {
        node.put("a.yaml", &pod("a"))?;
        let (agent, _) = ServedAgent::start(node, &Serving::default()).await?;
        let (_, started) = agent
            .journal
            .message("Started", 0, |e| field(e, "REASON") == Some("Started"))
            .await?;
        for (name, value) in [
            ("POD", "a-node"),
            ("NAMESPACE", "default"),
            ("CONTAINER", "main"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "kubelet"),
        ] {
            ensure!(field(&started, name) == Some(value), "{name}: {started}");
        }
        let id = format!("{:032x}", kubelet::logging::message_id("Started"));
        ensure!(field(&started, "MESSAGE_ID") == Some(&id), "{started}");
        ensure!(
            field(&started, "POD_UID").is_some_and(|uid| uid.len() == 32),
            "{started}"
        );
        // What ends before the agent has seen it run did not end before its eyes.
        agent
            .status("running", 0, |line| line == "1 pod running")
            .await?;
        let container = &node.running("a/main", 1).await?[0];
        node.runtime.kill_container(&container.id, 3);
        let (_, died) = agent
            .journal
            .message("ContainerDied", 0, |e| {
                field(e, "REASON") == Some("ContainerDied")
            })
            .await?;
        let message = field(&died, "MESSAGE").unwrap_or_default();
        ensure!(
            message.starts_with("\"container has ended\" ") && message.ends_with("exit_code=3"),
            "{died}"
        );
        ensure!(agent.stderr()?.is_empty(), "{}", agent.stderr()?);
        Ok(())
    });
}

/// Waits for the two messages of a reload; gives the number of messages up to the second.
async fn reloaded(agent: &ServedAgent<'_>, skip: usize) -> Result<usize> {
    agent.signal(Signal::SIGHUP)?;
    let (seen, begin) = agent
        .manager
        .message("RELOADING=1", skip, |m| field(m, "RELOADING") == Some("1"))
        .await?;
    let micros = field(&begin, "MONOTONIC_USEC").context("MONOTONIC_USEC")?;
    ensure!(micros.parse::<u64>()? > 0);
    let ready = |m: &str| field(m, "READY") == Some("1");
    let (seen, _) = agent.manager.message("READY=1", seen, ready).await?;
    Ok(seen)
}

#[test]
fn sighup_takes_up_log_levels_and_names_what_wants_a_restart() {
    with_node(async |node| {
        let (agent, mut seen) = ServedAgent::start(node, &Serving::default()).await?;
        let debug = |e: &str| field(e, "PRIORITY") == Some("7");
        node.configure("logging", json!({"verbosity": 6}));
        node.configure("maxPods", json!(33));
        node.configure("syncFrequency", json!("60s"));
        node.arguments()?;
        seen = reloaded(&agent, seen).await?;
        let (entries, named) = agent
            .journal
            .message("RestartNeeded", 0, |e| {
                field(e, "REASON") == Some("RestartNeeded")
            })
            .await?;
        ensure!(
            field(&named, "MESSAGE").is_some_and(|m| m.contains("restart: maxPods: 110 -> 33\" ")),
            "{named}"
        );
        let note = "no pods; wanting a restart: maxPods";
        seen = agent.status(note, seen, |line| line == note).await?.0;
        ensure!(!agent.journal.messages()[..entries].iter().any(|e| debug(e)));
        node.put("a.yaml", &pod("a"))?;
        agent.journal.message("debugging", entries, debug).await?;

        // Back again: nothing is left to be said.
        node.configure("maxPods", json!(110));
        node.configure("logging", json!({"verbosity": 0}));
        node.arguments()?;
        seen = reloaded(&agent, seen).await?;
        agent
            .status("without a note", seen, |line| !line.contains("restart"))
            .await?;
        agent.runs()
    });
}

#[test]
fn sighup_with_an_invalid_file_changes_nothing_and_says_why() {
    with_node(async |node| {
        node.put("a.yaml", &pod("a"))?;
        let (agent, seen) = ServedAgent::start(node, &Serving::default()).await?;
        node.running("a/main", 1).await?;
        node.configure("logging", json!({"verbosity": 6}));
        node.configure("maxPods", json!("many"));
        node.arguments()?;
        let seen = reloaded(&agent, seen).await?;
        let (entries, why) = agent
            .journal
            .message("ConfigurationRefused", 0, |e| {
                field(e, "REASON") == Some("ConfigurationRefused")
            })
            .await?;
        let file = node.path("kubelet.yaml").display().to_string();
        let message = field(&why, "MESSAGE").unwrap_or_default();
        ensure!(
            message.contains(&format!("{file}:")) && message.contains("maxPods"),
            "{message}"
        );
        let (_, line) = agent
            .status("refused", seen, |line| line.contains("is refused: "))
            .await?;
        ensure!(
            line.starts_with("1 pod running; ") && line.contains(&file),
            "{line}"
        );
        node.remove("a.yaml")?;
        let stopped = |e: &str| field(e, "MESSAGE").is_some_and(|m| m.contains("pod has stopped"));
        let (end, _) = agent.journal.message("stopped", entries, stopped).await?;
        let debug = |e: &String| field(e, "PRIORITY") == Some("7");
        ensure!(
            !agent.journal.messages()[..end].iter().any(debug),
            "the old level counts"
        );
        agent.runs()
    });
}

#[test]
fn sighup_finds_manifests_that_no_event_told_of() {
    with_node(async |node| {
        node.configure("fileCheckFrequency", json!("1h"));
        let target = node.path("elsewhere.yaml");
        fs::write(&target, pod("a"))?;
        symlink(&target, node.path("manifests/a.yaml"))?;
        let (agent, seen) = ServedAgent::start(node, &Serving::default()).await?;
        node.running("a/main", 1).await?;
        fs::write(&target, pod("b"))?;
        // It counts once it has been left alone for a second.
        throughout("nobody looks", 3 * SECOND / 2, async || {
            ensure!(node.running_now("b/main").is_empty());
            Ok(())
        })
        .await?;
        reloaded(&agent, seen).await?;
        node.running("b/main", 1).await?;
        node.running("a/main", 0).await?;
        Ok(())
    });
}

#[test]
fn the_watchdog_is_fed_until_the_agent_hangs_and_then_the_hang_is_named() {
    with_node(async |node| {
        let manager = Listener::at(node.path("notify"))?;
        node.serve(Environment {
            socket: Some(manager.path().into()),
            watchdog_usec: Some("2000000".to_owned()),
            ..Environment::default()
        });
        node.start_agent()?;
        let ping = |m: &str| m == "WATCHDOG=1";
        let (seen, _) = manager.message("a ping", 0, ping).await?;
        let (seen, _) = manager.message("another ping", seen, ping).await?;
        node.hang_at(&["Started", "container"]);
        node.put("a.yaml", &pod("a"))?;
        let (seen, named) = manager
            .message("the hang", seen, |m| m.starts_with("STATUS=ping: "))
            .await?;
        ensure!(
            named.contains("the threads that run the agent's tasks have not come round for "),
            "{named}"
        );
        ensure!(node.log().contains("the watchdog is not fed"));
        throughout("no ping", 3 * SECOND, async || {
            let messages = manager.messages();
            ensure!(!messages[seen..].iter().any(|m| ping(m)), "{messages:?}");
            Ok(())
        })
        .await?;
        node.let_go();
        manager.message("a ping again", seen, ping).await?;
        eventually("the line is the pods' again", LIMIT, async || {
            let messages = manager.messages();
            let last = messages.iter().rev().find_map(|m| field(m, "STATUS"));
            ensure!(last == Some("1 pod running"), "{last:?}");
            Ok(())
        })
        .await
    });
}
