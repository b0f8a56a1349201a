//! What the API server fills in for a v1 Pod that does not say (Kubernetes API reference, v1 Pod, 1.36). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction, Lifecycle,
    ObjectFieldSelector, Pod, PodSpec, Probe, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;

use crate::image;
use crate::quantity::Quantity;

/// Resource amounts by name, as the API types carry them.
pub(crate) type Amounts = BTreeMap<String, RawQuantity>;

/// Fills in `pod`. Doing it twice changes nothing.
pub fn apply(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    for container in spec.init_containers.iter_mut().flatten() {
        self::container(container);
    }
    for container in &mut spec.containers {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        set(
            &mut container.termination_message_path,
            "/dev/termination-log",
        );
        set(&mut container.termination_message_policy, "File");
        let image = container.image.as_deref().unwrap_or_default();
        set(&mut container.image_pull_policy, pull_policy(image));
    }
    for volume in spec.volumes.iter_mut().flatten() {
        volume_defaults(volume);
    }
    canonical(spec.overhead.as_mut());
    pod_level_resources(spec);

    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    if *grace < 0 {
        // As good as none; upstream's conversion makes it a second.
        *grace = 1;
    }
    spec.enable_service_links.get_or_insert(true);
    // The older name of the same field.
    if is_empty(&spec.service_account_name) {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    if spec.host_network == Some(true) {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            for port in container.ports.iter_mut().flatten() {
                if port.host_port.unwrap_or(0) == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
}

fn is_empty(field: &Option<String>) -> bool {
    field.as_deref().unwrap_or_default().is_empty()
}

/// An empty text is as good as none.
fn set(field: &mut Option<String>, value: &str) {
    if is_empty(field) {
        *field = Some(value.to_owned());
    }
}

fn set_number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

fn pull_policy(image: &str) -> &'static str {
    if image::is_latest(image) {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// Fills in `container`. Doing it twice changes nothing.
pub(crate) fn container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    set(&mut container.image_pull_policy, pull_policy(image));
    set(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    set(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        port_defaults(port);
    }
    for variable in container.env.iter_mut().flatten() {
        env_defaults(variable);
    }
    if let Some(resources) = &mut container.resources {
        resource_defaults(resources);
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        probe_defaults(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        lifecycle_defaults(lifecycle);
    }
}

fn port_defaults(port: &mut ContainerPort) {
    set(&mut port.protocol, "TCP");
}

fn env_defaults(variable: &mut EnvVar) {
    let Some(from) = &mut variable.value_from else {
        return;
    };
    if let Some(field) = &mut from.field_ref {
        field_defaults(field);
    }
    if let Some(file) = &mut from.file_key_ref {
        file.optional.get_or_insert(false);
    }
    if let Some(divisor) = from
        .resource_field_ref
        .as_mut()
        .and_then(|r| r.divisor.as_mut())
    {
        canonical_one(divisor);
    }
}

fn field_defaults(field: &mut ObjectFieldSelector) {
    set(&mut field.api_version, "v1");
}

/// A limit without a request is the request too; amounts become canonical.
fn resource_defaults(resources: &mut ResourceRequirements) {
    canonical(resources.limits.as_mut());
    canonical(resources.requests.as_mut());
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        let readable = limits.iter().filter(|(_, q)| Quantity::parse(&q.0).is_ok());
        for (name, limit) in readable {
            requests
                .entry(name.clone())
                .or_insert_with(|| limit.clone());
        }
    }
}

fn canonical(amounts: Option<&mut Amounts>) {
    for amount in amounts.into_iter().flat_map(BTreeMap::values_mut) {
        canonical_one(amount);
    }
}

/// Text that is not a quantity stays, for validation to refuse.
fn canonical_one(amount: &mut RawQuantity) {
    if let Ok(quantity) = Quantity::parse(&amount.0) {
        amount.0 = quantity.rounded_to_milli().to_string();
    }
}

fn probe_defaults(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        http_defaults(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http_defaults(http: &mut HTTPGetAction) {
    set(&mut http.path, "/");
    set(&mut http.scheme, "HTTP");
}

fn lifecycle_defaults(lifecycle: &mut Lifecycle) {
    let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
    for hook in hooks.into_iter().flatten() {
        if let Some(http) = &mut hook.http_get {
            http_defaults(http);
        }
    }
}

/// Mode of files that a volume makes from API data, when it does not say (0644).
const DEFAULT_FILE_MODE: i32 = 0o644;

fn volume_defaults(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(image) = &mut volume.image {
        let policy = pull_policy(image.reference.as_deref().unwrap_or_default());
        set(&mut image.pull_policy, policy);
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(size) = volume
        .empty_dir
        .as_mut()
        .and_then(|e| e.size_limit.as_mut())
        && let Ok(quantity) = Quantity::parse(&size.0)
    {
        size.0 = quantity.to_string();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(DEFAULT_FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(DEFAULT_FILE_MODE);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        set(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(DEFAULT_FILE_MODE);
        let fields = downward.items.iter_mut().flatten();
        fields
            .filter_map(|i| i.field_ref.as_mut())
            .for_each(field_defaults);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(DEFAULT_FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(downward) = &mut source.downward_api {
                let fields = downward.items.iter_mut().flatten();
                fields
                    .filter_map(|i| i.field_ref.as_mut())
                    .for_each(field_defaults);
            }
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(3600);
            }
        }
    }
    retired_volume_defaults(volume);
}

/// Kinds of volumes that no kubelet mounts any more, but that a manifest may still name.
fn retired_volume_defaults(volume: &mut Volume) {
    if let Some(rbd) = &mut volume.rbd {
        set(&mut rbd.pool, "rbd");
        set(&mut rbd.user, "admin");
        set(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        disk.caching_mode.get_or_insert_with(|| "ReadWrite".into());
        disk.fs_type.get_or_insert_with(|| "ext4".into());
        disk.read_only.get_or_insert(false);
        disk.kind.get_or_insert_with(|| "Shared".into());
    }
    if let Some(scale_io) = &mut volume.scale_io {
        set(&mut scale_io.storage_mode, "ThinProvisioned");
        set(&mut scale_io.fs_type, "xfs");
    }
    let template = volume
        .ephemeral
        .as_mut()
        .and_then(|e| e.volume_claim_template.as_mut());
    if let Some(template) = template {
        template
            .spec
            .volume_mode
            .get_or_insert_with(|| "Filesystem".into());
        if let Some(resources) = &mut template.spec.resources {
            canonical(resources.limits.as_mut());
            canonical(resources.requests.as_mut());
        }
    }
}

fn has_no_source(volume: &Volume) -> bool {
    let named_only = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    *volume == named_only
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// KEP-2837: where a pod says something of its own resources, the rest follows from its containers, then its limits.
fn pod_level_resources(spec: &mut PodSpec) {
    let Some(mut resources) = spec.resources.take() else {
        return;
    };
    canonical(resources.limits.as_mut());
    canonical(resources.requests.as_mut());
    let nonempty = |a: &Option<Amounts>| a.as_ref().is_some_and(|a| !a.is_empty());
    if nonempty(&resources.limits) || nonempty(&resources.requests) {
        let huge = aggregate(spec, |r| r.limits.as_ref());
        for (name, amount) in huge.into_iter().filter(|(name, _)| is_huge_page(name)) {
            let requested = resources
                .requests
                .as_ref()
                .is_some_and(|r| r.contains_key(&name));
            if !requested {
                let limits = resources.limits.get_or_insert_default();
                limits.entry(name).or_insert(amount);
            }
        }
    }
    if nonempty(&resources.limits) {
        let requests = resources.requests.get_or_insert_default();
        for (name, amount) in aggregate(spec, |r| r.requests.as_ref()) {
            if matches!(name.as_str(), "cpu" | "memory") {
                requests.entry(name).or_insert(amount);
            }
        }
        for (name, limit) in resources.limits.iter().flatten() {
            if matches!(name.as_str(), "cpu" | "memory") || is_huge_page(name) {
                requests
                    .entry(name.clone())
                    .or_insert_with(|| limit.clone());
            }
        }
        if requests.is_empty() {
            resources.requests = None;
        }
    }
    spec.resources = Some(resources);
}

/// What the containers need together: the sum of those that run side by side, or what one init container needs beside
/// the sidecars started before it, whichever is more.
pub(crate) fn aggregate(
    spec: &PodSpec,
    of: impl Fn(&ResourceRequirements) -> Option<&Amounts>,
) -> Amounts {
    let read = |container: &Container| -> BTreeMap<String, Quantity> {
        let amounts = container
            .resources
            .as_ref()
            .and_then(&of)
            .into_iter()
            .flatten();
        amounts
            .filter_map(|(name, q)| Some((name.clone(), Quantity::parse(&q.0).ok()?)))
            .collect()
    };
    let add = |sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>| {
        for (name, amount) in more {
            let total = sum
                .get(name)
                .map_or_else(|| amount.clone(), |s| s.plus(amount));
            sum.insert(name.clone(), total);
        }
    };
    let mut running = BTreeMap::new();
    spec.containers
        .iter()
        .for_each(|c| add(&mut running, &read(c)));
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needs = read(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &needs);
            add(&mut sidecars, &needs);
            needs.clone_from(&sidecars);
        } else {
            add(&mut needs, &sidecars);
        }
        for (name, amount) in needs {
            if peak.get(&name).is_none_or(|p| *p < amount) {
                peak.insert(name, amount);
            }
        }
    }
    for (name, amount) in peak {
        if running.get(&name).is_none_or(|r| *r < amount) {
            running.insert(name, amount);
        }
    }
    let text = |(name, amount): (String, Quantity)| (name, RawQuantity(amount.to_string()));
    running.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests;
