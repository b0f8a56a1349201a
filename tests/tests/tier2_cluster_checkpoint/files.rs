//! What is on the disk.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use kubelet::service::Environment;
use tests::agent::PodView as _;
use tests::cluster::with_double;

use super::{
    SECRET, add_objects, begin_without_server, directory, ensure_env, kept, logged, needy,
    of_board, replaced, running, shown_ready, undisturbed,
};

#[test]
fn a_torn_file_is_set_aside_and_harms_nothing() {
    with_double(async |cluster, _, node| {
        add_objects(cluster).await?;
        node.start_agent()?;
        let a = cluster.add(&needy("a")).await?;
        let b = cluster.add(&needy("b")).await?;
        cluster.ready("a").await?;
        cluster.ready("b").await?;
        kept(node, &[&a, &b], 3).await?;
        node.kill_agent()?;
        let file = directory(node).join("pods").join(a.uid());
        let text = fs::read(&file)?;
        fs::write(&file, &text[..text.len() / 2])?;
        cluster.line.refuse();
        node.start_agent()?;
        shown_ready(node, "b").await?;
        logged(node, &["CheckpointUnusable", a.uid(), "set_aside"]).await?;
        ensure!(!file.exists());
        // It is left alone, as without a checkpoint.
        ensure!(of_board(node, "a").is_err());
        undisturbed(node).await?;
        let ran = running(node);
        ensure!(ran.len() == 2);
        cluster.line.open();
        kept(node, &[&a, &b], 3).await?;
        shown_ready(node, "a").await?;
        ensure!(running(node) == ran);
        Ok(())
    });
}

/// Whether a file below `directory` holds `text`, as it is or in base64.
fn holds(directory: &Path, text: &str) -> Result<bool> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if holds(&path, text)? {
                return Ok(true);
            }
            continue;
        }
        let bytes = fs::read(&path)?;
        let has = |part: &str| bytes.windows(part.len()).any(|w| w == part.as_bytes());
        if has(text) || has(&encoded) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn with_a_key_of_systemds_nothing_is_kept_in_clear() {
    with_double(async |cluster, _, node| {
        add_objects(cluster).await?;
        node.start_agent()?;
        let a = cluster.add(&needy("a")).await?;
        cluster.ready("a").await?;
        kept(node, &[&a], 3).await?;
        ensure!(holds(&directory(node), SECRET)?, "it is kept elsewhere");
        // The administrator gives the service a key.
        let credentials = node.path("credentials");
        fs::create_dir(&credentials)?;
        fs::write(credentials.join("kubelet.checkpoint-key"), [7; 32])?;
        node.serve(Environment {
            credentials: Some(credentials.clone().into()),
            ..Environment::default()
        });
        begin_without_server(cluster, node)?;
        shown_ready(node, "a").await?;
        for text in [SECRET, "of-the-map", "busybox:1"] {
            ensure!(!holds(&directory(node), text)?, "{text} is in clear");
        }
        node.kill_agent()?;
        node.start_agent()?;
        shown_ready(node, "a").await?;
        ensure_env(&replaced(node, "a").await?)?;
        // A key that is too short is none, and nothing is written instead.
        node.kill_agent()?;
        fs::write(credentials.join("kubelet.checkpoint-key"), "short")?;
        node.start_agent()?;
        logged(node, &["CheckpointFailed", "needs 32"]).await?;
        undisturbed(node).await?;
        ensure!(!holds(&directory(node), SECRET)?);
        Ok(())
    });
}
