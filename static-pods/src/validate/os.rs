//! Rules that depend on the operating system a pod says it is for.

use k8s_openapi::api::core::v1::PodSpec;

use super::Errors;
use super::security::of_containers;

pub(super) fn check(spec: &PodSpec, errors: &mut Errors) {
    let Some(os) = &spec.os else {
        return;
    };
    match os.name.as_str() {
        "linux" => linux(spec, errors),
        "windows" => windows(spec, errors),
        "" => errors.required("spec.os.name", ""),
        name => errors.pointing("spec.os.name", |errors| {
            errors.unsupported("spec.os", name, &["linux", "windows"]);
        }),
    }
}

fn linux(spec: &PodSpec, errors: &mut Errors) {
    let detail = "windows options cannot be set for a linux pod";
    let of_pod = spec.security_context.as_ref();
    if of_pod.is_some_and(|c| c.windows_options.is_some()) {
        errors.forbidden("spec.securityContext.windowsOptions", detail);
    }
    for container in of_containers(spec) {
        let path = &container.path;
        if container
            .context
            .is_some_and(|c| c.windows_options.is_some())
        {
            errors.forbidden(format!("{path}.securityContext.windowsOptions"), detail);
        }
    }
}

fn windows(spec: &PodSpec, errors: &mut Errors) {
    let mut forbid = |path: String, set: bool| {
        if set {
            errors.forbidden(path, "cannot be set for a windows pod");
        }
    };
    let of_pod = [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        (
            "shareProcessNamespace",
            spec.share_process_namespace.is_some(),
        ),
    ];
    for (field, set) in of_pod {
        forbid(format!("spec.{field}"), set);
    }
    if let Some(c) = &spec.security_context {
        let sysctls = c.sysctls.as_ref().is_some_and(|s| !s.is_empty());
        let of_context = [
            ("appArmorProfile", c.app_armor_profile.is_some()),
            ("seLinuxOptions", c.se_linux_options.is_some()),
            ("seccompProfile", c.seccomp_profile.is_some()),
            ("fsGroup", c.fs_group.is_some()),
            ("fsGroupChangePolicy", c.fs_group_change_policy.is_some()),
            ("sysctls", sysctls),
            ("runAsUser", c.run_as_user.is_some()),
            ("runAsGroup", c.run_as_group.is_some()),
            ("supplementalGroups", c.supplemental_groups.is_some()),
            (
                "supplementalGroupsPolicy",
                c.supplemental_groups_policy.is_some(),
            ),
            ("seLinuxChangePolicy", c.se_linux_change_policy.is_some()),
        ];
        for (field, set) in of_context {
            forbid(format!("spec.securityContext.{field}"), set);
        }
    }
    for container in of_containers(spec) {
        let (path, Some(c)) = (&container.path, container.context) else {
            continue;
        };
        let of_context = [
            ("appArmorProfile", c.app_armor_profile.is_some()),
            ("seLinuxOptions", c.se_linux_options.is_some()),
            ("seccompProfile", c.seccomp_profile.is_some()),
            ("capabilities", c.capabilities.is_some()),
            (
                "readOnlyRootFilesystem",
                c.read_only_root_filesystem.is_some(),
            ),
            ("privileged", c.privileged.is_some()),
            (
                "allowPrivilegeEscalation",
                c.allow_privilege_escalation.is_some(),
            ),
            ("procMount", c.proc_mount.is_some()),
            ("runAsUser", c.run_as_user.is_some()),
            ("runAsGroup", c.run_as_group.is_some()),
        ];
        for (field, set) in of_context {
            forbid(format!("{path}.securityContext.{field}"), set);
        }
    }
}
