//! Images that nobody uses, on a real containerd: they go when the disk is short of room, and no others do.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1::{ContainerFilter, ContainerState};
use cri_proto::{ConnectOptions, Connection};
use serde_json::json;
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::{BUSYBOX, NAMED_USER, NUMERIC_USER, PAUSE, archive_of_busybox_with};
use tests::scenario::with_node;
use tests::wait::{eventually, throughout};

/// Evictions look each ten seconds, at images that are old enough.
const LIMIT: Duration = Duration::from_secs(90);
/// Images of no other test.
const CRASHES: &str = "docker.io/library/crashes:1";
const HELD: &str = "docker.io/library/held:1";
const LATE: &str = "docker.io/library/late:1";

/// Gives containerd an image of its own by this name.
fn import(node: &Node, name: &str) -> Result<()> {
    let file = node.path("import.tar");
    fs::write(&file, archive_of_busybox_with(name, name.as_bytes())?)?;
    node.ctr(&["images", "import", &file.display().to_string()])
        .map(drop)
}

fn connect(node: &Node) -> Result<Connection> {
    let socket = format!("unix://{}", node.socket().display());
    Connection::connect(&socket, ConnectOptions::default()).context("containerd's socket")
}

/// Whether the runtime itself says that an image is pinned. (containerd 1.6 knows no such thing, whatever the label.)
async fn is_pinned(runtime: &Connection, name: &str) -> Result<bool> {
    let images = runtime.images().list_images(None).await?;
    let mut own = images
        .iter()
        .filter(|image| image.repo_tags.iter().any(|tag| tag == name));
    Ok(own.next().context("no such image")?.pinned)
}

/// Removes the containers of a pod that have ended; tells whether there is none left.
async fn remove_ended(runtime: &Connection, pod_uid: &str) -> Result<bool> {
    let filter = ContainerFilter {
        label_selector: [("io.kubernetes.pod.uid".to_owned(), pod_uid.to_owned())].into(),
        ..ContainerFilter::default()
    };
    let runtime = runtime.runtime();
    for container in runtime.list_containers(Some(filter.clone())).await? {
        if container.state == i32::from(ContainerState::ContainerExited) {
            runtime.remove_container(&container.id).await?;
        }
    }
    Ok(runtime.list_containers(Some(filter)).await?.is_empty())
}

#[test]
fn unused_images_go_and_those_of_sandboxes_and_pods_stay() {
    with_node(async |node| {
        let agent = Agent::new(node)?;
        // However much room there is, it is too little.
        agent.configure("evictionHard", json!({ "imagefs.available": "99.9%" }))?;
        agent.configure("imageMinimumGCAge", json!("1s"))?;
        let pod = |name: &str, fields: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 1\n{fields}"
            )
        };
        let container = |name: &str, image: &str, command: &str| {
            format!(
                "  - {{ name: {name}, image: \"{image}\", imagePullPolicy: Never, command: [{command}] }}\n"
            )
        };
        let sleeps = "sleep, \"100000\"";
        import(node, CRASHES)?;
        import(node, HELD)?;
        node.ctr(&["images", "label", HELD, "io.cri-containerd.pinned=pinned"])?;
        let runtime = connect(node)?;
        let pinned = is_pinned(&runtime, HELD).await?;
        if !pinned {
            eprintln!("this containerd tells of no pinned images");
        }
        // The first container of one never ends, so that nothing is made of the second one's image.
        let waits = format!(
            "  initContainers:\n{}  containers:\n{}",
            container("first", BUSYBOX, sleeps),
            container("main", NAMED_USER, sleeps)
        );
        for (name, containers) in [
            (
                "runs",
                format!("  containers:\n{}", container("main", BUSYBOX, sleeps)),
            ),
            ("waits", waits),
            (
                "crashes",
                format!("  containers:\n{}", container("main", CRASHES, "\"false\"")),
            ),
        ] {
            node.put(&format!("{name}.yaml"), &pod(name, &containers))?;
        }
        agent.start().await?;
        let runs = agent.ready("runs", LIMIT).await?;
        let held = |images: &[&str]| -> Result<Vec<bool>> {
            let names = node.ctr(&["images", "ls", "-q"])?;
            let there = |image: &&str| names.lines().any(|name| name == *image);
            Ok(images.iter().map(there).collect())
        };
        eventually("the unused image goes", LIMIT, async || {
            let held = held(&[NUMERIC_USER, HELD])?;
            ensure!(held == [false, pinned], "{held:?}");
            Ok(())
        })
        .await?;
        if agent.is_foreign() {
            eprintln!("not held to what only pods that wait name: that is our addition");
            ensure!(held(&[BUSYBOX])? == [true]);
            return Ok(());
        }

        // The runtime forgets the container of a pod that is to begin again; only the pod itself names its image then.
        let crashes = agent.pod("crashes")?;
        eventually(
            "its container has crashed often enough",
            LIMIT,
            async || {
                let count = agent.pod("crashes")?.container("main")?.restart_count;
                ensure!(count >= 2, "{count} restarts");
                Ok(())
            },
        )
        .await?;
        eventually("its container has gone", LIMIT, async || {
            ensure!(remove_ended(&runtime, crashes.uid()).await?);
            Ok(())
        })
        .await?;
        import(node, LATE)?;
        let stays = [BUSYBOX, NAMED_USER, CRASHES, PAUSE];
        let all_stay = async || {
            let held = held(&stays)?;
            ensure!(held == [true; 4], "{held:?}");
            Ok(())
        };
        eventually("what is unused now goes, too", LIMIT, async || {
            all_stay().await?;
            ensure!(held(&[LATE])? == [false], "it is there");
            Ok(())
        })
        .await?;
        throughout("and no other", Duration::from_secs(12), all_stay).await?;
        ensure!(agent.ready("runs", LIMIT).await?.instances() == runs.instances());
        Ok(())
    });
}
