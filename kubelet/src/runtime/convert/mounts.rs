//! A container's mounts, in the order in which the runtime makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::NodeSettings;
use super::env::Environment;
use super::identity::termination_message_path;
use crate::pod::{self, Pod};
use crate::volumes::{HostVolume, MountedVolumes, SubPath, SubPaths};

/// Where programs look up names before they ask a server.
const HOSTS_FILE: &str = "/etc/hosts";

/// A mount that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// The volume is not set up yet, or not in the spec.
    #[error("cannot find volume {volume:?} to mount into container {container:?}")]
    NoVolume {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// Variables of a `subPathExpr` without a value.
    #[error("missing value for {}", .0.join(", "))]
    NoValue(Vec<String>),
    /// A subPath from the root.
    #[error("error SubPath `{0}` must not be an absolute path")]
    SubPathAbsolute(String),
    /// A subPath that steps back.
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    SubPathSteps(String),
    /// A subPath that nobody has mounted.
    #[error("the subPath of volume {volume:?} is not mounted")]
    SubPathUnbound {
        /// The volume's name.
        volume: String,
    },
    /// A propagation there is not.
    #[error("invalid MountPropagation mode: {0:?}")]
    Propagation(String),
    /// A recursive mode there is not.
    #[error("failed to resolve recursive read-only mode: unknown recursive read-only mode {0:?}")]
    RecursiveMode(String),
    /// Recursively read-only, and not read-only.
    #[error(
        "failed to resolve recursive read-only mode: volume {volume:?} requested recursive read-only mode, but it is not read-only"
    )]
    RecursiveNotReadOnly {
        /// The volume's name.
        volume: String,
    },
    /// Recursively read-only, and mounts of the host are to appear in it.
    #[error(
        "failed to resolve recursive read-only mode: volume {volume:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
    )]
    RecursivePropagation {
        /// The volume's name.
        volume: String,
        /// The mount's propagation.
        propagation: String,
    },
    /// A device that is to be at no path.
    #[error("error DevicePath `{0}` must be an absolute path")]
    DevicePath(String),
    /// A device of a volume that the pod does not have, or not as a device.
    #[error("cannot find volume {volume:?} to pass into container {container:?}")]
    NoDevice {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// Recursively read-only, and the runtime cannot.
    #[error(
        "failed to resolve recursive read-only mode: volume {volume:?} requested recursive read-only mode, but it is not supported by the runtime"
    )]
    RecursiveUnsupported {
        /// The volume's name.
        volume: String,
    },
    /// A path on the node that is no UTF-8 text, which is all that the runtime takes.
    #[error("path {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
}

/// The images that are mounted as volumes, by the volume's name, as the runtime is to be told of them.
pub type ImageVolumes = BTreeMap<String, v1::ImageSpec>;

/// The node's side of the mounts of one container.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) volumes: &'a MountedVolumes,
    pub(super) images: &'a ImageVolumes,
    pub(super) sub_paths: &'a SubPaths,
    pub(super) env: &'a Environment,
    pub(super) hosts_file: Option<&'a Path>,
    pub(super) termination_log: Option<&'a Path>,
    pub(super) recursive_read_only: bool,
    pub(super) node: &'a NodeSettings,
}

/// Volumes in spec order, `/etc/hosts` unless a volume is mounted there, and the termination log last.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    places: &Places<'_>,
) -> Result<Vec<v1::Mount>, MountError> {
    let mut mounts = Vec::new();
    let mut has_hosts = false;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        has_hosts |= mount.mount_path == HOSTS_FILE;
        mounts.push(volume_mount(pod, container, (index, mount), places)?);
    }
    if let (Some(file), false) = (places.hosts_file, has_hosts) {
        mounts.push(v1::Mount {
            container_path: HOSTS_FILE.to_owned(),
            host_path: text(file)?,
            selinux_relabel: places.node.selinux,
            ..v1::Mount::default()
        });
    }
    let message_path = termination_message_path(container);
    if let (Some(file), false) = (places.termination_log, message_path.is_empty()) {
        mounts.push(v1::Mount {
            container_path: message_path.to_owned(),
            host_path: text(file)?,
            selinux_relabel: places.node.selinux,
            ..v1::Mount::default()
        });
    }
    Ok(mounts)
}

/// The container's raw block devices, in spec order.
pub(super) fn devices(
    container: &Container,
    volumes: &MountedVolumes,
) -> Result<Vec<v1::Device>, MountError> {
    let wanted = container.volume_devices.iter().flatten();
    let devices = wanted.map(|device| {
        let path = device.device_path.as_str();
        if !path.starts_with('/') {
            return Err(MountError::DevicePath(path.to_owned()));
        }
        let volume = volumes.get(&device.name).filter(|volume| volume.device);
        let volume = volume.ok_or_else(|| MountError::NoDevice {
            volume: device.name.clone(),
            container: container.name.clone(),
        })?;
        Ok(v1::Device {
            container_path: path.to_owned(),
            host_path: text(&volume.path)?,
            permissions: if volume.read_only { "r" } else { "mrw" }.to_owned(),
        })
    });
    devices.collect()
}

/// The subPaths of a container's mounts that are for the agent to mount, with the variables of its environment. Those of
/// images are for the runtime to find.
pub(super) fn sub_paths(
    container: &Container,
    volumes: &MountedVolumes,
    images: &ImageVolumes,
    env: &Environment,
) -> Result<Vec<SubPath>, MountError> {
    let mut wanted = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(path) = expanded_sub_path(mount, env)? else {
            continue;
        };
        if images.contains_key(&mount.name) {
            continue;
        }
        wanted.push(SubPath {
            index,
            volume: mount.name.clone(),
            volume_path: volume_of(container, mount, volumes)?.path.clone(),
            path,
        });
    }
    Ok(wanted)
}

enum Written<'a> {
    Plain(&'a str),
    Expression(&'a str),
}

fn sub_path(mount: &VolumeMount) -> Option<Written<'_>> {
    fn set(field: &Option<String>) -> Option<&str> {
        field.as_deref().filter(|text| !text.is_empty())
    }
    let expression = set(&mount.sub_path_expr).map(Written::Expression);
    expression.or_else(|| set(&mount.sub_path).map(Written::Plain))
}

/// The subPath of `mount`, relative and without steps back; none where it mounts the whole volume.
fn expanded_sub_path(mount: &VolumeMount, env: &Environment) -> Result<Option<String>, MountError> {
    let path = match sub_path(mount) {
        None => return Ok(None),
        Some(Written::Plain(path)) => path.to_owned(),
        Some(Written::Expression(text)) => env.expand_all(text).map_err(MountError::NoValue)?,
    };
    if path.starts_with('/') {
        return Err(MountError::SubPathAbsolute(path));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(MountError::SubPathSteps(path));
    }
    Ok(Some(path))
}

fn volume_of<'a>(
    container: &Container,
    mount: &VolumeMount,
    volumes: &'a MountedVolumes,
) -> Result<&'a HostVolume, MountError> {
    // A device is nothing to mount.
    let volume = volumes.get(&mount.name).filter(|volume| !volume.device);
    volume.ok_or_else(|| MountError::NoVolume {
        volume: mount.name.clone(),
        container: container.name.clone(),
    })
}

fn volume_mount(
    pod: &Pod,
    container: &Container,
    (index, mount): (usize, &VolumeMount),
    places: &Places<'_>,
) -> Result<v1::Mount, MountError> {
    let image = places.images.get(&mount.name).cloned();
    let (host_path, image_sub_path, read_only) = match &image {
        Some(_) => {
            let sub_path = expanded_sub_path(mount, places.env)?;
            (String::new(), sub_path.unwrap_or_default(), true)
        }
        None => {
            let volume = volume_of(container, mount, places.volumes)?;
            let path = match sub_path(mount) {
                None => &volume.path,
                // Never the whole volume in its place.
                Some(_) => {
                    let bound = places.sub_paths.get(&index);
                    bound.ok_or_else(|| MountError::SubPathUnbound {
                        volume: mount.name.clone(),
                    })?
                }
            };
            (text(path)?, String::new(), volume.read_only)
        }
    };
    let container_path = match mount.mount_path.starts_with('/') {
        true => mount.mount_path.clone(),
        false => format!("/{}", mount.mount_path),
    };
    Ok(v1::Mount {
        container_path,
        host_path,
        image,
        image_sub_path,
        readonly: mount.read_only.unwrap_or(false) || read_only,
        recursive_read_only: recursive_read_only(mount, places.recursive_read_only)?,
        // The label is the pod's to set only where the directory is: never on a path of the host's own.
        selinux_relabel: places.node.selinux && is_of_the_pod(pod, &mount.name),
        propagation: propagation(mount)?.into(),
        ..v1::Mount::default()
    })
}

/// Whether the volume was made for the pod, and goes with it.
fn is_of_the_pod(pod: &Pod, volume: &str) -> bool {
    let mut volumes = pod::spec(pod).volumes.iter().flatten();
    volumes.any(|have| {
        have.name == volume
            && (have.empty_dir.is_some()
                || have.config_map.is_some()
                || have.secret.is_some()
                || have.downward_api.is_some()
                || have.projected.is_some())
    })
}

fn propagation(mount: &VolumeMount) -> Result<v1::MountPropagation, MountError> {
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(v1::MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(v1::MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") => Ok(v1::MountPropagation::PropagationBidirectional),
        Some(other) => Err(MountError::Propagation(other.to_owned())),
    }
}

/// Whether a mount of the container is to be recursively read-only, at least where the runtime can do that.
#[must_use]
pub fn wants_recursive_read_only(container: &Container) -> bool {
    let mut mounts = container.volume_mounts.iter().flatten();
    mounts.any(|mount| {
        let mode = mount.recursive_read_only.as_deref();
        mode.is_some_and(|mode| mode != "Disabled")
    })
}

fn recursive_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, MountError> {
    let volume = || mount.name.clone();
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if !mount.read_only.unwrap_or(false) {
        return Err(MountError::RecursiveNotReadOnly { volume: volume() });
    }
    if let Some(propagation) = mount.mount_propagation.as_deref()
        && propagation != "None"
    {
        return Err(MountError::RecursivePropagation {
            volume: volume(),
            propagation: propagation.to_owned(),
        });
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(MountError::RecursiveUnsupported { volume: volume() }),
        other => Err(MountError::RecursiveMode(other.to_owned())),
    }
}

fn text(path: &Path) -> Result<String, MountError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| MountError::NotUtf8(path.to_owned()))
}
