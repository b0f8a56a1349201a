//! Makes a sandbox, makes and starts a container: what a pod needs first, then the call.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{CriError, CriErrorKind, v1};
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::apply::has_post_start;
use super::images::count_mounts;
use crate::cgroups::CgroupsError;
use crate::claims::ClaimsError;
use crate::errors::error_chain;
use crate::events::About;
use crate::hooks::HookError;
use crate::images::ImageError;
use crate::logs::LogsError;
use crate::managers::devices::DeviceError;
use crate::metrics::kubelet;
use crate::plan::ContainerStart;
use crate::pod::{self, Pod};
use crate::poddir::{PodDir, PodDirError};
use crate::resize::Amounts;
use crate::runtime::convert::dns::{DnsSettings, ResolvConf, ResolvConfError};
use crate::runtime::convert::{
    self, ContainerConfigError, HostnameError, SandboxConfigError, SandboxInputs,
};
use crate::runtime::{ContainerId, ObservedPod, SandboxId};
use crate::runtime_class::NoRuntimeClass;
use crate::status::Waiting;
use crate::userns::{Range, UserNamespaceError};
use crate::volumes::{MountedVolumes, VolumeError};

/// What a pod has on the node before its first sandbox.
pub(super) struct Prepared {
    pub(super) dir: PodDir,
    cgroup_parent: String,
    log_directory: PathBuf,
    pub(super) volumes: MountedVolumes,
}

/// Why a pod's sandbox or one of its containers did not start. Retried with back-off.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("cannot make the pod's directory")]
    Directory(#[from] PodDirError),
    #[error("cannot make the pod's cgroup")]
    Cgroup(#[from] CgroupsError),
    #[error("cannot make the pod's log directory")]
    Logs(#[from] LogsError),
    #[error("{}", volume_texts(.0))]
    Volumes(Vec<VolumeError>),
    #[error(transparent)]
    Claims(ClaimsError),
    #[error("cannot describe the pod's sandbox")]
    SandboxConfig(#[from] SandboxConfigError),
    #[error("Failed to create pod sandbox")]
    Sandbox(#[source] CriError),
    // Upstream's event has this text alone behind its prefix.
    #[error(transparent)]
    RuntimeClass(#[from] NoRuntimeClass),
    // The same.
    #[error(transparent)]
    Users(#[from] UserNamespaceError),
    #[error(transparent)]
    Image(ImageFailure),
    #[error(transparent)]
    Config(#[from] ContainerConfigError),
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    #[error("cannot read {}", path.display())]
    ResolvConf {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Dns(#[from] ResolvConfError),
    #[error("the pod's directory, cgroup and volumes are not ready")]
    NotPrepared,
    #[error("cannot read the node's hosts file")]
    Hosts(#[source] std::io::Error),
    #[error("the spec has no container of this name")]
    NoSuchContainer,
    #[error("unable to find target container {0}")]
    NoTarget(String),
    // As upstream has it in status and event: what the runtime says, without the call's name.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    #[error("{}", .0.message())]
    Create(CriError),
    #[error("{}", error.message())]
    Run { id: ContainerId, error: CriError },
    #[error("cannot learn what the runtime can do")]
    Abilities(#[source] CriError),
    #[error("{0}")]
    Network(String),
    #[error(transparent)]
    PostStart(HookError),
    #[error("the container or its sandbox ended, and the postStart hook was not answered for")]
    PostStartLost,
}

/// An image that is not there yet, and when to ask again, on the agent's monotonic clock.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct ImageFailure {
    // Its text stands for all of it, so that it is no source of this one.
    pub(super) error: ImageError,
    pub(super) retry_at: Duration,
}

impl StartError {
    /// Upstream's reason of the event.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Volumes(_) => VolumeError::REASON,
            Self::Claims(_) => ClaimsError::REASON,
            Self::Sandbox(_) | Self::SandboxConfig(_) | Self::RuntimeClass(_) | Self::Users(_) => {
                "FailedCreatePodSandBox"
            }
            Self::Cgroup(_) => "FailedCreatePodContainer",
            Self::Directory(_) | Self::Logs(_) | Self::NotPrepared => "FailedSync",
            Self::Hostname(_) | Self::ResolvConf { .. } | Self::Dns(_) => "FailedCreatePodSandBox",
            Self::Image(failure) => failure.error.reason(),
            Self::Config(_)
            | Self::Hosts(_)
            | Self::NoSuchContainer
            | Self::NoTarget(_)
            | Self::Abilities(_)
            | Self::Devices(_) => "CreateContainerConfigError",
            Self::Create(_) => "CreateContainerError",
            Self::Run { .. } => "RunContainerError",
            Self::Network(_) => "NetworkNotReady",
            Self::PostStart(_) | Self::PostStartLost => "PostStartHookError",
        }
    }

    /// What the status says of the container meanwhile.
    pub(super) fn waiting(&self) -> Waiting {
        let reason = match self.reason() {
            reason @ ("CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PostStartHookError") => reason,
            reason if matches!(self, Self::Image(_)) => reason,
            _ => "ContainerCreating",
        };
        let message = match self {
            // As upstream: the runtime's own words, and not which call it was.
            Self::Create(error) | Self::Run { error, .. } => error.message().to_owned(),
            _ => error_chain(self),
        };
        Waiting {
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// Whether a change of an object that the pod refers to, and nothing else, may let it succeed.
    pub(super) fn waits_for_objects(&self) -> bool {
        match self {
            Self::Config(error) => error.waits_for_objects(),
            Self::Volumes(errors) => errors.iter().all(VolumeError::waits_for_objects),
            _ => false,
        }
    }

    /// When to try again, where somebody else has decided that.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match self {
            Self::Image(failure) => Some(failure.retry_at),
            _ => None,
        }
    }
}

/// The container whose processes the ephemeral container called `name` wants to see: its latest instance.
fn target_of<'a>(
    pod: &Pod,
    name: &str,
    observed: &'a ObservedPod,
) -> Result<Option<&'a ContainerId>, StartError> {
    let late = pod::spec(pod).ephemeral_containers.iter().flatten();
    let target = late
        .filter(|late| late.name == name)
        .find_map(|late| late.target_container_name.as_deref());
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Ok(None);
    };
    match observed.newest(target) {
        Some(newest) => Ok(Some(&newest.id)),
        None => Err(StartError::NoTarget(target.to_owned())),
    }
}

fn volume_texts(errors: &[VolumeError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl Worker {
    /// The pod's directory, cgroup, log directory and volumes. Idempotent; done once in a worker's life.
    async fn prepare(&mut self, pod: &Arc<Pod>) -> Result<(), StartError> {
        if self.memory.prepared.is_some() {
            return Ok(());
        }
        let dir = self.tools.dirs.ensure(&self.uid)?;
        let cgroup_parent = self.ensure_cgroup(pod).await?;
        let log_directory = self.tools.logs.ensure_pod(&self.name, &self.uid)?;
        let volumes = self.set_up_volumes(pod).await?;
        self.memory.prepared = Some(Prepared {
            dir,
            cgroup_parent,
            log_directory,
            volumes,
        });
        Ok(())
    }

    fn sandbox_config(
        &self,
        pod: &Pod,
        attempt: u32,
        users: Option<Range>,
    ) -> Result<v1::PodSandboxConfig, StartError> {
        let prepared = self
            .memory
            .prepared
            .as_ref()
            .ok_or(StartError::NotPrepared)?;
        let node = &self.tools.node;
        let dns = DnsSettings {
            resolv_conf: self.read_resolv_conf()?,
            ..node.dns.clone()
        };
        let (dns, warnings) = convert::dns::pod_dns(pod, &dns);
        for warning in &warnings {
            About::pod(pod).warning(warning.reason, &warning.message);
            if let Some(message) = &warning.of_node {
                let node = pod::spec(pod).node_name.as_deref().unwrap_or_default();
                About::node(node).warning(warning.reason, message);
            }
        }
        let inputs = SandboxInputs {
            attempt,
            log_directory: &prepared.log_directory.to_string_lossy(),
            cgroup_parent: &prepared.cgroup_parent,
            dns,
            volumes: &prepared.volumes,
            users,
            node: &node.settings,
        };
        let mut config = convert::sandbox_config(pod, &inputs)?;
        if self.tools.managers.lift_quota(&self.uid, pod) {
            convert::lift_sandbox_quota(&mut config);
        }
        Ok(config)
    }

    /// The pod's cgroup, without a quota where one of its containers has CPUs for itself.
    pub(super) async fn ensure_cgroup(&self, pod: &Pod) -> Result<String, CgroupsError> {
        let cgroups = &self.tools.cgroups;
        match self.tools.managers.lift_quota(&self.uid, pod) {
            true => cgroups.ensure_pod_without_quota(pod, &self.uid).await,
            false => cgroups.ensure_pod(pod, &self.uid).await,
        }
    }

    /// The file may change while the agent runs, so each sandbox reads it anew.
    fn read_resolv_conf(&self) -> Result<Option<ResolvConf>, StartError> {
        let Some(path) = &self.tools.node.resolv_conf else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).map_err(|source| StartError::ResolvConf {
            path: path.clone(),
            source,
        })?;
        Ok(Some(ResolvConf::parse(&text)?))
    }

    /// Makes the pod's sandbox and waits until it is ready.
    pub(super) async fn create_sandbox(
        &mut self,
        pod: &Arc<Pod>,
        attempt: u32,
    ) -> Result<SandboxId, StartError> {
        // A new sandbox means that something was lost, the cgroup perhaps with it.
        if attempt > 0 {
            self.memory.prepared = None;
        }
        if !pod::host_network(pod) {
            let runtime = self.runtime.borrow().clone();
            let failed_before = self.memory.holds.contains_key(&None);
            let network = &self.tools.network;
            let asked = network.trouble(&self.tools.runtime, &runtime, failed_before);
            if let Some(why) = asked.await {
                return Err(StartError::Network(why));
            }
        }
        self.classes.mark_seen();
        let handler = self.tools.runtime_classes.handler(pod).await?;
        self.prepare(pod).await?;
        let users = self.users_of_new_sandbox(pod, &handler).await?;
        let config = self.sandbox_config(pod, attempt, users)?;
        self.memory.sandbox_config = Some(config.clone());
        kubelet().started_pods.inc();
        self.say_at("makes the sandbox (RunPodSandbox)");
        let (began, label) = (self.tools.clock.monotonic(), handler.clone());
        let runtime = &self.tools.runtime;
        let mut made = runtime
            .run_pod_sandbox(config.clone(), handler.clone())
            .await;
        if let Err(error) = &made
            && self.supply_sandbox_image(pod, error).await
        {
            made = runtime.run_pod_sandbox(config, handler).await;
        }
        let took = self.tools.clock.monotonic().saturating_sub(began);
        kubelet().run_sandbox_duration.observe(&[&label], took);
        match made {
            Ok(id) => {
                self.tools.observer.claim(&self.uid, &id);
                Ok(SandboxId::from(id))
            }
            Err(error) => {
                kubelet().started_pods_errors.inc();
                kubelet().run_sandbox_errors.inc(&[&label]);
                if matches!(error.kind(), CriErrorKind::NameReserved { .. }) {
                    self.memory.sandbox_attempt = attempt + 1;
                }
                Err(StartError::Sandbox(error))
            }
        }
    }

    /// Gets the container's image, makes the container (or adopts one that was made), and starts it; gives its id.
    pub(super) async fn start_container(
        &mut self,
        pod: &Arc<Pod>,
        sandbox: &SandboxId,
        start: &ContainerStart,
    ) -> Result<ContainerId, StartError> {
        self.prepare(pod).await?;
        let spec = pod::container(pod, &start.name).ok_or(StartError::NoSuchContainer)?;
        let about = About::container(pod, &start.name);
        let id = match &start.adopt {
            Some(id) => id.clone(),
            None => {
                let id = self.make_container(pod, sandbox, start, &spec).await?;
                about.normal("Created", "Container created");
                id
            }
        };
        if has_post_start(&spec) {
            self.probes.hook_began(&id);
        }
        self.say_at(&format!("starts container {} (StartContainer)", start.name));
        let started = self.tools.runtime.start_container(id.as_str()).await;
        if let Err(error) = started {
            self.probes.hook_done(&id);
            return Err(StartError::Run { id, error });
        }
        about.normal("Started", "Container started");
        self.look_at_container(sandbox, &id).await;
        self.link_log(start, &id);
        Ok(id)
    }

    /// Log collectors look in /var/log/containers.
    fn link_log(&self, start: &ContainerStart, id: &ContainerId) {
        let Some(prepared) = &self.memory.prepared else {
            return;
        };
        let log = prepared
            .log_directory
            .join(convert::container_log_path(&start.name, start.attempt));
        if let Err(error) = self
            .tools
            .logs
            .link(&self.name, &start.name, id.as_str(), &log)
        {
            tracing::warn!(pod = %self.name, error = error_chain(&error), "no link to the container's log");
        }
    }

    async fn make_container(
        &mut self,
        pod: &Arc<Pod>,
        sandbox: &SandboxId,
        start: &ContainerStart,
        spec: &Container,
    ) -> Result<ContainerId, StartError> {
        let observed = self.observed.borrow().clone();
        let seen = observed.sandboxes.iter().find(|s| s.id == *sandbox);
        let users = self.users_of_sandbox(pod).await?;
        let sandbox_config = match self.memory.sandbox_config.take() {
            Some(config) => config,
            // Of a sandbox that an earlier life of the agent made.
            None => self.sandbox_config(pod, seen.map_or(0, |s| s.attempt), users)?,
        };
        self.memory.sandbox_config = Some(sandbox_config.clone());
        self.look_at_objects().await;
        let image_volumes = self.ensure_image_volumes(pod, spec, &sandbox_config);
        let image_volumes = image_volumes.await?;
        let image = self.ensure_image(pod, spec, &sandbox_config).await?;
        // It may have taken a while.
        self.objects.settle_services(pod).await;
        self.look_at_objects().await;
        let pod_ips = seen.map(|s| s.ips.clone()).unwrap_or_default();
        let target = target_of(pod, &start.name, &observed)?;
        self.ready_devices(pod, &start.name).await?;
        let around = (&image_volumes, pod_ips.as_slice(), users);
        let config = self.container_config(pod, spec, start, &image, around);
        let mut config = config.await?;
        if let Some(target) = target {
            convert::share_processes(&mut config, target);
        }
        let cpus = convert::cpuset_of(&config);
        self.say_at(&format!("makes container {} (CreateContainer)", start.name));
        let made = self
            .tools
            .runtime
            .create_container(sandbox.as_str(), config, sandbox_config)
            .await;
        let told = made.as_ref().map(drop).map_err(CriError::message);
        count_mounts(spec, &image_volumes, told);
        if let Ok(id) = &made {
            self.tools.observer.claim(&self.uid, id);
            self.memory.pins.made(ContainerId::from(id.clone()), cpus);
            if pod::is_from_api(pod) {
                let has = Amounts::of(spec.resources.as_ref());
                let id = ContainerId::from(id.clone());
                self.memory.note_actuated(&start.name, &id, has);
            }
        }
        made.map(ContainerId::from).map_err(|error| {
            if matches!(error.kind(), CriErrorKind::NameReserved { .. }) {
                // Whoever holds the name shows at the next look, or the next attempt takes the next number.
                self.memory
                    .attempts_on_disk
                    .insert(start.name.clone(), start.attempt + 1);
            }
            StartError::Create(error)
        })
    }
}

#[cfg(test)]
mod tests;
