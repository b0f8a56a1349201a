//! A node without any registry: its images come out of archives in a directory, and that of its sandboxes is the agent's own.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::PAUSE;
use tests::manifest::PodManifest;
use tests::scenario::with_node;
use tests::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "docker.io/library/busybox:1.36";
const OTHER: &str = "docker.io/library/numeric-user:1.0";

/// Writes the image `name` into an archive beside the directory that is watched.
fn export(node: &Node, name: &str, file: &str) -> Result<String> {
    let path = node.path(file).display().to_string();
    node.ctr(&["images", "export", &path, name])?;
    Ok(path)
}

/// Takes every image from containerd, content included.
fn forget_images(node: &Node) -> Result<()> {
    for name in node.ctr(&["images", "ls", "-q"])?.lines() {
        node.ctr(&["images", "rm", "--sync", name])?;
    }
    let left = node.ctr(&["content", "ls", "-q"])?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

fn pod(name: &str, image: &str) -> String {
    PodManifest::of(name, image, &["sleep", "100000"]).text()
}

#[test]
fn archives_and_the_built_in_sandbox_image_bring_pods_up() {
    with_node(async |node| {
        let busybox = export(node, BUSYBOX, "busybox.tar")?;
        let other = export(node, OTHER, "other.tar")?;
        forget_images(node)?;
        let archives = node.path("archives");
        fs::create_dir(&archives)?;
        // One that was being copied when the power went.
        let half = fs::read(&busybox)?;
        fs::write(archives.join("half.tar"), &half[..half.len() / 2])?;
        let settings = node.path("agent.yaml");
        fs::write(
            &settings,
            format!(
                "apiVersion: agent.kubelet/v1alpha1\nkind: AgentConfiguration\nimageArchives: {}\n",
                archives.display()
            ),
        )?;
        let flag = format!("--agent-config={}", settings.display());
        let agent = Agent::ours(node)?.with_flag(flag);
        agent.start().await?;
        node.put("first.yaml", &pod("first", "busybox:1.36"))?;
        eventually(
            "the sandbox is there, the image is not",
            LIMIT,
            async || {
                let pod = agent.pod("first")?;
                let state = pod.container("main")?.state.clone();
                let waiting = state.and_then(|state| state.waiting);
                let waiting = waiting
                    .and_then(|waiting| waiting.reason)
                    .unwrap_or_default();
                ensure!(
                    ["ErrImagePull", "ImagePullBackOff"].contains(&&*waiting),
                    "{waiting}"
                );
                Ok(())
            },
        )
        .await?;
        let events = agent.events_of("first")?;
        let supplied = events
            .iter()
            .find(|event| event.reason == "SandboxImageSupplied");
        ensure!(
            supplied.is_some_and(|event| event.message.contains(PAUSE)),
            "{events:?}"
        );
        eventually("the half archive is refused", LIMIT, async || {
            let log = agent.log()?;
            let refused = log.contains("the archive of images was not imported");
            ensure!(refused && log.contains("half.tar"), "{log}");
            Ok(())
        })
        .await?;

        // It comes while the pod waits, which then waits for no back-off.
        fs::rename(&busybox, archives.join("busybox.tar"))?;
        let first = agent.ready("first", Duration::from_secs(20)).await?;
        // Compressed, and before its pod.
        node.run("gzip", &[&other])?;
        fs::rename(format!("{other}.gz"), archives.join("other.tar.gz"))?;
        node.put("second.yaml", &pod("second", "numeric-user:1.0"))?;
        agent.ready("second", LIMIT).await?;

        let pinned = node.ctr(&[
            "images",
            "ls",
            "labels.\"io.cri-containerd.pinned\"==pinned",
        ])?;
        for name in [BUSYBOX, OTHER, PAUSE] {
            ensure!(pinned.contains(name), "{name}: {pinned}");
        }
        // The next agent finds all of it there, and leaves it as it is.
        agent.kill()?;
        agent.start().await?;
        let again = agent.ready("first", LIMIT).await?;
        ensure!(
            again.instances() == first.instances(),
            "{}",
            again.describe()
        );
        for file in ["first.yaml", "second.yaml"] {
            node.remove(file)?;
        }
        agent.gone(&again, LIMIT).await
    });
}

#[test]
fn a_node_that_wants_none_is_given_no_sandbox_image() {
    with_node(async |node| {
        forget_images(node)?;
        let settings = node.path("agent.yaml");
        let text = "apiVersion: agent.kubelet/v1alpha1\nkind: AgentConfiguration\nbuiltInSandboxImage: false\n";
        fs::write(&settings, text)?;
        let flag = format!("--agent-config={}", settings.display());
        let agent = Agent::ours(node)?.with_flag(flag);
        agent.start().await?;
        node.put("first.yaml", &pod("first", "busybox:1.36"))?;
        eventually(
            "the sandbox fails in containerd's words",
            LIMIT,
            async || {
                let events = agent.events_of("first")?;
                let mut failed = events
                    .iter()
                    .filter(|e| e.reason == "FailedCreatePodSandBox");
                ensure!(
                    failed.any(|event| event.message.contains("failed to get sandbox image")),
                    "{events:?}"
                );
                Ok(())
            },
        )
        .await?;
        ensure!(node.ctr(&["images", "ls", "-q"])?.is_empty());
        Ok(())
    });
}
