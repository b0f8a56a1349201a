//! The security context of a container.

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext};

use super::super::shown::{Json, Shown as _, json};
use super::super::values::{bare_or_null, json_object, json_or_null};
use super::super::{Errors, security, windows};

pub(super) fn check(path: &str, context: &SecurityContext, host_users: bool, errors: &mut Errors) {
    let field = |name: &str| format!("{path}.{name}");
    security::id(&field("runAsUser"), context.run_as_user, errors);
    security::id(&field("runAsGroup"), context.run_as_group, errors);
    if let Some(mount) = context.proc_mount.as_deref() {
        let path = field("procMount");
        errors.unsupported(path.as_str(), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.invalid(path, Json(mount), detail);
        }
    }
    let profile = context.seccomp_profile.as_ref();
    security::seccomp(&field("seccompProfile"), profile, errors);
    if context.allow_privilege_escalation == Some(false) {
        no_escalation(path, context, errors);
    }
    let options = context.windows_options.as_ref();
    windows::options(&field("windowsOptions"), options, errors);
    let profile = context.app_armor_profile.as_ref();
    security::app_armor(&field("appArmorProfile"), profile, errors);
}

/// Without escalation there can be neither privilege nor the capability that amounts to it.
fn no_escalation(path: &str, context: &SecurityContext, errors: &mut Errors) {
    let mut refuse = |with: &str| {
        let detail = format!("cannot set `allowPrivilegeEscalation` to false and {with}");
        errors.invalid_json(path, context_json(context), &detail);
    };
    if context.privileged == Some(true) {
        refuse("`privileged` to true");
    }
    let capabilities = context.capabilities.as_ref();
    let added = capabilities.and_then(|c| c.add.as_ref());
    for _ in added
        .into_iter()
        .flatten()
        .filter(|c| *c == "CAP_SYS_ADMIN")
    {
        refuse("`capabilities.Add` CAP_SYS_ADMIN");
    }
}

/// The whole context by the names of upstream's own types, in their order.
fn context_json(c: &SecurityContext) -> String {
    let null = || "null".to_owned();
    let capabilities = |c: &Capabilities| {
        let list = |l: &Option<Vec<String>>| l.as_deref().map_or_else(null, |l| l.shown());
        json_object(&[("Add", list(&c.add)), ("Drop", list(&c.drop))])
    };
    let selinux = c.se_linux_options.as_ref().map_or_else(null, |o| {
        let text = |field: &Option<String>| json(field.as_deref().unwrap_or_default());
        json_object(&[
            ("User", text(&o.user)),
            ("Role", text(&o.role)),
            ("Type", text(&o.type_)),
            ("Level", text(&o.level)),
        ])
    });
    let windows = c.windows_options.as_ref().map_or_else(null, |o| {
        json_object(&[
            (
                "GMSACredentialSpecName",
                json_or_null(o.gmsa_credential_spec_name.as_deref()),
            ),
            (
                "GMSACredentialSpec",
                json_or_null(o.gmsa_credential_spec.as_deref()),
            ),
            ("RunAsUserName", json_or_null(o.run_as_user_name.as_deref())),
            ("HostProcess", bare_or_null(o.host_process)),
        ])
    });
    let profile = |kind: &str, file: &Option<String>| {
        json_object(&[
            ("Type", json(kind)),
            ("LocalhostProfile", json_or_null(file.as_deref())),
        ])
    };
    let seccomp = c.seccomp_profile.as_ref();
    let app_armor = c.app_armor_profile.as_ref();
    json_object(&[
        (
            "Capabilities",
            c.capabilities.as_ref().map_or_else(null, capabilities),
        ),
        ("Privileged", bare_or_null(c.privileged)),
        ("SELinuxOptions", selinux),
        ("WindowsOptions", windows),
        ("RunAsUser", bare_or_null(c.run_as_user)),
        ("RunAsGroup", bare_or_null(c.run_as_group)),
        ("RunAsNonRoot", bare_or_null(c.run_as_non_root)),
        (
            "ReadOnlyRootFilesystem",
            bare_or_null(c.read_only_root_filesystem),
        ),
        (
            "AllowPrivilegeEscalation",
            bare_or_null(c.allow_privilege_escalation),
        ),
        ("ProcMount", json_or_null(c.proc_mount.as_deref())),
        (
            "SeccompProfile",
            seccomp.map_or_else(null, |p| profile(&p.type_, &p.localhost_profile)),
        ),
        (
            "AppArmorProfile",
            app_armor.map_or_else(null, |p| profile(&p.type_, &p.localhost_profile)),
        ),
    ])
}
