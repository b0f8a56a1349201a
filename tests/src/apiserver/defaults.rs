//! Defaults and the admission plugins that a pod or a node meets on its way in, as far as a kubelet sees what they do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::selector::{at, text};

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// The elements of a list, which is not made where there is none.
pub(super) fn each<'v>(object: &'v mut Value, list: &str) -> impl Iterator<Item = &'v mut Value> {
    let list = object.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Defaults of a pod's spec. Done again on each update, they change nothing that is there.
pub(super) fn pod(pod: &mut Value) {
    let spec = &mut pod["spec"];
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
        ("priority", json!(0)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        default(spec, field, value);
    }
    containers(spec);
    for volume in each(spec, "volumes") {
        for kind in ["configMap", "secret", "downwardAPI", "projected"] {
            if volume.get(kind).is_some() {
                default(&mut volume[kind], "defaultMode", json!(0o644));
            }
        }
        let projected = volume.get_mut("projected");
        for source in projected.into_iter().flat_map(|p| each(p, "sources")) {
            if source.get("serviceAccountToken").is_some() {
                let token = &mut source["serviceAccountToken"];
                default(token, "expirationSeconds", json!(3600));
            }
        }
    }
    tolerations(spec);
}

/// Defaults of a CSIDriver.
pub(super) fn csi_driver(driver: &mut Value) {
    let spec = &mut driver["spec"];
    for (field, value) in [
        ("attachRequired", json!(true)),
        ("podInfoOnMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("volumeLifecycleModes", json!(["Persistent"])),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
    ] {
        default(spec, field, value);
    }
}

/// Defaults of all containers of a spec.
pub(super) fn containers(spec: &mut Value) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, list) {
            let image = container["image"].as_str().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            let policy = if latest { "Always" } else { "IfNotPresent" };
            default(container, "imagePullPolicy", json!(policy));
            default(
                container,
                "terminationMessagePath",
                json!("/dev/termination-log"),
            );
            default(container, "terminationMessagePolicy", json!("File"));
            if list != "ephemeralContainers" {
                default(container, "resources", json!({}));
                requests(&mut container["resources"]);
            }
            for port in each(container, "ports") {
                default(port, "protocol", json!("TCP"));
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if container.get(probe).is_some_and(Value::is_object) {
                    let probe = &mut container[probe];
                    for (field, value) in [
                        ("timeoutSeconds", 1),
                        ("periodSeconds", 10),
                        ("successThreshold", 1),
                        ("failureThreshold", 3),
                    ] {
                        default(probe, field, json!(value));
                    }
                }
            }
            for variable in each(container, "env") {
                if variable["valueFrom"].get("fieldRef").is_some() {
                    let field = &mut variable["valueFrom"]["fieldRef"];
                    default(field, "apiVersion", json!("v1"));
                }
            }
        }
    }
}

/// A limit without a request is the request.
fn requests(resources: &mut Value) {
    let limits = resources["limits"].as_object().cloned().unwrap_or_default();
    if !limits.is_empty() {
        default(resources, "requests", json!({}));
    }
    for (name, limit) in limits {
        default(&mut resources["requests"], &name, limit);
    }
}

/// What DefaultTolerationSeconds adds.
fn tolerations(spec: &mut Value) {
    let mut all = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let there = all.iter().any(|t| {
            let own = t["key"].as_str().unwrap_or_default();
            let effect = t["effect"].as_str().unwrap_or_default();
            (own.is_empty() || own == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !there {
            all.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
    spec["tolerations"] = Value::Array(all);
}

pub(super) fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let containers = ["containers", "initContainers"].iter();
    let containers: Vec<&Value> = containers
        .flat_map(|list| spec[*list].as_array().into_iter().flatten())
        .collect();
    let any = containers.iter().any(|c| {
        ["limits", "requests"].iter().any(|r| {
            !c["resources"][*r]["cpu"].is_null() || !c["resources"][*r]["memory"].is_null()
        })
    });
    let full = containers.iter().all(|c| {
        let resources = &c["resources"];
        ["cpu", "memory"].iter().all(|name| {
            let limit = &resources["limits"][*name];
            !limit.is_null() && resources["requests"][*name] == *limit
        })
    });
    match (any, full) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the ServiceAccount plugin does to a pod that is no mirror: the account's name, and its token as a volume.
pub(super) fn service_account(pod: &mut Value, account: Option<&Value>, suffix: &str) {
    let spec = &mut pod["spec"];
    default(spec, "serviceAccountName", json!("default"));
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    let own = spec["automountServiceAccountToken"].as_bool();
    let theirs = account.and_then(|a| a["automountServiceAccountToken"].as_bool());
    if !own.or(theirs).unwrap_or(true) {
        return;
    }
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let name = format!("kube-api-access-{suffix}");
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            let mut mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if mounts.iter().all(|m| text(m, "mountPath") != path) {
                mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
            }
            container["volumeMounts"] = Value::Array(mounts);
        }
    }
    let mut volumes = at(spec, "volumes").as_array().cloned().unwrap_or_default();
    volumes.push(json!({ "name": name, "projected": { "defaultMode": 0o644, "sources": [
        { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{
            "path": "namespace",
            "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
        }] } },
    ] } }));
    spec["volumes"] = Value::Array(volumes);
}

/// What TaintNodesByCondition does to a new node.
pub(super) fn node(node: &mut Value) {
    let spec = &mut node["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    let mut taints = spec["taints"].as_array().cloned().unwrap_or_default();
    let key = "node.kubernetes.io/not-ready";
    if taints.iter().all(|t| t["key"] != key) {
        taints.push(json!({ "key": key, "effect": "NoSchedule" }));
    }
    spec["taints"] = Value::Array(taints);
}

/// A cluster IP, where one is wanted, from the part of 10.96.0.0/16 that `id` says.
pub(super) fn service(service: &mut Value, id: u64) {
    let spec = &mut service["spec"];
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    if spec["type"] != "ExternalName" && spec.get("clusterIP").is_none() {
        let ip = format!("10.96.{}.{}", 1 + id / 250 % 250, 1 + id % 250);
        spec["clusterIP"] = json!(ip);
    }
    if let Some(ip) = spec.get("clusterIP").cloned() {
        default(spec, "clusterIPs", json!([ip]));
    }
    for port in each(spec, "ports") {
        default(port, "protocol", json!("TCP"));
        let own = port["port"].clone();
        default(port, "targetPort", own);
    }
}

/// `stringData` is written and never read.
pub(super) fn secret(secret: &mut Value) {
    default(secret, "type", json!("Opaque"));
    let strings = secret
        .as_object_mut()
        .and_then(|fields| fields.remove("stringData"));
    for (key, value) in strings.iter().filter_map(Value::as_object).flatten() {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        secret["data"][key] = json!(encoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_once_and_again_are_the_same() {
        let mut once = json!({ "spec": { "containers": [
            { "name": "a", "image": "registry:5000/x", "readinessProbe": {},
              "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } },
            { "name": "b", "image": "x:1", "resources": { "requests": { "cpu": "1" } },
              "env": [{ "name": "E", "value": "1" }] },
        ] } });
        pod(&mut once);
        assert_eq!(once["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(
            once["spec"]["containers"][1]["imagePullPolicy"],
            "IfNotPresent"
        );
        assert_eq!(qos_class(&once), "Burstable");
        assert!(!once.to_string().contains("null"), "{once}");
        let mut again = once.clone();
        pod(&mut again);
        assert_eq!(once, again);
        once["spec"]["containers"].as_array_mut().unwrap().pop();
        assert_eq!(qos_class(&once), "Guaranteed");
    }

    #[test]
    fn the_account_is_named_and_mounted_unless_unwanted() {
        let plain = json!({ "spec": { "containers": [{ "name": "a", "image": "x" }] } });
        let mut mounted = plain.clone();
        service_account(&mut mounted, None, "abcde");
        assert_eq!(mounted["spec"]["serviceAccountName"], "default");
        assert_eq!(
            mounted["spec"]["volumes"][0]["name"],
            "kube-api-access-abcde"
        );
        let mut unwanted = plain.clone();
        unwanted["spec"]["automountServiceAccountToken"] = json!(false);
        service_account(&mut unwanted, None, "abcde");
        assert!(unwanted["spec"].get("volumes").is_none());
    }

    #[test]
    fn string_data_becomes_data() {
        let mut object = json!({ "stringData": { "k": "v" } });
        secret(&mut object);
        assert_eq!(object, json!({ "type": "Opaque", "data": { "k": "dg==" } }));
    }
}
