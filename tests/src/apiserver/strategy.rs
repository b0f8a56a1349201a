//! What the server makes of an object that is written: metadata, status apart from the rest, what may not change.

use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};
use serde_json::{Value, json};

use super::answer::Refusal;
use super::defaults;
use super::resource::Resource;
use super::selector::{at, text};

/// Now, to the second, as `metadata` has times.
pub(super) fn now() -> String {
    seconds(Timestamp::now())
}

/// A time as `metadata` has it.
pub(super) fn seconds(time: Timestamp) -> String {
    let whole = time.round(Unit::Second).unwrap_or(time);
    whole.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn object(value: &mut Value) {
    if !value.is_object() {
        *value = json!({});
    }
}

/// Sets what the server sets in a new object.
pub(super) fn prepare_create(
    resource: &Resource,
    namespace: &str,
    id: u64,
    new: &mut Value,
) -> Result<(), Refusal> {
    object(new);
    object(&mut new["metadata"]);
    new["apiVersion"] = json!(resource.api_version());
    new["kind"] = json!(resource.kind);
    let generated = text(new, "metadata.generateName").to_owned();
    if text(new, "metadata.name").is_empty() {
        if generated.is_empty() {
            let why = "name or generateName is required";
            return Err(Refusal::invalid(
                resource,
                "",
                &format!("metadata.name: Required value: {why}"),
            ));
        }
        new["metadata"]["name"] = json!(format!("{generated}{}", suffix(id)));
    }
    if resource.namespaced {
        let own = text(new, "metadata.namespace");
        if !own.is_empty() && own != namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        new["metadata"]["namespace"] = json!(namespace);
    }
    let metadata = &mut new["metadata"];
    metadata["uid"] = json!(uid(id));
    metadata["creationTimestamp"] = json!(now());
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.as_object_mut().map(|m| m.remove(field));
    }
    metadata["managedFields"] = managed();
    match resource.plural {
        "pods" => {
            new["metadata"]["generation"] = json!(1);
            defaults::pod(new);
            new["status"] = json!({ "phase": "Pending", "qosClass": defaults::qos_class(new) });
        }
        "nodes" => defaults::node(new),
        "namespaces" => new["status"] = json!({ "phase": "Active" }),
        "certificatesigningrequests" | "resourcequotas" => new["status"] = json!({}),
        "secrets" => defaults::secret(new),
        "services" => defaults::service(new, id),
        "csidrivers" => defaults::csi_driver(new),
        "volumeattachments" => new["status"] = json!({ "attached": false }),
        _ => {}
    }
    Ok(())
}

/// What managers there are is of no interest; that the field is there is, as clients should not keep it.
fn managed() -> Value {
    json!([{
        "manager": "double", "operation": "Update", "apiVersion": "v1", "time": now(),
        "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": {} },
    }])
}

/// Five letters of a name that is generated; upstream's alphabet has no vowels.
fn suffix(id: u64) -> String {
    let letters = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let mut name = String::new();
    for _ in 0..5 {
        let index = usize::try_from(rest % letters.len() as u64).unwrap_or_default();
        name.push(char::from(letters[index]));
        rest /= letters.len() as u64;
    }
    name
}

fn uid(id: u64) -> String {
    let mixed = id.wrapping_mul(0xbf58_476d_1ce4_e5b9) & 0xffff_ffff;
    format!("{mixed:08x}-0000-4000-8000-{id:012x}")
}

/// What becomes of an update of `old` through `subresource` (empty for the object itself).
pub(super) fn prepare_update(
    resource: &Resource,
    subresource: &str,
    old: &Value,
    mut new: Value,
) -> Result<Value, Refusal> {
    let name = text(old, "metadata.name").to_owned();
    let invalid = |why: &str| Err(Refusal::invalid(resource, &name, why));
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    if text(&new, "metadata.name") != name {
        return invalid("metadata.name: Invalid value: field is immutable");
    }
    // What only the server writes.
    for field in [
        "uid",
        "namespace",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "managedFields",
    ] {
        keep(&mut new["metadata"], &old["metadata"], field);
    }
    match (resource.plural, subresource) {
        ("pods" | "nodes", "status") => {
            keep(&mut new, old, "spec");
            keep(&mut new["metadata"], &old["metadata"], "ownerReferences");
        }
        (_, "status") => keep(&mut new, old, "spec"),
        ("certificatesigningrequests", "approval") => {
            keep(&mut new, old, "spec");
            let certificate = old["status"]["certificate"].clone();
            if !certificate.is_null() {
                new["status"]["certificate"] = certificate;
            }
        }
        ("pods", "ephemeralcontainers" | "resize") => {
            let own = new["spec"].clone();
            new = old.clone();
            if subresource == "resize" {
                resize(&mut new["spec"], &own);
            } else {
                new["spec"]["ephemeralContainers"] = own["ephemeralContainers"].clone();
                defaults::containers(&mut new["spec"]);
            }
        }
        (_, "") => {
            if resource.has_status {
                keep(&mut new, old, "status");
            }
        }
        _ => return Err(Refusal::no_such_path()),
    }
    if resource.is("pods") {
        if subresource.is_empty() {
            defaults::pod(&mut new);
            if fixed(&new) != fixed(old) {
                return invalid(
                    "spec: Forbidden: pod updates may not change fields other than \
                     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                     `spec.tolerations` (only additions to existing tolerations),\
                     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
                );
            }
        }
        if new["spec"] != old["spec"] {
            let generation = at(old, "metadata.generation").as_i64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + 1);
        }
    }
    if ["configmaps", "secrets"].contains(&resource.plural) && old["immutable"] == json!(true) {
        let same = ["data", "binaryData", "immutable", "stringData"]
            .iter()
            .all(|field| old[*field] == new[*field]);
        if !same {
            return invalid("data: Forbidden: field is immutable when `immutable` is set");
        }
    }
    if resource.is("secrets") {
        defaults::secret(&mut new);
    }
    Ok(new)
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => drop(new.as_object_mut().map(|fields| fields.remove(field))),
    }
}

/// What of a pod's spec no update may change.
fn fixed(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for field in [
        "activeDeadlineSeconds",
        "tolerations",
        "terminationGracePeriodSeconds",
        "schedulingGates",
    ] {
        spec.as_object_mut().map(|fields| fields.remove(field));
    }
    for list in ["containers", "initContainers"] {
        for container in defaults::each(&mut spec, list) {
            container["image"] = Value::Null;
        }
    }
    spec
}

/// Takes resources and nothing else.
fn resize(spec: &mut Value, asked: &Value) {
    for list in ["containers", "initContainers"] {
        let wanted = asked[list].as_array().cloned().unwrap_or_default();
        for container in defaults::each(spec, list) {
            let own = wanted.iter().find(|c| c["name"] == container["name"]);
            if let Some(own) = own {
                keep(container, own, "resources");
                keep(container, own, "resizePolicy");
            }
        }
    }
}

/// What deleting makes of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Deletion {
    /// It goes.
    Now,
    /// It stays as it is: a longer or equal period is running.
    Pending,
    /// It stays, changed like this.
    Marked(Value),
    /// It is changed like this, and goes.
    MarkedAndGone(Value),
}

/// Deletion in two steps of what is bound to a node, and of what finalizers hold.
pub(super) fn delete(resource: &Resource, old: &Value, asked: Option<i64>) -> Deletion {
    let held = at(old, "metadata.finalizers")
        .as_array()
        .is_some_and(|f| !f.is_empty());
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let graceful = if resource.is("pods") {
        pod_grace(old, asked)
    } else {
        Grace::None
    };
    let mut marked = old.clone();
    match graceful {
        Grace::Pending => return Deletion::Pending,
        Grace::Marks(until, period) => {
            marked["metadata"]["deletionTimestamp"] = json!(until);
            marked["metadata"]["deletionGracePeriodSeconds"] = json!(period);
            if period == 0 && !held {
                return Deletion::MarkedAndGone(marked);
            }
        }
        Grace::None if held => {
            if at(old, "metadata.deletionTimestamp").is_null() {
                marked["metadata"]["deletionTimestamp"] = json!(now());
            }
            marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        Grace::None => return Deletion::Now,
    }
    let first = at(old, "metadata.deletionTimestamp").is_null();
    if first && let Some(generation) = at(old, "metadata.generation").as_i64() {
        marked["metadata"]["generation"] = json!(generation + 1);
    }
    if marked == *old {
        return Deletion::Pending;
    }
    Deletion::Marked(marked)
}

enum Grace {
    None,
    Pending,
    Marks(String, i64),
}

fn pod_grace(old: &Value, asked: Option<i64>) -> Grace {
    let until: Option<Timestamp> = text(old, "metadata.deletionTimestamp").parse().ok();
    let Some(until) = until else {
        let phase = text(old, "status.phase");
        let own = at(old, "spec.terminationGracePeriodSeconds")
            .as_i64()
            .unwrap_or(30);
        let unbound = text(old, "spec.nodeName").is_empty();
        let period = if unbound || ["Succeeded", "Failed"].contains(&phase) {
            0
        } else {
            let period = asked.unwrap_or(own);
            if period < 0 { 1 } else { period }
        };
        let until = Timestamp::now() + SignedDuration::from_secs(period);
        return Grace::Marks(seconds(until), period);
    };
    let running = at(old, "metadata.deletionGracePeriodSeconds")
        .as_i64()
        .unwrap_or(0);
    if running == 0 {
        return Grace::None;
    }
    match asked {
        None => Grace::Pending,
        Some(period) if period >= running => Grace::Pending,
        Some(period) => {
            let sooner = until - SignedDuration::from_secs(running - period);
            let now = Timestamp::now();
            if sooner < now {
                // The whole period is over already: still in two steps, unless none was wanted.
                return Grace::Marks(seconds(now), period.min(1));
            }
            Grace::Marks(seconds(sooner), period)
        }
    }
}

/// Whether an update took away the last thing that held a deleted object.
pub(super) fn finished(old: &Value, new: &Value) -> bool {
    let held = at(new, "metadata.finalizers")
        .as_array()
        .is_some_and(|f| !f.is_empty());
    let grace = at(old, "metadata.deletionGracePeriodSeconds");
    !at(new, "metadata.deletionTimestamp").is_null() && !held && grace.as_i64().unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::super::resource::RESOURCES;
    use super::*;

    fn pod() -> Value {
        let mut pod = json!({
            "metadata": { "name": "a" },
            "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] },
        });
        prepare_create(&RESOURCES[0], "x", 7, &mut pod).unwrap();
        pod
    }

    fn marked(deletion: Deletion) -> Value {
        match deletion {
            Deletion::Marked(pod) => pod,
            other => panic!("{other:?}"),
        }
    }

    fn gone(deletion: Deletion) -> bool {
        matches!(deletion, Deletion::MarkedAndGone(_))
    }

    #[test]
    fn a_bound_pod_goes_in_two_steps() {
        let pods = &RESOURCES[0];
        let first = marked(delete(pods, &pod(), None));
        assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(first["metadata"]["generation"], 2);
        assert_eq!(delete(pods, &first, None), Deletion::Pending);
        assert_eq!(delete(pods, &first, Some(60)), Deletion::Pending);
        let sooner = marked(delete(pods, &first, Some(5)));
        assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
        assert!(
            text(&sooner, "metadata.deletionTimestamp")
                < text(&first, "metadata.deletionTimestamp")
        );
        assert_eq!(sooner["metadata"]["generation"], 2);
        assert!(gone(delete(pods, &sooner, Some(0))));
    }

    #[test]
    fn an_unbound_or_ended_pod_goes_at_once() {
        let mut unbound = pod();
        unbound["spec"]["nodeName"] = Value::Null;
        assert!(gone(delete(&RESOURCES[0], &unbound, None)));
        let mut ended = pod();
        ended["status"]["phase"] = json!("Failed");
        assert!(gone(delete(&RESOURCES[0], &ended, Some(30))));
    }

    #[test]
    fn a_finalizer_holds_until_it_is_taken_away() {
        let mut held = pod();
        held["metadata"]["finalizers"] = json!(["x/y"]);
        let waiting = marked(delete(&RESOURCES[0], &held, Some(0)));
        assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 0);
        assert!(!finished(&waiting, &waiting));
        let mut let_go = waiting.clone();
        let_go["metadata"]["finalizers"] = json!([]);
        assert!(finished(&waiting, &let_go));
    }

    #[test]
    fn a_status_update_changes_the_status_alone() {
        let old = pod();
        let mut new = old.clone();
        new["spec"]["nodeName"] = json!("m");
        new["metadata"]["labels"] = json!({ "a": "b" });
        new["metadata"]["uid"] = json!("other");
        new["status"]["phase"] = json!("Running");
        let updated = prepare_update(&RESOURCES[0], "status", &old, new.clone()).unwrap();
        assert_eq!(updated["spec"], old["spec"]);
        assert_eq!(updated["metadata"]["uid"], old["metadata"]["uid"]);
        assert_eq!(updated["metadata"]["labels"]["a"], "b");
        assert_eq!(updated["status"]["phase"], "Running");
        let refused = prepare_update(&RESOURCES[0], "", &old, new).unwrap_err();
        assert_eq!(refused.code, 422);
        let mut image = old.clone();
        image["spec"]["containers"][0]["image"] = json!("j");
        image["status"]["phase"] = json!("Failed");
        let updated = prepare_update(&RESOURCES[0], "", &old, image).unwrap();
        assert_eq!(updated["metadata"]["generation"], 2);
        assert_eq!(updated["status"]["phase"], "Pending");
    }
}
