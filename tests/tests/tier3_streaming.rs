//! Real containers over the node's API: their logs, commands in them, their first process, their ports.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::node_api::{STDIN, STDOUT, ask, open, websocket};
use tests::scenario::{with_agent, with_nothing};
use tests::wait::eventually;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(60);

/// `<first>/default/<pod>-node/<rest>`.
fn path(first: &str, pod: &str, rest: &str) -> String {
    format!("/{first}/default/{pod}-node{rest}")
}

fn body(node: &Node, path: &str) -> Result<String> {
    let answer = ask(node, "GET", path)?;
    ensure!(
        answer.status == 200,
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    Ok(answer.body)
}

#[test]
fn commands_have_their_streams_and_their_end() {
    with_agent(async |node, agent| {
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;

        let exec = |query: &str| websocket(node, &path("exec", "shell", &format!("/main?{query}")));
        let mut command = exec(
            "command=sh&command=-c&command=echo+out%3becho+err+%3e%262%3bexit+3&output=1&error=1",
        )?;
        let [_, out, err, status] = command.rest()?;
        ensure!(out == "out\n" && err == "err\n", "{out:?} {err:?}");
        let status: Value = serde_json::from_str(&status).context(status)?;
        ensure!(status["reason"] == "NonZeroExitCode", "{status}");
        ensure!(status["details"]["causes"][0]["message"] == "3", "{status}");

        // What is said goes in as it is said, and comes back before the command ends.
        let mut cat = exec(
            "command=sh&command=-c&command=read+a%3becho+1$a%3bread+b%3becho+2$b&input=1&output=1",
        )?;
        cat.send(STDIN, b"one\n")?;
        ensure!(cat.until(STDOUT, "\n")? == "1one\n", "the first line");
        cat.send(STDIN, b"two\n")?;
        let [_, out, _, status] = cat.rest()?;
        ensure!(out == "2two\n", "{out:?}");
        let status: Value = serde_json::from_str(&status).context(status)?;
        ensure!(status["status"] == "Success", "{status}");

        // A terminal is one. With input, as `kubectl exec -it` has it: without, containerd 1.6 loses output now and then.
        let mut terminal =
            exec("command=sh&command=-c&command=tty%3bsleep+1&input=1&output=1&error=1&tty=1")?;
        let [_, out, err, status] = terminal.rest()?;
        ensure!(
            out.starts_with("/dev/pts/") && err.is_empty(),
            "{out:?} {err:?} {status}"
        );

        // Much, and all of it.
        let mut much = exec("command=seq&command=200000&output=1")?;
        let [_, out, ..] = much.rest()?;
        let whole: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        ensure!(out == whole, "{} bytes of {}", out.len(), whole.len());

        let mut none = exec("command=/no/such/thing&output=1")?;
        let [.., status] = none.rest()?;
        ensure!(status.contains("no such file"), "{status}");

        let ran = ask(
            node,
            "POST",
            &path("run", "shell", "/main?cmd=echo%20hello"),
        )?;
        ensure!(ran.status == 200 && ran.body == "hello\n", "{ran:?}");
        let failed = ask(node, "POST", &path("run", "shell", "/main?cmd=false"))?;
        ensure!(failed.status == 500, "{failed:?}");
        ensure!(
            failed.body == "command 'false' exited with 1: ",
            "{failed:?}"
        );
        let missing = ask(node, "POST", &path("run", "shell", "/other?cmd=true"))?;
        ensure!(missing.status == 500, "{missing:?}");
        ensure!(
            missing.body == "container not found (\"other\")",
            "{missing:?}"
        );
        Ok(())
    });
}

#[test]
fn spdy_goes_through_to_the_runtime_and_back() {
    with_agent(async |node, agent| {
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;
        let headers = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
            X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
            X-Stream-Protocol-Version: channel.k8s.io\r\n";
        let exec = path("exec", "shell", "/main?command=cat&input=1&output=1");
        let mut spdy = open(node, "POST", &exec, headers)?;
        ensure!(spdy.head.starts_with("http/1.1 101 "), "{}", spdy.head);
        for header in [
            "upgrade: spdy/3.1\r\n",
            "x-stream-protocol-version: v4.channel.k8s.io\r\n",
        ] {
            ensure!(spdy.head.contains(header), "no {header:?} in {}", spdy.head);
        }
        // PING of SPDY/3.1, section 2.6.5: whoever speaks it sends the same back.
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        spdy.send(&ping)?;
        let pong = spdy.receive(ping.len())?;
        ensure!(pong == ping, "{pong:?}");

        let forward = open(
            node,
            "POST",
            &path("portForward", "shell", ""),
            &headers.replace("v4.channel", "portforward"),
        )?;
        let agreed = "x-stream-protocol-version: portforward.k8s.io\r\n";
        ensure!(
            forward.head.starts_with("http/1.1 101 "),
            "{}",
            forward.head
        );
        ensure!(forward.head.contains(agreed), "{}", forward.head);

        let plain = ask(node, "POST", &exec)?;
        ensure!(
            plain.status == 500 && plain.body == "Upgrade request required\n",
            "{plain:?}"
        );
        Ok(())
    });
}

#[test]
fn the_first_process_is_attached_to_and_ports_are_forwarded() {
    with_agent(async |node, agent| {
        node.put("shell.yaml", SHELL)?;
        agent.ready("shell", LIMIT).await?;

        let attach = path("attach", "shell", "/reader?input=1&output=1&error=1");
        let mut first = websocket(node, &attach)?;
        first.send(STDIN, b"to the first process\n")?;
        let heard = first.until(STDOUT, "\n")?;
        ensure!(heard == "heard to the first process\n", "{heard:?}");
        let mut second = websocket(node, &attach)?;
        second.send(STDIN, b"again\n")?;
        let heard = second.until(STDOUT, "again\n")?;
        ensure!(heard.ends_with("heard again\n"), "{heard:?}");

        eventually("the web server's port is forwarded", LIMIT, async || {
            let mut port = websocket(node, &path("portForward", "shell", "?port=8080"))?;
            // First of all each of the two streams of a port says its port, in little endian.
            for channel in [0, 1] {
                let named = port.receive()?.context("closed")?;
                ensure!(
                    named == (channel, 8080_u16.to_le_bytes().to_vec()),
                    "{named:?}"
                );
            }
            port.send(STDIN, b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let page = port.until(0, tests::images::INDEX_HTML)?;
            ensure!(
                page.starts_with("HTTP/1.0 200 OK") || page.starts_with("HTTP/1.1 200 OK"),
                "{page}"
            );
            Ok(())
        })
        .await?;
        // A client that goes takes nothing with it.
        drop((first, second));
        agent.ready("shell", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn logs_are_read_by_their_end_by_time_and_of_the_instance_before() {
    with_agent(async |node, agent| {
        node.put("crash.yaml", CRASH)?;
        eventually(
            "the container has crashed and runs again",
            LIMIT,
            async || {
                let pod = agent.pod("crash")?;
                let main = pod.container("main")?;
                ensure!(main.restart_count == 1 && main.ready, "{}", pod.describe());
                Ok(())
            },
        )
        .await?;
        let log = |query: &str| {
            body(
                node,
                &path("containerLogs", "crash", &format!("/main?{query}")),
            )
        };
        let own = |log: &str| log.lines().next().map(str::to_owned);
        let now = eventually("it has logged", LIMIT, async || {
            let now = log("")?;
            ensure!(now.ends_with("line 100\n"), "{now}");
            Ok(now)
        })
        .await?;
        let before = log("previous=true")?;
        ensure!(own(&before) != own(&now), "{:?} is both", own(&before));
        ensure!(before.ends_with("line 100\n"), "{before}");
        ensure!(
            log("tailLines=2")? == "line 99\nline 100\n",
            "the last two lines"
        );
        ensure!(log("limitBytes=9")?.len() == 9, "nine bytes");
        ensure!(
            log("sinceTime=2100-01-01T00:00:00Z")?.is_empty(),
            "lines of the next century"
        );
        let timed = log("tailLines=1&timestamps=true")?;
        let (time, line) = timed.split_once(' ').context("a time")?;
        ensure!(
            time.len() == 30 && time.ends_with('Z') && line == "line 100\n",
            "{timed}"
        );

        let refused = ask(
            node,
            "GET",
            &path("containerLogs", "crash", "/main?tailLines=-1"),
        )?;
        ensure!(refused.status == 422, "{refused:?}");
        let waiting = ask(node, "GET", &path("containerLogs", "crash", "/later"))?;
        ensure!(waiting.status == 404, "{waiting:?}");
        Ok(())
    });
}

#[test]
fn following_loses_no_line_to_rotation_and_ends_with_the_container() {
    with_nothing(async |node, agent| {
        agent.configure("containerLogMaxSize", "16Ki")?;
        agent.configure("containerLogMaxFiles", 50)?;
        agent.configure("containerLogMonitorInterval", "3s")?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("counter.yaml", COUNTER)?;
        let pod = agent.ready("counter", LIMIT).await?;
        let follow = path("containerLogs", "counter", "/main?follow=true");
        let mut log = open(node, "GET", &follow, "Connection: close\r\n")?;
        ensure!(log.head.starts_with("http/1.1 200 "), "{}", log.head);
        let mut text = Vec::new();
        let deadline = Instant::now() + LIMIT * 2;
        loop {
            let chunk = log.more()?;
            ensure!(
                Instant::now() < deadline,
                "{} bytes, and no end",
                text.len()
            );
            match chunk.is_empty() {
                true => break,
                false => text.extend(chunk),
            }
        }
        let text = unchunked(&text)?;
        let whole: String = (1..=10_000).map(|n| format!("line {n}\n")).collect();
        ensure!(text == whole, "{} bytes of {}", text.len(), whole.len());
        let files = std::fs::read_dir(agent.log_directory(&pod, "main"))?.count();
        ensure!(files >= 4, "it was rotated into {files} files only");
        Ok(())
    });
}

#[test]
fn a_large_log_shows_its_end_at_once_and_costs_no_memory() {
    with_nothing(async |node, agent| {
        agent.configure("containerLogMaxSize", "4Gi")?;
        node.start_containerd().await?;
        agent.start().await?;
        node.put("shell.yaml", SHELL)?;
        let pod = agent.ready("shell", LIMIT).await?;
        let file = agent.log_directory(&pod, "web").join("0.log");
        let log = std::fs::File::options().write(true).open(file)?;
        log.set_len(1 << 30)?;
        let line = "2024-01-01T00:00:00.000000000Z stdout F the end\n";
        std::os::unix::fs::FileExt::write_all_at(&log, format!("\n{line}").as_bytes(), 1 << 30)?;
        let before = resident(agent)?;
        let began = Instant::now();
        let end = body(node, &path("containerLogs", "shell", "/web?tailLines=1"))?;
        let took = began.elapsed();
        ensure!(end == "the end\n", "{end:?}");
        ensure!(took < Duration::from_secs(2), "it took {took:?}");
        let after = resident(agent)?;
        ensure!(
            after < before + 4096,
            "{before} KiB before, {after} KiB after"
        );
        Ok(())
    });
}

/// `VmRSS` of the agent, KiB.
fn resident(agent: &Agent<'_>) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    Ok(words.context("no VmRSS")?.parse()?)
}

fn unchunked(mut body: &[u8]) -> Result<String> {
    let mut text = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n");
        let (size, rest) = body.split_at(end.context("no size of a chunk")?);
        let size = usize::from_str_radix(std::str::from_utf8(size)?, 16)?;
        if size == 0 {
            return Ok(String::from_utf8(text)?);
        }
        text.extend(rest.get(2..size + 2).context("a chunk that is cut off")?);
        body = &rest[size + 4..];
    }
}

const SHELL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: shell
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
  - name: reader
    image: busybox:1.36
    stdin: true
    command: ["sh", "-c", "trap 'exit 0' TERM; while read line; do echo heard $line; done"]
  - name: web
    image: busybox:1.36
    command: ["httpd", "-f", "-h", "/www", "-p", "8080"]
"#;

const CRASH: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: crash
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      echo I am $(cat /proc/sys/kernel/random/uuid)
      n=0
      while [ $n -lt 100 ]; do n=$((n + 1)); echo line $n; done
      test -e /kept/crashed || { touch /kept/crashed; exit 1; }
      trap 'exit 0' TERM
      sleep 100000 & wait
    volumeMounts:
    - name: kept
      mountPath: /kept
  volumes:
  - name: kept
    emptyDir: {}
"#;

const COUNTER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: counter
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      n=0
      while [ $n -lt 10000 ]; do
        n=$((n + 1)); echo line $n
        test $((n % 40)) -gt 0 || sleep 0.1
      done
"#;
