//! Whether a pod fits beside the others: resources, placement, ports, taints. Upstream's predicates, in its order.

use std::fmt;

use k8s_openapi::api::core::v1::Toleration;

use super::claim::{Amounts, Claim, HostPort, PODS};
use super::ledger::{Other, Standing};
use super::preempt::{self, Needs};
use super::{Admission, Node, Rejection, Taint, placement};
use crate::pod::{self, Pod, PodUid};

/// The one effect of a taint that ends pods on a node; the others are the scheduler's.
const NO_EXECUTE: &str = "NoExecute";

/// A resource of which too little is left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shortfall {
    resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortfall {
    fn missing(&self) -> i64 {
        let free = self.capacity.saturating_sub(self.used);
        self.requested.saturating_sub(free)
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            requested,
            used,
            capacity,
        } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

/// Whether there is room for `pod` beside `others`, and who has to leave for it.
pub(super) fn admit(pod: &Pod, node: &Node, others: &[Other<'_>]) -> Result<Admission, Rejection> {
    let mut claim = Claim::of(pod).map_err(|error| {
        let text = format!("{error}: {}", error.source);
        Rejection::new("UnexpectedAdmissionError", text)
    })?;
    // What no device plugin of this node offers is left to whoever put it there (upstream: cluster-level resources).
    claim
        .requests
        .retain(|name, _| !is_extended(name) || node.allocatable.contains_key(name));
    let short = shortfalls(&claim, node, others);
    // Other pods in the way of a critical one can be made to leave, so all else counts first; for the rest of the
    // pods the first failure does, and resources are looked at first.
    if let Some(first) = short.first()
        && !claim.critical
    {
        return Err(Rejection::new(
            format!("OutOf{}", first.resource),
            first.to_string(),
        ));
    }
    placement::admit(pod, &node.features)?;
    admit_ports(&claim, others)?;
    admit_taints(pod, &node.taints)?;
    let (victims, after) = make_room(&claim, others, &short)?;
    Ok(Admission {
        claim,
        victims,
        after,
    })
}

/// What `pod`, which runs, would take with what it asks for now; or what there is too little of.
pub(super) fn resized(pod: &Pod, node: &Node, others: &[Other<'_>]) -> Result<Claim, String> {
    let mut claim = Claim::of(pod).map_err(|error| format!("{error}: {}", error.source))?;
    claim
        .requests
        .retain(|name, _| !is_extended(name) || node.allocatable.contains_key(name));
    match shortfalls(&claim, node, others).first() {
        Some(first) => Err(first.to_string()),
        None => Ok(claim),
    }
}

/// Whether `resource` is one that the node would have to advertise: in a domain, and not in one of Kubernetes' own.
pub(super) fn is_extended(resource: &str) -> bool {
    resource.contains('/')
        && !resource.contains("kubernetes.io/")
        && !resource.starts_with("requests.")
}

/// In upstream's order: pods, cpu, memory, ephemeral storage; the rest, which it leaves to chance, by name.
fn shortfalls(claim: &Claim, node: &Node, others: &[Other<'_>]) -> Vec<Shortfall> {
    let mut used = Amounts::new();
    for other in others {
        for (resource, amount) in &other.claim.requests {
            let sum = used.entry(resource.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
    }
    used.insert(
        PODS.to_owned(),
        i64::try_from(others.len()).unwrap_or(i64::MAX),
    );
    let first = [PODS, super::claim::CPU, "memory", "ephemeral-storage"];
    let rest = claim.requests.keys().map(String::as_str);
    let rest = rest.filter(|resource| !first.contains(resource));
    let short = first.into_iter().chain(rest).filter_map(|resource| {
        let of = |amounts: &Amounts| amounts.get(resource).copied().unwrap_or(0);
        let shortfall = Shortfall {
            resource: resource.to_owned(),
            requested: claim.amount(resource),
            used: of(&used),
            capacity: of(&node.allocatable),
        };
        (shortfall.requested > 0 && shortfall.missing() > 0).then_some(shortfall)
    });
    short.collect()
}

fn admit_ports(claim: &Claim, others: &[Other<'_>]) -> Result<(), Rejection> {
    let holder = |port: &HostPort| {
        let mut holders = others.iter().filter(|other| {
            let mut held = other.claim.ports.iter();
            held.any(|held| held.collides_with(port))
        });
        holders.next()
    };
    let taken = claim
        .ports
        .iter()
        .find_map(|port| Some((port, holder(port)?)));
    let Some((port, holder)) = taken else {
        return Ok(());
    };
    let name = &holder.claim.name;
    let ending = match holder.standing {
        Standing::Ends => ", which is being stopped",
        Standing::Holds | Standing::Waits => "",
    };
    Err(Rejection::new(
        "NodePorts",
        format!(
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports; host port {port} is held by {}/{}{ending}",
            name.namespace, name.name
        ),
    ))
}

/// Static pods tolerate every taint.
fn admit_taints(pod: &Pod, taints: &[Taint]) -> Result<(), Rejection> {
    let tolerations = pod::spec(pod).tolerations.as_deref().unwrap_or_default();
    let mut driving_out = taints.iter().filter(|taint| taint.effect == NO_EXECUTE);
    let untolerated = |taint: &Taint| !tolerations.iter().any(|t| tolerates(t, taint));
    if pod::is_static(pod) || !driving_out.any(untolerated) {
        return Ok(());
    }
    Err(Rejection::new(
        "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    ))
}

pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let covered =
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    covered
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => text(&toleration.value) == taint.value,
            "Exists" => true,
            _ => false,
        }
}

/// Who has to be ended so that the pod has what it is `short` of, and who has to be gone before it begins.
fn make_room(
    claim: &Claim,
    others: &[Other<'_>],
    short: &[Shortfall],
) -> Result<(Vec<PodUid>, Vec<PodUid>), Rejection> {
    if short.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let needs = Needs::new(short.iter().map(|s| (s.resource.clone(), s.missing())));
    let refuse = |needs: &Needs| {
        let lines: Vec<String> = short.iter().map(ToString::to_string).collect();
        Rejection::new(
            "UnexpectedAdmissionError",
            format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: {needs}; {}",
                lines.join("; ")
            ),
        )
    };
    let ending: Vec<&Other<'_>> = others
        .iter()
        .filter(|other| other.standing == Standing::Ends)
        .collect();
    let left = needs.without(ending.iter().map(|other| other.claim));
    if left.is_empty() {
        // Pods that stop anyway are enough: nobody is pushed off, and the pod is tried again when they are gone.
        return Err(refuse(&needs));
    }
    let victims = preempt::victims(claim, others, &left).map_err(|short| refuse(&short))?;
    let ending = ending.into_iter().map(|other| other.uid.clone());
    let after = victims.iter().cloned().chain(ending).collect();
    Ok((victims, after))
}
