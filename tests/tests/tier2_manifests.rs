//! The whole agent on a fake runtime: manifests that break, vanish and move, and the copies of good ones.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::in_process::{FakeNode, LIMIT, with_agent};
use tests::wait::eventually;

const BROKEN: &str = "kind: [\n";

fn pod(name: &str, version: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: main, image: 'busybox:1', env: [{{name: VERSION, value: '{version}'}}]}}\n"
    )
}

/// How many copies of good manifests there are.
fn copies(node: &FakeNode) -> Result<usize> {
    let entries = fs::read_dir(node.path("kubelet").join("manifests"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names.iter().filter(|name| !name.ends_with(".tmp")).count())
}

async fn copies_become(node: &FakeNode, count: usize) -> Result<()> {
    eventually(
        "the copies are as many as the good manifests",
        LIMIT,
        async || {
            let found = copies(node)?;
            ensure!(found == count, "{found} copies");
            Ok(())
        },
    )
    .await
}

async fn logged(node: &FakeNode, text: &str) -> Result<()> {
    eventually("the log says so", LIMIT, async || {
        ensure!(node.log().contains(text), "no {text:?}");
        Ok(())
    })
    .await
}

#[test]
fn a_manifest_that_breaks_keeps_its_pod_while_the_agent_runs_and_when_it_starts_again() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        copies_become(node, 1).await?;
        node.put("a.yaml", BROKEN)?;
        // A manifest behind it has been read: so has the broken one.
        node.put("b.yaml", &pod("b", "1"))?;
        node.ready("b").await?;
        ensure!(node.ready("a").await?.instances() == before.instances());
        node.kill_agent()?;
        node.start_agent()?;
        node.ready("b").await?;
        ensure!(node.ready("a").await?.instances() == before.instances());
        ensure!(node.log().contains("a.yaml"));
        // Emptied is not broken.
        node.put("a.yaml", "# nothing\n")?;
        node.gone(&before).await?;
        copies_become(node, 2).await
    });
}

#[test]
fn after_a_reboot_a_broken_manifest_starts_its_pod_from_the_copy() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        copies_become(node, 1).await?;
        node.kill_agent()?;
        node.put("a.yaml", BROKEN)?;
        node.runtime.reboot().await?;
        node.start_agent()?;
        let after = node.ready("a").await?;
        ensure!(after.uid() == before.uid());
        node.running("a/main", 1).await?;
        node.remove("a.yaml")?;
        node.gone(&after).await?;
        copies_become(node, 0).await
    });
}

#[test]
fn the_good_documents_of_a_broken_file_change() {
    with_agent(async |node| {
        node.put(
            "a.yaml",
            &format!("{}---\n{}", pod("a", "1"), pod("b", "1")),
        )?;
        let (a, b) = (node.ready("a").await?, node.ready("b").await?);
        node.put("a.yaml", &format!("{}---\n{BROKEN}", pod("a", "2")))?;
        node.gone(&a).await?;
        ensure!(node.ready("a").await?.uid() != a.uid());
        ensure!(node.ready("b").await?.instances() == b.instances());
        Ok(())
    });
}

#[test]
fn a_damaged_copy_is_named_and_made_again() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        copies_become(node, 1).await?;
        node.kill_agent()?;
        let directory = node.path("kubelet").join("manifests");
        let copy = fs::read_dir(&directory)?.next().context("a copy")??.path();
        let whole = fs::read(&copy)?;
        fs::write(&copy, &whole[..whole.len() / 2])?;
        node.start_agent()?;
        logged(node, "a copy of a good manifest is damaged").await?;
        ensure!(node.ready("a").await?.instances() == before.instances());
        eventually("the copy is whole again", LIMIT, async || {
            ensure!(fs::read(&copy)? == whole);
            Ok(())
        })
        .await
    });
}

#[test]
fn a_manifest_that_moves_takes_its_copy_along() {
    with_agent(async |node| {
        node.put("a.yaml", &pod("a", "1"))?;
        let before = node.ready("a").await?;
        let manifests = node.path("manifests");
        fs::rename(manifests.join("a.yaml"), manifests.join("b.yaml"))?;
        node.gone(&before).await?;
        let after = node.ready("a").await?;
        ensure!(
            after.uid() != before.uid(),
            "the path is part of who a pod is"
        );
        copies_become(node, 1).await?;
        node.kill_agent()?;
        node.put("b.yaml", BROKEN)?;
        node.start_agent()?;
        ensure!(node.ready("a").await?.instances() == after.instances());
        Ok(())
    });
}
