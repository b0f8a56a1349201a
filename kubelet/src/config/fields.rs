//! The fields of KubeletConfiguration (`kubelet.config.k8s.io/v1beta1`) at v1.36: name, type, default.
//!
//! Names and types are those of `k8s.io/kubelet/config/v1beta1`, defaults those of its `SetDefaults`; both are the
//! interface, and must match.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Float,
    Text,
    /// A path; a relative one is relative to the file that names it.
    Path,
    /// An IP address as text.
    Ip,
    /// A Go duration as text.
    Duration,
    /// A Go duration as text, or a number of nanoseconds (`logging.flushFrequency` is older than the text form).
    DurationOrNanos,
    /// A resource quantity: text, or a whole number.
    Quantity,
    TextList,
    Int32List,
    TextMap,
    BoolMap,
    QuantityMap,
    /// Name of a header to its values.
    TextListMap,
    /// A list of objects with these fields.
    Objects(&'static [Field]),
}

impl Kind {
    /// What a message says was expected.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Int32 | Self::Int64 => "a whole number",
            Self::Uint32 => "a whole number not below zero",
            Self::Float => "a number",
            Self::Text | Self::Path => "text",
            Self::Ip => "an IP address",
            Self::Duration | Self::DurationOrNanos => "a duration such as 1m30s",
            Self::Quantity => "a quantity such as 10Mi",
            Self::TextList => "a list of text",
            Self::Int32List => "a list of whole numbers",
            Self::TextMap => "a map of text to text",
            Self::BoolMap => "a map of names to true or false",
            Self::QuantityMap => "a map of names to quantities",
            Self::TextListMap => "a map of names to lists of text",
            Self::Objects(_) => "a list of objects",
        }
    }
}

/// A default value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Preset {
    /// None: empty text, zero, an absent list.
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, a path, an address, a duration.
    Text(&'static str),
    List(&'static [&'static str]),
}

/// One field.
#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    /// The path from the root of the document, dots between.
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    pub(crate) preset: Preset,
    /// Whether zero, empty text or an empty duration in a file means the default.
    pub(crate) zero_is_default: bool,
    /// Whether the agent acts on the field; one it does not is named in a warning when it is set.
    pub(crate) built: bool,
}

const fn field(path: &'static str, kind: Kind, preset: Preset) -> Field {
    Field {
        path,
        kind,
        preset,
        zero_is_default: false,
        built: false,
    }
}

impl Field {
    /// Zero in a file means the default.
    const fn zero(mut self) -> Self {
        self.zero_is_default = true;
        self
    }

    /// The agent acts on it.
    const fn built(mut self) -> Self {
        self.built = true;
        self
    }
}

/// The field at `path`.
pub(crate) fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Whether a field is of the server of `port` alone, and so of nobody where `enableServer` is false.
pub(crate) fn of_server(path: &str) -> bool {
    const GROUPS: [&str; 3] = ["tls", "authentication.", "authorization."];
    const FIELDS: [&str; 9] = [
        "port",
        "serverTLSBootstrap",
        "enableDebuggingHandlers",
        "enableContentionProfiling",
        "streamingConnectionIdleTimeout",
        "enableSystemLogHandler",
        "enableSystemLogQuery",
        "enableProfilingHandler",
        "enableDebugFlagsHandler",
    ];
    GROUPS.iter().any(|group| path.starts_with(group)) || FIELDS.contains(&path)
}

use Kind::{
    Bool, BoolMap, Duration, DurationOrNanos, Float, Int32, Int32List, Int64, Ip, Objects, Path,
    Quantity, QuantityMap, Text, TextList, TextListMap, TextMap, Uint32,
};
use Preset::{Bool as B, Float as F, Int as I, List as L, None as N, Text as T};

/// Every field, group by group.
#[rustfmt::skip]
pub(crate) static FIELDS: &[Field] = &[
    field("apiVersion", Text, N).built(),
    field("kind", Text, N).built(),
    // Sources of pods.
    field("enableServer", Bool, B(true)).built(),
    field("staticPodPath", Path, N).built(),
    field("podLogsDir", Path, T("/var/log/pods")).zero().built(),
    field("syncFrequency", Duration, T("1m0s")).zero().built(),
    field("fileCheckFrequency", Duration, T("20s")).zero().built(),
    field("httpCheckFrequency", Duration, T("20s")).zero(),
    field("staticPodURL", Text, N),
    field("staticPodURLHeader", TextListMap, N),
    // Server.
    field("address", Ip, T("0.0.0.0")).zero().built(),
    field("port", Int32, I(10250)).zero().built(),
    field("readOnlyPort", Int32, I(0)).built(),
    field("tlsCertFile", Path, N).built(),
    field("tlsPrivateKeyFile", Path, N).built(),
    field("tlsCipherSuites", TextList, N).built(),
    field("tlsCurvePreferences", Int32List, N),
    field("tlsMinVersion", Text, N).built(),
    field("rotateCertificates", Bool, B(false)).built(),
    field("serverTLSBootstrap", Bool, B(false)).built(),
    field("authentication.x509.clientCAFile", Path, N).built(),
    field("authentication.webhook.enabled", Bool, B(true)).built(),
    field("authentication.webhook.cacheTTL", Duration, T("2m0s")).zero().built(),
    field("authentication.anonymous.enabled", Bool, B(false)).built(),
    field("authorization.mode", Text, T("Webhook")).zero().built(),
    field("authorization.webhook.cacheAuthorizedTTL", Duration, T("5m0s")).zero().built(),
    field("authorization.webhook.cacheUnauthorizedTTL", Duration, T("30s")).zero().built(),
    field("enableDebuggingHandlers", Bool, B(true)).built(),
    field("enableContentionProfiling", Bool, B(false)),
    field("healthzPort", Int32, I(10248)).built(),
    field("healthzBindAddress", Ip, T("127.0.0.1")).zero().built(),
    field("streamingConnectionIdleTimeout", Duration, T("4h0m0s")).zero().built(),
    field("enableSystemLogHandler", Bool, B(true)).built(),
    field("enableSystemLogQuery", Bool, B(false)),
    field("enableProfilingHandler", Bool, B(true)).built(),
    field("enableDebugFlagsHandler", Bool, B(true)).built(),
    field("showHiddenMetricsForVersion", Text, N),
    // Images.
    field("registryPullQPS", Int32, I(5)).built(),
    field("registryBurst", Int32, I(10)).zero().built(),
    field("imagePullCredentialsVerificationPolicy", Text, T("NeverVerifyPreloadedImages")).zero().built(),
    field("preloadedImagesVerificationAllowlist", TextList, N).built(),
    field("imageMinimumGCAge", Duration, T("2m0s")).zero().built(),
    field("imageMaximumGCAge", Duration, T("0s")).built(),
    field("imageGCHighThresholdPercent", Int32, I(85)).built(),
    field("imageGCLowThresholdPercent", Int32, I(80)).built(),
    field("serializeImagePulls", Bool, B(true)).built(),
    field("maxParallelImagePulls", Int32, N).built(),
    field("imageServiceEndpoint", Text, N).built(),
    // Events and the API server.
    field("eventRecordQPS", Int32, I(50)).built(),
    field("eventBurst", Int32, I(100)).zero().built(),
    field("contentType", Text, T("application/vnd.kubernetes.protobuf")).zero(),
    field("kubeAPIQPS", Int32, I(50)).built(),
    field("kubeAPIBurst", Int32, I(100)).zero().built(),
    // Node.
    field("nodeStatusUpdateFrequency", Duration, T("10s")).zero().built(),
    field("nodeStatusReportFrequency", Duration, T("5m0s")).zero().built(),
    field("nodeLeaseDurationSeconds", Int32, I(40)).zero().built(),
    field("nodeStatusMaxImages", Int32, I(50)).built(),
    field("registerNode", Bool, B(true)).built(),
    field("registerWithTaints", Objects(TAINT), N).built(),
    field("providerID", Text, N).built(),
    field("maxPods", Int32, I(110)).zero().built(),
    field("podsPerCore", Int32, I(0)).built(),
    field("podCIDR", Text, N),
    field("podPidsLimit", Int64, I(-1)).built(),
    field("enableControllerAttachDetach", Bool, B(true)).built(),
    field("volumePluginDir", Path, T("/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")).zero(),
    field("volumeStatsAggPeriod", Duration, T("1m0s")).zero().built(),
    field("localStorageCapacityIsolation", Bool, B(true)).built(),
    // Runtime.
    field("containerRuntimeEndpoint", Text, T("unix:///run/containerd/containerd.sock")).zero().built(),
    field("runtimeRequestTimeout", Duration, T("2m0s")).zero().built(),
    field("seccompDefault", Bool, B(false)).built(),
    field("userNamespaces.idsPerPod", Int64, N).built(),
    field("crashLoopBackOff.maxContainerRestartPeriod", Duration, T("5m0s")).built(),
    field("configMapAndSecretChangeDetectionStrategy", Text, T("Watch"))
        .zero()
        .built(),
    field("runOnce", Bool, B(false)).built(),
    // Process.
    field("oomScoreAdj", Int32, I(-999)).built(),
    field("maxOpenFiles", Int64, I(1_000_000)).zero().built(),
    // Cgroups and resources.
    field("kubeletCgroups", Text, N),
    field("systemCgroups", Text, N),
    field("cgroupRoot", Text, N).built(),
    field("cgroupsPerQOS", Bool, B(true)).built(),
    field("cgroupDriver", Text, T("cgroupfs")).zero().built(),
    field("singleProcessOOMKill", Bool, N).built(),
    field("cpuCFSQuota", Bool, B(true)).built(),
    field("cpuCFSQuotaPeriod", Duration, T("100ms")).built(),
    field("systemReserved", TextMap, N).built(),
    field("kubeReserved", TextMap, N).built(),
    field("reservedSystemCPUs", Text, N).built(),
    field("systemReservedCgroup", Text, N).built(),
    field("kubeReservedCgroup", Text, N).built(),
    field("enforceNodeAllocatable", TextList, L(&["pods"])).built(),
    field("qosReserved", TextMap, N).built(),
    field("failSwapOn", Bool, B(true)).built(),
    field("memorySwap.swapBehavior", Text, N).built(),
    field("failCgroupV1", Bool, B(true)).built(),
    field("memoryThrottlingFactor", Float, F(0.9)).built(),
    field("memoryReservationPolicy", Text, T("None")).zero().built(),
    field("protectKernelDefaults", Bool, B(false)),
    field("kernelMemcgNotification", Bool, B(false)).built(),
    // Resource managers.
    field("cpuManagerPolicy", Text, T("none")).zero().built(),
    field("cpuManagerPolicyOptions", TextMap, N).built(),
    field("cpuManagerReconcilePeriod", Duration, T("10s")).zero().built(),
    field("memoryManagerPolicy", Text, T("None")).zero().built(),
    field("reservedMemory", Objects(RESERVED_MEMORY), N).built(),
    field("topologyManagerPolicy", Text, T("none")).zero().built(),
    field("topologyManagerScope", Text, T("container")).zero().built(),
    field("topologyManagerPolicyOptions", TextMap, N).built(),
    // Eviction.
    field("evictionHard", TextMap, N).built(),
    field("evictionSoft", TextMap, N).built(),
    field("evictionSoftGracePeriod", TextMap, N).built(),
    field("evictionPressureTransitionPeriod", Duration, T("5m0s"))
        .zero()
        .built(),
    field("evictionMaxPodGracePeriod", Int32, I(0)).built(),
    field("evictionMinimumReclaim", TextMap, N).built(),
    field("mergeDefaultEvictionSettings", Bool, B(false)).built(),
    // Network.
    field("clusterDomain", Text, N).built(),
    field("clusterDNS", TextList, N).built(),
    field("resolvConf", Path, T("/etc/resolv.conf")).built(),
    field("hairpinMode", Text, T("promiscuous-bridge")).zero(),
    field("makeIPTablesUtilChains", Bool, B(true)),
    field("iptablesMasqueradeBit", Int32, I(14)),
    field("iptablesDropBit", Int32, I(15)),
    field("allowedUnsafeSysctls", TextList, N).built(),
    // Logs.
    field("containerLogMaxSize", Text, T("10Mi")).zero().built(),
    field("containerLogMaxFiles", Int32, I(5)).built(),
    field("containerLogMaxWorkers", Int32, I(1)).built(),
    field("containerLogMonitorInterval", Duration, T("10s")).built(),
    field("logging.format", Text, T("text")).zero().built(),
    field("logging.flushFrequency", DurationOrNanos, T("5s")).zero().built(),
    field("logging.verbosity", Uint32, I(0)).built(),
    field("logging.vmodule", Objects(VMODULE), N).built(),
    field("logging.options.text.splitStream", Bool, B(false)),
    field("logging.options.text.infoBufferSize", Quantity, T("0")),
    field("logging.options.json.splitStream", Bool, B(false)),
    field("logging.options.json.infoBufferSize", Quantity, T("0")),
    field("tracing.endpoint", Text, N),
    field("tracing.samplingRatePerMillion", Int32, N),
    // Shutdown.
    field("shutdownGracePeriod", Duration, T("0s")).built(),
    field("shutdownGracePeriodCriticalPods", Duration, T("0s")).built(),
    field("shutdownGracePeriodByPodPriority", Objects(PRIORITY_PERIOD), N).built(),
    field("featureGates", BoolMap, N).built(),
];

#[rustfmt::skip]
static TAINT: &[Field] = &[
    field("key", Text, N),
    field("value", Text, N),
    field("effect", Text, N),
    field("timeAdded", Text, N),
];

#[rustfmt::skip]
static RESERVED_MEMORY: &[Field] = &[
    field("numaNode", Int32, N),
    field("limits", QuantityMap, N),
];

#[rustfmt::skip]
static PRIORITY_PERIOD: &[Field] = &[
    field("priority", Int32, N),
    field("shutdownGracePeriodSeconds", Int64, N),
];

#[rustfmt::skip]
static VMODULE: &[Field] = &[
    field("filePattern", Text, N),
    field("verbosity", Uint32, N),
];

/// The fields of the file of `--agent-config`.
pub(crate) static AGENT_FIELDS: &[Field] = &[
    field("apiVersion", Text, N).built(),
    field("kind", Text, N).built(),
    field("builtInSandboxImage", Bool, N).built(),
    field("checkpointAPIPods", Bool, N).built(),
    field("execVerb", Text, N).built(),
    field("imageArchives", Text, N).built(),
    field("restoreAPIPods", Text, N).built(),
    field("restoreAPIPodsMaxAge", Duration, N).built(),
    field("socket", Text, N).built(),
    field("startConcurrency", Int32, N).built(),
    field("staticPodObjects", Text, N).built(),
    field("staticPodObjectsDirectory", Text, N).built(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_api_is_there_once() {
        // The leaves of KubeletConfiguration v1.36, apiVersion and kind counted.
        assert_eq!(FIELDS.len(), 140);
        for (index, field) in FIELDS.iter().enumerate() {
            assert!(
                FIELDS[..index].iter().all(|other| other.path != field.path),
                "{}",
                field.path
            );
        }
    }

    #[test]
    fn cgroup_v1_is_refused_by_default() {
        let fail = find("failCgroupV1").unwrap();
        assert_eq!(fail.preset, Preset::Bool(true));
    }
}
