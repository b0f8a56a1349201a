//! The end of a fault: exactly the pods of the manifests run, and nothing is left of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::v1;

use super::Rig;
use super::instances::{Identity, short};
use super::pods::Wanted;
use crate::agent::PodView as _;
use crate::wait::{Never, eventually};

/// Labels that the runtime's objects of a pod carry.
const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// How long the traces of a pod that is gone are kept, with room for a busy machine: a minute, or until the next look at
/// everything when the agent was started anew (75 s).
pub const TRACES: Duration = Duration::from_secs(150);

/// The uids and containers of pods that run, as the runtime tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Running {
    sandboxes: Vec<(String, String)>,
    containers: Vec<(Identity, String)>,
}

impl Rig<'_> {
    /// Waits until exactly the pods of the manifests run, each once and in its last version, and only they have
    /// directories and cgroups. Gives the ids of the containers that run.
    ///
    /// # Errors
    /// When it is not so within `limit` times [`super::patience`]; at once when two instances ran at a time, or the agent ended by itself.
    pub async fn settled(&self, limit: Duration) -> Result<BTreeSet<String>> {
        let what = "exactly the pods of the manifests run";
        let ids = eventually(what, limit * super::patience(), async || {
            self.ensure_sound()?;
            self.look().await
        })
        .await?;
        self.journal
            .note(format_args!("settled: {} run", ids.len()));
        Ok(ids)
    }

    /// As [`Rig::settled`], without a wait.
    ///
    /// # Errors
    /// When it is not so.
    pub async fn look(&self) -> Result<BTreeSet<String>> {
        let running = self.ensure_exact().await?;
        self.ensure_no_other_places()?;
        Ok(running)
    }

    /// What no waiting makes good.
    ///
    /// # Errors
    /// When two instances ran at a time, or the agent ended by itself.
    pub fn ensure_sound(&self) -> Result<()> {
        if let Err(error) = self.instances.ensure_single() {
            return Err(Never(format!("{error:#}")).into());
        }
        match self.agent.ended()? {
            Some(status) if !self.down.get() => {
                Err(Never(format!("the agent ended by itself: {status}")).into())
            }
            _ => Ok(()),
        }
    }

    async fn ensure_exact(&self) -> Result<BTreeSet<String>> {
        let wanted = self.wanted();
        let mut shown = BTreeMap::new();
        for pod in self.agent.pods()? {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let twice = shown.insert(name, pod);
            ensure!(twice.is_none(), "shown twice: {twice:?}");
        }
        let mut expected = Running::default();
        let mut ids = BTreeSet::new();
        for (name, wanted) in &wanted {
            let full = Wanted::full_name(name);
            let pod = shown
                .remove(&full)
                .with_context(|| format!("{full} is not shown"))?;
            ensure!(wanted.is(&pod), "an older version: {}", pod.describe());
            ensure!(pod.phase() == "Running", "{}", pod.describe());
            let name = format!("default/{full}");
            expected
                .sandboxes
                .push((name.clone(), pod.uid().to_owned()));
            for container in wanted.names() {
                let status = pod.container(&container)?;
                ensure!(status.ready, "{}", pod.describe());
                let id = status.container_id.clone().unwrap_or_default();
                ids.insert(id.trim_start_matches("containerd://").to_owned());
                let identity = Identity {
                    pod: name.clone(),
                    container,
                };
                expected.containers.push((identity, pod.uid().to_owned()));
            }
        }
        ensure!(shown.is_empty(), "also shown: {:?}", shown.keys());
        let running = self.ask_runtime(&ids).await?;
        expected.sandboxes.sort();
        expected.containers.sort();
        ensure!(running == expected, "{running:?} instead of {expected:?}");
        let seen: BTreeSet<String> = self.instances.running().into_keys().collect();
        ensure!(seen == ids, "the processes of {seen:?} instead of {ids:?}");
        Ok(ids)
    }

    /// What runs of pods; `shown` are the ids that the agent shows.
    async fn ask_runtime(&self, shown: &BTreeSet<String>) -> Result<Running> {
        let mut running = Running::default();
        let client = self.runtime.runtime();
        for sandbox in client.list_pod_sandbox(None).await? {
            if sandbox.state == v1::PodSandboxState::SandboxReady as i32
                && let Some(uid) = sandbox.labels.get(POD_UID)
            {
                let name = pod_of(&sandbox.labels);
                running.sandboxes.push((name, uid.clone()));
            }
        }
        for container in client.list_containers(None).await? {
            if container.state == v1::ContainerState::ContainerRunning as i32
                && let Some(uid) = container.labels.get(POD_UID)
            {
                let id = &container.id;
                ensure!(shown.contains(id), "{} runs and is not shown", short(id));
                let name = container.labels.get(CONTAINER_NAME);
                let identity = Identity {
                    pod: pod_of(&container.labels),
                    container: name.cloned().unwrap_or_default(),
                };
                running.containers.push((identity, uid.clone()));
            }
        }
        running.sandboxes.sort();
        running.containers.sort();
        Ok(running)
    }

    fn uids(&self) -> Result<BTreeSet<String>> {
        let pods = self.agent.pods()?;
        Ok(pods.iter().map(|pod| pod.uid().to_owned()).collect())
    }

    /// Directories and cgroups of pods that are not there.
    fn ensure_no_other_places(&self) -> Result<()> {
        let uids = self.uids()?;
        let mut places = vec![self.root("pods")];
        for class in ["kubepods/besteffort", "kubepods/burstable", "kubepods"] {
            places.push(self.node.cgroup("memory", class)?);
            places.push(self.node.cgroup("pids", class)?);
        }
        for place in places {
            let Ok(entries) = fs::read_dir(&place) else {
                continue;
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let in_cgroups = !place.ends_with("pods");
                let uid = if in_cgroups {
                    match name.strip_prefix("pod") {
                        Some(uid) if entry.file_type()?.is_dir() => uid,
                        _ => continue,
                    }
                } else {
                    &name
                };
                ensure!(uids.contains(uid), "left: {}/{name}", place.display());
            }
        }
        Ok(())
    }

    /// Waits until the runtime holds nothing of pods that are gone, and of those that run no more than one ended
    /// instance a container, and no empty sandbox but one.
    ///
    /// # Errors
    /// When it is not so within [`TRACES`] times [`super::patience`].
    pub async fn no_traces(&self) -> Result<()> {
        let limit = TRACES * super::patience();
        eventually("no traces of pods that are gone", limit, async || {
            self.ensure_sound()?;
            let uids = self.uids()?;
            let client = self.runtime.runtime();
            let containers = client.list_containers(None).await?;
            let holds = |id: &str| containers.iter().any(|c| c.pod_sandbox_id == id);
            let mut sandboxes = BTreeSet::new();
            for sandbox in client.list_pod_sandbox(None).await? {
                let id = short(&sandbox.id);
                if let Some(uid) = sandbox.labels.get(POD_UID) {
                    let name = pod_of(&sandbox.labels);
                    ensure!(uids.contains(uid), "sandbox {id} of {name} {uid}");
                    // An older one stays for as long as the ended instance that it held.
                    ensure!(
                        holds(&sandbox.id) || sandboxes.insert(uid.clone()),
                        "another empty sandbox {id} of {name}"
                    );
                }
            }
            let mut ended = BTreeSet::new();
            for container in &containers {
                let id = short(&container.id);
                let name = container.labels.get(CONTAINER_NAME);
                if let Some((uid, name)) = container.labels.get(POD_UID).zip(name) {
                    let pod = pod_of(&container.labels);
                    ensure!(uids.contains(uid), "container {id} of {pod} {uid}");
                    let runs = container.state == v1::ContainerState::ContainerRunning as i32;
                    ensure!(
                        runs || ended.insert((uid.clone(), name.clone())),
                        "another ended container {id} of {pod}/{name}"
                    );
                }
            }
            for entry in fs::read_dir(self.node.path("pod-logs"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let uid = name.rsplit('_').next().unwrap_or_default();
                ensure!(uids.contains(uid), "logs {name}");
            }
            Ok(())
        })
        .await?;
        self.journal.note("no traces");
        Ok(())
    }
}

fn pod_of(labels: &BTreeMap<String, String>) -> String {
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    format!("{}/{}", label(POD_NAMESPACE), label(POD_NAME))
}
