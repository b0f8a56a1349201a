//! From the configuration to the tools that workers work with.

use std::path::Path;
use std::sync::Arc;

use cri_proto::Connection;
use tokio::sync::watch;

use super::images::{archives_config, image_puller};
use super::levels::NodeLevels;
use super::managers::managers;
use super::{AgentError, Surroundings, resources};
use crate::admission::sysctls::{SysctlAllowlist, kernel_version};
use crate::admission::{self, NodeFeatures, Taint};
use crate::cgroups::resources::{CpuQuotaConfig, NodeCapacity, ResourceList};
use crate::cgroups::{self, Cgroups, CgroupsConfig, Driver, SystemdConfig, Version};
use crate::claims::Claims;
use crate::clock::SinceBoot;
use crate::config::{CgroupDriver, Config, StaticPodObjects};
use crate::csi::{self, Csi, CsiConfig};
use crate::events::About;
use crate::hooks::HookRunner;
use crate::images::archives::ImageArchives;
use crate::logs::{LogsConfig, PodLogs};
use crate::node;
use crate::objects::{LocalObjects, Objects, Projections};
use crate::observe::Observer;
use crate::poddir::PodDirs;
use crate::probes::Prober;
use crate::quotas::{self, Quotas};
use crate::runtime::convert::dns::{self, DnsSettings, ResolvConf};
use crate::runtime::convert::{NodeSettings, default_masked_paths};
use crate::runtime_class::RuntimeClasses;
use crate::userns::{self, UserNamespaces};
use crate::volumes::{self, Volumes, VolumesConfig};
use crate::workers::{Network, NodeFacts, StartPermits, StuckPods, Tools};

/// What upstream's `CgroupV1` event says (KEP-5573).
const CGROUP_V1: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";

/// What upstream says of tmpfs that may be swapped out.
const TMPFS_SWAPS: &str = "The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) might be swapped to disk and should no longer be considered secure.";

/// The feature gate of project quotas.
const COUNTED_VOLUMES: &str = "LocalStorageCapacityIsolationFSQuotaMonitoring";

const SELINUX_ENFORCE: &str = "/sys/fs/selinux/enforce";
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// Pods started at once for each core: with more, each start only takes longer.
const STARTS_PER_CORE: usize = 2;

/// Checks the machine, makes the directories and the cgroups, and puts the tools together.
pub(super) fn tools(
    config: &Config,
    surroundings: Surroundings,
    (runtime, images): (&Connection, &Connection),
    local: watch::Receiver<Arc<LocalObjects>>,
) -> Result<Tools, AgentError> {
    check_machine(config)?;
    // First of all: how much disk there is for pods is asked of the root directory.
    let dirs = PodDirs::new(&config.paths.root)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = NodeCapacity {
        memory_bytes: node::memory_bytes()?,
        huge_page_sizes: cgroups::huge_page_sizes(Path::new(resources::HUGE_PAGES)),
    };
    let for_pods = resources::resources(config, &capacity, cores)?.allocatable;
    let allocatable = resources::quantities(&for_pods);
    let version = Cgroups::detect(Path::new(cgroups::MOUNT_ROOT))?;
    let cgroups = cgroups_config(config, &capacity, cores, version, &allocatable)?;
    let cgroups = Cgroups::new(cgroups)?;
    check_resolv_conf(config);
    let user_namespaces = UserNamespaces::open(
        dirs.clone(),
        Path::new(userns::USERS),
        config.runtime.ids_per_pod,
        config.node.max_pods,
    )?;
    let (devices, managers) = managers(config, &capacity, &surroundings.clock)?;
    let logs = PodLogs::new(LogsConfig {
        pod_logs_dir: config.paths.pod_logs.clone(),
        links_dir: surroundings.log_links,
    })?;
    let volumes = Volumes::new(
        dirs.clone(),
        VolumesConfig {
            mounter: config.paths.mounter.clone(),
            allocatable_memory_bytes: resources::memory_of(&allocatable),
        },
    );
    let counted = config.gates.enabled(COUNTED_VOLUMES);
    let quotas = counted.then(|| Quotas::open(Path::new(quotas::ETC), dirs.all()));
    let volumes = volumes.with_quotas(quotas);
    let client = runtime.runtime();
    let boot = surroundings.clock.since_boot();
    let clock = surroundings.clock.clone();
    let objects = objects(config, local);
    let starts = config
        .agent
        .start_concurrency
        .map_or(cores * STARTS_PER_CORE, |n| n.get() as usize);
    Ok(Tools {
        prober: Arc::new(Prober::new(client.clone(), surroundings.clock.clone())),
        clock: surroundings.clock,
        observer: Observer::new(client.clone(), dirs.clone(), logs.clone()),
        hooks: HookRunner::new(client.clone()),
        lives: watch::Sender::default(),
        reclaim: watch::Sender::default(),
        runtime_classes: RuntimeClasses::default(),
        stuck: StuckPods::default(),
        runtime: client,
        images: image_puller(config, &clock, &objects, images)?,
        archives: Arc::new(ImageArchives::new(
            images.channel(),
            archives_config(config),
        )),
        objects,
        claims: Claims::new(dirs.clone()),
        volumes: Arc::new(volumes),
        csi: Csi::new(csi_config(config, &boot), dirs.clone()),
        node: node_facts(config, capacity, allocatable, for_pods, cgroups.version())?,
        devices,
        managers: Arc::new(managers),
        user_namespaces,
        cgroups: Arc::new(cgroups),
        dirs,
        logs,
        board: surroundings.board,
        starts: StartPermits::new(starts),
        network: Network::default(),
    })
}

/// What pods may refer to: at the API server, and in manifests.
fn objects(config: &Config, local: watch::Receiver<Arc<LocalObjects>>) -> Objects {
    let objects = match config.api {
        Some(_) => Objects::of_cluster(Projections {
            trust_bundles: config.gates.enabled("ClusterTrustBundleProjection"),
            certificates: config.gates.enabled("PodCertificateRequest"),
        }),
        None => Objects::standalone(),
    };
    match (
        &config.sources.static_pod_path,
        config.agent.static_pod_objects,
    ) {
        (None, _) | (_, StaticPodObjects::Never) => objects,
        (Some(directory), _) => objects.with_local(local, directory),
    }
}

fn csi_config(config: &Config, boot: &Option<SinceBoot>) -> CsiConfig {
    CsiConfig {
        root: config.paths.root.clone(),
        node: config.node.name.clone(),
        boot: boot
            .as_ref()
            .map(|boot| boot.boot.to_string())
            .unwrap_or_default(),
        joins: config.api.is_some(),
        controller_attaches: config.node.controller_attach_detach,
        republish_every: config.sources.sync_every,
        file_context: csi::file_context(Path::new(SELINUX_ENFORCE), Path::new("/etc/selinux")),
        asks_condition: config.gates.enabled("CSIVolumeHealth"),
    }
}

/// What upstream refuses to start on.
fn check_machine(config: &Config) -> Result<(), AgentError> {
    let swaps = node::swaps()?;
    if config.node.fail_on_swap && !swaps.is_empty() {
        return Err(AgentError::Swap(swaps));
    }
    if !swaps.is_empty() && !volumes::tmpfs_noswap() {
        About::node(&config.node.name).warning("PossibleMemoryBackedVolumesOnDisk", TMPFS_SWAPS);
    }
    if Cgroups::detect(Path::new(cgroups::MOUNT_ROOT))? == Version::V1 {
        if config.node.fail_on_cgroup_v1 {
            return Err(AgentError::CgroupV1);
        }
        if config.cgroups.limited_swap {
            return Err(AgentError::LimitedSwap);
        }
        About::node(&config.node.name).warning("CgroupV1", CGROUP_V1);
    }
    Ok(())
}

fn cpu_quota(config: &Config) -> CpuQuotaConfig {
    CpuQuotaConfig {
        enabled: config.cgroups.cpu_quota,
        period: config.cgroups.cpu_quota_period,
    }
}

fn cgroups_config(
    config: &Config,
    capacity: &NodeCapacity,
    cores: usize,
    version: Version,
    allocatable: &ResourceList,
) -> Result<CgroupsConfig, AgentError> {
    let cpus = std::fs::read_to_string(POSSIBLE_CPUS).ok();
    Ok(CgroupsConfig {
        mount_root: cgroups::MOUNT_ROOT.into(),
        cgroup_root: config.cgroups.root.clone(),
        per_qos: config.cgroups.per_qos,
        cpu_quota: cpu_quota(config),
        pod_pids_limit: config
            .node
            .pod_pids_limit
            .and_then(|limit| i64::try_from(limit).ok()),
        node: resources::node_limits(config, capacity, cores)?,
        memory_qos: resources::memory_qos(config, version),
        class_reserve: resources::class_reserve(config, allocatable)?,
        huge_page_sizes: capacity.huge_page_sizes.clone(),
        cpus: cpus.map(|cpus| cpus.trim().to_owned()),
        systemd: SystemdConfig::default(),
    })
}

/// What makes the cgroups above the pods, once the runtime has said how.
pub(super) fn node_levels(config: &Config, tools: &Tools) -> Result<NodeLevels, AgentError> {
    Ok(NodeLevels {
        cgroups: tools.cgroups.clone(),
        runtime: tools.runtime.clone(),
        configured: match config.cgroups.driver {
            CgroupDriver::Cgroupfs => Driver::Cgroupfs,
            CgroupDriver::Systemd => Driver::Systemd,
        },
        per_qos: config.cgroups.per_qos,
        reserved: resources::reserved_levels(config)?,
        node_name: config.node.name.clone(),
    })
}

/// Says what is wrong with the file that pods' DNS settings are made from. It is read anew for each pod.
fn check_resolv_conf(config: &Config) {
    let Some(path) = &config.network.resolv_conf else {
        return;
    };
    let domain = config.network.cluster_domain.as_deref().unwrap_or_default();
    let wrong = match std::fs::read_to_string(path) {
        Ok(text) => match ResolvConf::parse(&text) {
            Ok(conf) => dns::excess(path, &conf, domain),
            Err(error) => Some(error.to_string()),
        },
        Err(error) => Some(format!("open {}: {error}", path.display())),
    };
    if let Some(wrong) = wrong {
        About::node(&config.node.name).warning("CheckLimitsForResolvConf", &wrong);
    }
}

fn node_facts(
    config: &Config,
    capacity: NodeCapacity,
    allocatable: ResourceList,
    for_pods: admission::Amounts,
    version: Version,
) -> Result<NodeFacts, AgentError> {
    let v2 = version == Version::V2;
    let ips = match config
        .node
        .ips
        .iter()
        .copied()
        .filter(|ip| !ip.is_unspecified())
        .collect::<Vec<_>>()
    {
        none if none.is_empty() => node::default_route_addresses(),
        configured => configured,
    };
    let swap_controller = cgroups::limits_swap(
        version,
        Path::new(cgroups::MOUNT_ROOT),
        &node::own_cgroup_v2(),
    );
    let possible_cpus = std::fs::read_to_string(POSSIBLE_CPUS).unwrap_or_default();
    let cluster_domain = config.network.cluster_domain.clone().unwrap_or_default();
    let settings = NodeSettings {
        cluster_domain: cluster_domain.clone(),
        seccomp_root: config.paths.root.join("seccomp"),
        seccomp_default: config.runtime.seccomp_default,
        masked_paths: default_masked_paths(&possible_cpus, Path::exists),
        selinux: Path::new(SELINUX_ENFORCE).exists(),
        cgroup_v2: v2,
        group_oom_kill: v2 && !config.cgroups.single_process_oom_kill.unwrap_or(false),
        stop_signals: config.gates.enabled("ContainerStopSignals"),
        env_files: config.gates.enabled("EnvFiles"),
        swap_controller,
        limited_swap: match config.cgroups.limited_swap && v2 && swap_controller {
            true => Some(node::swap_bytes()?),
            false => None,
        },
        memory_qos: resources::memory_qos(config, version),
        page_bytes: rustix::param::page_size(),
        capacity,
        cpu_quota: cpu_quota(config),
        allocatable,
        host_ips: ips.clone(),
    };
    let status_ips = match &config.api {
        Some(_) => ips.as_slice().into(),
        None => Arc::default(),
    };
    let dns = DnsSettings {
        cluster_dns: config.network.cluster_dns.clone(),
        cluster_domain,
        resolv_conf: None,
        node_ips: ips,
    };
    let taints = config.node.taints.iter().map(|taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
    });
    let admission = admission::Node {
        features: node_features(config)?,
        allocatable: for_pods,
        taints: taints.collect(),
    };
    Ok(NodeFacts {
        settings,
        dns,
        resolv_conf: config.network.resolv_conf.clone(),
        admission: Arc::new(admission),
        status_ips,
        pin_retry: config.managers.cpu_reconcile_every,
        device_health: config.gates.enabled("ResourceHealthStatus"),
        crash_loop_cap: config.runtime.max_restart_backoff,
    })
}

/// What a node with this configuration can do for a pod.
pub(crate) fn node_features(config: &Config) -> Result<NodeFeatures, AgentError> {
    let kernel = kernel_version(&node::kernel_release()?).unwrap_or_default();
    Ok(NodeFeatures {
        node_name: config.node.name.clone(),
        labels: node::initial_labels(config),
        sysctls: SysctlAllowlist::new(kernel, &config.runtime.allowed_unsafe_sysctls)?,
        app_armor: node::has_apparmor(),
        pod_level_resources: true,
        hugepages: true,
        api_server: config.api.is_some(),
        ..NodeFeatures::default()
    })
}
