//! `/metrics`: what the agent counts of its own work, and what it knows of its pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{MetricsApi, process};
use crate::cgroups::Version;
use crate::config::{KUBERNETES_VERSION, Stage, known_gates};
use crate::csi::Usage;
use crate::metrics::{Exposition, Family, float, kubelet};
use crate::node;
use crate::objects::objects_of;
use crate::pod::{self, Pod, PodName, PodUid};
use crate::runtime::ContainerState;
use crate::stats::{self, ClaimUsage, Stats, StatsError, StatsInputs, Taken};
use crate::status::PodView;
use crate::volumes;

const ACTIVE_PODS: Family = Family::gauge(
    "kubelet_active_pods",
    "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
);
const DESIRED_PODS: Family = Family::gauge(
    "kubelet_desired_pods",
    "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
);
const MIRROR_PODS: Family = Family::gauge(
    "kubelet_mirror_pods",
    "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)",
);
const EPHEMERAL_CONTAINERS: Family = Family::gauge(
    "kubelet_managed_ephemeral_containers",
    "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.",
);
const CGROUP_VERSION: Family = Family::gauge(
    "kubelet_cgroup_version",
    "[ALPHA] cgroup version on the hosts.",
);
const PULL_INTENTS: Family = Family::gauge(
    "kubelet_imagemanager_ondisk_pullintents",
    "[ALPHA] Number of ImagePullIntents stored on disk.",
);
const PULLED_RECORDS: Family = Family::gauge(
    "kubelet_imagemanager_ondisk_pulledrecords",
    "[ALPHA] Number of ImagePulledRecords stored on disk.",
);
const CREDENTIAL_PROVIDERS: Family = Family::gauge(
    "kubelet_credential_provider_config_info",
    "[ALPHA] Information about the last applied credential provider configuration with hash as label",
);
const LOGS: Family = Family::gauge(
    "kubelet_container_log_filesystem_used_bytes",
    "[ALPHA] Bytes used by the container's logs on the filesystem.",
);
const NODE_NAME: Family = Family::gauge(
    "kubelet_node_name",
    "[ALPHA] The node's name. The count is always 1.",
);
const RUNNING_CONTAINERS: Family = Family::gauge(
    "kubelet_running_containers",
    "[ALPHA] Number of containers currently running",
);
const RUNNING_PODS: Family = Family::gauge(
    "kubelet_running_pods",
    "[ALPHA] Number of pods that have a running pod sandbox",
);
const BUILD: Family = Family::gauge(
    "kubernetes_build_info",
    "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
);
const FEATURES: Family = Family::gauge(
    "kubernetes_feature_enabled",
    "[BETA] This metric records the data about the stage and enablement of a k8s feature.",
);
const TOTAL_VOLUMES: Family = Family::gauge(
    "volume_manager_total_volumes",
    "[ALPHA] Number of volumes in Volume Manager",
);

/// A family of claims' volumes, and which number of theirs it has.
type OfClaims = (Family, fn(&Usage) -> Option<u64>);

const CLAIMS: [OfClaims; 7] = [
    (
        Family::gauge(
            "kubelet_volume_stats_available_bytes",
            "[ALPHA] Number of available bytes in the volume",
        ),
        |usage| Some(usage.bytes.available),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_capacity_bytes",
            "[ALPHA] Capacity in bytes of the volume",
        ),
        |usage| Some(usage.bytes.capacity),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_health_status_abnormal",
            "[ALPHA] Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
        ),
        |usage| Some(u64::from(usage.condition.as_ref()?.abnormal)),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_inodes",
            "[ALPHA] Maximum number of inodes in the volume",
        ),
        |usage| Some(usage.inodes.capacity),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_inodes_free",
            "[ALPHA] Number of free inodes in the volume",
        ),
        |usage| Some(usage.inodes.available),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_inodes_used",
            "[ALPHA] Number of used inodes in the volume",
        ),
        |usage| Some(usage.inodes.used),
    ),
    (
        Family::gauge(
            "kubelet_volume_stats_used_bytes",
            "[ALPHA] Number of used bytes in the volume",
        ),
        |usage| Some(usage.bytes.used),
    ),
];

pub(super) async fn write(api: &Arc<MetricsApi>) -> Result<String, StatsError> {
    let this = Arc::clone(api);
    let claims = api.stats.claims().await;
    // Logs and volumes are looked up on the disk.
    let written = tokio::task::spawn_blocking(move || write_now(&this, &claims));
    written.await.map_err(StatsError::from)
}

fn write_now(api: &MetricsApi, claims: &[ClaimUsage]) -> String {
    let inputs = api.stats.inputs();
    let mut out = Exposition::new();
    let views = inputs.board.snapshot();
    of_pods(&mut out, api, &views);
    of_logs(&mut out, inputs, &views);
    out.single(
        CGROUP_VERSION,
        match inputs.cgroups.version() {
            Version::V1 => 1.0,
            Version::V2 => 2.0,
        },
    );
    out.family(NODE_NAME)
        .sample(&[("node", &inputs.node_name)], 1.0);
    of_runtime(&mut out, inputs);
    kubelet().write(&mut out, api.joined, inputs.clock.wall().as_second());
    of_build(&mut out);
    of_features(&mut out, api);
    process::write(&mut out);
    if let Some(pulls) = &inputs.pulls {
        let (under_way, pulled) = pulls.counts();
        out.single(PULL_INTENTS, count(under_way));
        out.single(PULLED_RECORDS, count(pulled));
    }
    if let Some(hash) = &inputs.providers {
        out.family(CREDENTIAL_PROVIDERS)
            .sample(&[("hash", hash)], 1.0);
    }
    of_volumes(&mut out, inputs, &views);
    of_claims(&mut out, &api.stats, &views, claims);
    out.into_text()
}

fn count(number: usize) -> f64 {
    float(u64::try_from(number).unwrap_or(u64::MAX))
}

fn of_pods(out: &mut Exposition, api: &MetricsApi, views: &[PodView]) {
    for (family, counts) in [
        (
            ACTIVE_PODS,
            (|view: &PodView| !view.status.phase.is_terminal()) as fn(&PodView) -> bool,
        ),
        (DESIRED_PODS, |_| true),
    ] {
        out.family(family);
        // Upstream's value for pods of the API server is the empty one.
        for (value, is_static) in [("", false), ("true", true)] {
            let of_kind = views
                .iter()
                .filter(|view| pod::is_static(&view.pod) == is_static && counts(view));
            out.sample(&[("static", value)], count(of_kind.count()));
        }
    }
    let ephemeral = views
        .iter()
        .map(|view| pod::ephemeral_containers(&view.pod).count());
    out.single(EPHEMERAL_CONTAINERS, count(ephemeral.sum()));
    let has_mirror = |pod: &Pod| pod::is_static(pod) && objects_of(pod).next().is_none();
    let mirrored = views
        .iter()
        .filter(|view| api.joined && has_mirror(&view.pod));
    out.single(MIRROR_PODS, count(mirrored.count()));
}

fn of_logs(out: &mut Exposition, inputs: &StatsInputs, views: &[PodView]) {
    out.family(LOGS);
    for view in views {
        let Ok(uid) = PodUid::of(&view.pod) else {
            continue;
        };
        let name = PodName::of(&view.pod);
        for container in containers(&view.pod) {
            let Ok(Some(dir)) = inputs.logs.container_dir(&name, &uid, &container) else {
                continue;
            };
            let Taken { bytes, .. } = stats::of_files(&dir);
            let labels = [
                ("container", container.as_str()),
                ("namespace", &name.namespace),
                ("pod", &name.name),
                ("uid", uid.as_str()),
            ];
            out.sample(&labels, float(bytes));
        }
    }
}

fn containers(pod: &Pod) -> Vec<String> {
    let mut names: Vec<String> = pod::containers(pod)
        .map(|(_, container)| container.name.clone())
        .collect();
    names.extend(pod::ephemeral_containers(pod).map(|container| container.name));
    names
}

/// What the runtime last showed of all pods, those that nobody wants among them.
fn of_runtime(out: &mut Exposition, inputs: &StatsInputs) {
    let mut pods = 0usize;
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for observed in inputs.observer.all() {
        pods += usize::from(observed.sandboxes.iter().any(|sandbox| sandbox.ready));
        for container in &observed.containers {
            let state = match container.state {
                ContainerState::Created => "created",
                ContainerState::Running => "running",
                ContainerState::Exited => "exited",
                ContainerState::Unknown => "unknown",
            };
            *states.entry(state).or_default() += 1;
        }
    }
    out.family(RUNNING_CONTAINERS);
    for (state, number) in states {
        out.sample(&[("container_state", state)], count(number));
    }
    out.single(RUNNING_PODS, count(pods));
}

/// The Kubernetes version that is spoken; the agent itself is no Go program.
fn of_build(out: &mut Exposition) {
    let version = KUBERNETES_VERSION;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next(), parts.next());
    let platform = format!("linux/{}", node::architecture());
    let labels = [
        ("build_date", "1970-01-01T00:00:00Z"),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", version),
        ("go_version", ""),
        ("major", major.unwrap_or_default()),
        ("minor", minor.unwrap_or_default()),
        ("platform", &platform),
    ];
    out.family(BUILD).sample(&labels, 1.0);
}

fn of_features(out: &mut Exposition, api: &MetricsApi) {
    out.family(FEATURES);
    for gate in known_gates() {
        let stage = match gate.stage {
            // Upstream has no word for it here.
            Stage::Ga => "",
            stage => stage.as_str(),
        };
        let enabled = f64::from(u8::from(api.gates.enabled(gate.name)));
        out.sample(&[("name", gate.name), ("stage", stage)], enabled);
    }
}

/// What volumes take that pods have by way of claims: each claim once, however many pods have it.
fn of_claims(out: &mut Exposition, stats: &Stats, views: &[PodView], driven: &[ClaimUsage]) {
    let mut claims = BTreeMap::new();
    for view in views {
        let Ok(uid) = PodUid::of(&view.pod) else {
            continue;
        };
        let namespace = PodName::of(&view.pod).namespace;
        for volume in stats.claimed_volumes(&uid) {
            let usage = volume.usage();
            let claim = volume.claim.unwrap_or_default();
            claims.insert((namespace.to_string(), claim), usage);
        }
    }
    for claim in driven {
        if let Some(name) = &claim.claim {
            let key = (claim.namespace.to_string(), name.clone());
            claims.insert(key, claim.usage.clone());
        }
    }
    if claims.is_empty() {
        return;
    }
    for (family, number) in CLAIMS {
        out.family(family);
        for ((namespace, claim), usage) in &claims {
            let Some(number) = number(usage) else {
                continue;
            };
            let labels = [
                ("namespace", &**namespace),
                ("persistentvolumeclaim", &**claim),
            ];
            out.sample(&labels, float(number));
        }
    }
}

/// Volumes that the pods want, and those that are set up.
fn of_volumes(out: &mut Exposition, inputs: &StatsInputs, views: &[PodView]) {
    let mut counts: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for view in views.iter().filter(|view| !view.status.phase.is_terminal()) {
        let Ok(uid) = PodUid::of(&view.pod) else {
            continue;
        };
        for (plugin, names) in volumes::present(&inputs.dirs, &uid) {
            let known = counts.entry((plugin, "actual_state_of_world"));
            *known.or_default() += names;
        }
        for volume in pod::spec(&view.pod).volumes.iter().flatten() {
            if let Some(plugin) = volumes::plugin(volume) {
                let known = counts.entry((plugin, "desired_state_of_world"));
                *known.or_default() += 1;
            }
        }
    }
    out.family(TOTAL_VOLUMES);
    for ((plugin, state), number) in &counts {
        out.sample(&[("plugin_name", plugin), ("state", state)], count(*number));
    }
}
