//! Under what rights a pod's sandbox and containers run.

use std::collections::BTreeSet;
use std::path::Path;

use cri_proto::v1;
use cri_proto::v1::security_profile::ProfileType;
use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::NodeSettings;
use super::mounts::MountError;
use crate::admission::apparmor;
use crate::images::ImageUser;
use crate::pod::{self, Pod};
use crate::runtime::ContainerId;
use crate::userns::Range;
use crate::volumes::MountedVolumes;

/// Hidden from containers: the kernel's own files that tell of the host or act on it. Source: the runtime's own
/// defaults, which the API calls `procMount: Default`.
const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Not to be written by containers; same source.
const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The largest user number there is (API validation).
const MAX_UID: i64 = i32::MAX as i64;

/// A container that may not run as it would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// `runAsNonRoot`, and `runAsUser` is root.
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunAsRoot {
        /// The pod's long name.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot`, and the image runs as root.
    #[error(
        "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
    )]
    ImageRunsAsRoot {
        /// The pod's long name.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot`, and nobody can tell whether the image's user is root.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    ImageUserUnknown {
        /// The image's user.
        user: String,
        /// The pod's long name.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot`, and the image's user is no number of a user.
    #[error(
        "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({MAX_UID})): must be between 0 and {MAX_UID}, inclusive (pod: {pod:?}, container: {container})"
    )]
    ImageUserInvalid {
        /// The image's user.
        uid: i64,
        /// The pod's long name.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// A Localhost seccomp profile without a name.
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    SeccompName,
    /// A Localhost AppArmor profile without a name.
    #[error("missing localhost apparmor profile name")]
    AppArmorName,
    /// An AppArmor profile of another type than there are.
    #[error("unknown apparmor profile type: {0:?}")]
    AppArmorType(String),
    /// A policy there is not.
    #[error("unsupported supplementalGroupsPolicy: {0}")]
    GroupsPolicy(String),
    /// A path that the runtime cannot be told.
    #[error(transparent)]
    Path(#[from] MountError),
}

/// The paths hidden from containers on this node: those that are the same everywhere, and a directory for each of the
/// processors that the kernel's list names (`/sys/devices/system/cpu/possible`, such as `0-3,8`) where it `exists`.
#[must_use]
pub fn default_masked_paths(possible_cpus: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let ranges = possible_cpus.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    });
    let of_cpus = ranges
        .flatten()
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
        .filter(|path| exists(Path::new(path)));
    MASKED_PATHS
        .iter()
        .map(ToString::to_string)
        .chain(of_cpus)
        .collect()
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod::spec(pod).security_context.as_ref()
}

/// The users that sandbox and containers have: the node's own, or `range` of them.
pub(super) fn users(range: Option<Range>) -> v1::UserNamespace {
    let Some(range) = range else {
        return v1::UserNamespace {
            mode: v1::NamespaceMode::Node.into(),
            ..v1::UserNamespace::default()
        };
    };
    let ids = vec![v1::IdMapping {
        host_id: range.first(),
        container_id: 0,
        length: range.length(),
    }];
    v1::UserNamespace {
        mode: v1::NamespaceMode::Pod.into(),
        uids: ids.clone(),
        gids: ids,
    }
}

/// The namespaces that sandbox and containers share.
fn namespaces(pod: &Pod, range: Option<Range>) -> v1::NamespaceOption {
    let spec = pod::spec(pod);
    let node_or_pod = |node: Option<bool>| match node {
        Some(true) => v1::NamespaceMode::Node,
        _ => v1::NamespaceMode::Pod,
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => v1::NamespaceMode::Node,
        (_, Some(true)) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: node_or_pod(spec.host_network).into(),
        pid: pid.into(),
        ipc: node_or_pod(spec.host_ipc).into(),
        userns_options: Some(users(range)),
        ..v1::NamespaceOption::default()
    }
}

/// Has the container that `config` makes share the processes of the one with the id `target`, unless it shares them with the
/// whole pod, or with the node.
pub fn share_processes(config: &mut v1::ContainerConfig, target: &ContainerId) {
    let security = config
        .linux
        .as_mut()
        .and_then(|l| l.security_context.as_mut());
    let Some(namespaces) = security.and_then(|s| s.namespace_options.as_mut()) else {
        return;
    };
    if namespaces.pid == i32::from(v1::NamespaceMode::Container) {
        namespaces.pid = v1::NamespaceMode::Target.into();
        namespaces.target_id = target.as_str().to_owned();
    }
}

/// The sandbox's rights. Its one process needs none, so that it is always confined by the runtime's own profile.
pub(super) fn of_sandbox(
    pod: &Pod,
    volumes: &MountedVolumes,
    range: Option<Range>,
) -> Result<v1::LinuxSandboxSecurityContext, SecurityError> {
    let context = pod_context(pod);
    let privileged = pod::containers(pod).any(|(_, container)| {
        let own = container.security_context.as_ref();
        own.and_then(|own| own.privileged) == Some(true)
    });
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, range)),
        selinux_options: context
            .and_then(|sc| sc.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: context.and_then(|sc| sc.run_as_user).map(int64),
        run_as_group: context.and_then(|sc| sc.run_as_group).map(int64),
        supplemental_groups: supplemental_groups(pod, volumes),
        supplemental_groups_policy: groups_policy(pod)?.into(),
        privileged,
        seccomp: Some(profile(ProfileType::RuntimeDefault, String::new())),
        ..v1::LinuxSandboxSecurityContext::default()
    })
}

/// The container's rights: of its own security context, and for what that leaves open of the pod's and the image.
pub(super) fn of_container(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    (volumes, range): (&MountedVolumes, Option<Range>),
    node: &NodeSettings,
) -> Result<v1::LinuxContainerSecurityContext, SecurityError> {
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let of_pod = pod_context(pod);
    let run_as_user = own.run_as_user.or(of_pod.and_then(|sc| sc.run_as_user));
    verify_non_root(pod, container, run_as_user, image_user)?;

    let (user, username) = match (run_as_user, image_user) {
        (Some(uid), _) | (None, &ImageUser::Uid(uid)) => (Some(uid), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let selinux_options = own
        .se_linux_options
        .as_ref()
        .or(of_pod.and_then(|sc| sc.se_linux_options.as_ref()));
    let (apparmor, apparmor_profile) = app_armor(pod, container)?;
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own
            .capabilities
            .as_ref()
            .map(|capabilities| v1::Capability {
                add_capabilities: capabilities.add.clone().unwrap_or_default(),
                drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
                ..v1::Capability::default()
            }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod, range)),
        selinux_options: selinux_options.map(selinux),
        run_as_user: user.map(int64),
        run_as_username: username,
        run_as_group: own
            .run_as_group
            .or(of_pod.and_then(|sc| sc.run_as_group))
            .map(int64),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(pod, volumes),
        supplemental_groups_policy: groups_policy(pod)?.into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: match unmasked {
            true => Vec::new(),
            false => node.masked_paths.clone(),
        },
        readonly_paths: match unmasked {
            true => Vec::new(),
            false => READONLY_PATHS.iter().map(ToString::to_string).collect(),
        },
        seccomp: Some(seccomp(own, of_pod, node)?),
        apparmor,
        apparmor_profile,
        ..v1::LinuxContainerSecurityContext::default()
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    run_as_user: Option<i64>,
    image_user: &ImageUser,
) -> Result<(), SecurityError> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|sc| sc.run_as_non_root);
    let required = own.or(pod_context(pod).and_then(|sc| sc.run_as_non_root));
    if required != Some(true) {
        return Ok(());
    }
    let (pod, container) = (pod::long_name(pod), container.name.clone());
    match (run_as_user, image_user) {
        (Some(0), _) => Err(SecurityError::RunAsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Uid(0)) => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        (None, ImageUser::Uid(1..=MAX_UID)) => Ok(()),
        (None, &ImageUser::Uid(uid)) => Err(SecurityError::ImageUserInvalid {
            uid,
            pod,
            container,
        }),
        (None, ImageUser::Name(user)) => Err(SecurityError::ImageUserUnknown {
            user: user.clone(),
            pod,
            container,
        }),
    }
}

/// `fsGroup` first, then the groups of the pod, and those that its volumes ask for besides.
fn supplemental_groups(pod: &Pod, volumes: &MountedVolumes) -> Vec<i64> {
    let context = pod_context(pod);
    let own = context.and_then(|sc| sc.supplemental_groups.as_deref());
    let own = own.unwrap_or_default();
    let fs_group = context.and_then(|sc| sc.fs_group);
    let of_volumes: BTreeSet<i64> = volumes.values().filter_map(|volume| volume.gid).collect();
    let of_volumes = of_volumes.into_iter().filter(|gid| !own.contains(gid));
    fs_group
        .into_iter()
        .chain(own.iter().copied())
        .chain(of_volumes)
        .collect()
}

fn groups_policy(pod: &Pod) -> Result<v1::SupplementalGroupsPolicy, SecurityError> {
    match pod_context(pod).and_then(|sc| sc.supplemental_groups_policy.as_deref()) {
        None | Some("Merge") => Ok(v1::SupplementalGroupsPolicy::Merge),
        Some("Strict") => Ok(v1::SupplementalGroupsPolicy::Strict),
        Some(other) => Err(SecurityError::GroupsPolicy(other.to_owned())),
    }
}

fn seccomp(
    own: &SecurityContext,
    of_pod: Option<&PodSecurityContext>,
    node: &NodeSettings,
) -> Result<v1::SecurityProfile, SecurityError> {
    let asked = own
        .seccomp_profile
        .as_ref()
        .or(of_pod.and_then(|sc| sc.seccomp_profile.as_ref()));
    match asked {
        None if node.seccomp_default => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        None => Ok(profile(ProfileType::Unconfined, String::new())),
        Some(SeccompProfile {
            type_,
            localhost_profile,
        }) => match type_.as_str() {
            "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
            "Localhost" => {
                let name = localhost_profile.as_deref().filter(|name| !name.is_empty());
                let path = node
                    .seccomp_root
                    .join(name.ok_or(SecurityError::SeccompName)?);
                let path = path
                    .to_str()
                    .ok_or_else(|| MountError::NotUtf8(path.clone()))?;
                Ok(profile(ProfileType::Localhost, path.to_owned()))
            }
            _ => Ok(profile(ProfileType::Unconfined, String::new())),
        },
    }
}

/// The profile as CRI has it, and as older runtimes read it.
fn app_armor(
    pod: &Pod,
    container: &Container,
) -> Result<(Option<v1::SecurityProfile>, String), SecurityError> {
    let Some(asked) = apparmor::profile(pod, container) else {
        return Ok((None, String::new()));
    };
    let (profile, older) = match asked.type_.as_str() {
        "RuntimeDefault" => (
            profile(ProfileType::RuntimeDefault, String::new()),
            apparmor::RUNTIME_DEFAULT.to_owned(),
        ),
        "Unconfined" => (
            profile(ProfileType::Unconfined, String::new()),
            apparmor::UNCONFINED.to_owned(),
        ),
        "Localhost" => {
            let name = asked
                .localhost_profile
                .as_ref()
                .ok_or(SecurityError::AppArmorName)?;
            (
                profile(ProfileType::Localhost, name.clone()),
                format!("{}{name}", apparmor::LOCALHOST_PREFIX),
            )
        }
        other => return Err(SecurityError::AppArmorType(other.to_owned())),
    };
    Ok((Some(profile), older))
}

fn profile(kind: ProfileType, localhost_ref: String) -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}
