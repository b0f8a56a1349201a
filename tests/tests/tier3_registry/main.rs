//! Real containers whose images come from a real registry: with a good, a wrong and no secret, and from one that is down,
//! slow, cuts, or gives other bytes than it promised. What fails is one pod's affair, and ends with its cause.

mod credentials;
mod faults;
mod verified;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};
use serde_json::{Value, json};
use tests::agent::{Agent, PodView as _};
use tests::containerd::Node;
use tests::images::{Parts, busybox_with};
use tests::manifest::PodManifest;
use tests::registry::HOST;
use tests::wait::eventually;

/// How long a pull may take that nothing holds up, on a machine busy with a build.
const LIMIT: Duration = Duration::from_secs(60);
/// As [`LIMIT`], where a back-off of 40 seconds may have to end before.
const AFTER_BACKOFF: Duration = Duration::from_secs(120);
/// As many bytes as a layer of its own has: more than fit into the buffers of a connection.
const LAYER: usize = 12 << 20;

/// An image that no other test has, of `LAYER` bytes.
fn image(name: &str) -> Result<Parts> {
    let mut own = name.as_bytes().to_vec();
    own.resize(LAYER, b'.');
    busybox_with(&own)
}

/// A pod whose image is never taken from elsewhere than `image`, with the pull secret `secret`.
fn pod(name: &str, image: &str, secret: Option<&str>) -> String {
    let pod = PodManifest::of(name, image, &["sleep", "100000"])
        .main("imagePullPolicy", json!("IfNotPresent"));
    match secret {
        Some(secret) => pod
            .spec("imagePullSecrets", json!([{ "name": secret }]))
            .text(),
        None => pod.text(),
    }
}

/// Puts an object in place that root alone may read.
fn put_private(node: &Node, file: &str, object: &Value) -> Result<()> {
    let draft = node.path(&format!(".{file}.private"));
    fs::write(&draft, object.to_string())?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(draft, node.manifests().join(file))?)
}

/// Gives the node itself credentials, or takes them.
fn node_credentials(node: &Node, config: Option<&Value>) -> Result<()> {
    let file = node.path("kubelet/config.json");
    match config {
        Some(config) => Ok(fs::write(file, config.to_string())?),
        None => Ok(fs::remove_file(file)?),
    }
}

fn waiting(pod: &Pod) -> Result<ContainerStateWaiting> {
    let state = pod.container("main")?.state.clone();
    let waiting = state.and_then(|state| state.waiting);
    waiting.with_context(|| pod.describe())
}

/// Waits until the container of the pod waits for `reason`, in these words; tells all of its message.
async fn waits(agent: &Agent<'_>, name: &str, reason: &str, words: &[&str]) -> Result<String> {
    let what = format!("{name} waits: {reason}");
    eventually(&what, AFTER_BACKOFF, async || {
        let waiting = waiting(&agent.pod(name)?)?;
        let message = waiting.message.unwrap_or_default();
        let shown = waiting.reason.unwrap_or_default();
        ensure!(
            shown == reason && words.iter().all(|word| message.contains(word)),
            "{shown}: {message}"
        );
        Ok(message)
    })
    .await
}

/// How often there was an event whose text begins so.
fn seen(agent: &Agent<'_>, name: &str, text: &str) -> Result<u32> {
    let events = agent.events_of(name)?;
    let seen = events.iter().filter(|e| e.to_string().starts_with(text));
    Ok(seen.map(|event| event.count).sum())
}

/// Waits until there was such an event `times` times.
async fn sees(agent: &Agent<'_>, name: &str, text: &str, times: u32) -> Result<()> {
    let what = format!("{times} of {text:?}");
    eventually(&what, AFTER_BACKOFF, async || {
        let count = seen(agent, name, text)?;
        ensure!(count >= times, "{count}: {:?}", agent.events_of(name)?);
        Ok(())
    })
    .await
}

/// What a pull that failed leaves of events and of the container's state, in upstream's words, with these words of the
/// runtime in it.
async fn has_failed(agent: &Agent<'_>, name: &str, image: &str, words: &[&str]) -> Result<()> {
    let message = waits(agent, name, "ImagePullBackOff", words).await?;
    let begins = format!("Back-off pulling image \"{image}\": ErrImagePull: ");
    let failure = message.strip_prefix(&begins);
    let failure = failure.with_context(|| format!("{message:?}"))?;
    for event in [
        format!("Normal Pulling containers{{main}} Pulling image \"{image}\""),
        format!("Warning Failed containers{{main}} Failed to pull image \"{image}\": {failure}"),
        "Warning Failed containers{main} Error: ErrImagePull".to_owned(),
        format!("Normal BackOff containers{{main}} Back-off pulling image \"{image}\""),
        "Warning Failed containers{main} Error: ImagePullBackOff".to_owned(),
    ] {
        sees(agent, name, &event, 1).await?;
    }
    Ok(())
}

/// The name of an image at the registry, by the line.
fn named(repository: &str) -> String {
    format!("{HOST}/{repository}:1")
}
