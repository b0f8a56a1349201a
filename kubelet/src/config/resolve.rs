//! From settings that passed validation to the typed configuration.

mod managers;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use static_pods::quantity::Quantity;

use super::agent::AgentSettings;
use super::document::document;
use super::flags::{CommandLine, FlagValues};
use super::gates::FeatureGates;
use super::issue::Issue;
use super::model::*;
use super::node::NodeFlags;
use super::settings::Settings;
use crate::logging;
use crate::managers::CpuSet;

/// Hard eviction thresholds of a Linux node whose file has no `evictionHard`
/// (`pkg/kubelet/eviction/defaults_linux.go`).
const DEFAULT_EVICTION_HARD: &[(&str, &str)] = &[
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
];
/// User ids of a pod's user namespace when `userNamespaces.idsPerPod` is not set.
const DEFAULT_IDS_PER_POD: u32 = 65536;

/// Where each part of the configuration is taken from.
pub(super) struct Resolver<'a> {
    pub(super) settings: &'a Settings,
    pub(super) line: &'a CommandLine,
    pub(super) working_directory: &'a Path,
    pub(super) hostname: &'a str,
    /// What is worth a warning but no refusal.
    pub(super) warnings: &'a mut Vec<Issue>,
}

impl Resolver<'_> {
    pub(super) fn config(
        &mut self,
        node: NodeFlags,
        gates: FeatureGates,
        agent: AgentSettings,
    ) -> Config {
        Config {
            node: self.node(node),
            paths: self.paths(),
            sources: self.sources(),
            api: self.api(),
            server: self.server(),
            runtime: self.runtime(),
            images: self.images(),
            cgroups: self.cgroups(),
            managers: self.managers(),
            eviction: self.eviction(),
            network: self.network(),
            container_logs: self.container_logs(),
            shutdown: self.shutdown(),
            process: self.process(),
            logging: self.logging(),
            gates,
            agent,
        }
    }

    fn span(&self, path: &str) -> Duration {
        self.settings.duration(path).positive()
    }

    fn count(&self, path: &str) -> u32 {
        u32::try_from(self.settings.int(path)).unwrap_or(0)
    }

    /// A number that means "no limit" when it is zero or less.
    fn limit(&self, path: &str) -> Option<u32> {
        Some(self.count(path)).filter(|count| *count > 0)
    }

    fn text(&self, path: &str) -> Option<String> {
        Some(self.settings.text(path))
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }

    /// The path in a field; one that a flag gave is relative to the working directory.
    fn path(&self, path: &str) -> Option<PathBuf> {
        self.text(path)
            .map(|text| self.working_directory.join(text))
    }

    pub(super) fn flag_path(&self, flag: &str) -> Option<PathBuf> {
        let text = self.line.text(flag);
        (!text.is_empty()).then(|| self.working_directory.join(text))
    }

    fn rate(&self, per_second: &str, burst: &str) -> Rate {
        Rate {
            per_second: self.limit(per_second),
            burst: self.count(burst),
        }
    }

    fn node(&self, flags: NodeFlags) -> NodeConfig {
        let s = self.settings;
        let update = self.span("nodeStatusUpdateFrequency");
        let report = match (
            s.is_set("nodeStatusReportFrequency"),
            s.is_set("nodeStatusUpdateFrequency"),
        ) {
            // Setting only how often the status is computed sets how often it is reported too.
            (false, true) if !s.is_set_by_flag("nodeStatusUpdateFrequency") => update,
            _ => self.span("nodeStatusReportFrequency"),
        };
        let taint = |taint: &serde_json::Value| {
            let text = |field: &str| taint[field].as_str().unwrap_or_default().to_owned();
            NodeTaint {
                key: text("key"),
                value: text("value"),
                effect: text("effect"),
            }
        };
        NodeConfig {
            name: flags.name,
            hostname: self.hostname.to_owned(),
            ips: flags.ips,
            labels: flags.labels,
            external_cloud: flags.external_cloud,
            provider_id: self.text("providerID"),
            register: s.bool("registerNode"),
            taints: s.objects("registerWithTaints").iter().map(taint).collect(),
            max_pods: self.count("maxPods"),
            pods_per_core: self.limit("podsPerCore"),
            pod_pids_limit: u64::try_from(s.int("podPidsLimit")).ok(),
            status_update_every: update,
            status_report_every: report,
            lease: Duration::from_secs(u64::from(self.count("nodeLeaseDurationSeconds"))),
            status_max_images: u32::try_from(s.int("nodeStatusMaxImages")).ok(),
            volume_stats_every: (s.duration("volumeStatsAggPeriod").0 >= 0)
                .then(|| self.span("volumeStatsAggPeriod")),
            controller_attach_detach: s.bool("enableControllerAttachDetach"),
            local_storage_isolation: s.bool("localStorageCapacityIsolation"),
            fail_on_swap: s.bool("failSwapOn"),
            fail_on_cgroup_v1: s.bool("failCgroupV1"),
            protect_kernel_defaults: s.bool("protectKernelDefaults"),
        }
    }

    fn paths(&self) -> Paths {
        let here = self.working_directory;
        Paths {
            root: here.join(self.line.text("root-dir")),
            certificates: here.join(self.line.text("cert-dir")),
            pod_logs: here.join(self.settings.text("podLogsDir")),
            volume_plugins: here.join(self.settings.text("volumePluginDir")),
            mounter: self.flag_path("experimental-mounter-path"),
        }
    }

    fn sources(&self) -> SourcesConfig {
        SourcesConfig {
            static_pod_path: self.path("staticPodPath"),
            static_pod_url: self.text("staticPodURL"),
            static_pod_url_headers: self
                .settings
                .text_list_map("staticPodURLHeader")
                .into_iter()
                .map(|(name, value)| (name, Secret::new(value)))
                .collect(),
            file_check_every: self.span("fileCheckFrequency"),
            http_check_every: self.span("httpCheckFrequency"),
            sync_every: self.span("syncFrequency"),
        }
    }

    fn api(&self) -> Option<ApiConfig> {
        Some(ApiConfig {
            kubeconfig: self.flag_path("kubeconfig")?,
            bootstrap_kubeconfig: self.flag_path("bootstrap-kubeconfig"),
            rotate_client_certificate: self.settings.bool("rotateCertificates"),
            content_type: self.settings.text("contentType").to_owned(),
            rate: self.rate("kubeAPIQPS", "kubeAPIBurst"),
            event_rate: self.rate("eventRecordQPS", "eventBurst"),
        })
    }

    fn server(&self) -> ServerConfig {
        let s = self.settings;
        let socket = |address: &str, port: &str| {
            let port = u16::try_from(s.int(port)).unwrap_or(0);
            let address: IpAddr = s.text(address).parse().ok()?;
            (port != 0).then(|| SocketAddr::new(address, port))
        };
        // Upstream opens both ports to everybody when it is started with neither file nor kubeconfig. Here they stay
        // closed unless a flag names them.
        let bare = !s.with_file() && self.line.text("kubeconfig").is_empty();
        let asked = |paths: &[&str]| paths.iter().any(|path| s.is_set(path));
        let open_main = s.bool("enableServer") && (!bare || asked(&["port", "enableServer"]));
        let open_read_only = s.bool("enableServer") && (!bare || asked(&["readOnlyPort"]));
        let tls_files = self.path("tlsCertFile").zip(self.path("tlsPrivateKeyFile"));
        let token_webhook = s.bool("authentication.webhook.enabled");
        let authorization = match s.text("authorization.mode") {
            "AlwaysAllow" => Authorization::AlwaysAllow,
            _ => Authorization::Webhook {
                authorized_for: self.span("authorization.webhook.cacheAuthorizedTTL"),
                unauthorized_for: self.span("authorization.webhook.cacheUnauthorizedTTL"),
            },
        };
        ServerConfig {
            healthz: socket("healthzBindAddress", "healthzPort"),
            main: socket("address", "port").filter(|_| open_main),
            read_only: socket("address", "readOnlyPort").filter(|_| open_read_only),
            access: AccessConfig {
                anonymous: s.bool("authentication.anonymous.enabled"),
                token_webhook: token_webhook.then(|| self.span("authentication.webhook.cacheTTL")),
                client_ca: self.path("authentication.x509.clientCAFile"),
                authorization,
            },
            tls_files,
            tls_cipher_suites: s.texts("tlsCipherSuites"),
            only_tls13: s.text("tlsMinVersion") == "VersionTLS13",
            tls_from_api: s.bool("serverTLSBootstrap"),
            debugging_handlers: s.bool("enableDebuggingHandlers"),
            streaming_idle_timeout: self.span("streamingConnectionIdleTimeout"),
            system_log_handler: s.bool("enableSystemLogHandler"),
            system_log_query: s.bool("enableSystemLogQuery"),
            profiling_handler: s.bool("enableProfilingHandler"),
            debug_flags_handler: s.bool("enableDebugFlagsHandler"),
            configz: document(s, &self.defaults_shown()).into(),
            flags: FlagValues::new(self.line),
        }
    }

    /// What `/configz` shows of fields whose default comes of others.
    fn defaults_shown(&self) -> BTreeMap<&'static str, Value> {
        let s = self.settings;
        let mut shown = BTreeMap::from([("evictionHard", json!(self.eviction().hard))]);
        if !s.is_set("nodeStatusReportFrequency")
            && let Some(update) = s.value("nodeStatusUpdateFrequency")
        {
            shown.insert("nodeStatusReportFrequency", update.clone());
        }
        if s.int_if_set("maxParallelImagePulls")
            .is_some_and(|most| most > 1)
        {
            shown.insert("serializeImagePulls", json!(false));
        }
        if s.int("podPidsLimit") < 0 {
            shown.insert("podPidsLimit", json!(-1));
        }
        // The agent's own, which it makes where nobody gives it one.
        let given = |path| self.text(path).is_some();
        if !given("tlsCertFile") && !given("tlsPrivateKeyFile") && !s.bool("serverTLSBootstrap") {
            let directory = self.working_directory.join(self.line.text("cert-dir"));
            for (field, file) in [
                ("tlsCertFile", "kubelet.crt"),
                ("tlsPrivateKeyFile", "kubelet.key"),
            ] {
                shown.insert(field, json!(directory.join(file)));
            }
        }
        shown
    }

    fn runtime(&mut self) -> RuntimeConfig {
        let socket = self.socket("containerRuntimeEndpoint").unwrap_or_default();
        let image_socket = self
            .socket("imageServiceEndpoint")
            .unwrap_or_else(|| socket.clone());
        let s = self.settings;
        let ids = s
            .int_if_set("userNamespaces.idsPerPod")
            .and_then(|ids| u32::try_from(ids).ok());
        RuntimeConfig {
            socket,
            image_socket,
            request_timeout: self.span("runtimeRequestTimeout"),
            seccomp_default: s.bool("seccompDefault") || self.line.is_set("seccomp-default"),
            max_restart_backoff: self.span("crashLoopBackOff.maxContainerRestartPeriod"),
            ids_per_pod: ids.unwrap_or(DEFAULT_IDS_PER_POD),
            allowed_unsafe_sysctls: s.texts("allowedUnsafeSysctls"),
            change_detection: match s.text("configMapAndSecretChangeDetectionStrategy") {
                "Get" => ChangeDetection::Get,
                "Cache" => ChangeDetection::Cache,
                _ => ChangeDetection::Watch,
            },
        }
    }

    /// The socket of a CRI endpoint; validation saw that it is one.
    fn socket(&mut self, field: &str) -> Option<PathBuf> {
        let text = self.settings.text(field);
        let path = socket_path(text)?;
        if !text.starts_with("unix://") {
            self.warnings.push(Issue::new(
                self.settings.origin(field),
                format!("{field}: endpoints without a scheme are deprecated; write unix://{text}"),
            ));
        }
        Some(path)
    }

    fn images(&self) -> ImagesConfig {
        let s = self.settings;
        let parallel = s
            .int_if_set("maxParallelImagePulls")
            .and_then(|pulls| u32::try_from(pulls).ok());
        let serial = match s.bool_if_set("serializeImagePulls") {
            Some(serial) => serial,
            None => parallel.is_none_or(|pulls| pulls < 2),
        };
        let percent = |path| u8::try_from(s.int(path)).unwrap_or(100);
        ImagesConfig {
            parallel_pulls: if serial { Some(1) } else { parallel },
            pull_rate: self.rate("registryPullQPS", "registryBurst"),
            minimum_age: self.span("imageMinimumGCAge"),
            maximum_age: Some(self.span("imageMaximumGCAge")).filter(|age| !age.is_zero()),
            high_threshold_percent: percent("imageGCHighThresholdPercent"),
            low_threshold_percent: percent("imageGCLowThresholdPercent"),
            credentials_verification: s.text("imagePullCredentialsVerificationPolicy").to_owned(),
            preloaded_allowlist: s.texts("preloadedImagesVerificationAllowlist"),
            credential_providers: None,
        }
    }

    fn cgroups(&self) -> CgroupsConfig {
        let s = self.settings;
        let mut enforce_allocatable = s.texts("enforceNodeAllocatable");
        enforce_allocatable.retain(|word| word != "none");
        let mut system_reserved = s.text_map("systemReserved");
        let mut kube_reserved = s.text_map("kubeReserved");
        // Single CPUs that are reserved stand for whatever number was to be.
        let cpus = s.text("reservedSystemCPUs").parse::<CpuSet>();
        if let Some(cpus) = cpus.ok().filter(|cpus| !cpus.is_empty()) {
            kube_reserved.remove("cpu");
            system_reserved.insert("cpu".to_owned(), cpus.len().to_string());
        }
        CgroupsConfig {
            driver: match s.text("cgroupDriver") {
                "systemd" => CgroupDriver::Systemd,
                _ => CgroupDriver::Cgroupfs,
            },
            root: s.text("cgroupRoot").to_owned(),
            per_qos: s.bool("cgroupsPerQOS"),
            kubelet: self.text("kubeletCgroups"),
            system: self.text("systemCgroups"),
            runtime: Some(self.line.text("runtime-cgroups"))
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            cpu_quota: s.bool("cpuCFSQuota"),
            cpu_quota_period: self.span("cpuCFSQuotaPeriod"),
            system_reserved,
            kube_reserved,
            system_reserved_cgroup: self.text("systemReservedCgroup"),
            kube_reserved_cgroup: self.text("kubeReservedCgroup"),
            enforce_allocatable,
            qos_reserved: s.text_map("qosReserved"),
            limited_swap: s.text("memorySwap.swapBehavior") == "LimitedSwap",
            single_process_oom_kill: s.bool_if_set("singleProcessOOMKill"),
            memory_notice: s.bool("kernelMemcgNotification"),
            memory_throttling_factor: s.float("memoryThrottlingFactor"),
            memory_reservation: s.text("memoryReservationPolicy") == "TieredReservation",
        }
    }

    fn eviction(&self) -> EvictionConfig {
        let s = self.settings;
        let mut hard = s.text_map("evictionHard");
        let defaults =
            s.with_file() && !s.is_set("evictionHard") || s.bool("mergeDefaultEvictionSettings");
        if defaults {
            for (signal, threshold) in DEFAULT_EVICTION_HARD {
                hard.entry((*signal).to_owned())
                    .or_insert_with(|| (*threshold).to_owned());
            }
        }
        EvictionConfig {
            hard,
            soft: s.text_map("evictionSoft"),
            soft_grace_period: s.text_map("evictionSoftGracePeriod"),
            minimum_reclaim: s.text_map("evictionMinimumReclaim"),
            pressure_transition: self.span("evictionPressureTransitionPeriod"),
            max_pod_grace_seconds: u32::try_from(s.int("evictionMaxPodGracePeriod")).ok(),
        }
    }

    fn network(&mut self) -> NetworkConfig {
        let mut cluster_dns = Vec::new();
        for text in self.settings.texts("clusterDNS") {
            match text.parse() {
                Ok(address) => cluster_dns.push(address),
                // As upstream: said, and left out.
                Err(_) => self.warnings.push(Issue::new(
                    self.settings.origin("clusterDNS"),
                    format!("Invalid clusterDNS IP {text:?}; it is left out"),
                )),
            }
        }
        NetworkConfig {
            cluster_dns,
            cluster_domain: self.text("clusterDomain"),
            resolv_conf: self.path("resolvConf"),
            pod_cidr: self.text("podCIDR"),
            iptables_chains: self.settings.bool("makeIPTablesUtilChains"),
        }
    }

    fn container_logs(&self) -> ContainerLogsConfig {
        let size = Quantity::parse(self.settings.text("containerLogMaxSize"));
        ContainerLogsConfig {
            max_size: size.ok().and_then(|size| u64::try_from(size.value()).ok()),
            max_files: self.count("containerLogMaxFiles"),
            workers: self.count("containerLogMaxWorkers"),
            check_every: self.span("containerLogMonitorInterval"),
        }
    }

    fn shutdown(&self) -> ShutdownConfig {
        let entries = self
            .settings
            .objects("shutdownGracePeriodByPodPriority")
            .iter();
        let by_priority = entries.map(|entry| {
            let priority = entry["priority"]
                .as_i64()
                .and_then(|p| i32::try_from(p).ok());
            let seconds = entry["shutdownGracePeriodSeconds"].as_u64();
            (
                priority.unwrap_or(0),
                Duration::from_secs(seconds.unwrap_or(0)),
            )
        });
        ShutdownConfig {
            grace_period: self.span("shutdownGracePeriod"),
            critical_pods: self.span("shutdownGracePeriodCriticalPods"),
            by_priority: by_priority.collect(),
        }
    }

    fn process(&self) -> ProcessConfig {
        ProcessConfig {
            oom_score_adj: i32::try_from(self.settings.int("oomScoreAdj")).unwrap_or(0),
            max_open_files: u64::try_from(self.settings.int("maxOpenFiles")).unwrap_or(0),
            lock_file: self.flag_path("lock-file"),
            exit_on_lock_contention: self.line.is_set("exit-on-lock-contention"),
        }
    }

    fn logging(&self) -> logging::Settings {
        let module = |item: &serde_json::Value| logging::Module {
            pattern: item["filePattern"].as_str().unwrap_or_default().to_owned(),
            verbosity: item["verbosity"]
                .as_u64()
                .and_then(|v| u32::try_from(v).ok())
                .unwrap_or(0),
        };
        logging::Settings {
            format: match self.settings.text("logging.format") {
                "json" => logging::Format::Json,
                _ => logging::Format::Text,
            },
            verbosity: self.count("logging.verbosity"),
            modules: self
                .settings
                .objects("logging.vmodule")
                .iter()
                .map(module)
                .collect(),
        }
    }
}

/// The path of a CRI endpoint: `unix:///run/x.sock`, or the bare path of old.
pub(super) fn socket_path(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    path.starts_with('/').then(|| PathBuf::from(path))
}
