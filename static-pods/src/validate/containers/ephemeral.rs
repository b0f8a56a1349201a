//! Ephemeral containers. No manifest may have any; what else is wrong with them is said all the same, as upstream.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec, ResourceRequirements};

use super::super::Errors;
use super::OfPod;
use crate::defaults;

/// What an ephemeral container has of a container, defaulted.
pub(super) fn container(late: &EphemeralContainer) -> Container {
    let late = late.clone();
    let mut container = Container {
        args: late.args,
        command: late.command,
        env: late.env,
        env_from: late.env_from,
        image: late.image,
        image_pull_policy: late.image_pull_policy,
        lifecycle: late.lifecycle,
        liveness_probe: late.liveness_probe,
        name: late.name,
        ports: late.ports,
        readiness_probe: late.readiness_probe,
        resize_policy: late.resize_policy,
        resources: None,
        restart_policy: late.restart_policy,
        restart_policy_rules: late.restart_policy_rules,
        security_context: late.security_context,
        startup_probe: late.startup_probe,
        stdin: late.stdin,
        stdin_once: late.stdin_once,
        termination_message_path: late.termination_message_path,
        termination_message_policy: late.termination_message_policy,
        tty: late.tty,
        volume_devices: late.volume_devices,
        volume_mounts: late.volume_mounts,
        working_dir: late.working_dir,
    };
    defaults::container(&mut container);
    // Its limits do not become requests.
    container.resources = late.resources;
    container
}

pub(super) fn check(spec: &PodSpec, pod: &OfPod<'_>, errors: &mut Errors) {
    const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
    let others = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let others: BTreeSet<&str> = others.map(|c| c.name.as_str()).collect();
    let mut taken = others.clone();
    for (i, late) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = format!("spec.ephemeralContainers[{i}]");
        let container = container(late);
        super::common(&path, &container, pod, errors);
        if !taken.insert(&late.name) {
            errors.duplicate(format!("{path}.name"), &late.name);
        }
        let target = late.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(format!("{path}.targetContainerName"), target);
        }
        let resources = late.resources.as_ref();
        let fields = [
            ("ports", late.ports.is_some()),
            (
                "resources",
                resources.is_some_and(|r| *r != ResourceRequirements::default()),
            ),
            ("resizePolicy", late.resize_policy.is_some()),
            ("restartPolicy", late.restart_policy.is_some()),
            ("restartPolicyRules", late.restart_policy_rules.is_some()),
            ("livenessProbe", late.liveness_probe.is_some()),
            ("readinessProbe", late.readiness_probe.is_some()),
            ("startupProbe", late.startup_probe.is_some()),
            ("lifecycle", late.lifecycle.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            errors.forbidden(format!("{path}.{field}"), FORBIDDEN);
        }
        for (j, mount) in late.volume_mounts.iter().flatten().enumerate() {
            let fields = [
                ("subPath", &mount.sub_path),
                ("subPathExpr", &mount.sub_path_expr),
            ];
            for (field, value) in fields {
                if value.as_deref().is_some_and(|v| !v.is_empty()) {
                    errors.forbidden(format!("{path}.volumeMounts[{j}].{field}"), FORBIDDEN);
                }
            }
        }
    }
}
