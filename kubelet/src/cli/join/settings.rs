//! The node's KubeletConfiguration: the cluster's, but for what is about this machine. Pure.

use serde_json::{Map, Value, json};

/// What a node of its own keeps when it joins: where its pods, its runtime and its logs are, and what the machine is.
const OF_MACHINE: &[&str] = &[
    "staticPodPath",
    "staticPodURL",
    "staticPodURLHeader",
    "containerRuntimeEndpoint",
    "imageServiceEndpoint",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "enforceNodeAllocatable",
    "kubeletCgroups",
    "systemCgroups",
    "kubeReserved",
    "kubeReservedCgroup",
    "systemReserved",
    "systemReservedCgroup",
    "reservedSystemCPUs",
    "reservedMemory",
    "resolvConf",
    "failSwapOn",
    "failCgroupV1",
    "memorySwap",
    "podLogsDir",
    "volumePluginDir",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "shutdownGracePeriodByPodPriority",
    "evictionHard",
    "evictionMinimumReclaim",
];
/// Where systemd-resolved has the real servers.
pub(super) const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What goes into the merge beside the cluster's settings.
pub(super) struct Machine<'a> {
    /// The configuration that is there.
    pub(super) own: Option<&'a Value>,
    /// `--cri-socket`, or what was found.
    pub(super) runtime: &'a str,
    /// Whether `runtime` was asked for.
    pub(super) runtime_was_asked_for: bool,
    /// The directory of manifests.
    pub(super) manifests: &'a str,
    /// The cluster's CA.
    pub(super) authority: &'a str,
    /// Whether [`RESOLVED`] is there.
    pub(super) resolved: bool,
}

/// The configuration of the node. `cluster` is none where the cluster's may not be read: then it is what kubeadm writes,
/// without the service addresses, which only the cluster knows.
pub(super) fn merged(cluster: Option<&Value>, machine: &Machine<'_>) -> Value {
    let mut fields = match cluster.and_then(Value::as_object) {
        Some(fields) => fields.clone(),
        None => Map::new(),
    };
    fields.insert("apiVersion".into(), "kubelet.config.k8s.io/v1beta1".into());
    fields.insert("kind".into(), "KubeletConfiguration".into());
    if cluster.is_none() {
        fields.insert("rotateCertificates".into(), true.into());
        fields.insert("authorization".into(), json!({"mode": "Webhook"}));
        fields.insert(
            "authentication".into(),
            json!({"anonymous": {"enabled": false}, "webhook": {"enabled": true}}),
        );
    }
    for &name in OF_MACHINE {
        if let Some(value) = machine.own.and_then(|own| own.get(name)) {
            fields.insert(name.into(), value.clone());
        }
    }
    let absent = |fields: &Map<String, Value>, name: &str| {
        let value = fields.get(name).and_then(Value::as_str);
        value.is_none_or(str::is_empty)
    };
    if machine.runtime_was_asked_for || absent(&fields, "containerRuntimeEndpoint") {
        fields.insert("containerRuntimeEndpoint".into(), machine.runtime.into());
    }
    if absent(&fields, "staticPodPath") {
        fields.insert("staticPodPath".into(), machine.manifests.into());
    }
    let resolv = fields.get("resolvConf").and_then(Value::as_str);
    match (resolv, machine.resolved) {
        (Some(RESOLVED), false) => drop(fields.remove("resolvConf")),
        (None, true) => drop(fields.insert("resolvConf".into(), RESOLVED.into())),
        _ => {}
    }
    let mut root = Value::Object(fields);
    let x509 = &mut root["authentication"]["x509"];
    if !x509.is_object() {
        *x509 = json!({});
    }
    // Whatever path it has on another machine: here it was just written.
    x509["clientCAFile"] = machine.authority.into();
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(own: Option<&Value>) -> Machine<'_> {
        Machine {
            own,
            runtime: "unix:///run/containerd/containerd.sock",
            runtime_was_asked_for: false,
            manifests: "/etc/kubernetes/manifests",
            authority: "/etc/kubernetes/pki/ca.crt",
            resolved: false,
        }
    }

    #[test]
    fn the_machine_keeps_what_is_its_own_and_the_cluster_says_the_rest() {
        let cluster = json!({"clusterDNS": ["10.96.0.10"], "staticPodPath": "/a", "cgroupDriver": "systemd",
            "maxPods": 50, "resolvConf": RESOLVED, "authentication": {"x509": {"clientCAFile": "/elsewhere"}}});
        let own = json!({"staticPodPath": "/m", "cgroupDriver": "cgroupfs", "failSwapOn": false, "maxPods": 7,
            "enableServer": false, "authentication": {"webhook": {"enabled": false}},
            "containerRuntimeEndpoint": "unix:///run/crio/crio.sock"});
        let merged = merged(Some(&cluster), &machine(Some(&own)));
        assert_eq!(
            merged,
            json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
                "clusterDNS": ["10.96.0.10"], "staticPodPath": "/m", "cgroupDriver": "cgroupfs", "maxPods": 50,
                "failSwapOn": false, "containerRuntimeEndpoint": "unix:///run/crio/crio.sock",
                "authentication": {"x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}}})
        );
    }

    #[test]
    fn without_the_clusters_it_is_what_kubeadm_writes() {
        let mut machine = machine(None);
        machine.resolved = true;
        let merged = merged(None, &machine);
        assert_eq!(merged["rotateCertificates"], true);
        assert_eq!(merged["authorization"]["mode"], "Webhook");
        assert_eq!(merged["authentication"]["anonymous"]["enabled"], false);
        assert_eq!(merged["staticPodPath"], "/etc/kubernetes/manifests");
        assert_eq!(merged["resolvConf"], RESOLVED);
        assert_eq!(
            merged["containerRuntimeEndpoint"],
            "unix:///run/containerd/containerd.sock"
        );
    }

    #[test]
    fn a_runtime_that_was_asked_for_goes_before_the_one_that_was_there() {
        let own = json!({"containerRuntimeEndpoint": "unix:///run/crio/crio.sock"});
        let mut machine = machine(Some(&own));
        machine.runtime_was_asked_for = true;
        let merged = merged(Some(&json!({})), &machine);
        assert_eq!(merged["containerRuntimeEndpoint"], machine.runtime);
    }
}
