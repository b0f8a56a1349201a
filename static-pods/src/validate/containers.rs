//! Rules for containers: names, images, ports, environment, mounts.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, PodSpec, VolumeMount,
};

use super::volumes::{Volumes, no_backsteps};
use super::{Errors, handlers, names, resources};

pub(super) fn check(spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut Errors) {
    if spec.containers.is_empty() {
        errors.required("spec.containers", "");
    }
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let mut taken = BTreeSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{i}]");
        common(&path, container, volumes, errors);
        if !taken.insert(container.name.as_str()) {
            errors.duplicate(format!("{path}.name"), &container.name);
        }
        handlers::check(&path, container, grace, errors);
        restart_policy(&path, container, errors);
    }
    let numbered = |(i, c)| (format!("spec.containers[{i}]"), c);
    host_ports(spec.containers.iter().enumerate().map(numbered), errors);
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{i}]");
        common(&path, container, volumes, errors);
        if !taken.insert(container.name.as_str()) && !container.name.is_empty() {
            errors.duplicate(format!("{path}.name"), &container.name);
        }
        restart_policy(&path, container, errors);
        // They run one by one, so that their ports may well be the same.
        host_ports(std::iter::once((path.clone(), container)), errors);
        if container.restart_policy.as_deref() == Some("Always") {
            handlers::check(&path, container, grace, errors);
        } else {
            handlers::forbid(&path, container, errors);
        }
    }
    if spec.host_network == Some(true) {
        host_network(spec, errors);
    }
}

fn common(path: &str, container: &Container, volumes: &Volumes<'_>, errors: &mut Errors) {
    let name = container.name.as_str();
    match name {
        "" => errors.required(format!("{path}.name"), ""),
        name => errors.all(&format!("{path}.name"), name, names::label(name)),
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(format!("{path}.image"), image, detail);
    }
    let policy = container
        .termination_message_policy
        .as_deref()
        .unwrap_or_default();
    let supported = ["File", "FallbackToLogsOnError"];
    errors.one_of(
        format!("{path}.terminationMessagePolicy"),
        policy,
        &supported,
    );
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    let supported = ["Always", "IfNotPresent", "Never"];
    errors.one_of(format!("{path}.imagePullPolicy"), policy, &supported);
    ports(path, container.ports.as_deref().unwrap_or_default(), errors);
    env(path, container.env.as_deref().unwrap_or_default(), errors);
    env_from(
        path,
        container.env_from.as_deref().unwrap_or_default(),
        errors,
    );
    mounts(path, container, volumes, errors);
    if let Some(requirements) = &container.resources {
        resources::check(&format!("{path}.resources"), requirements, errors);
    }
}

fn restart_policy(path: &str, container: &Container, errors: &mut Errors) {
    let rules = container
        .restart_policy_rules
        .as_deref()
        .unwrap_or_default();
    match container.restart_policy.as_deref() {
        Some(policy) => {
            errors.one_of(
                format!("{path}.restartPolicy"),
                policy,
                &["Always", "Never", "OnFailure"],
            );
        }
        None if rules.is_empty() => {}
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.required(format!("{path}.restartPolicy"), detail);
        }
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("{path}.restartPolicyRules[{i}]");
        errors.one_of(
            format!("{path}.action"),
            &rule.action,
            &["Restart", "RestartAllContainers"],
        );
        match &rule.exit_codes {
            Some(codes) => {
                errors.one_of(
                    format!("{path}.exitCodes.operator"),
                    &codes.operator,
                    &["In", "NotIn"],
                );
            }
            None => errors.required(format!("{path}.exitCodes"), "must be specified"),
        }
    }
}

fn ports(path: &str, ports: &[ContainerPort], errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let messages = names::port(name);
            if !messages.is_empty() {
                errors.all(&format!("{path}.name"), name, messages);
            } else if !taken.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(format!("{path}.containerPort"), "");
        } else if let Some(message) = names::port_number(port.container_port) {
            errors.invalid(
                format!("{path}.containerPort"),
                port.container_port,
                message,
            );
        }
        let host = port.host_port.unwrap_or(0);
        if host != 0
            && let Some(message) = names::port_number(host)
        {
            errors.invalid(format!("{path}.hostPort"), host, message);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        errors.one_of(
            format!("{path}.protocol"),
            protocol,
            &["SCTP", "TCP", "UDP"],
        );
    }
}

fn host_ports<'a>(containers: impl Iterator<Item = (String, &'a Container)>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    for (path, container) in containers {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|p| *p != 0) else {
                continue;
            };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let address = port.host_ip.as_deref().unwrap_or_default();
            let text = format!("{protocol}/{address}/{host}");
            if taken.contains(&text) {
                errors.duplicate(format!("{path}.ports[{i}].hostPort"), &text);
            }
            taken.insert(text);
        }
    }
}

fn host_network(spec: &PodSpec, errors: &mut Errors) {
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if host != port.container_port {
                let path = format!("spec.containers[{i}].ports[{j}].hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(path, host, detail);
            }
        }
    }
}

fn env(path: &str, variables: &[EnvVar], errors: &mut Errors) {
    for (i, variable) in variables.iter().enumerate() {
        let path = format!("{path}.env[{i}]");
        if variable.name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if let Some(message) = names::variable(&variable.name) {
            errors.invalid(format!("{path}.name"), variable.name.as_str(), message);
        }
        let Some(from) = &variable.value_from else {
            continue;
        };
        let sources = [
            from.field_ref.is_some(),
            from.resource_field_ref.is_some(),
            from.config_map_key_ref.is_some(),
            from.secret_key_ref.is_some(),
            from.file_key_ref.is_some(),
        ];
        let path = format!("{path}.valueFrom");
        let has_value = variable.value.as_deref().is_some_and(|v| !v.is_empty());
        match sources.into_iter().filter(|set| *set).count() {
            0 => {
                let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                     `fileKeyRef`";
                errors.invalid(path, "", detail);
            }
            _ if has_value => {
                errors.invalid(path, "", "may not be specified when `value` is not empty")
            }
            1 => {}
            _ => errors.invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

fn env_from(path: &str, sources: &[EnvFromSource], errors: &mut Errors) {
    let list = format!("{path}.envFrom");
    for (i, source) in sources.iter().enumerate() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(message) = names::variable(prefix) {
            errors.invalid(format!("{list}[{i}].prefix"), prefix, message);
        }
        match (source.config_map_ref.is_some(), source.secret_ref.is_some()) {
            (false, false) => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.invalid(list.as_str(), "", detail);
            }
            (true, true) => {
                let detail = "may not have more than one field specified at a time";
                errors.invalid(list.as_str(), "", detail);
            }
            _ => {}
        }
    }
}

fn mounts(path: &str, container: &Container, volumes: &Volumes<'_>, errors: &mut Errors) {
    let mut taken = BTreeSet::new();
    let privileged = container
        .security_context
        .as_ref()
        .and_then(|s| s.privileged)
        == Some(true);
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let list = format!("{path}.volumeMounts");
        let path = format!("{list}[{i}]");
        if mount.name.is_empty() {
            errors.required(format!("{path}.name"), "");
        }
        if !volumes.has(&mount.name) {
            errors.not_found(format!("{path}.name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        }
        if !taken.insert(mount.mount_path.as_str()) {
            errors.invalid(
                format!("{path}.mountPath"),
                mount.mount_path.as_str(),
                "must be unique",
            );
        }
        mount_options(&path, mount, privileged, errors);
    }
}

/// Upstream names these fields without the index of their mount; the index is kept here, for it has the line.
fn mount_options(path: &str, mount: &VolumeMount, privileged: bool, errors: &mut Errors) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    for (field, value) in [("subPath", sub_path), ("subPathExpr", expression)] {
        let path = format!("{path}.{field}");
        if value.starts_with('/') {
            errors.invalid(path.as_str(), value, "must be a relative path");
        }
        no_backsteps(&path, value, errors);
    }
    if !sub_path.is_empty() && !expression.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.invalid(format!("{path}.subPathExpr"), expression, detail);
    }
    if let Some(propagation) = mount.mount_propagation.as_deref() {
        let path = format!("{path}.mountPropagation");
        let supported = ["Bidirectional", "HostToContainer", "None"];
        errors.one_of(path.as_str(), propagation, &supported);
        if propagation == "Bidirectional" && !privileged {
            let detail =
                "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(path, detail);
        }
    }
}
