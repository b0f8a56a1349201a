//! The flags of the kubelet v1.36: names, types, defaults and what they set. The names are the interface.

use super::Group::{
    self, Api, Eviction, General, Images, Leftover, Logging, Managers, Network, Node, Pods,
    Resources, Security, Server,
};
use super::Syntax::{
    self, Bool, Duration, Headers, Int32, Int64, Ip, Labels, Pairs, PairsBelow, PairsBool,
    PairsWhole, Quantity, ReservedMemory, Taints, Text, Texts, Uint32, VModule, Version,
};
use super::{Deprecation, Flag, Target};

/// A flag that sets the field `path` of KubeletConfiguration; nearly all of them are deprecated.
const fn config(
    name: &'static str,
    syntax: Syntax,
    path: &'static str,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short: None,
        syntax,
        target: Target::Field(path),
        default: "",
        deprecation: Deprecation::UseFile,
        group,
        help,
        built: true,
    }
}

/// A flag that is no field of KubeletConfiguration.
const fn own(
    name: &'static str,
    syntax: Syntax,
    default: &'static str,
    group: Group,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        short: None,
        syntax,
        target: Target::Own,
        default,
        deprecation: Deprecation::None,
        group,
        help,
        built: false,
    }
}

impl Flag {
    const fn built(mut self) -> Self {
        self.built = true;
        self
    }

    const fn kept(mut self) -> Self {
        self.deprecation = Deprecation::None;
        self
    }

    const fn deprecated(mut self, because: &'static str) -> Self {
        self.deprecation = Deprecation::Because(because);
        self
    }

    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }
}

/// A flag of cAdvisor that upstream registered by mistake and still accepts.
const fn leftover(name: &'static str, syntax: Syntax, default: &'static str) -> Flag {
    own(
        name,
        syntax,
        default,
        Leftover,
        "A flag of cAdvisor; accepted, without effect.",
    )
    .deprecated("This is a cadvisor flag that was mistakenly registered with the Kubelet.")
}

const USE_EVICTION: &str = "Use --eviction-hard or --eviction-soft instead.";

/// Every flag.
#[rustfmt::skip]
pub(crate) static FLAGS: &[Flag] = &[
    // General.
    own("config", Text, "", General, "The KubeletConfiguration file to start from. Flags win over it. Without it the built-in defaults apply.").built(),
    own("config-dir", Text, "", General, "A directory of drop-in files (*.conf, in lexical order, subdirectories included) that are merged over --config.").built(),
    own("agent-config", Text, "", General, "A file of settings that are this agent's own (kind AgentConfiguration).").built(),
    own("kubeconfig", Text, "", General, "How to reach the API server. Without it the node runs standalone.").built(),
    own("bootstrap-kubeconfig", Text, "", General, "The kubeconfig that gets a client certificate when the file of --kubeconfig does not exist yet.").built(),
    own("root-dir", Text, "/var/lib/kubelet", General, "The directory the agent keeps its files in.").built(),
    own("cert-dir", Text, "/var/lib/kubelet/pki", General, "The directory of TLS certificates. Not used when --tls-cert-file and --tls-private-key-file are given.").built(),
    own("lock-file", Text, "", General, "A file to lock, for two agents that hand a node over.").built(),
    own("exit-on-lock-contention", Bool, "false", General, "Exit when another process opens the lock file. Needs --lock-file.").built(),
    own("help", Bool, "false", General, "Print this text.").built().short('h'),
    own("version", Version, "false", General, "Print the version and exit; --version=raw prints all there is to know of it.").built(),
    config("feature-gates", PairsBool, "featureGates", General, "Feature gates to set, such as A=true,B=false. The flag wins over the file gate by gate."),
    config("max-open-files", Int64, "maxOpenFiles", General, "How many files the agent may have open."),
    config("oom-score-adj", Int32, "oomScoreAdj", General, "The agent's oom_score_adj, -1000 to 1000."),
    config("runonce", Bool, "runOnce", General, "Removed from the kubelet; true is refused."),
    // Node.
    own("hostname-override", Text, "", Node, "The node's name, in place of the host's.").built(),
    own("node-ip", Text, "", Node, "The node's address, or two of them with a comma between, one of each family.").built(),
    own("node-labels", Labels, "", Node, "Labels for the node when it registers, k=v with commas between.").built(),
    own("cloud-provider", Text, "", Node, "Empty, or external when a cloud controller runs in the cluster.").built(),
    config("provider-id", Text, "providerID", Node, "What identifies the node in a database of machines.").kept(),
    config("register-node", Bool, "registerNode", Node, "Register the node with the API server."),
    config("register-with-taints", Taints, "registerWithTaints", Node, "Taints to register with, key=value:Effect with commas between."),
    config("node-status-update-frequency", Duration, "nodeStatusUpdateFrequency", Node, "How often the node's status is computed."),
    config("node-status-max-images", Int32, "nodeStatusMaxImages", Node, "Most images named in the node's status; -1 for all."),
    config("max-pods", Int32, "maxPods", Node, "Most pods that run on the node."),
    config("pods-per-core", Int32, "podsPerCore", Node, "Most pods for each core, below --max-pods; 0 for no such limit."),
    config("fail-swap-on", Bool, "failSwapOn", Node, "Refuse to start while swap is on."),
    config("fail-cgroupv1", Bool, "failCgroupV1", Node, "Refuse to start on a host with cgroup v1.").kept(),
    config("protect-kernel-defaults", Bool, "protectKernelDefaults", Node, "Refuse to start when a kernel tunable is not what the agent expects, instead of setting it."),
    config("enable-controller-attach-detach", Bool, "enableControllerAttachDetach", Node, "Leave attaching volumes to the controller."),
    config("volume-plugin-dir", Text, "volumePluginDir", Node, "The directory of volume plugins."),
    config("volume-stats-agg-period", Duration, "volumeStatsAggPeriod", Node, "How often disk usage of volumes is computed; negative for never."),
    config("local-storage-capacity-isolation", Bool, "localStorageCapacityIsolation", Node, "Whether ephemeral storage is a resource of the node."),
    // Pods and the runtime.
    config("pod-manifest-path", Text, "staticPodPath", Pods, "A directory of static pod manifests, or one manifest."),
    config("sync-frequency", Duration, "syncFrequency", Pods, "Longest time between two looks at a pod."),
    config("file-check-frequency", Duration, "fileCheckFrequency", Pods, "How often the manifest directory is read again."),
    config("http-check-frequency", Duration, "httpCheckFrequency", Pods, "How often the manifest URL is read."),
    config("manifest-url", Text, "staticPodURL", Pods, "A URL of static pod manifests."),
    config("manifest-url-header", Headers, "staticPodURLHeader", Pods, "Headers for the manifest URL, name:value with commas between; may be repeated."),
    config("container-runtime-endpoint", Text, "containerRuntimeEndpoint", Pods, "The CRI socket of the container runtime."),
    config("image-service-endpoint", Text, "imageServiceEndpoint", Pods, "The CRI socket of the image service, when it is not the runtime's."),
    config("runtime-request-timeout", Duration, "runtimeRequestTimeout", Pods, "How long a call to the runtime may take, pulls, logs, exec and attach apart."),
    config("pod-max-pids", Int64, "podPidsLimit", Pods, "Most processes of a pod; -1 for what the node has."),
    config("container-log-max-size", Text, "containerLogMaxSize", Pods, "Size at which a container's log is rotated."),
    config("container-log-max-files", Int32, "containerLogMaxFiles", Pods, "Most log files of a container, at least 2."),
    config("allowed-unsafe-sysctls", Texts, "allowedUnsafeSysctls", Pods, "Unsafe sysctls that pods may set; a name may end in *."),
    own("minimum-container-ttl-duration", Duration, "0s", Pods, "Least age of an ended container before it is removed.").deprecated(USE_EVICTION),
    own("maximum-dead-containers-per-container", Int32, "1", Pods, "Most ended instances kept for each container.").deprecated(USE_EVICTION),
    own("maximum-dead-containers", Int32, "-1", Pods, "Most ended instances kept in all; negative for no limit.").deprecated(USE_EVICTION),
    own("experimental-mounter-path", Text, "", Pods, "A program that mounts network file systems: it is given mount and its arguments.").built().deprecated("will be removed in 1.25 or later. in favor of using CSI."),
    // Server.
    config("enable-server", Bool, "enableServer", Server, "Serve the kubelet's HTTP API."),
    config("address", Ip, "address", Server, "The address to serve on; 0.0.0.0 or :: for all."),
    config("port", Int32, "port", Server, "The port of the kubelet's API."),
    config("read-only-port", Int32, "readOnlyPort", Server, "The port of the unauthenticated read-only API; 0 for none."),
    config("healthz-port", Int32, "healthzPort", Server, "The port of healthz; 0 for none."),
    config("healthz-bind-address", Ip, "healthzBindAddress", Server, "The address healthz serves on."),
    config("enable-debugging-handlers", Bool, "enableDebuggingHandlers", Server, "Serve logs, exec, attach and port-forward."),
    config("contention-profiling", Bool, "enableContentionProfiling", Server, "Serve profiles of lock contention."),
    config("streaming-connection-idle-timeout", Duration, "streamingConnectionIdleTimeout", Server, "How long a stream may be idle; 0 for ever."),
    // Security.
    config("anonymous-auth", Bool, "authentication.anonymous.enabled", Security, "Let requests without credentials in, as system:anonymous."),
    config("authentication-token-webhook", Bool, "authentication.webhook.enabled", Security, "Ask the API server about bearer tokens."),
    config("authentication-token-webhook-cache-ttl", Duration, "authentication.webhook.cacheTTL", Security, "How long an answer about a token holds."),
    config("client-ca-file", Text, "authentication.x509.clientCAFile", Security, "Certificates that sign client certificates."),
    config("authorization-mode", Text, "authorization.mode", Security, "AlwaysAllow, or Webhook to ask the API server."),
    config("authorization-webhook-cache-authorized-ttl", Duration, "authorization.webhook.cacheAuthorizedTTL", Security, "How long a yes of the webhook holds."),
    config("authorization-webhook-cache-unauthorized-ttl", Duration, "authorization.webhook.cacheUnauthorizedTTL", Security, "How long a no of the webhook holds."),
    config("tls-cert-file", Text, "tlsCertFile", Security, "The serving certificate. Without it one is made and kept in --cert-dir."),
    config("tls-private-key-file", Text, "tlsPrivateKeyFile", Security, "The key of --tls-cert-file."),
    config("tls-cipher-suites", Texts, "tlsCipherSuites", Security, "Cipher suites of the server, by their Go names."),
    config("tls-min-version", Text, "tlsMinVersion", Security, "VersionTLS10, VersionTLS11, VersionTLS12 or VersionTLS13."),
    config("rotate-certificates", Bool, "rotateCertificates", Security, "Renew the client certificate before it ends."),
    config("rotate-server-certificates", Bool, "serverTLSBootstrap", Security, "Get the serving certificate from the API server and renew it."),
    own("seccomp-default", Bool, "false", Security, "Give every container that asks for nothing else the profile RuntimeDefault.").built(),
    // Images.
    config("registry-qps", Int32, "registryPullQPS", Images, "Most pulls a second; 0 for no limit."),
    config("registry-burst", Int32, "registryBurst", Images, "Most pulls at once under --registry-qps."),
    config("serialize-image-pulls", Bool, "serializeImagePulls", Images, "Pull one image at a time."),
    config("minimum-image-ttl-duration", Duration, "imageMinimumGCAge", Images, "Least age of an unused image before it is removed."),
    config("image-gc-high-threshold", Int32, "imageGCHighThresholdPercent", Images, "Percent of the disk above which images are removed."),
    config("image-gc-low-threshold", Int32, "imageGCLowThresholdPercent", Images, "Percent of the disk at which removing images stops."),
    own("image-credential-provider-config", Text, "", Images, "The credential provider configuration, a file or a directory of them.").built(),
    own("image-credential-provider-bin-dir", Text, "", Images, "The directory of credential provider binaries.").built(),
    // API server.
    config("kube-api-content-type", Text, "contentType", Api, "Content type of requests to the API server."),
    config("kube-api-qps", Int32, "kubeAPIQPS", Api, "Most requests a second to the API server."),
    config("kube-api-burst", Int32, "kubeAPIBurst", Api, "Most requests at once under --kube-api-qps."),
    config("event-qps", Int32, "eventRecordQPS", Api, "Most events a second."),
    config("event-burst", Int32, "eventBurst", Api, "Most events at once under --event-qps."),
    // Cgroups and resources.
    own("runtime-cgroups", Text, "", Resources, "The cgroup of the container runtime."),
    config("kubelet-cgroups", Text, "kubeletCgroups", Resources, "The cgroup of the agent itself."),
    config("system-cgroups", Text, "systemCgroups", Resources, "The cgroup for all other processes. Needs --cgroup-root."),
    config("cgroup-root", Text, "cgroupRoot", Resources, "The cgroup that pods live under."),
    config("cgroup-driver", Text, "cgroupDriver", Resources, "cgroupfs or systemd; the runtime's own answer wins."),
    config("cgroups-per-qos", Bool, "cgroupsPerQOS", Resources, "A cgroup for each QoS class and each pod."),
    config("cpu-cfs-quota", Bool, "cpuCFSQuota", Resources, "Enforce CPU limits with CFS quota."),
    config("cpu-cfs-quota-period", Duration, "cpuCFSQuotaPeriod", Resources, "The CFS period, 1ms to 1s."),
    config("system-reserved", Pairs, "systemReserved", Resources, "Resources kept for the system, such as cpu=200m,memory=500Mi."),
    config("kube-reserved", Pairs, "kubeReserved", Resources, "Resources kept for the node's Kubernetes parts."),
    config("system-reserved-cgroup", Text, "systemReservedCgroup", Resources, "The cgroup of what --system-reserved is for."),
    config("kube-reserved-cgroup", Text, "kubeReservedCgroup", Resources, "The cgroup of what --kube-reserved is for."),
    config("enforce-node-allocatable", Texts, "enforceNodeAllocatable", Resources, "none, or some of pods, system-reserved, kube-reserved, system-reserved-compressible, kube-reserved-compressible."),
    config("qos-reserved", Pairs, "qosReserved", Resources, "Share of a resource kept for a QoS class, such as memory=50%."),
    config("kernel-memcg-notification", Bool, "kernelMemcgNotification", Resources, "Let the kernel tell of memory thresholds."),
    // Resource managers.
    config("reserved-cpus", Text, "reservedSystemCPUs", Managers, "CPUs kept for the system, such as 0-1,4."),
    config("cpu-manager-policy", Text, "cpuManagerPolicy", Managers, "none or static."),
    config("cpu-manager-policy-options", PairsWhole, "cpuManagerPolicyOptions", Managers, "Options of the CPU manager's policy."),
    config("cpu-manager-reconcile-period", Duration, "cpuManagerReconcilePeriod", Managers, "How often CPU sets are checked."),
    config("memory-manager-policy", Text, "memoryManagerPolicy", Managers, "None or Static."),
    config("reserved-memory", ReservedMemory, "reservedMemory", Managers, "Memory kept on each NUMA node, such as 0:memory=1Gi,hugepages-1Gi=2Gi;1:memory=1Gi."),
    config("topology-manager-policy", Text, "topologyManagerPolicy", Managers, "none, best-effort, restricted or single-numa-node."),
    config("topology-manager-scope", Text, "topologyManagerScope", Managers, "container or pod."),
    config("topology-manager-policy-options", Pairs, "topologyManagerPolicyOptions", Managers, "Options of the topology manager's policy."),
    // Eviction.
    config("eviction-hard", PairsBelow, "evictionHard", Eviction, "Thresholds that evict at once, such as memory.available<1Gi."),
    config("eviction-soft", PairsBelow, "evictionSoft", Eviction, "Thresholds that evict after a grace period."),
    config("eviction-soft-grace-period", Pairs, "evictionSoftGracePeriod", Eviction, "Grace periods of soft thresholds, such as memory.available=1m30s."),
    config("eviction-pressure-transition-period", Duration, "evictionPressureTransitionPeriod", Eviction, "How long a pressure condition stays after the pressure is gone."),
    config("eviction-max-pod-grace-period", Int32, "evictionMaxPodGracePeriod", Eviction, "Most seconds a softly evicted pod gets; negative for the pod's own."),
    config("eviction-minimum-reclaim", Pairs, "evictionMinimumReclaim", Eviction, "Least amount to win back, such as imagefs.available=2Gi."),
    own("experimental-allocatable-ignore-eviction", Bool, "false", Eviction, "Leave hard thresholds out of allocatable.").deprecated("will be removed in 1.25 or later."),
    // Network.
    config("cluster-dns", Texts, "clusterDNS", Network, "Addresses of the cluster's DNS service."),
    config("cluster-domain", Text, "clusterDomain", Network, "The cluster's domain."),
    config("resolv-conf", Text, "resolvConf", Network, "The resolver configuration that pods' own begins with."),
    config("pod-cidr", Text, "podCIDR", Network, "Addresses of pods; standalone only."),
    config("hairpin-mode", Text, "hairpinMode", Network, "promiscuous-bridge, hairpin-veth or none."),
    config("make-iptables-util-chains", Bool, "makeIPTablesUtilChains", Network, "Keep the KUBE-KUBELET-CANARY rules."),
    // Logging.
    config("v", Uint32, "logging.verbosity", Logging, "How much is logged; 4 and more is debugging.").kept().short('v'),
    config("vmodule", VModule, "logging.vmodule", Logging, "Verbosity of single modules, pattern=N with commas between; text format only.").kept(),
    config("log-flush-frequency", Duration, "logging.flushFrequency", Logging, "Accepted; each line is written at once.").kept(),
    config("logging-format", Text, "logging.format", Logging, "text or json."),
    config("log-text-split-stream", Bool, "logging.options.text.splitStream", Logging, "Text: messages that are no errors to stdout."),
    config("log-text-info-buffer-size", Quantity, "logging.options.text.infoBufferSize", Logging, "Text: how much of stdout to buffer."),
    config("log-json-split-stream", Bool, "logging.options.json.splitStream", Logging, "JSON: messages that are no errors to stdout."),
    config("log-json-info-buffer-size", Quantity, "logging.options.json.infoBufferSize", Logging, "JSON: how much of stdout to buffer."),
    // Left over from cAdvisor.
    own("housekeeping-interval", Duration, "10s", Leftover, "How often container statistics are read; they are read when asked for."),
    own("max-housekeeping-interval", Duration, "15s", Leftover, "As --housekeeping-interval."),
    leftover("application-metrics-count-limit", Int64, "100"),
    leftover("boot-id-file", Text, "/proc/sys/kernel/random/boot_id"),
    leftover("container-hints", Text, "/etc/cadvisor/container_hints.json"),
    leftover("containerd", Text, "/run/containerd/containerd.sock"),
    leftover("containerd-namespace", Text, "k8s.io"),
    leftover("enable-load-reader", Bool, "false"),
    leftover("event-storage-age-limit", Text, "default=0"),
    leftover("event-storage-event-limit", Text, "default=0"),
    leftover("global-housekeeping-interval", Duration, "1m0s"),
    leftover("log-cadvisor-usage", Bool, "false"),
    leftover("machine-id-file", Text, "/etc/machine-id,/var/lib/dbus/machine-id"),
    leftover("storage-driver-buffer-duration", Duration, "1m0s"),
    leftover("storage-driver-db", Text, "cadvisor"),
    leftover("storage-driver-host", Text, "localhost:8086"),
    leftover("storage-driver-password", Text, "root"),
    leftover("storage-driver-secure", Bool, "false"),
    leftover("storage-driver-table", Text, "stats"),
    leftover("storage-driver-user", Text, "root"),
];
