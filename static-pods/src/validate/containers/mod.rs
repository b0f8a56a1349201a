//! Rules for containers of every sort: regular ones, init containers with the sidecars among them, and ephemeral ones.

mod env;
mod ephemeral;
mod mounts;
mod ports;
mod restart;
mod security;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::volumes::Volumes;
use super::{Errors, handlers, names, resources};

/// What of the pod the rules of a container depend on.
struct OfPod<'a> {
    volumes: &'a Volumes<'a>,
    /// Names of the pod's resource claims.
    claims: BTreeSet<&'a str>,
    /// Whether the pod shares the node's users.
    host_users: bool,
    never_restarts: bool,
    hooks: handlers::OfPod<'a>,
}

impl<'a> OfPod<'a> {
    fn new(spec: &'a PodSpec, volumes: &'a Volumes<'a>) -> Self {
        Self {
            volumes,
            claims: resources::claim_names(spec),
            host_users: spec.host_users != Some(false),
            never_restarts: spec.restart_policy.as_deref() == Some("Never"),
            hooks: handlers::OfPod {
                grace: spec.termination_grace_period_seconds.unwrap_or(30),
                os: spec.os.as_ref().map(|os| os.name.as_str()),
            },
        }
    }
}

pub(super) fn check(spec: &PodSpec, volumes: &Volumes<'_>, errors: &mut Errors) {
    let pod = OfPod::new(spec, volumes);
    let mut taken = BTreeSet::new();
    regular(spec, &pod, &mut taken, errors);
    init(spec, &pod, &mut taken, errors);
    ephemeral::check(spec, &pod, errors);
    if spec.host_network == Some(true) {
        ports::on_host_network(&spec.containers, errors);
    }
    env::file_volumes(spec, errors);
}

fn regular<'a>(
    spec: &'a PodSpec,
    pod: &OfPod<'_>,
    taken: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    if spec.containers.is_empty() {
        errors.required("spec.containers", "");
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{i}]");
        common(&path, container, pod, errors);
        if !taken.insert(container.name.as_str()) {
            errors.duplicate(format!("{path}.name"), &container.name);
        }
        handlers::check(&path, container, &pod.hooks, errors);
        restart::check(&path, container, errors);
    }
    let mut used = BTreeSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{i}]");
        ports::on_host(&path, container, &mut used, errors);
    }
}

fn init<'a>(
    spec: &'a PodSpec,
    pod: &OfPod<'_>,
    taken: &mut BTreeSet<&'a str>,
    errors: &mut Errors,
) {
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = format!("spec.initContainers[{i}]");
        common(&path, container, pod, errors);
        restart::check(&path, container, errors);
        let name = container.name.as_str();
        if taken.contains(name) {
            errors.duplicate(format!("{path}.name"), name);
        } else if !name.is_empty() {
            taken.insert(name);
        }
        // They run one by one, so that their ports may well be the same. Upstream's path always names the first.
        let shown = "spec.initContainers[0]";
        errors.standing_at(shown, &path, |errors| {
            ports::on_host(shown, container, &mut BTreeSet::new(), errors);
        });
        if container.restart_policy.as_deref() == Some("Always") {
            handlers::check(&path, container, &pod.hooks, errors);
        } else {
            handlers::forbid(&path, container, errors);
            restart::no_resize_restarts(&path, container, errors);
        }
    }
}

/// What holds for containers of every sort.
fn common(path: &str, container: &Container, pod: &OfPod<'_>, errors: &mut Errors) {
    errors.named(&format!("{path}.name"), &container.name, names::label);
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.invalid(format!("{path}.image"), image, detail);
    }
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    errors.one_of(
        format!("{path}.terminationMessagePolicy"),
        &text(&container.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
    );
    errors.one_of(
        format!("{path}.imagePullPolicy"),
        &text(&container.image_pull_policy),
        &["Always", "IfNotPresent", "Never"],
    );
    ports::check(path, container.ports.as_deref().unwrap_or_default(), errors);
    env::check(path, container.env.as_deref().unwrap_or_default(), errors);
    let sources = container.env_from.as_deref().unwrap_or_default();
    env::check_from(&format!("{path}.envFrom"), sources, errors);
    mounts::check(path, container, pod.volumes, errors);
    if let Some(requirements) = &container.resources {
        resources::check(&format!("{path}.resources"), requirements, errors);
        let claims = requirements.claims.as_deref().unwrap_or_default();
        resources::claims(
            &format!("{path}.resources.claims"),
            claims,
            &pod.claims,
            errors,
        );
    }
    restart::resize(path, container, pod.never_restarts, errors);
    if let Some(context) = &container.security_context {
        let path = format!("{path}.securityContext");
        security::check(&path, context, pod.host_users, errors);
    }
}
