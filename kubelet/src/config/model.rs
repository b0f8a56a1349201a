//! What the agent is told to do: validated, typed, inert. The rest of the agent sees nothing else of flags and files.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::agent::AgentSettings;
use super::credential_providers::CredentialProviders;
use super::flags::FlagValues;
use super::gates::FeatureGates;
use crate::logging;

/// The whole configuration of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node.
    pub node: NodeConfig,
    /// Directories.
    pub paths: Paths,
    /// Where pods come from.
    pub sources: SourcesConfig,
    /// The API server; absent on a standalone node.
    pub api: Option<ApiConfig>,
    /// What is served, and to whom.
    pub server: ServerConfig,
    /// The container runtime.
    pub runtime: RuntimeConfig,
    /// Pulling and removing images.
    pub images: ImagesConfig,
    /// Cgroups and reserved resources.
    pub cgroups: CgroupsConfig,
    /// CPU, memory and topology managers.
    pub managers: ManagersConfig,
    /// Eviction.
    pub eviction: EvictionConfig,
    /// Pods' network settings.
    pub network: NetworkConfig,
    /// Containers' logs.
    pub container_logs: ContainerLogsConfig,
    /// Shutdown of the node.
    pub shutdown: ShutdownConfig,
    /// The agent's own process.
    pub process: ProcessConfig,
    /// The agent's own log.
    pub logging: logging::Settings,
    /// Feature gates.
    pub gates: FeatureGates,
    /// Settings that are this agent's own, from `--agent-config`.
    pub agent: AgentSettings,
}

/// The node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name: `--hostname-override` or the host's, trimmed, in lower case.
    pub name: String,
    /// The host's name as the kernel has it.
    pub hostname: String,
    /// `--node-ip`: none, one, or one of each family.
    pub ips: Vec<IpAddr>,
    /// `--node-labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether `--cloud-provider=external`.
    pub external_cloud: bool,
    /// `providerID`.
    pub provider_id: Option<String>,
    /// `registerNode`.
    pub register: bool,
    /// `registerWithTaints`.
    pub taints: Vec<NodeTaint>,
    /// `maxPods`.
    pub max_pods: u32,
    /// `podsPerCore`; none for no such limit.
    pub pods_per_core: Option<u32>,
    /// `podPidsLimit`; none for the node's.
    pub pod_pids_limit: Option<u64>,
    /// `nodeStatusUpdateFrequency`.
    pub status_update_every: Duration,
    /// `nodeStatusReportFrequency`.
    pub status_report_every: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease: Duration,
    /// `nodeStatusMaxImages`; none for all.
    pub status_max_images: Option<u32>,
    /// `volumeStatsAggPeriod`; none where nobody is to look at what volumes take (negative).
    pub volume_stats_every: Option<Duration>,
    /// `enableControllerAttachDetach`.
    pub controller_attach_detach: bool,
    /// `localStorageCapacityIsolation`.
    pub local_storage_isolation: bool,
    /// `failSwapOn`.
    pub fail_on_swap: bool,
    /// `failCgroupV1`.
    pub fail_on_cgroup_v1: bool,
    /// `protectKernelDefaults`.
    pub protect_kernel_defaults: bool,
}

/// A taint the node registers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTaint {
    /// Its key.
    pub key: String,
    /// Its value, may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Directories, all absolute.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `--root-dir`.
    pub root: PathBuf,
    /// `--cert-dir`.
    pub certificates: PathBuf,
    /// `podLogsDir`.
    pub pod_logs: PathBuf,
    /// `volumePluginDir`.
    pub volume_plugins: PathBuf,
    /// `--experimental-mounter-path`: what mounts network file systems; none for mount(8) itself.
    pub mounter: Option<PathBuf>,
}

/// Text that may be a credential: no log line shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Where pods come from.
#[derive(Clone, Debug)]
pub struct SourcesConfig {
    /// `staticPodPath`: a directory or one file.
    pub static_pod_path: Option<PathBuf>,
    /// `staticPodURL`.
    pub static_pod_url: Option<String>,
    /// `staticPodURLHeader`, a name once for each value.
    pub static_pod_url_headers: Vec<(String, Secret)>,
    /// `fileCheckFrequency`.
    pub file_check_every: Duration,
    /// `httpCheckFrequency`.
    pub http_check_every: Duration,
    /// `syncFrequency`: the longest a worker goes without a look at its pod.
    pub sync_every: Duration,
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times a second; none for no limit.
    pub per_second: Option<u32>,
    /// How many at once.
    pub burst: u32,
}

/// The API server.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// `--kubeconfig`. The file may not exist yet while there is a bootstrap one.
    pub kubeconfig: PathBuf,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `rotateCertificates`.
    pub rotate_client_certificate: bool,
    /// `contentType`.
    pub content_type: String,
    /// `kubeAPIQPS` and `kubeAPIBurst`.
    pub rate: Rate,
    /// `eventRecordQPS` and `eventBurst`.
    pub event_rate: Rate,
}

/// What is served.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Plain `/healthz`; none when `healthzPort` is 0.
    pub healthz: Option<SocketAddr>,
    /// The authenticated API (port 10250).
    pub main: Option<SocketAddr>,
    /// The unauthenticated read-only API (port 10255).
    pub read_only: Option<SocketAddr>,
    /// Who may use the authenticated API.
    pub access: AccessConfig,
    /// `tlsCertFile` and `tlsPrivateKeyFile`.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// `tlsCipherSuites`, Go's names.
    pub tls_cipher_suites: Vec<String>,
    /// Whether `tlsMinVersion` is `VersionTLS13`. Anything older means TLS 1.2: there is nothing before it.
    pub only_tls13: bool,
    /// `serverTLSBootstrap`.
    pub tls_from_api: bool,
    /// `enableDebuggingHandlers`.
    pub debugging_handlers: bool,
    /// `streamingConnectionIdleTimeout`.
    pub streaming_idle_timeout: Duration,
    /// `enableSystemLogHandler`.
    pub system_log_handler: bool,
    /// `enableSystemLogQuery`.
    pub system_log_query: bool,
    /// `enableProfilingHandler`.
    pub profiling_handler: bool,
    /// `enableDebugFlagsHandler`.
    pub debug_flags_handler: bool,
    /// The whole KubeletConfiguration in use, JSON, for `/configz`; without credentials.
    pub configz: Arc<str>,
    /// The flags of the command line, for `/flagz`.
    pub flags: FlagValues,
}

/// Who may use the authenticated API.
#[derive(Clone, Debug)]
pub struct AccessConfig {
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// `authentication.webhook`: how long an answer holds, when it is on.
    pub token_webhook: Option<Duration>,
    /// `authentication.x509.clientCAFile`.
    pub client_ca: Option<PathBuf>,
    /// `authorization`.
    pub authorization: Authorization,
}

/// Who decides what a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Everybody may do everything.
    AlwaysAllow,
    /// The API server decides.
    Webhook {
        /// How long a yes holds.
        authorized_for: Duration,
        /// How long a no holds.
        unauthorized_for: Duration,
    },
}

/// The container runtime.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The socket of the runtime service.
    pub socket: PathBuf,
    /// The socket of the image service; the same, when it is not set.
    pub image_socket: PathBuf,
    /// `runtimeRequestTimeout`.
    pub request_timeout: Duration,
    /// `seccompDefault` or `--seccomp-default`.
    pub seccomp_default: bool,
    /// `crashLoopBackOff.maxContainerRestartPeriod`.
    pub max_restart_backoff: Duration,
    /// `userNamespaces.idsPerPod`.
    pub ids_per_pod: u32,
    /// `allowedUnsafeSysctls`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `configMapAndSecretChangeDetectionStrategy`.
    pub change_detection: ChangeDetection,
}

/// How changes of configMaps and secrets are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeDetection {
    /// Asked for at each sync.
    Get,
    /// Asked for when a copy is old.
    Cache,
    /// Watched.
    Watch,
}

/// Images.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// How many pulls run at once; none for no limit, 1 for `serializeImagePulls`.
    pub parallel_pulls: Option<u32>,
    /// `registryPullQPS` and `registryBurst`.
    pub pull_rate: Rate,
    /// `imageMinimumGCAge`.
    pub minimum_age: Duration,
    /// `imageMaximumGCAge`; none for no such limit.
    pub maximum_age: Option<Duration>,
    /// `imageGCHighThresholdPercent`.
    pub high_threshold_percent: u8,
    /// `imageGCLowThresholdPercent`.
    pub low_threshold_percent: u8,
    /// `imagePullCredentialsVerificationPolicy`.
    pub credentials_verification: String,
    /// `preloadedImagesVerificationAllowlist`.
    pub preloaded_allowlist: Vec<String>,
    /// What `--image-credential-provider-config` and `--image-credential-provider-bin-dir` name.
    pub credential_providers: Option<CredentialProviders>,
}

/// A cgroup driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Directories below `/sys/fs/cgroup`.
    Cgroupfs,
    /// Slices of systemd.
    Systemd,
}

/// Cgroups and reserved resources.
#[derive(Clone, Debug)]
pub struct CgroupsConfig {
    /// `cgroupDriver`; the runtime's own answer wins over it.
    pub driver: CgroupDriver,
    /// `cgroupRoot`; empty for the root.
    pub root: String,
    /// `cgroupsPerQOS`.
    pub per_qos: bool,
    /// `kubeletCgroups`.
    pub kubelet: Option<String>,
    /// `systemCgroups`.
    pub system: Option<String>,
    /// `--runtime-cgroups`.
    pub runtime: Option<String>,
    /// `cpuCFSQuota`.
    pub cpu_quota: bool,
    /// `cpuCFSQuotaPeriod`.
    pub cpu_quota_period: Duration,
    /// `systemReserved`.
    pub system_reserved: BTreeMap<String, String>,
    /// `kubeReserved`.
    pub kube_reserved: BTreeMap<String, String>,
    /// `systemReservedCgroup`.
    pub system_reserved_cgroup: Option<String>,
    /// `kubeReservedCgroup`.
    pub kube_reserved_cgroup: Option<String>,
    /// `enforceNodeAllocatable`, without `none`.
    pub enforce_allocatable: Vec<String>,
    /// `qosReserved`.
    pub qos_reserved: BTreeMap<String, String>,
    /// `memorySwap.swapBehavior` is `LimitedSwap`.
    pub limited_swap: bool,
    /// `singleProcessOOMKill`; none for what the cgroup version does.
    pub single_process_oom_kill: Option<bool>,
    /// `kernelMemcgNotification`.
    pub memory_notice: bool,
    /// `memoryThrottlingFactor`.
    pub memory_throttling_factor: f64,
    /// `memoryReservationPolicy` is `TieredReservation`.
    pub memory_reservation: bool,
}

/// CPU, memory and topology managers, by the names of their policies.
#[derive(Clone, Debug)]
pub struct ManagersConfig {
    /// `reservedSystemCPUs`, such as `0-1,4`.
    pub reserved_cpus: Option<String>,
    /// `cpuManagerPolicy`.
    pub cpu_policy: String,
    /// `cpuManagerPolicyOptions`.
    pub cpu_policy_options: BTreeMap<String, String>,
    /// `cpuManagerReconcilePeriod`.
    pub cpu_reconcile_every: Duration,
    /// `memoryManagerPolicy`.
    pub memory_policy: String,
    /// `reservedMemory`: amounts by resource, of NUMA nodes.
    pub reserved_memory: Vec<(u32, BTreeMap<String, String>)>,
    /// `topologyManagerPolicy`.
    pub topology_policy: String,
    /// `topologyManagerScope`.
    pub topology_scope: String,
    /// `topologyManagerPolicyOptions`.
    pub topology_policy_options: BTreeMap<String, String>,
}

/// Eviction, as written: the eviction room reads the signals.
#[derive(Clone, Debug)]
pub struct EvictionConfig {
    /// `evictionHard`: signal to threshold, defaults filled in where upstream does.
    pub hard: BTreeMap<String, String>,
    /// `evictionSoft`.
    pub soft: BTreeMap<String, String>,
    /// `evictionSoftGracePeriod`.
    pub soft_grace_period: BTreeMap<String, String>,
    /// `evictionMinimumReclaim`.
    pub minimum_reclaim: BTreeMap<String, String>,
    /// `evictionPressureTransitionPeriod`.
    pub pressure_transition: Duration,
    /// `evictionMaxPodGracePeriod`, seconds; none for the pod's own.
    pub max_pod_grace_seconds: Option<u32>,
}

/// Pods' network settings.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`.
    pub cluster_domain: Option<String>,
    /// `resolvConf`; none when it is empty: pods get no resolver configuration of the node.
    pub resolv_conf: Option<PathBuf>,
    /// `podCIDR`, standalone only.
    pub pod_cidr: Option<String>,
    /// `makeIPTablesUtilChains`.
    pub iptables_chains: bool,
}

/// Containers' logs.
#[derive(Clone, Debug)]
pub struct ContainerLogsConfig {
    /// `containerLogMaxSize`, bytes; none when it is negative: no rotation.
    pub max_size: Option<u64>,
    /// `containerLogMaxFiles`.
    pub max_files: u32,
    /// `containerLogMaxWorkers`.
    pub workers: u32,
    /// `containerLogMonitorInterval`.
    pub check_every: Duration,
}

/// Shutdown of the node.
#[derive(Clone, Debug)]
pub struct ShutdownConfig {
    /// `shutdownGracePeriod`; zero for none.
    pub grace_period: Duration,
    /// `shutdownGracePeriodCriticalPods`, part of the above.
    pub critical_pods: Duration,
    /// `shutdownGracePeriodByPodPriority`: priority and period.
    pub by_priority: Vec<(i32, Duration)>,
}

/// The agent's own process.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// `oomScoreAdj`.
    pub oom_score_adj: i32,
    /// `maxOpenFiles`.
    pub max_open_files: u64,
    /// `--lock-file`.
    pub lock_file: Option<PathBuf>,
    /// `--exit-on-lock-contention`.
    pub exit_on_lock_contention: bool,
}
