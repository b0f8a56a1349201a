//! Shows what the agent does, on a private node of its own, and undoes all of it. `--keep` leaves the node until
//! Enter or Ctrl-C.

use std::fs;
use std::io::BufRead as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use tests::agent::{Agent, NODE_NAME, PodView as _};
use tests::containerd::Node;
use tests::wait::eventually_asking_each;
use tokio::time::Instant;

const WEB: &str = include_str!("../../../examples/web.yaml");
const FIRST: &str = "hello from the first version";
const EDITED: &str = "hello from the edited manifest";
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks when a time is measured.
const FINE: Duration = Duration::from_millis(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let keep = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--keep" => true,
        other => bail!("unknown arguments {other:?}; there is --keep"),
    };
    let node = Node::start().await?;
    let agent = Agent::with(&node, tests::release_binary()?)?;
    // So that Ctrl-C undoes things too: the node goes when this function ends.
    let result = tokio::select! {
        result = show(&node, &agent, keep) => result,
        signal = tokio::signal::ctrl_c() => signal.context("wait for Ctrl-C"),
    };
    if result.is_err() {
        eprintln!("{}", node.log_tail("containerd.log"));
        eprintln!("{}", node.log_tail("kubelet.log"));
    }
    drop(agent);
    drop(node);
    result?;
    println!(
        "Undone: node, containers, network namespace, cgroups, files. Installed packages stay."
    );
    Ok(())
}

async fn show(node: &Node, agent: &Agent<'_>, keep: bool) -> Result<()> {
    let manifest = node.manifests().join("web.yaml");
    println!("A private node in {}", node.path("").display());
    println!("  its own containerd, network namespace, cgroups and manifest directory");
    let start = Instant::now();
    agent.start().await?;
    println!("The agent serves after {}", ms(start));

    println!(
        "\nexamples/web.yaml, two containers, to {}",
        manifest.display()
    );
    let start = Instant::now();
    node.put("web.yaml", WEB)?;
    let web = answers(node, agent, None, FIRST).await?;
    println!("  {} later http://{}/ says: {FIRST}", ms(start), web.ip());
    let web = agent.ready("web", LIMIT).await?;
    agent.logged(&web, "watcher", FIRST, LIMIT).await?;
    println!("  the sidecar, in the same pod, logs: 127.0.0.1 says: {FIRST}");

    println!("\nKill the server's process");
    let server = web.container("server")?.container_id.clone();
    let server = server.context("the server has no container id")?;
    let watcher = web.container("watcher")?.container_id.clone();
    let process = node.container_pid(&server)?;
    let start = Instant::now();
    kill(process, Signal::SIGKILL).context("kill the server")?;
    let back = eventually_asking_each(FINE, "the server is back", LIMIT, async || {
        let pod = agent.pod("web")?;
        let status = pod.container("server")?;
        ensure!(
            status.restart_count == 1 && status.ready,
            "{}",
            pod.describe()
        );
        Ok(pod)
    })
    .await?;
    let took = ms(start);
    ensure!(
        back.container("watcher")?.container_id == watcher,
        "{}",
        back.describe()
    );
    println!("  replaced after {took}; its pod, its address and the sidecar stayed");

    println!("\nEdit the manifest");
    let start = Instant::now();
    node.put("web.yaml", &WEB.replace(FIRST, EDITED))?;
    let edited = answers(node, agent, Some(&web), EDITED).await?;
    println!(
        "  {} later a new pod says: {EDITED}\n  UID {} became {}; the old one had its grace period of 2 s",
        ms(start),
        web.uid(),
        edited.uid()
    );

    println!("\nThe agent's memory: {}", memory(agent)?);
    if keep {
        println!("\nLook around, and press Enter to end:");
        println!(
            "  nsenter --net=/run/netns/{} curl -s 127.0.0.1:10255/pods",
            node.name()
        );
        println!("  ctr -a {} -n k8s.io tasks ls", node.socket().display());
        println!("  less {}", node.path("kubelet.log").display());
        println!("  cp examples/init.yaml {}", node.manifests().display());
        // The thread ends with the process.
        let (send, enter) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().lock().lines().next();
            let _ = send.send(());
        });
        let _ = enter.await;
    }

    println!("\nDelete the manifest");
    let start = Instant::now();
    node.remove("web.yaml")?;
    agent.gone(&edited, LIMIT).await?;
    println!("  {} later nothing of web-{NODE_NAME} runs", ms(start));
    agent.terminate().await?;
    println!("\nFor a node that stays until Enter: make demo KEEP=1");
    Ok(())
}

/// Waits until a pod `web` other than `old` answers with `text` from its address.
async fn answers(node: &Node, agent: &Agent<'_>, old: Option<&Pod>, text: &str) -> Result<Pod> {
    eventually_asking_each(FINE, "the pod's address answers", LIMIT, async || {
        let pod = agent.pod("web")?;
        ensure!(old.is_none_or(|old| old.uid() != pod.uid()), "the old pod");
        ensure!(!pod.ip().is_empty(), "{}", pod.describe());
        let answer = node.http_get(&format!("{}:80", pod.ip()), "/")?;
        ensure!(answer.body.trim_end() == text, "{answer:?}");
        Ok(pod)
    })
    .await
}

fn ms(start: Instant) -> String {
    format!("{} ms", start.elapsed().as_millis())
}

/// What the agent holds in memory.
fn memory(agent: &Agent<'_>) -> Result<String> {
    let file = format!("/proc/{}/status", agent.pid()?);
    let status = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let kilobytes = |key: &str| -> Result<f64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next());
        let value = value.with_context(|| format!("no {key} in {file}"))?;
        Ok(value.parse::<f64>()? / 1024.0)
    };
    Ok(format!(
        "{:.1} MB resident ({:.1} MB its own, {:.1} MB of files)",
        kilobytes("VmRSS")?,
        kilobytes("RssAnon")?,
        kilobytes("RssFile")?
    ))
}
