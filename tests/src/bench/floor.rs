//! The floor: pods made by nothing but the CRI calls that no kubelet can leave out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri_proto::{ConnectOptions, Connection, ImageClient, RuntimeClient, v1};
use nix::sys::signal::{Signal, kill};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::COMMAND;
use super::events::TaskEvents;
use super::sample::Burst;
use crate::containerd::Node;
use crate::images::BUSYBOX;

const LIMIT: Duration = Duration::from_secs(120);
/// How long a measured container has to end on SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// What the calls ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing that can be left out.
    Bare,
    /// Besides, the runtime's seccomp profile for the sandbox, which the sandboxes of every kubelet have: runc compiles it
    /// for each of them.
    Seccomp,
}

/// Bare CRI calls against one node's containerd.
#[derive(Clone)]
pub struct Floor {
    runtime: RuntimeClient,
    images: ImageClient,
    cgroup_root: String,
    logs: String,
}

/// A pod that bare calls made.
#[derive(Clone)]
pub struct FloorPod {
    sandbox: v1::PodSandboxConfig,
    sandbox_id: String,
    container_id: String,
    image_ref: String,
}

impl Floor {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket's path is none.
    pub fn new(node: &Node) -> Result<Self> {
        let endpoint = node.socket().display().to_string();
        let connection = Connection::connect(&endpoint, ConnectOptions::default())?;
        Ok(Self {
            runtime: connection.runtime(),
            images: connection.images(),
            cgroup_root: node.cgroup_root(),
            logs: node.path("pod-logs").display().to_string(),
        })
    }

    /// Starts `pods` pods, `width` of them in flight.
    ///
    /// # Errors
    /// The first call that failed.
    pub async fn burst(
        &self,
        events: &TaskEvents,
        pods: usize,
        width: usize,
        ask: Ask,
    ) -> Result<(Burst, Vec<FloorPod>)> {
        let places = Arc::new(Semaphore::new(width));
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        for pod in 0..pods {
            let (floor, places) = (self.clone(), places.clone());
            tasks.spawn(async move {
                let _place = places.acquire_owned().await?;
                floor.start(&format!("floor-{pod}"), ask).await
            });
        }
        let mut started = Vec::new();
        while let Some(pod) = tasks.join_next().await {
            started.push(pod.context("a task of the floor")??);
        }
        let ids: Vec<String> = started.iter().map(|pod| pod.container_id.clone()).collect();
        let burst = Burst::of(events, start, &ids).await?;
        Ok((burst, started))
    }

    async fn start(&self, name: &str, ask: Ask) -> Result<FloorPod> {
        let uid = format!("{name}-uid");
        let seccomp = (ask == Ask::Seccomp).then(|| v1::SecurityProfile {
            profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
            ..v1::SecurityProfile::default()
        });
        let security_context = seccomp.map(|seccomp| v1::LinuxSandboxSecurityContext {
            seccomp: Some(seccomp),
            ..v1::LinuxSandboxSecurityContext::default()
        });
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            log_directory: format!("{}/default_{name}_{uid}", self.logs),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/floor/pod{uid}", self.cgroup_root),
                security_context,
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        let image = v1::ImageSpec {
            image: BUSYBOX.to_owned(),
            ..v1::ImageSpec::default()
        };
        let image = self.images.image_status(image).await?;
        let image_ref = image.context("the test image is not there")?.id;
        let sandbox_id = self
            .runtime
            .run_pod_sandbox(sandbox.clone(), String::new())
            .await?;
        let mut pod = FloorPod {
            sandbox,
            sandbox_id,
            container_id: String::new(),
            image_ref,
        };
        self.start_container(&mut pod, 0).await?;
        Ok(pod)
    }

    async fn start_container(&self, pod: &mut FloorPod, attempt: u32) -> Result<()> {
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "main".to_owned(),
                attempt,
            }),
            image: Some(v1::ImageSpec {
                image: pod.image_ref.clone(),
                ..v1::ImageSpec::default()
            }),
            command: COMMAND.map(str::to_owned).to_vec(),
            log_path: format!("main/{attempt}.log"),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..v1::ContainerConfig::default()
        };
        let made = self
            .runtime
            .create_container(&pod.sandbox_id, config, pod.sandbox.clone());
        pod.container_id = made.await?;
        self.runtime.start_container(&pod.container_id).await?;
        Ok(())
    }

    /// Kills the pod's container, and makes another as soon as its end is heard of. From the kill to the start.
    ///
    /// # Errors
    /// When a call fails, or nothing is heard.
    pub async fn replace(&self, events: &TaskEvents, pod: &mut FloorPod) -> Result<Duration> {
        let id = pod.container_id.clone();
        let life = events.life(&id).context("the container never started")?;
        let killed = Instant::now();
        kill(life.pid, Signal::SIGKILL).context("kill a container")?;
        events
            .wait("the killed container's end", LIMIT, |lives| {
                lives.get(&id)?.ended
            })
            .await?;
        self.start_container(pod, 1).await?;
        let id = pod.container_id.clone();
        let started = events
            .wait("its successor", LIMIT, |lives| {
                Some(lives.get(&id)?.started)
            })
            .await?;
        Ok(started - killed)
    }

    /// Stops the pod's container. From the call to its end.
    ///
    /// # Errors
    /// As [`Floor::replace`].
    pub async fn stop(&self, events: &TaskEvents, pod: &FloorPod) -> Result<Duration> {
        let start = Instant::now();
        self.runtime
            .stop_container(&pod.container_id, GRACE)
            .await?;
        let ended = events
            .wait("a stopped container's end", LIMIT, |lives| {
                lives.get(&pod.container_id)?.ended
            })
            .await?;
        Ok(ended - start)
    }

    /// Removes every pod the runtime has, whoever made it.
    ///
    /// # Errors
    /// The first call that failed.
    pub async fn clear(&self) -> Result<()> {
        let places = Arc::new(Semaphore::new(8));
        let mut tasks = JoinSet::new();
        for container in self.runtime.list_containers(None).await? {
            let (floor, places) = (self.clone(), places.clone());
            tasks.spawn(async move {
                let _place = places.acquire_owned().await?;
                floor
                    .runtime
                    .stop_container(&container.id, Duration::ZERO)
                    .await?;
                floor.runtime.remove_container(&container.id).await?;
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        for sandbox in self.runtime.list_pod_sandbox(None).await? {
            let (floor, places) = (self.clone(), places.clone());
            tasks.spawn(async move {
                let _place = places.acquire_owned().await?;
                floor.runtime.stop_pod_sandbox(&sandbox.id).await?;
                floor.runtime.remove_pod_sandbox(&sandbox.id).await?;
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// The ids of the running containers, sandboxes not among them.
    ///
    /// # Errors
    /// When the list fails.
    pub async fn running(&self) -> Result<Vec<String>> {
        let filter = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue {
                state: v1::ContainerState::ContainerRunning.into(),
            }),
            ..v1::ContainerFilter::default()
        };
        let running = self.runtime.list_containers(Some(filter)).await?;
        Ok(running.into_iter().map(|container| container.id).collect())
    }
}
