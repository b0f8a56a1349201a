//! Reading, creating, changing and deleting one object.

use std::sync::Arc;

use serde_json::{Value, json};
use static_pods::quantity::Quantity;

use super::answer::{self, Refusal};
use super::authorize::{self, is_mirror};
use super::defaults;
use super::events;
use super::identity::User;
use super::patch;
use super::resource::{RESOURCES, Resource, Target, position};
use super::selector::{at, text};
use super::state::Inside;
use super::store::Key;
use super::strategy::{self, Deletion};

/// Code and body of what was done.
pub(super) type Done = Result<(u16, Arc<Value>), Refusal>;

fn key(target: &Target) -> Result<(Key, &'static Resource), Refusal> {
    let (index, resource) = target.stored()?;
    let namespaced = resource.namespaced != target.namespace.is_empty();
    if !namespaced {
        return Err(Refusal::no_such_path());
    }
    let key = (index, target.namespace.clone(), target.name.clone());
    Ok((key, resource))
}

fn found<'i>(
    inside: &'i Inside,
    key: &Key,
    resource: &Resource,
) -> Result<&'i Arc<Value>, Refusal> {
    let object = inside.store.get(key);
    object.ok_or_else(|| Refusal::not_found(resource, &key.2))
}

pub(super) fn get(inside: &Inside, target: &Target) -> Done {
    let (key, resource) = key(target)?;
    Ok((200, Arc::clone(found(inside, &key, resource)?)))
}

pub(super) fn create(inside: &mut Inside, user: &User, target: &Target, body: Value) -> Done {
    let (mut key, resource) = key(target)?;
    if !target.name.is_empty() {
        return Err(Refusal::method_not_allowed());
    }
    let mut new = if target.new_events {
        events::to_core(body)
    } else {
        body
    };
    if resource.is("certificatesigningrequests") {
        new["spec"]["username"] = json!(user.name);
        let mut groups = user.groups.clone();
        groups.push("system:authenticated".to_owned());
        new["spec"]["groups"] = json!(groups);
    }
    let id = inside.store.next_id();
    strategy::prepare_create(resource, &target.namespace, id, &mut new)?;
    let name = text(&new, "metadata.name").to_owned();
    if resource.namespaced {
        let namespaces = position("", "namespaces").unwrap_or_default();
        let own = (namespaces, String::new(), target.namespace.clone());
        if inside.store.get(&own).is_none() {
            return Err(Refusal::not_found(
                &RESOURCES[namespaces],
                &target.namespace,
            ));
        }
    }
    if resource.is("events") {
        events::check(resource, &new)?;
    }
    authorize::check_created(&inside.store, user, resource, &new)?;
    if resource.is("pods") {
        admit_pod(inside, resource, &mut new)?;
    }
    key.2 = name;
    if inside.store.get(&key).is_some() {
        return Err(Refusal::already_exists(resource, &key.2));
    }
    Ok((201, inside.store.put(key, new)))
}

/// The plugins ServiceAccount and ResourceQuota.
fn admit_pod(inside: &mut Inside, resource: &Resource, pod: &mut Value) -> Result<(), Refusal> {
    let namespace = text(pod, "metadata.namespace").to_owned();
    let name = text(pod, "metadata.name").to_owned();
    if !is_mirror(pod) {
        let accounts = position("", "serviceaccounts").unwrap_or_default();
        let account = match text(pod, "spec.serviceAccountName") {
            "" => "default",
            other => other,
        };
        let own = (accounts, namespace.clone(), account.to_owned());
        let Some(account) = inside.store.get(&own).cloned() else {
            let why = format!(
                "error looking up service account {namespace}/{}: serviceaccount {:?} not found",
                own.2, own.2
            );
            return Err(Refusal::forbidden(resource, &name, &why));
        };
        let id = inside.store.next_id();
        defaults::service_account(pod, Some(&account), &format!("{id:05x}"));
    }
    let quotas = position("", "resourcequotas").unwrap_or_default();
    let pods = position("", "pods").unwrap_or_default();
    let count = |(key, _): &(&Key, &Arc<Value>)| key.1 == namespace;
    let used = inside.store.of(pods).filter(count).count();
    let quotas: Vec<_> = inside.store.of(quotas).filter(count).collect();
    for ((_, _, quota), object) in quotas {
        if at(object, "spec.hard.pods").is_null() {
            continue;
        }
        let hard = text(object, "status.hard.pods");
        let Ok(limit) = hard.parse::<usize>() else {
            let why = format!("status unknown for quota: {quota}, resources: pods");
            return Err(Refusal::forbidden(resource, &name, &why));
        };
        if used >= limit {
            let why = format!(
                "exceeded quota: {quota}, requested: pods=1, used: pods={used}, limited: pods={limit}"
            );
            return Err(Refusal::forbidden(resource, &name, &why));
        }
    }
    Ok(())
}

/// `POST …/pods/NAME/binding`: what a scheduler does.
pub(super) fn bind(inside: &mut Inside, target: &Target, binding: &Value) -> Done {
    let (key, resource) = key(target)?;
    let mut pod = Value::clone(found(inside, &key, resource)?);
    if !text(&pod, "spec.nodeName").is_empty() {
        let why = format!(
            "pod {} is already assigned to node {:?}",
            key.2,
            text(&pod, "spec.nodeName")
        );
        return Err(Refusal::conflict(resource, &key.2, &why));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    pod["status"]["conditions"] = json!([{
        "type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": strategy::now(),
    }]);
    inside.store.put(key, pod);
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok((201, Arc::new(done)))
}

pub(super) fn update(inside: &mut Inside, user: &User, target: &Target, body: Value) -> Done {
    let (key, resource) = key(target)?;
    let new = if target.new_events {
        events::to_core(body)
    } else {
        body
    };
    let Some(old) = inside.store.get(&key).cloned() else {
        if resource.upserts && target.subresource.is_empty() {
            let mut without = target.clone();
            without.name.clear();
            return create(inside, user, &without, new);
        }
        return Err(Refusal::not_found(resource, &key.2));
    };
    if text(&new, "metadata.resourceVersion").is_empty() && !resource.unconditional {
        let why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
        return Err(Refusal::invalid(resource, &key.2, why));
    }
    let (asked, is) = (text(&new, "metadata.uid"), text(&old, "metadata.uid"));
    if !asked.is_empty() && asked != is {
        return Err(Refusal::wrong_uid(resource, &key.2, asked, is));
    }
    change(inside, user, target, &old, new)
}

pub(super) fn patch(
    inside: &mut Inside,
    user: &User,
    target: &Target,
    content_type: &str,
    body: &Value,
) -> Done {
    let (key, resource) = key(target)?;
    let old = Arc::clone(found(inside, &key, resource)?);
    let new = if target.new_events {
        events::to_core(patch::apply(
            content_type,
            &events::to_new(Value::clone(&old)),
            body,
        )?)
    } else {
        patch::apply(content_type, &old, body)?
    };
    change(inside, user, target, &old, new)
}

/// How a quantity is counted.
type Unit = fn(&Quantity) -> i64;

/// A pod on a node may not be given more than there is of it (the admission plugin `PodResize`).
fn within_allocatable(inside: &Inside, resource: &Resource, pod: &Value) -> Result<(), Refusal> {
    let (node, name) = (text(pod, "spec.nodeName"), text(pod, "metadata.name"));
    let nodes = position("", "nodes").unwrap_or_default();
    let forbidden = |why: &str| Err(Refusal::forbidden(resource, name, why));
    if node.is_empty() {
        return Ok(());
    }
    let found = inside.store.of(nodes).find(|((_, _, own), _)| own == node);
    let Some((_, node)) = found else {
        return forbidden(&format!("node {node:?} not found"));
    };
    let amount = |value: &Value, of: Unit| {
        let parsed = value.as_str().map(Quantity::parse_amount);
        parsed.and_then(Result::ok).map_or(0, |parsed| of(&parsed))
    };
    let units: [(&str, Unit); 2] = [("cpu", Quantity::milli), ("memory", Quantity::value)];
    let short = units.iter().filter_map(|(kind, unit)| {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let requests = containers.map(|c| amount(&c["resources"]["requests"][*kind], *unit));
        let requested: i64 = requests.sum();
        let allocatable = amount(&node["status"]["allocatable"][*kind], *unit);
        (requested > allocatable)
            .then(|| format!("{kind}, requested: {requested}, allocatable: {allocatable}"))
    });
    match short.collect::<Vec<_>>() {
        short if short.is_empty() => Ok(()),
        short => forbidden(&format!(
            "node didn't have enough allocatable resources: {}",
            short.join("; ")
        )),
    }
}

/// Stores `new` in the place of `old`, as far as the subresource reaches and nobody was quicker.
fn change(inside: &mut Inside, user: &User, target: &Target, old: &Arc<Value>, new: Value) -> Done {
    let (key, resource) = key(target)?;
    let (asked, is) = (text(&new, "metadata.uid"), text(old, "metadata.uid"));
    if !asked.is_empty() && asked != is {
        // A patch has no precondition: it fails when the result is validated.
        let why = format!("metadata.uid: Invalid value: {asked:?}: field is immutable");
        return Err(Refusal::invalid(resource, &key.2, &why));
    }
    let version = text(&new, "metadata.resourceVersion");
    if !version.is_empty() && version != text(old, "metadata.resourceVersion") {
        return Err(Refusal::modified(resource, &key.2));
    }
    let new = strategy::prepare_update(resource, &target.subresource, old, new)?;
    if let Some(node) = user.node()
        && resource.is("nodes")
        && target.subresource.is_empty()
        && at(&new, "spec.taints") != at(old, "spec.taints")
    {
        let why = format!("node {node:?} is not allowed to modify taints");
        return Err(Refusal::forbidden(resource, &key.2, &why));
    }
    if resource.is("pods") && target.subresource == "resize" {
        within_allocatable(inside, resource, &new)?;
    }
    if strategy::finished(old, &new) {
        inside.store.put(key.clone(), new);
        let last = inside.store.remove(&key);
        let last = last.ok_or_else(|| Refusal::not_found(resource, &key.2))?;
        return Ok((200, last));
    }
    Ok((200, inside.store.put(key, new)))
}

pub(super) fn delete(inside: &mut Inside, user: &User, target: &Target, options: &Value) -> Done {
    let (key, resource) = key(target)?;
    let old = Arc::clone(found(inside, &key, resource)?);
    if let Some(node) = user.node()
        && resource.is("pods")
        && text(&old, "spec.nodeName") != node
    {
        let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
        return Err(Refusal::forbidden(resource, &key.2, &why));
    }
    for (field, path) in [
        ("uid", "metadata.uid"),
        ("resourceVersion", "metadata.resourceVersion"),
    ] {
        let asked = options["preconditions"][field].as_str();
        let is = text(&old, path);
        if let Some(asked) = asked
            && asked != is
        {
            let name = if field == "uid" {
                "UID"
            } else {
                "ResourceVersion"
            };
            let why = format!(
                "the {name} in the precondition ({asked}) does not match the {name} in record ({is}). \
                 The object might have been deleted and then recreated"
            );
            return Err(Refusal::conflict(resource, &key.2, &why));
        }
    }
    let query = target.param("gracePeriodSeconds").parse().ok();
    let grace = options["gracePeriodSeconds"].as_i64().or(query);
    match strategy::delete(resource, &old, grace) {
        Deletion::Pending => return Ok((200, old)),
        Deletion::Marked(new) => return Ok((200, inside.store.put(key, new))),
        Deletion::MarkedAndGone(new) => drop(inside.store.put(key.clone(), new)),
        Deletion::Now => {}
    }
    let last = inside.store.remove(&key);
    let last = last.ok_or_else(|| Refusal::not_found(resource, &key.2))?;
    // A pod is answered with itself, most others with a Status.
    if resource.is("pods") {
        return Ok((200, last));
    }
    let uid = text(&last, "metadata.uid");
    Ok((200, Arc::new(answer::deleted(resource, &key.2, uid))))
}
