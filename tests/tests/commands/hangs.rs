//! A node whose runtime hangs in some calls: which pod waits for which of them is plain to see.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::containerd::Node;
use tests::faults::journal::Journal;
use tests::faults::proxy::{Effect, Proxy, Rule};
use tests::scenario::with_nothing;
use tests::wait::{eventually, eventually_asking_each};

use super::ask;
use crate::{IDLE, LIMIT, pod};

/// Each ask is a process of its own.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the output of a subcommand has each of these texts.
async fn says(node: &Node, agent: &Agent<'_>, words: &[&str], texts: &[&str]) -> Result<()> {
    let what = format!("kubelet {} says so", words.join(" "));
    eventually_asking_each(PAUSE, &what, LIMIT, async || {
        let (_, said) = ask(node, agent, words)?;
        for text in texts {
            ensure!(said.contains(text), "no {text:?} in\n{said}");
        }
        Ok(())
    })
    .await
}

#[test]
fn a_pod_that_hangs_on_the_runtime_says_in_which_call() {
    with_nothing(async |node, agent| {
        if agent.is_foreign() {
            return Ok(());
        }
        let proxy = Proxy::start(&node.path("proxy.sock"), &node.socket(), Journal::default())?;
        let endpoint = format!("unix://{}", proxy.socket().display());
        agent.configure("containerRuntimeEndpoint", endpoint)?;
        node.start_containerd().await?;
        agent.start().await?;
        let web = pod("web", "busybox:1.36", IDLE);
        let web = web.replace("spec:\n", "spec:\n  terminationGracePeriodSeconds: 1\n");
        node.put("web.yaml", &web)?;
        agent.ready("web", LIMIT).await?;

        proxy.add(Rule::on(&["RunPodSandbox"], Effect::Hangs).times(1));
        node.put("hung.yaml", &pod("hung", "busybox:1.36", IDLE))?;
        eventually("its sandbox is being made", LIMIT, async || {
            ensure!(proxy.met() == ["RunPodSandbox"], "{:?}", proxy.met());
            Ok(())
        })
        .await?;
        proxy.add(Rule::on(&["PullImage"], Effect::Hangs));
        let pulls = pod("pulls", "busybox:1.36", IDLE);
        node.put("pulls.yaml", &pulls.replace("Never", "Always"))?;
        let pull = "pulls image \"busybox:1.36\" for container main (PullImage) for ";
        says(
            node,
            agent,
            &["status"],
            &[
                "Pods:         1 running, 2 not running\n",
                "  default/hung-node   ",
                "    the agent makes the sandbox (RunPodSandbox) for ",
                "  default/pulls-node   ContainerCreating (for ",
                &format!("    the agent {pull}"),
                " now; the runtime has not answered yet\n",
            ],
        )
        .await?;
        let remark = format!("pulls-node: the agent {pull}");
        says(node, agent, &["get", "pods"], &["web-node", &remark]).await?;
        says(
            node,
            agent,
            &["describe", "pod", "pulls"],
            &["\nAgent:", pull],
        )
        .await?;
        let (code, logs) = ask(node, agent, &["logs", "pulls"])?;
        let waits =
            "container \"main\" in pod \"pulls-node\" is waiting to start: ContainerCreating";
        ensure!(code == Some(1) && logs.contains(waits), "{logs}");

        proxy.add(Rule::on(&["StopPodSandbox"], Effect::Hangs));
        node.remove("web.yaml")?;
        says(
            node,
            agent,
            &["status"],
            &[
                "\nTo end, and not ended in their time:\n  default/web-node: ",
                "StopPodSandbox",
            ],
        )
        .await
    });
}
