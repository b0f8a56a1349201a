//! A container.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use cri_proto::v1;
use k8s_openapi::api::core::v1::Container;

use super::env::{self, EnvError, EnvFiles};
use super::mounts::{self, ImageVolumes, MountError};
use super::security::{self, SecurityError};
use super::{NodeSettings, identity, resources};
use crate::cgroups::resources::ResourceError;
use crate::images::ImageUser;
use crate::managers::ContainerGrants;
use crate::objects::{PodSnapshot, ServiceLinks};
use crate::pod::Pod;
use crate::runtime::ImageRef;
use crate::userns::Range;
use crate::volumes::{MountedVolumes, SubPath, SubPathError, SubPaths};

/// What is known of a container beyond the pod's spec.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInputs<'a> {
    /// Counts the instances of the container, from 0: its restart count.
    pub attempt: u32,
    /// The image as the runtime knows it.
    pub image_ref: &'a ImageRef,
    /// Whom the image runs as.
    pub image_user: &'a ImageUser,
    /// The pod's volumes by name, set up.
    pub volumes: &'a MountedVolumes,
    /// Those of the pod's volumes that are images.
    pub image_volumes: &'a ImageVolumes,
    /// Where the subPaths that [`sub_paths`] asks for are mounted.
    pub sub_paths: &'a SubPaths,
    /// The pod's addresses as the runtime gave them; none on the host's network, or before there are.
    pub pod_ips: &'a [IpAddr],
    /// The objects that the pod refers to.
    pub objects: &'a PodSnapshot,
    /// The services that the container finds in its environment.
    pub services: &'a ServiceLinks,
    /// The files that its variables come from.
    pub files: &'a EnvFiles,
    /// The pod's hosts file. `None` leaves the image's own: for a pod off the host's network and without an address.
    pub hosts_file: Option<&'a Path>,
    /// The file, made and empty, that takes the termination message.
    pub termination_log: Option<&'a Path>,
    /// The handler of the pod's sandbox can mount recursively read-only; of no meaning where nothing wants that
    /// ([`super::wants_recursive_read_only`]).
    pub recursive_read_only: bool,
    /// What it was given for itself: CPUs, memory, devices.
    pub grants: &'a ContainerGrants,
    /// The ids of the pod's users; none where they are the node's own.
    pub users: Option<Range>,
    /// The node.
    pub node: &'a NodeSettings,
}

/// A container that cannot be asked for. Its text is the message of the waiting container and of the event `Error: …`.
#[derive(Debug, thiserror::Error)]
pub enum ContainerConfigError {
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A part of a volume.
    #[error(transparent)]
    SubPath(#[from] SubPathError),
    /// The security context.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A quantity.
    #[error(transparent)]
    Resources(#[from] ResourceError),
}

impl ContainerConfigError {
    /// Upstream's reason for all of them.
    pub const REASON: &'static str = "CreateContainerConfigError";

    /// Whether a change of an object that the pod refers to, or the first word on services, may let it succeed.
    #[must_use]
    pub fn waits_for_objects(&self) -> bool {
        matches!(self, Self::Env(error) if error.waits_for_objects())
    }
}

fn environment(
    pod: &Pod,
    container: &Container,
    inputs: &ContainerInputs<'_>,
) -> Result<env::Environment, EnvError> {
    let own = env::environment(&env::Sources {
        pod,
        container,
        pod_ips: inputs.pod_ips,
        objects: inputs.objects,
        services: inputs.services,
        files: inputs.files,
        node: inputs.node,
    })?;
    Ok(own.over(&inputs.grants.devices.envs))
}

/// What has to be mounted before `container` of `pod` can be made: the parts of volumes that it mounts.
///
/// # Errors
/// When the environment cannot be made, or a path is none.
pub fn sub_paths(
    pod: &Pod,
    container: &Container,
    inputs: &ContainerInputs<'_>,
) -> Result<Vec<SubPath>, ContainerConfigError> {
    let env = environment(pod, container, inputs)?;
    let (volumes, images) = (inputs.volumes, inputs.image_volumes);
    Ok(mounts::sub_paths(container, volumes, images, &env)?)
}

/// The message that makes `container` of `pod`.
///
/// # Errors
/// When the spec, or the image under it, asks for what cannot be.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: &ContainerInputs<'_>,
) -> Result<v1::ContainerConfig, ContainerConfigError> {
    let env = environment(pod, container, inputs)?;
    let given = &inputs.grants.devices;
    let own_mounts = mounts::mounts(
        pod,
        container,
        &mounts::Places {
            volumes: inputs.volumes,
            images: inputs.image_volumes,
            sub_paths: inputs.sub_paths,
            env: &env,
            hosts_file: inputs.hosts_file,
            termination_log: inputs.termination_log,
            recursive_read_only: inputs.recursive_read_only,
            node: inputs.node,
        },
    )?;
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words
            .iter()
            .flatten()
            .map(|word| env.expand(word))
            .collect()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    // Whatever is mounted belongs to the same ids within as on the node.
    let users = security::users(inputs.users);
    let mut all_mounts = [given.mounts.clone(), own_mounts].concat();
    for mount in &mut all_mounts {
        mount.uid_mappings.clone_from(&users.uids);
        mount.gid_mappings.clone_from(&users.gids);
    }
    let own_devices = mounts::devices(container, inputs.volumes)?;
    let mut annotations = given.annotations.clone();
    annotations.extend(identity::container_annotations(
        pod,
        container,
        inputs.attempt,
    ));
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: inputs.attempt,
        }),
        image: Some(v1::ImageSpec {
            image: inputs.image_ref.as_str().to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env
            .into_iter()
            .map(|(key, value)| v1::KeyValue { key, value })
            .collect(),
        mounts: all_mounts,
        devices: [given.devices.clone(), own_devices].concat(),
        cdi_devices: given.cdi_devices.clone(),
        labels: identity::container_labels(pod, container),
        annotations,
        log_path: identity::container_log_path(&container.name, inputs.attempt),
        stop_signal: stop_signal(container, inputs.node).into(),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::with_grants(
                resources::of_container(pod, container, inputs.node)?,
                inputs.grants,
            )),
            security_context: Some(security::of_container(
                pod,
                container,
                inputs.image_user,
                (inputs.volumes, inputs.users),
                inputs.node,
            )?),
        }),
        ..v1::ContainerConfig::default()
    })
}

/// The signal that asks the container to stop; the runtime's or the image's own where none is said, or its name means
/// nothing.
fn stop_signal(container: &Container, node: &NodeSettings) -> v1::Signal {
    let lifecycle = container.lifecycle.as_ref().filter(|_| node.stop_signals);
    lifecycle
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
        .and_then(|name| {
            v1::Signal::from_str_name(&name.replace('+', "PLUS").replace('-', "MINUS"))
        })
        .unwrap_or(v1::Signal::RuntimeDefault)
}

/// A signal as the API spells it; none for the runtime's own choice, which is what a runtime says that knows nothing of
/// signals.
pub(crate) fn signal_name(signal: v1::Signal) -> Option<Arc<str>> {
    let name = signal.as_str_name().replace("PLUS", "+");
    let named = signal != v1::Signal::RuntimeDefault;
    named.then(|| name.replace("MINUS", "-").into())
}
