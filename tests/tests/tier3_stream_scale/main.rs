//! Much over streams, and many of them: nothing of it is lost, and none of it stays with the agent.
//!
//! `STREAM_MIB` and `STREAM_EXECS` say how much and how many; a machine that tests each change has less patience than a
//! person who wants to know (`STREAM_MIB=1024 STREAM_EXECS=1000`).

mod pieces;
mod watched;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pieces::{Compared, pieces, source, sum};
use tests::agent::Agent;
use tests::containerd::Node;
use tests::node_api::websocket;
use tests::scenario::with_agent;
use tests::spdy::{COMMANDS, PORTS, Spdy};
use tests::wait::eventually;
use tokio::time::Instant;
use watched::{GROWTH, Watched, own_memory};

const LIMIT: Duration = Duration::from_secs(90);

fn wanted(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(value) => value.parse().context(variable.to_owned()),
        Err(_) => Ok(default),
    }
}

fn bytes() -> Result<usize> {
    Ok(wanted("STREAM_MIB", 64)? << 20)
}

fn exec_path(query: &str) -> String {
    format!("/exec/default/shell-node/main?{query}")
}

fn kubelet(node: &Node, agent: &Agent<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(agent.binary());
    let (name, rest) = words.split_first().unwrap_or((&"", &[]));
    command
        .arg(name)
        .arg(format!("--root-dir={}", node.path("kubelet").display()))
        .args(rest);
    command
}

#[test]
fn much_goes_through_exec_each_way() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let length = bytes()?;
        let expected = sum(length)?;
        node.put("shell.yaml", &shell(length))?;
        agent.ready("shell", LIMIT).await?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let path = exec_path("command=sha256sum&input=1&output=1");
        let mut spdy = Spdy::open(node, &path, COMMANDS)?;
        let error = spdy.stream(&[("streamtype", "error")])?;
        let stdin = spdy.stream(&[("streamtype", "stdin")])?;
        let stdout = spdy.stream(&[("streamtype", "stdout")])?;
        for piece in pieces(length) {
            spdy.send(stdin, &piece, false)?;
        }
        spdy.send(stdin, b"", true)?;
        let said = spdy.text(stdout)?;
        ensure!(said == expected, "{said}");
        let status = spdy.text(error)?;
        ensure!(status.contains("Success"), "{status}");
        watched.end("exec over TLS, into the container", length, began)?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let command = source(length).replace(' ', "+");
        let path = exec_path(&format!("command=sh&command=-c&command={command}&output=1"));
        let mut spdy = Spdy::open(node, &path, COMMANDS)?;
        spdy.stream(&[("streamtype", "error")])?;
        let stdout = spdy.stream(&[("streamtype", "stdout")])?;
        let mut compared = Compared::new();
        spdy.until_end(stdout, |bytes| compared.take(bytes))?;
        compared.is_whole(length)?;
        watched.end("exec over TLS, out of the container", length, began)?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let mut into = kubelet(node, agent, &["exec", "-i", "shell", "-c", "main"]);
        let into = into.args(["--", "sha256sum"]);
        let mut into = into.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = into.stdin.take().context("standard input")?;
        for piece in pieces(length) {
            stdin.write_all(&piece)?;
        }
        drop(stdin);
        let done = into.wait_with_output()?;
        let said = String::from_utf8(done.stdout)?;
        ensure!(done.status.success(), "{}", done.status);
        ensure!(said == expected, "{said}");
        watched.end("kubelet exec -i, into the container", length, began)?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let mut out = kubelet(
            node,
            agent,
            &["exec", "shell", "-c", "main", "--", "sh", "-c"],
        );
        let mut out = out.arg(source(length)).stdout(Stdio::piped()).spawn()?;
        let mut compared = Compared::new();
        compared.take_all(out.stdout.take().context("standard output")?)?;
        let ended = out.wait()?;
        ensure!(ended.success(), "{ended}");
        compared.is_whole(length)?;
        watched.end("kubelet exec, out of the container", length, began)
    });
}

#[test]
fn much_goes_through_a_forwarded_port_each_way() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let length = bytes()?;
        let expected = sum(length)?;
        node.put("shell.yaml", &shell(length))?;
        agent.ready("shell", LIMIT).await?;
        listens(node, &[9000, 9001]).await?;

        let path = "/portForward/default/shell-node";
        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let mut spdy = Spdy::open(node, path, PORTS)?;
        let (data, _) = spdy.port(9000, "0")?;
        for piece in pieces(length) {
            spdy.send(data, &piece, false)?;
        }
        let said = spdy.text(data)?;
        ensure!(said == expected, "{said}");
        watched.end("port-forward over TLS, into the pod", length, began)?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        // Over the same connection: a port that was done with is nothing to the next.
        let (data, _) = spdy.port(9001, "1")?;
        let mut compared = Compared::new();
        spdy.until_end(data, |bytes| compared.take(bytes))?;
        compared.is_whole(length)?;
        drop(spdy);
        watched.end("port-forward over TLS, out of the pod", length, began)?;

        let forwarder = Forwarder::start(node, agent, &[":9000", ":9001"])?;
        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let mut into = TcpStream::connect(("127.0.0.1", forwarder.local(9000)?))?;
        for piece in pieces(length) {
            into.write_all(&piece)?;
        }
        let mut said = String::new();
        into.read_to_string(&mut said)?;
        ensure!(said == expected, "{said}");
        watched.end("kubelet port-forward, into the pod", length, began)?;

        let (watched, began) = (Watched::begin(agent)?, Instant::now());
        let out = TcpStream::connect(("127.0.0.1", forwarder.local(9001)?))?;
        let mut compared = Compared::new();
        compared.take_all(out)?;
        compared.is_whole(length)?;
        watched.end("kubelet port-forward, out of the pod", length, began)
    });
}

#[test]
fn a_port_that_nobody_listens_on_is_told_and_harms_nobody() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        node.put("shell.yaml", &shell(1))?;
        agent.ready("shell", LIMIT).await?;
        listens(node, &[8080]).await?;
        let page = |spdy: &mut Spdy, request: &str| -> Result<String> {
            let (data, _) = spdy.port(8080, request)?;
            spdy.send(data, b"GET /index.html HTTP/1.0\r\n\r\n", false)?;
            spdy.text(data)
        };
        let mut spdy = Spdy::open(node, "/portForward/default/shell-node", PORTS)?;
        let before = page(&mut spdy, "0")?;
        ensure!(before.ends_with(tests::images::INDEX_HTML), "{before}");
        let (_, error) = spdy.port(1, "1")?;
        let error = spdy.text(error)?;
        ensure!(
            error.starts_with("error forwarding port 1 to pod ") && error.contains("refused"),
            "{error}"
        );
        let after = page(&mut spdy, "2")?;
        ensure!(after.ends_with(tests::images::INDEX_HTML), "{after}");

        let mut forwarder = Forwarder::start(node, agent, &[":8080", ":1"])?;
        let mut dead = TcpStream::connect(("127.0.0.1", forwarder.local(1)?))?;
        let mut nothing = Vec::new();
        // It is closed, one way or the other.
        let _ = dead.read_to_end(&mut nothing);
        ensure!(nothing.is_empty(), "{nothing:?}");
        let mut alive = TcpStream::connect(("127.0.0.1", forwarder.local(8080)?))?;
        alive.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        alive.read_to_string(&mut page)?;
        ensure!(page.ends_with(tests::images::INDEX_HTML), "{page}");
        let told = forwarder.interrupt()?;
        let expected = format!(
            "an error occurred forwarding {} -> 1: error forwarding port 1 to pod ",
            forwarder.local(1)?
        );
        ensure!(told.contains(&expected), "{told}");
        agent.ready("shell", LIMIT).await?;
        Ok(())
    });
}

#[test]
fn many_short_commands_leave_nothing_behind() {
    with_agent(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        // More than there may be at once: a place that is not given back is missed.
        let many = wanted("STREAM_EXECS", 150)?;
        node.put("shell.yaml", &shell(1))?;
        agent.ready("shell", LIMIT).await?;
        let once = |n: usize| -> Result<()> {
            let said = match n % 2 {
                0 => {
                    let path = exec_path(&format!("command=echo&command={n}&output=1&error=1"));
                    let [_, out, ..] = websocket(node, &path)?.rest()?;
                    out
                }
                _ => {
                    let mut exec = kubelet(node, agent, &["exec", "shell", "-c", "main", "--"]);
                    let done = exec.args(["echo", &n.to_string()]).output()?;
                    let told = String::from_utf8_lossy(&done.stderr).into_owned();
                    ensure!(done.status.success(), "{}: {told}", done.status);
                    String::from_utf8(done.stdout)?
                }
            };
            ensure!(said == format!("{n}\n"), "{n}: {said:?}");
            Ok(())
        };
        for n in 0..10 {
            once(n)?;
        }
        let pid = agent.pid()?;
        let count = |what: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{pid}/{what}"))?.count())
        };
        let few = eventually("the first streams have ended", LIMIT, async || {
            let (files, threads) = (count("fd")?, count("task")?);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let again = count("fd")?;
            ensure!(files == again, "{files} files, then {again}");
            Ok((files, threads))
        })
        .await?;
        let (memory, began) = (own_memory(pid)?, Instant::now());
        for n in 0..many {
            once(n)?;
        }
        let took = began.elapsed();
        eventually("as many files and threads as before", LIMIT, async || {
            let now = (count("fd")?, count("task")?);
            println!(
                "{many} commands in {took:?}: {} files before, {} after; {} threads before, {} after; {memory} KiB before, {} after",
                few.0, now.0, few.1, now.1, own_memory(pid)?
            );
            // Threads for what blocks come and go; there are four at most.
            ensure!(now.0 <= few.0 + 2 && now.1 <= few.1 + 4, "{few:?} before, {now:?} after");
            Ok(())
        })
        .await?;
        ensure!(own_memory(pid)? < memory + GROWTH, "it grew");
        Ok(())
    });
}

/// Waits until something listens on each of these ports of the pod.
async fn listens(node: &Node, ports: &[u16]) -> Result<()> {
    let path = exec_path("command=cat&command=/proc/net/tcp&command=/proc/net/tcp6&output=1");
    eventually("the pod listens", LIMIT, async || {
        let [_, table, ..] = websocket(node, &path)?.rest()?;
        for port in ports {
            // In hexadecimal, and a state of 0A.
            let end = format!(":{port:04X}");
            let listening = table.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                let local = words.next().unwrap_or_default();
                local.ends_with(&end) && words.nth(1) == Some("0A")
            });
            ensure!(listening, "not on {port}:\n{table}");
        }
        Ok(())
    })
    .await
}

/// `kubelet port-forward`, and what it has said of its ports.
struct Forwarder {
    process: Child,
    ports: Vec<(u16, u16)>,
    /// What it says afterwards is read, so that it never waits for that.
    rest: Option<JoinHandle<()>>,
}

impl Forwarder {
    fn start(node: &Node, agent: &Agent<'_>, ports: &[&str]) -> Result<Self> {
        let mut command = kubelet(
            node,
            agent,
            &["port-forward", "--address=127.0.0.1", "shell"],
        );
        let command = command
            .args(ports)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let mut said = BufReader::new(process.stdout.take().context("standard output")?);
        let mut forwarder = Self {
            process,
            ports: Vec::new(),
            rest: None,
        };
        for _ in ports {
            let mut line = String::new();
            said.read_line(&mut line)?;
            let pair = line.trim_end().strip_prefix("Forwarding from 127.0.0.1:");
            let pair = pair.and_then(|pair| pair.split_once(" -> "));
            let (local, remote) = pair.with_context(|| format!("it says {line:?}"))?;
            forwarder.ports.push((local.parse()?, remote.parse()?));
        }
        forwarder.rest = Some(std::thread::spawn(move || {
            let _ = std::io::copy(&mut said, &mut std::io::sink());
        }));
        Ok(forwarder)
    }

    fn local(&self, remote: u16) -> Result<u16> {
        let found = self.ports.iter().find(|(_, of)| *of == remote);
        Ok(found.context("no such port")?.0)
    }

    /// Ends it as Ctrl-C does; what it has told.
    fn interrupt(&mut self) -> Result<String> {
        let pid = Pid::from_raw(self.process.id().try_into()?);
        kill(pid, Signal::SIGINT)?;
        let ended = self.process.wait()?;
        let mut told = String::new();
        let mut errors = self.process.stderr.take().context("standard error")?;
        errors.read_to_string(&mut told)?;
        ensure!(ended.success(), "{ended}: {told}");
        Ok(told)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(rest) = self.rest.take() {
            let _ = rest.join();
        }
    }
}

/// A pod that sums what it is sent, says much, and has a web server.
fn shell(length: usize) -> String {
    let source = source(length);
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: shell
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
  - name: sink
    image: busybox:1.36
    command: [nc, -ll, -p, "9000", -e, sh, -c, "head -c {length} | sha256sum"]
  - name: source
    image: busybox:1.36
    command: [nc, -ll, -p, "9001", -e, sh, -c, "{source}"]
  - name: web
    image: busybox:1.36
    command: [httpd, -f, -h, /www, -p, "8080"]
"#
    )
}
