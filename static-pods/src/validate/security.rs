//! Rules for security contexts that pods and containers share, and for the pod's own.
//!
//! Every function takes the path of its field. `SELinux` options have no rules.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use super::shown::{self, Bare, Json};
use super::{Errors, paths, sysctls, windows};

/// Longest name of an AppArmor profile in bytes (PATH_MAX less its end).
const APP_ARMOR_PROFILE: usize = 4095;

/// A container as seen by rules that look at all of them, whatever their kind.
pub(super) struct OfContainer<'a> {
    pub(super) path: String,
    pub(super) name: &'a str,
    pub(super) context: Option<&'a SecurityContext>,
    pub(super) has_devices: bool,
}

/// Init containers, then regular ones, then ephemeral ones.
pub(super) fn of_containers(spec: &PodSpec) -> Vec<OfContainer<'_>> {
    // Ephemeral containers are of a type of their own.
    macro_rules! seen {
        ($list:literal, $containers:expr) => {
            $containers.enumerate().map(|(i, c)| OfContainer {
                path: format!(concat!("spec.", $list, "[{}]"), i),
                name: &c.name,
                context: c.security_context.as_ref(),
                has_devices: c.volume_devices.as_ref().is_some_and(|d| !d.is_empty()),
            })
        };
    }
    seen!("initContainers", spec.init_containers.iter().flatten())
        .chain(seen!("containers", spec.containers.iter()))
        .chain(seen!(
            "ephemeralContainers",
            spec.ephemeral_containers.iter().flatten()
        ))
        .collect()
}

/// A user or group: from 0 to what a signed 32-bit number holds.
pub(super) fn id(path: &str, id: Option<i64>, errors: &mut Errors) {
    if let Some(id) = id
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        let detail = format!("must be between 0 and {}, inclusive", i32::MAX);
        errors.invalid(path, id, &detail);
    }
}

/// A seccomp profile in a field.
pub(super) fn seccomp(path: &str, profile: Option<&SeccompProfile>, errors: &mut Errors) {
    let Some(profile) = profile else {
        return;
    };
    let kind = format!("{path}.type");
    match profile.type_.as_str() {
        "" => errors.required(kind, "type is required when seccompProfile is set"),
        value => errors.unsupported(kind, value, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let path = format!("{path}.localhostProfile");
    match &profile.localhost_profile {
        None if profile.type_ == "Localhost" => {
            errors.required(path, "must be set when seccomp type is Localhost");
        }
        None => {}
        Some(file) if profile.type_ == "Localhost" => paths::descending(&path, file, errors),
        Some(file) => {
            // Upstream shows the whole profile here, by the names of its own types.
            let shown = format!(
                "{{\"Type\":{},\"LocalhostProfile\":{}}}",
                shown::json(&profile.type_),
                shown::json(file)
            );
            let detail = "can only be set when seccomp type is Localhost";
            errors.invalid(path, Bare(shown), detail);
        }
    }
}

/// An AppArmor profile in a field.
pub(super) fn app_armor(path: &str, profile: Option<&AppArmorProfile>, errors: &mut Errors) {
    let Some(profile) = profile else {
        return;
    };
    let name = profile.localhost_profile.as_deref();
    let file = format!("{path}.localhostProfile");
    match profile.type_.as_str() {
        "Localhost" => {
            let name = name.unwrap_or_default();
            if name.is_empty() {
                errors.required(file.as_str(), "must be set when AppArmor type is Localhost");
            } else if name.trim() != name {
                errors.invalid(file.as_str(), name, "must not be padded with whitespace");
            }
            if name.len() > APP_ARMOR_PROFILE {
                errors.too_long(file, APP_ARMOR_PROFILE);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = name {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.invalid(file, Json(name), detail);
            }
        }
        "" => errors.required(
            format!("{path}.type"),
            "type is required when appArmorProfile is set",
        ),
        value => errors.unsupported(
            format!("{path}.type"),
            value,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

/// The pod's own security context.
pub(super) fn check_pod(spec: &PodSpec, errors: &mut Errors) {
    let Some(context) = &spec.security_context else {
        return;
    };
    let path = |field: &str| format!("spec.securityContext.{field}");
    id(&path("fsGroup"), context.fs_group, errors);
    id(&path("runAsUser"), context.run_as_user, errors);
    id(&path("runAsGroup"), context.run_as_group, errors);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(
            &path(&format!("supplementalGroups[{i}]")),
            Some(*group),
            errors,
        );
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        // Upstream's path is where its own types have the field; the line is that of the pod's.
        errors.pointing("spec.shareProcessNamespace", |errors| {
            let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
            errors.invalid(path("shareProcessNamespace"), true, detail);
        });
    }
    sysctls::check(spec, context, errors);
    if let Some(policy) = &context.fs_group_change_policy {
        errors.unsupported(
            path("fsGroupChangePolicy"),
            policy,
            &["Always", "OnRootMismatch"],
        );
    }
    seccomp(
        &path("seccompProfile"),
        context.seccomp_profile.as_ref(),
        errors,
    );
    windows::options(
        &path("windowsOptions"),
        context.windows_options.as_ref(),
        errors,
    );
    app_armor(
        &path("appArmorProfile"),
        context.app_armor_profile.as_ref(),
        errors,
    );
    if let Some(policy) = &context.supplemental_groups_policy {
        errors.unsupported(
            path("supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        );
    }
    if let Some(policy) = &context.se_linux_change_policy {
        errors.unsupported(path("seLinuxChangePolicy"), policy, &["Recursive"]);
    }
}
