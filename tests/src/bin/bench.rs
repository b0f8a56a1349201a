//! Measures the agent beside bare CRI calls, on a private node: a table, JSON and a picture. `--quick` measures less,
//! `--burst PODS` only that.
//! `--crowd [PODS…]` measures the agent alone, on the fake runtime: with 1, 50 and 500 pods where no number is given.
//! `--probes [SECONDS]` measures fifty pods with a command each second, for ten minutes where no number is given.
//! `--writers [SECONDS]` measures fifty pods that write a line each second, for a minute where no number is given.
//! `--scrapes` asks a kubelet with fifty pods for its statistics, each endpoint a hundred times.
//! With `KUBELET="path and flags"` another kubelet is measured beside it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tests::agent::Agent;
use tests::bench::events::TaskEvents;
use tests::bench::floor::Floor;
use tests::bench::run::{Plan, run};
use tests::bench::subject::Subject;
use tests::bench::{chart, crowd, probes, report::Report, scrapes, writers};
use tests::containerd::Node;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let plan = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => Plan::full(),
        [flag] if flag == "--quick" => Plan::quick(),
        [flag, pods] if flag == "--burst" => Plan::burst(pods.parse()?),
        [flag, sizes @ ..] if flag == "--crowd" => return crowds(sizes).await,
        [flag] if flag == "--probes" => return probed(Duration::from_secs(600)).await,
        [flag, span] if flag == "--probes" => {
            return probed(Duration::from_secs(span.parse()?)).await;
        }
        [flag] if flag == "--writers" => return written(Duration::from_secs(60)).await,
        [flag, span] if flag == "--writers" => {
            return written(Duration::from_secs(span.parse()?)).await;
        }
        [flag] if flag == "--scrapes" => return scraped().await,
        other => bail!(
            "unknown arguments {other:?}; there are --quick, --burst PODS, --crowd [PODS…], --probes [SECONDS], --writers [SECONDS] and --scrapes"
        ),
    };
    let node = Node::start().await?;
    // So that Ctrl-C undoes things too: the node goes when this function ends.
    let result = tokio::select! {
        result = measure(&node, &plan) => result,
        signal = tokio::signal::ctrl_c() => { signal.context("wait for Ctrl-C")?; bail!("interrupted") }
    };
    if result.is_err() {
        eprintln!("{}", node.log_tail("kubelet.log"));
    }
    let report = result?;
    let out: PathBuf = tests::target_dir()?.join("bench");
    fs::create_dir_all(&out)?;
    let table = report.table();
    fs::write(out.join("bench.md"), &table)?;
    fs::write(out.join("bench.json"), serde_json::to_vec_pretty(&report)?)?;
    fs::write(out.join("bench.svg"), chart::svg(&report))?;
    println!("{table}");
    println!(
        "bench.md, bench.json and bench.svg are in {}",
        out.display()
    );
    Ok(())
}

/// The cost of a pod must not grow with their number.
async fn crowds(sizes: &[String]) -> Result<()> {
    let sizes: Vec<usize> = match sizes {
        [] => vec![1, 50, 500],
        given => given.iter().map(|n| n.parse()).collect::<Result<_, _>>()?,
    };
    let mut crowds = Vec::new();
    for pods in sizes {
        let binary = tests::release_binary()?;
        crowds.push(crowd::measure(&binary, pods, Duration::from_secs(75)).await?);
        println!("{}", crowd::table(&crowds));
    }
    let out = tests::target_dir()?.join("bench");
    fs::create_dir_all(&out)?;
    fs::write(out.join("crowd.json"), serde_json::to_vec_pretty(&crowds)?)?;
    Ok(())
}

/// What it costs to ask fifty containers each second.
async fn probed(span: Duration) -> Result<()> {
    let node = Node::start().await?;
    let floor = Floor::new(&node)?;
    let events = TaskEvents::follow(&node.socket().display().to_string()).await?;
    let mut found = Vec::new();
    for subject in &mut subjects(&node, &floor)? {
        let measured = tokio::select! {
            measured = probes::measure(subject, &events, span) => measured,
            signal = tokio::signal::ctrl_c() => { signal.context("wait for Ctrl-C")?; bail!("interrupted") }
        };
        if measured.is_err() {
            eprintln!("{}", node.log_tail("kubelet.log"));
        }
        found.push(measured?);
        println!("{}", probes::table(&found));
    }
    let out = tests::target_dir()?.join("bench");
    fs::create_dir_all(&out)?;
    fs::write(out.join("probes.json"), serde_json::to_vec_pretty(&found)?)?;
    Ok(())
}

/// What it costs when fifty containers write a line each second.
async fn written(span: Duration) -> Result<()> {
    let node = Node::start().await?;
    let floor = Floor::new(&node)?;
    let events = TaskEvents::follow(&node.socket().display().to_string()).await?;
    for subject in &mut subjects(&node, &floor)? {
        let measured = tokio::select! {
            measured = writers::measure(subject, &events, span) => measured,
            signal = tokio::signal::ctrl_c() => { signal.context("wait for Ctrl-C")?; bail!("interrupted") }
        };
        if measured.is_err() {
            eprintln!("{}", node.log_tail("kubelet.log"));
        }
        println!(
            "{}: {:.2} thousandths of a core with {} pods that write a line a second",
            subject.name,
            measured?,
            writers::PODS
        );
    }
    Ok(())
}

/// What it costs to be asked for statistics.
async fn scraped() -> Result<()> {
    let node = Node::start().await?;
    let floor = Floor::new(&node)?;
    let events = TaskEvents::follow(&node.socket().display().to_string()).await?;
    let mut found = Vec::new();
    for subject in &mut subjects(&node, &floor)? {
        let measured = tokio::select! {
            measured = scrapes::measure(&node, subject, &events) => measured,
            signal = tokio::signal::ctrl_c() => { signal.context("wait for Ctrl-C")?; bail!("interrupted") }
        };
        if measured.is_err() {
            eprintln!("{}", node.log_tail("kubelet.log"));
        }
        found.push(measured?);
        println!("{}", scrapes::table(&found));
    }
    let out = tests::target_dir()?.join("bench");
    fs::create_dir_all(&out)?;
    fs::write(out.join("scrapes.json"), serde_json::to_vec_pretty(&found)?)?;
    Ok(())
}

async fn measure(node: &Node, plan: &Plan) -> Result<Report> {
    let floor = Floor::new(node)?;
    let events = TaskEvents::follow(&node.socket().display().to_string()).await?;
    let mut subjects = subjects(node, &floor)?;
    run(plan, &floor, &events, &mut subjects).await
}

/// Our own agent, and the one that `KUBELET` names.
fn subjects<'n>(node: &'n Node, floor: &Floor) -> Result<Vec<Subject<'n>>> {
    let own = Agent::own(node, tests::release_binary()?)?;
    let mut subjects = vec![Subject::new("this agent", node, own, floor.clone())];
    if let Some(other) = Agent::foreign(node) {
        let name = std::env::var("KUBELET_NAME").unwrap_or_else(|_| "the other kubelet".to_owned());
        subjects.push(Subject::new(&name, node, other?, floor.clone()));
    }
    Ok(subjects)
}
