//! The rules of KubeletConfiguration, in upstream's words where it has some
//! (`pkg/kubelet/apis/config/validation` at v1.36). All that is wrong is said at once.

mod pods;
mod resources;

use std::time::Duration;

use super::ciphers;
use super::durations::GoDuration;
use super::fields::{FIELDS, Kind};
use super::gates::FeatureGates;
use super::issue::Issue;
use super::labels;
use super::model::EvictionConfig;
use super::resolve::socket_path;
use super::settings::Settings;
use crate::eviction;

const SECOND: GoDuration = GoDuration(1_000_000_000);

/// Collects what is wrong.
struct Judge<'a> {
    settings: &'a Settings,
    gates: &'a FeatureGates,
    cgroup_v1: bool,
    issues: Vec<Issue>,
}

/// What is wrong with `settings` under `gates`, on a host with cgroup v1 or not. Field by field in the table's order,
/// then rule by rule.
pub(super) fn validate(settings: &Settings, gates: &FeatureGates, cgroup_v1: bool) -> Vec<Issue> {
    let mut judge = Judge {
        settings,
        gates,
        cgroup_v1,
        issues: Vec::new(),
    };
    judge.durations();
    judge.numbers();
    judge.words();
    judge.server();
    judge.images();
    judge.logs();
    judge.shutdown();
    judge.host();
    judge.allocatable();
    judge.eviction();
    judge.reserved();
    judge.taints();
    judge.issues
}

impl Judge<'_> {
    /// Refuses the field at `path`; `why` follows its name and value.
    fn refuse(&mut self, path: &str, why: impl AsRef<str>) {
        let value = match self.settings.value(path) {
            Some(serde_json::Value::String(text)) => format!(" {text:?}"),
            Some(value) if !value.is_array() && !value.is_object() => format!(" {value}"),
            _ => String::new(),
        };
        let name = Settings::name(path);
        let why = why.as_ref();
        let gap = if why.starts_with(':') { "" } else { " " };
        self.say(path, format!("{name}{value}{gap}{why}"));
    }

    fn say(&mut self, path: &str, message: impl AsRef<str>) {
        let message = format!("invalid configuration: {}", message.as_ref());
        self.issues
            .push(Issue::new(self.settings.origin(path), message));
    }

    fn durations(&mut self) {
        for field in FIELDS.iter().filter(|field| field.kind == Kind::Duration) {
            // A negative period turns the statistics of volumes off.
            let may_be_negative = field.path == "volumeStatsAggPeriod";
            if !may_be_negative && self.settings.duration(field.path) < GoDuration::ZERO {
                self.refuse(field.path, "must not be negative");
            }
        }
        let period = self.settings.duration("cpuCFSQuotaPeriod");
        if !(GoDuration(1_000_000)..=SECOND).contains(&period) {
            self.refuse(
                "cpuCFSQuotaPeriod",
                "must be between 1ms and 1sec, inclusive",
            );
        }
        if self.settings.duration("containerLogMonitorInterval") < GoDuration(3 * SECOND.0) {
            self.refuse(
                "containerLogMonitorInterval",
                "must be a positive time duration greater than or equal to 3s",
            );
        }
        let path = "crashLoopBackOff.maxContainerRestartPeriod";
        if self.gates.enabled("KubeletCrashLoopBackOffMax") {
            let period = self.settings.duration(path);
            if !(SECOND..=GoDuration(300 * SECOND.0)).contains(&period) {
                self.refuse(path, "must be set between 1s and 300s");
            }
        } else if self.settings.is_set(path) {
            self.refuse(
                path,
                "must not be set while FeatureGate KubeletCrashLoopBackOffMax is not enabled",
            );
        }
        if self.settings.duration("logging.flushFrequency") <= GoDuration::ZERO {
            self.refuse("logging.flushFrequency", "must be greater than zero");
        }
    }

    /// The first threshold that cannot be used.
    fn eviction(&mut self) {
        let s = self.settings;
        let config = EvictionConfig {
            hard: s.text_map("evictionHard"),
            soft: s.text_map("evictionSoft"),
            soft_grace_period: s.text_map("evictionSoftGracePeriod"),
            minimum_reclaim: s.text_map("evictionMinimumReclaim"),
            pressure_transition: Duration::ZERO,
            max_pod_grace_seconds: None,
        };
        if let Err(error) = eviction::thresholds(&config, false) {
            self.say(error.field(), error.to_string());
        }
    }

    fn numbers(&mut self) {
        for (path, least, most, rule) in [
            (
                "nodeLeaseDurationSeconds",
                1,
                i64::MAX,
                "must be greater than 0",
            ),
            ("eventBurst", 0, i64::MAX, "must not be a negative number"),
            (
                "eventRecordQPS",
                0,
                i64::MAX,
                "must not be a negative number",
            ),
            (
                "healthzPort",
                0,
                65535,
                "must be between 1 and 65535, inclusive, or 0 for none",
            ),
            (
                "imageGCHighThresholdPercent",
                0,
                100,
                "must be between 0 and 100, inclusive",
            ),
            (
                "imageGCLowThresholdPercent",
                0,
                100,
                "must be between 0 and 100, inclusive",
            ),
            (
                "iptablesDropBit",
                0,
                31,
                "must be between 0 and 31, inclusive",
            ),
            (
                "iptablesMasqueradeBit",
                0,
                31,
                "must be between 0 and 31, inclusive",
            ),
            ("kubeAPIBurst", 0, i64::MAX, "must not be a negative number"),
            ("kubeAPIQPS", 0, i64::MAX, "must not be a negative number"),
            ("nodeStatusMaxImages", -1, i64::MAX, "must be -1 or greater"),
            ("maxOpenFiles", 0, i64::MAX, "must not be a negative number"),
            ("maxPods", 0, i64::MAX, "must not be a negative number"),
            (
                "oomScoreAdj",
                -1000,
                1000,
                "must be between -1000 and 1000, inclusive",
            ),
            ("podsPerCore", 0, i64::MAX, "must not be a negative number"),
            ("port", 1, 65535, "must be between 1 and 65535, inclusive"),
            (
                "readOnlyPort",
                0,
                65535,
                "must be between 0 and 65535, inclusive",
            ),
            (
                "registryBurst",
                0,
                i64::MAX,
                "must not be a negative number",
            ),
            (
                "registryPullQPS",
                0,
                i64::MAX,
                "must not be a negative number",
            ),
            (
                "containerLogMaxWorkers",
                1,
                i64::MAX,
                "must be greater than or equal to 1",
            ),
            (
                "containerLogMaxFiles",
                2,
                i64::MAX,
                "must be greater than 1",
            ),
            (
                "logging.verbosity",
                0,
                i64::from(i32::MAX),
                "must be <= 2147483647",
            ),
        ] {
            if !(least..=most).contains(&self.settings.int(path)) {
                self.refuse(path, rule);
            }
        }
        let (low, high) = (
            self.settings.int("imageGCLowThresholdPercent"),
            self.settings.int("imageGCHighThresholdPercent"),
        );
        if low >= high {
            self.say(
                "imageGCLowThresholdPercent",
                format!(
                    "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
                ),
            );
        }
        let factor = self.settings.float("memoryThrottlingFactor");
        if !(factor > 0.0 && factor <= 1.0) {
            self.refuse(
                "memoryThrottlingFactor",
                "must be greater than 0 and less than or equal to 1.0",
            );
        }
        if let Some(ids) = self.settings.int_if_set("userNamespaces.idsPerPod")
            && (ids < 65536 || ids % 65536 != 0 || ids > i64::from(u32::MAX))
        {
            self.refuse(
                "userNamespaces.idsPerPod",
                "must be a multiple of 65536 from 65536 to 4294901760",
            );
        }
        if let Some(rate) = self.settings.int_if_set("tracing.samplingRatePerMillion")
            && !(0..=1_000_000).contains(&rate)
        {
            self.refuse(
                "tracing.samplingRatePerMillion",
                "must be between 0 and 1000000, inclusive",
            );
        }
    }

    fn words(&mut self) {
        for (path, words) in [
            (
                "hairpinMode",
                &["none", "hairpin-veth", "promiscuous-bridge"][..],
            ),
            (
                "topologyManagerPolicy",
                &["none", "best-effort", "restricted", "single-numa-node"],
            ),
            ("topologyManagerScope", &["container", "pod"]),
            ("cpuManagerPolicy", &["none", "static"]),
            ("memoryManagerPolicy", &["None", "Static"]),
            ("memoryReservationPolicy", &["None", "TieredReservation"]),
            ("memorySwap.swapBehavior", &["", "LimitedSwap", "NoSwap"]),
            ("cgroupDriver", &["cgroupfs", "systemd"]),
            ("authorization.mode", &["AlwaysAllow", "Webhook"]),
            (
                "configMapAndSecretChangeDetectionStrategy",
                &["Get", "Cache", "Watch"],
            ),
            ("logging.format", &["text", "json"]),
            (
                "tlsMinVersion",
                &[
                    "",
                    "VersionTLS10",
                    "VersionTLS11",
                    "VersionTLS12",
                    "VersionTLS13",
                ],
            ),
            (
                "imagePullCredentialsVerificationPolicy",
                &[
                    "NeverVerify",
                    "NeverVerifyPreloadedImages",
                    "NeverVerifyAllowlistedImages",
                    "AlwaysVerify",
                ],
            ),
        ] {
            if !words.contains(&self.settings.text(path)) {
                let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                self.refuse(path, format!("must be one of: {}", words.join(", ")));
            }
        }
        if self.settings.text("memoryReservationPolicy") == "TieredReservation"
            && !self.gates.enabled("MemoryQoS")
        {
            self.refuse(
                "memoryReservationPolicy",
                "requires MemoryQoS feature gate to be enabled",
            );
        }
        if self.settings.bool("runOnce") {
            self.refuse(
                "runOnce",
                ": Runonce mode has been deprecated and should not be set",
            );
        }
    }

    fn server(&mut self) {
        if self.settings.bool("serverTLSBootstrap")
            && !self.gates.enabled("RotateKubeletServerCertificate")
        {
            self.refuse(
                "serverTLSBootstrap",
                "requires feature gate RotateKubeletServerCertificate",
            );
        }
        for path in ["containerRuntimeEndpoint", "imageServiceEndpoint"] {
            let endpoint = self.settings.text(path);
            if !endpoint.is_empty() && socket_path(endpoint).is_none() {
                self.refuse(
                    path,
                    "must be a unix socket such as unix:///run/containerd/containerd.sock",
                );
            }
        }
        if self.settings.text("containerRuntimeEndpoint").is_empty() {
            self.say(
                "containerRuntimeEndpoint",
                "the containerRuntimeEndpoint was not specified or empty",
            );
        }
        if self.settings.bool("enableSystemLogQuery")
            && !self.settings.bool("enableSystemLogHandler")
        {
            self.say(
                "enableSystemLogQuery",
                "enableSystemLogHandler is required for enableSystemLogQuery",
            );
        }
        for name in self.settings.texts("tlsCipherSuites") {
            if let Some(why) = ciphers::refusal(&name) {
                self.say("tlsCipherSuites", why);
            }
        }
        let (certificate, key) = (
            self.settings.text("tlsCertFile"),
            self.settings.text("tlsPrivateKeyFile"),
        );
        if certificate.is_empty() != key.is_empty() {
            let path = if certificate.is_empty() {
                "tlsPrivateKeyFile"
            } else {
                "tlsCertFile"
            };
            self.say(
                path,
                "tlsCertFile (--tls-cert-file) and tlsPrivateKeyFile (--tls-private-key-file) must be set together",
            );
        }
    }

    fn host(&mut self) {
        if !self.cgroup_v1 {
            return;
        }
        if self.settings.bool("failCgroupV1") {
            self.issues.push(Issue::new(
                self.settings.origin("failCgroupV1"),
                "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release; boot the host with cgroup v2, or set failCgroupV1 (--fail-cgroupv1) to false",
            ));
        }
        if self.settings.bool_if_set("singleProcessOOMKill") == Some(false) {
            self.refuse(
                "singleProcessOOMKill",
                "must not be explicitly set to false when using cgroup v1",
            );
        }
    }

    fn taints(&mut self) {
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for (index, taint) in self
            .settings
            .objects("registerWithTaints")
            .iter()
            .enumerate()
        {
            let text = |field: &str| taint[field].as_str().unwrap_or_default();
            let (key, effect) = (text("key"), text("effect"));
            if let Err(why) = labels::check_taint(key, text("value"), effect) {
                self.say("registerWithTaints", format!("registerWithTaints[{index}] (--register-with-taints): invalid taint {key:?}: {why}"));
            }
            if !taint["timeAdded"].is_null() {
                self.say(
                    "registerWithTaints",
                    format!("registerWithTaints[{index}].timeAdded must not be set"),
                );
            }
            if seen.contains(&(key, effect)) {
                self.say("registerWithTaints", format!("registerWithTaints[{index}] (--register-with-taints): duplicated taints with the same key and effect: {key}:{effect}"));
            }
            seen.push((key, effect));
        }
    }
}
