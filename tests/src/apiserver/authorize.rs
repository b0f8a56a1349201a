//! What a user may do: everything for masters, its own for a node, joining for a bootstrap token.
//!
//! Of the node authorizer and of NodeRestriction there is what a kubelet can run into; the rest of RBAC is not here.

use serde_json::Value;

use super::answer::Refusal;
use super::identity::User;
use super::resource::{Resource, Target, position};
use super::selector::{Selector, at, text};
use super::store::Store;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether `user` may do `verb` there at all.
pub(super) fn check(
    store: &Store,
    user: &User,
    verb: &str,
    target: &Target,
    selector: Option<&Selector>,
) -> Result<(), Refusal> {
    if user.is_in("system:masters") {
        return Ok(());
    }
    let allowed = match user.node() {
        Some(node) => node_may(store, node, verb, target, selector),
        None => other_may(user, verb, target),
    };
    if allowed {
        return Ok(());
    }
    let object = if target.subresource.is_empty() {
        target.plural.clone()
    } else {
        format!("{}/{}", target.plural, target.subresource)
    };
    let scope = if target.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", target.namespace)
    };
    let why = format!(
        "User {:?} cannot {verb} resource {object:?} in API group {:?} {scope}",
        user.name, target.group
    );
    Err(match target.stored() {
        Ok((_, resource)) => Refusal::forbidden(resource, &target.name, &why),
        Err(_) => Refusal::new(403, "Forbidden", why),
    })
}

fn other_may(user: &User, verb: &str, target: &Target) -> bool {
    let joins = user.is_in("system:bootstrappers")
        && target.plural == "certificatesigningrequests"
        && target.subresource.is_empty()
        && ["create", "get", "list", "watch"].contains(&verb);
    let discovers = target.plural == "configmaps"
        && target.namespace == "kube-public"
        && target.name == "cluster-info"
        && verb == "get";
    // What kubeadm lets joining nodes see: its roles kubeadm:get-nodes and kubeadm:kubelet-config.
    let looks = user.is_in("system:bootstrappers:kubeadm:default-node-token")
        && verb == "get"
        && target.subresource.is_empty()
        && (target.plural == "nodes"
            || target.plural == "configmaps"
                && target.namespace == "kube-system"
                && target.name == "kubelet-config");
    joins || discovers || looks
}

fn node_may(
    store: &Store,
    node: &str,
    verb: &str,
    target: &Target,
    selector: Option<&Selector>,
) -> bool {
    let reads = ["get", "list", "watch"].contains(&verb);
    let named = |name: &str| target.name == name;
    let selects = |field: &str| selector.and_then(|s| s.field(field));
    match (target.plural.as_str(), target.subresource.as_str()) {
        ("nodes", "" | "status") => match verb {
            "create" => true,
            "get" | "update" | "patch" => named(node),
            "list" | "watch" => selects("metadata.name") == Some(node),
            _ => false,
        },
        ("pods", "") => match verb {
            "list" | "watch" => selects("spec.nodeName") == Some(node),
            // Of a pod that is not there a node does not even learn that: no relationship is known.
            "get" => pod(store, &target.namespace, &target.name)
                .is_some_and(|pod| text(pod, "spec.nodeName") == node),
            "delete" => not_elsewhere(store, &target.namespace, &target.name, node),
            "create" => true,
            _ => false,
        },
        ("pods", "status") => {
            ["update", "patch"].contains(&verb)
                && not_elsewhere(store, &target.namespace, &target.name, node)
        }
        ("pods", "eviction") => verb == "create",
        ("secrets" | "configmaps", "") => {
            let name = if verb == "get" {
                Some(target.name.as_str())
            } else {
                selects("metadata.name")
            };
            reads && name.is_some_and(|n| referenced(store, node, target, n))
        }
        ("serviceaccounts", "token") => {
            let mut pods = of_node(store, node);
            verb == "create"
                && pods.any(|pod| {
                    text(pod, "metadata.namespace") == target.namespace
                        && text(pod, "spec.serviceAccountName") == target.name
                })
        }
        ("serviceaccounts", "") => verb == "get",
        ("services" | "runtimeclasses" | "csidrivers" | "namespaces", "") => reads,
        ("persistentvolumeclaims", "") => {
            let mut pods = of_node(store, node);
            verb == "get"
                && pods.any(|pod| claims(pod).contains(&(&target.namespace, target.name.clone())))
        }
        ("persistentvolumes", "") => {
            let mut pods = of_node(store, node);
            let key = position("", "persistentvolumes");
            let volume = key.and_then(|at| store.get(&(at, String::new(), target.name.clone())));
            let of = volume.map(|volume| {
                let of = |field: &str| text(volume, &format!("spec.claimRef.{field}"));
                (of("namespace"), of("name").to_owned())
            });
            verb == "get" && of.is_some_and(|of| pods.any(|pod| claims(pod).contains(&of)))
        }
        ("persistentvolumeclaims", "status") => ["get", "update", "patch"].contains(&verb),
        ("events", "") => ["create", "update", "patch"].contains(&verb),
        ("leases", "") => {
            let own = target.namespace == "kube-node-lease" && (named(node) || verb == "create");
            own && ["create", "get", "update", "patch", "delete"].contains(&verb)
        }
        ("csinodes", "") => verb == "create" || named(node),
        // By the graph: those of volumes that are to be attached to it.
        ("volumeattachments", "") => verb == "get" && attached_to(store, node, &target.name),
        ("certificatesigningrequests", "") => reads || verb == "create",
        ("tokenreviews" | "subjectaccessreviews", "") => verb == "create",
        _ => false,
    }
}

fn pod<'s>(store: &'s Store, namespace: &str, name: &str) -> Option<&'s Value> {
    let pods = position("", "pods")?;
    let key = (pods, namespace.to_owned(), name.to_owned());
    store.get(&key).map(AsRef::as_ref)
}

fn of_node<'s>(store: &'s Store, node: &str) -> impl Iterator<Item = &'s Value> {
    let pods = position("", "pods").unwrap_or_default();
    let all = store.of(pods).map(|(_, pod)| pod.as_ref());
    all.filter(move |pod| text(pod, "spec.nodeName") == node)
}

/// Whether a volume is to be attached to the node.
fn attached_to(store: &Store, node: &str, name: &str) -> bool {
    let all = position("storage.k8s.io", "volumeattachments").unwrap_or_default();
    let attachment = store.get(&(all, String::new(), name.to_owned()));
    attachment.is_some_and(|attachment| text(attachment, "spec.nodeName") == node)
}

/// The claims of a pod, those of generic ephemeral volumes among them: namespace and name.
fn claims(pod: &Value) -> Vec<(&str, String)> {
    let volumes = at(pod, "spec.volumes").as_array();
    let names = volumes.into_iter().flatten().filter_map(|volume| {
        if !volume["ephemeral"].is_null() {
            let (pod, volume) = (text(pod, "metadata.name"), text(volume, "name"));
            return Some(format!("{pod}-{volume}"));
        }
        let name = text(volume, "persistentVolumeClaim.claimName");
        Some(name.to_owned()).filter(|name| !name.is_empty())
    });
    let namespace = text(pod, "metadata.namespace");
    names.map(|name| (namespace, name)).collect()
}

/// What is not there is looked for further on, and not found.
fn not_elsewhere(store: &Store, namespace: &str, name: &str, node: &str) -> bool {
    pod(store, namespace, name).is_none_or(|pod| text(pod, "spec.nodeName") == node)
}

/// Whether a pod of the node has the object's name anywhere in its spec: the authorizer's graph, coarsely.
fn referenced(store: &Store, node: &str, target: &Target, name: &str) -> bool {
    let by_pod = of_node(store, node).any(|pod| {
        text(pod, "metadata.namespace") == target.namespace
            && !is_mirror(pod)
            && names(at(pod, "spec"), name)
    });
    by_pod || by_volume(store, target, name)
}

/// Whether a persistent volume names the secret for its driver.
fn by_volume(store: &Store, target: &Target, name: &str) -> bool {
    let volumes = position("", "persistentvolumes").unwrap_or_default();
    let refs = [
        "nodeStageSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    store.of(volumes).any(|(_, volume)| {
        let source = at(volume, "spec.csi");
        refs.iter().any(|key| {
            source[*key]["namespace"] == target.namespace.as_str() && source[*key]["name"] == name
        })
    })
}

fn names(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(items) => items.iter().any(|item| names(item, name)),
        Value::Object(fields) => fields.values().any(|field| names(field, name)),
        _ => false,
    }
}

pub(super) fn is_mirror(pod: &Value) -> bool {
    !at(pod, "metadata.annotations")[MIRROR].is_null()
}

/// NodeRestriction for what a node creates.
pub(super) fn check_created(
    store: &Store,
    user: &User,
    resource: &Resource,
    object: &Value,
) -> Result<(), Refusal> {
    let Some(node) = user.node() else {
        return Ok(());
    };
    let name = text(object, "metadata.name");
    let refuse = |why: String| Err(Refusal::forbidden(resource, name, &why));
    match resource.plural {
        "nodes" | "leases" | "csinodes" if name != node => refuse(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        )),
        "pods" => {
            if !is_mirror(object) {
                return refuse(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if text(object, "spec.nodeName") != node {
                return refuse(format!(
                    "node {node:?} can only create pods with spec.nodeName set to itself"
                ));
            }
            let nodes = position("", "nodes").unwrap_or_default();
            let own = store.get(&(nodes, String::new(), node.to_owned()));
            let Some(own) = own else {
                return refuse(format!("node {node:?} not found"));
            };
            let owners = at(object, "metadata.ownerReferences").as_array();
            let owned = owners.is_some_and(|owners| {
                owners.len() == 1
                    && text(&owners[0], "kind") == "Node"
                    && text(&owners[0], "apiVersion") == "v1"
                    && text(&owners[0], "name") == node
                    && text(&owners[0], "uid") == text(own, "metadata.uid")
                    && owners[0]["blockOwnerDeletion"] != Value::Bool(true)
            });
            if !owned {
                return refuse(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            if !text(object, "spec.serviceAccountName").is_empty() {
                return refuse(format!(
                    "node {node:?} can not create pods that reference a service account"
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
