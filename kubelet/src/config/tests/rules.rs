//! What is refused, and what is warned of.

use super::*;

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_place() {
    let file = with_body(
        "imageGCHighThresholdPercent: 50\nimageGCLowThresholdPercent: 80\nhairpinMode: magic\nrunOnce: true\nfeatureGates:\n  NodeSwap: false\n",
    );
    let error = refused(&[
        &file.argument,
        "--node-labels=node-role.kubernetes.io/x=",
        "--oom-score-adj=2000",
        "--node-ip=10.0.0.1,10.0.0.2",
        "--cloud-provider=aws",
        "--exit-on-lock-contention",
    ]);
    for line in [
        &format!(
            "{}:4:29: invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 80 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 50",
            file.path
        ),
        ":5:14: invalid configuration: hairpinMode (--hairpin-mode) \"magic\" must be one of: \"none\", \"hairpin-veth\", \"promiscuous-bridge\"",
        ":6:10: invalid configuration: runOnce (--runonce) true: Runonce mode has been deprecated",
        ":8:3: cannot set feature gate NodeSwap to false, feature is locked to true",
        "--oom-score-adj: invalid configuration: oomScoreAdj (--oom-score-adj) 2000 must be between -1000 and 1000, inclusive",
        "--node-labels: unknown 'kubernetes.io' or 'k8s.io' labels",
        "--node-ip: must contain either a single IP or a dual-stack pair of IPs",
        "--cloud-provider: unknown cloud provider \"aws\"",
        "--exit-on-lock-contention: cannot exit on lock file contention: no lock file specified",
    ] {
        assert!(error.contains(line), "{line}\nis not in\n{error}");
    }
}

/// A rule a row: what breaks it, and the message.
#[test]
fn rules() {
    for (body, message) in [
        (
            "syncFrequency: -1s\n",
            "syncFrequency (--sync-frequency) \"-1s\" must not be negative",
        ),
        ("nodeLeaseDurationSeconds: -1\n", "must be greater than 0"),
        (
            "systemCgroups: /x\n",
            "systemCgroups (--system-cgroups) was specified and cgroupRoot",
        ),
        ("healthzPort: 70000\n", "must be between 1 and 65535"),
        ("cpuCFSQuotaPeriod: 2s\n", "must be between 1ms and 1sec"),
        ("cpuCFSQuotaPeriod: 0s\n", "must be between 1ms and 1sec"),
        (
            "imageMaximumGCAge: 1m\n",
            "must be greater than imageMinimumGCAge 2m0s",
        ),
        ("nodeStatusMaxImages: -2\n", "must be -1 or greater"),
        (
            "maxParallelImagePulls: 0\n",
            "maxParallelImagePulls 0 must be a positive number",
        ),
        (
            "maxParallelImagePulls: 3\nserializeImagePulls: true\n",
            "cannot be larger than 1 unless",
        ),
        (
            "registerWithTaints: [{key: a, effect: Never}]\n",
            "invalid taint \"a\"",
        ),
        (
            "registerWithTaints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}]\n",
            "duplicated taints",
        ),
        (
            "topologyManagerPolicy: best\n",
            "must be one of: \"none\", \"best-effort\"",
        ),
        (
            "shutdownGracePeriod: 10s\nshutdownGracePeriodCriticalPods: 20s\n",
            "must be <= shutdownGracePeriod 10s",
        ),
        (
            "shutdownGracePeriod: 10ms\n",
            "must be either zero or otherwise >= 1 sec",
        ),
        (
            "shutdownGracePeriod: 10s\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 1}]\n",
            "Cannot specify both",
        ),
        (
            "shutdownGracePeriod: 10s\nfeatureGates: {GracefulNodeShutdown: false, GracefulNodeShutdownBasedOnPodPriority: false, WindowsGracefulNodeShutdown: false}\n",
            "requires feature gate GracefulNodeShutdown",
        ),
        (
            "memorySwap: {swapBehavior: Unlimited}\n",
            "must be one of: \"\", \"LimitedSwap\", \"NoSwap\"",
        ),
        (
            "crashLoopBackOff: {maxContainerRestartPeriod: 500ms}\n",
            "must be set between 1s and 300s",
        ),
        (
            "enforceNodeAllocatable: [pods, system-reserved]\n",
            "systemReservedCgroup (--system-reserved-cgroup) must be specified when \"system-reserved\"",
        ),
        (
            "enforceNodeAllocatable: [none, pods]\n",
            "may not contain additional enforcements",
        ),
        (
            "enforceNodeAllocatable: [pods, pods]\n",
            "duplicated enforcements \"pods\"",
        ),
        (
            "enforceNodeAllocatable: [all]\n",
            "option \"all\" specified for enforceNodeAllocatable",
        ),
        (
            "cgroupsPerQOS: false\n",
            "cgroupsPerQOS (--cgroups-per-qos) must be set to true",
        ),
        ("reservedSystemCPUs: 0-\n", "must be CPUs and ranges"),
        (
            "reservedSystemCPUs: \"0\"\nkubeReservedCgroup: /k\n",
            "can't use reservedSystemCPUs",
        ),
        (
            "systemReserved: {gpu: \"1\"}\n",
            "cannot reserve \"gpu\" resource",
        ),
        (
            "kubeReserved: {memory: -1Gi}\n",
            "resource quantity for \"memory\" cannot be negative: -1Gi",
        ),
        (
            "reservedMemory: [{numaNode: 0, limits: {memory: 0}}]\n",
            "reserved memory may not be zero for NUMA node 0",
        ),
        (
            "userNamespaces: {idsPerPod: 65537}\n",
            "must be a multiple of 65536",
        ),
        (
            "memoryThrottlingFactor: 1.5\n",
            "must be greater than 0 and less than or equal to 1.0",
        ),
        ("containerLogMaxFiles: 1\n", "must be greater than 1"),
        (
            "containerLogMonitorInterval: 2s\n",
            "greater than or equal to 3s",
        ),
        (
            "containerLogMaxSize: big\n",
            "must be a quantity such as 10Mi",
        ),
        ("podLogsDir: /var//log\n", "must be normalized"),
        (
            "podLogsDir: /var/log/\u{e4}\n",
            "must contain ASCII characters only",
        ),
        (
            "enableSystemLogQuery: true\nenableSystemLogHandler: false\n",
            "enableSystemLogHandler is required",
        ),
        (
            "containerRuntimeEndpoint: tcp://127.0.0.1:1\n",
            "must be a unix socket such as",
        ),
        ("tlsCertFile: /x\n", "must be set together"),
        (
            "logging: {format: xml}\n",
            "must be one of: \"text\", \"json\"",
        ),
        (
            "logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}\n",
            "is only supported for text log format",
        ),
        (
            "logging: {options: {text: {splitStream: true}}}\n",
            "Feature LoggingAlphaOptions is disabled",
        ),
        (
            "authorization: {mode: RBAC}\n",
            "must be one of: \"AlwaysAllow\", \"Webhook\"",
        ),
        (
            "memoryReservationPolicy: TieredReservation\n",
            "requires MemoryQoS feature gate",
        ),
        (
            "evictionSoft: {memory.available: 1Gi}\n",
            "invalid configuration: evictionSoft: grace period must be specified for the soft eviction threshold memory.available",
        ),
        (
            "evictionHard: {disk.available: 1Gi}\n",
            "invalid configuration: evictionHard: unsupported eviction signal disk.available",
        ),
        (
            "featureGates: {MemoryQos: true}\n",
            "unrecognized feature gate: MemoryQos; did you mean MemoryQoS?",
        ),
    ] {
        let file = with_body(body);
        let error = refused(&[&file.argument]);
        assert!(error.contains(message), "{body}: {error}");
    }
}

#[test]
fn what_has_no_effect_is_said_once_and_only_when_set_to_something_new() {
    let file = with_body(
        "tlsCurvePreferences: [29]\nvolumeStatsAggPeriod: 1m\nenableDebuggingHandlers: true\nmaxPods: 50\nkubeletCgroups: /x\npodPidsLimit: 500\nnotAField: 1\nfeatureGates: {PodsAPI: true, KubeletCrashLoopBackOffMax: true}\n",
    );
    let warnings = loaded(&[
        &file.argument,
        "--housekeeping-interval=5s",
        "--runtime-cgroups=/x",
        "--containerd=/y",
        "--port=10250",
    ])
    .warnings;
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let has = |text: &str| texts.iter().filter(|t| t.contains(text)).count();
    assert_eq!(
        has(":3:22: tlsCurvePreferences has no effect"),
        1,
        "{texts:?}"
    );
    assert_eq!(
        has("kubeletCgroups (--kubelet-cgroups) has no effect"),
        1,
        "{texts:?}"
    );
    assert_eq!(has("unknown field \"notAField\""), 1, "{texts:?}");
    assert_eq!(
        has("feature gates that have no effect: PodsAPI=true"),
        1,
        "{texts:?}"
    );
    assert_eq!(has("--runtime-cgroups: has no effect"), 1, "{texts:?}");
    assert_eq!(
        has("--containerd: Flag --containerd has been deprecated"),
        1,
        "{texts:?}"
    );
    assert_eq!(
        has("--port: Flag --port has been deprecated"),
        1,
        "{texts:?}"
    );
    assert_eq!(texts.len(), 7, "{texts:?}");
}

#[test]
fn settings_of_a_server_that_is_off_are_not_warned_of() {
    let body = "tlsCurvePreferences: [29]\nenableContentionProfiling: true\nkubeletCgroups: /x\n";
    let unbuilt = |body: &str| -> Vec<String> {
        let file = with_body(body);
        let texts = loaded(&[&file.argument]).warnings;
        let texts = texts.iter().map(ToString::to_string);
        texts
            .filter(|text| text.contains("has no effect"))
            .collect()
    };
    assert_eq!(unbuilt(body).len(), 3);
    let closed = unbuilt(&format!("{body}enableServer: false\n"));
    assert_eq!(closed.len(), 1, "{closed:?}");
    assert!(closed[0].contains("kubeletCgroups"), "{closed:?}");
}

#[test]
fn cipher_suites_that_are_not_spoken_are_named() {
    let warned = |body: &str| -> Vec<String> {
        let file = with_body(body);
        let warnings = loaded(&[&file.argument]).warnings;
        warnings.iter().map(ToString::to_string).collect()
    };
    let ours = "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n";
    assert_eq!(warned(ours), [""; 0]);
    let mixed = warned(
        "tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_128_GCM_SHA256]\n",
    );
    assert_eq!(mixed.len(), 1, "{mixed:?}");
    let said = "not spoken by this agent: TLS_RSA_WITH_AES_128_GCM_SHA256";
    assert!(mixed[0].ends_with(said), "{mixed:?}");
    let old = "tlsMinVersion: VersionTLS10\ntlsCipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n";
    let warnings = warned(old);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].ends_with("; TLS 1.3 is spoken alone"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].contains("VersionTLS10 means TLS 1.2"),
        "{warnings:?}"
    );
    assert_eq!(warned(&format!("{old}enableServer: false\n")), [""; 0]);
}

#[test]
fn single_cpus_that_are_reserved_stand_for_the_number_that_was_to_be() {
    let file = with_body(
        "reservedSystemCPUs: 0-1,4\nkubeReserved: {cpu: 500m, memory: 1Gi}\nsystemReserved: {cpu: 100m}\n",
    );
    let cgroups = loaded(&[&file.argument]).config.cgroups;
    assert_eq!(cgroups.system_reserved["cpu"], "3");
    assert_eq!(cgroups.kube_reserved.get("cpu"), None);
    assert_eq!(cgroups.kube_reserved["memory"], "1Gi");
}
