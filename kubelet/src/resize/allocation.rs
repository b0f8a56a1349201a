//! What containers were given, and what they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde::{Deserialize, Serialize};
use static_pods::quantity::Quantity;

use crate::pod::{self, ContainerKind, Pod};
use crate::runtime::{ContainerId, ContainerState, ObservedPod};

/// The resources of one container that can change while it runs, as its spec writes them.
#[derive(Clone, Debug, Default, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// `requests.cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<String>,
    /// `limits.cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
    /// `requests.memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_request: Option<String>,
    /// `limits.memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

/// Amounts are equal that come to the same, however they are written.
impl PartialEq for Amounts {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| milli(a) == milli(b);
        same(&self.cpu_request, &other.cpu_request)
            && same(&self.cpu_limit, &other.cpu_limit)
            && same(&self.memory_request, &other.memory_request)
            && same(&self.memory_limit, &other.memory_limit)
    }
}

/// Thousandths; none for an amount that is not given. What cannot be read never gets this far: a pod with it is refused.
fn milli(text: &Option<String>) -> Option<i64> {
    let amount = Quantity::parse_amount(text.as_deref()?);
    amount.ok().map(|amount| amount.milli())
}

impl Amounts {
    /// Those of `resources`.
    #[must_use]
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let list = |limits: bool, name: &str| {
            let resources = resources?;
            let list = if limits {
                &resources.limits
            } else {
                &resources.requests
            };
            Some(list.as_ref()?.get(name)?.0.clone())
        };
        Self {
            cpu_request: list(false, "cpu"),
            cpu_limit: list(true, "cpu"),
            memory_request: list(false, "memory"),
            memory_limit: list(true, "memory"),
        }
    }

    /// Whether some limit or request is lower than `before`.
    fn shrinks_from(&self, before: &Self) -> bool {
        let less = |now: &Option<String>, before: &Option<String>| {
            let most = |text| milli(text).unwrap_or(i64::MAX);
            most(now) < most(before)
        };
        less(&self.memory_limit, &before.memory_limit) || less(&self.cpu_limit, &before.cpu_limit)
    }

    /// The memory limit in bytes, where it is lower than `before`.
    #[must_use]
    pub fn memory_shrinks_to(&self, before: &Self) -> Option<i64> {
        let limit = Quantity::parse_amount(self.memory_limit.as_deref()?).ok()?;
        let lower = milli(&before.memory_limit).is_none_or(|before| limit.milli() < before);
        lower.then(|| limit.value())
    }

    /// The larger of both in each resource: no limit is the largest.
    fn or_more(&self, other: &Self) -> Self {
        let more = |a: &Option<String>, b: &Option<String>, none: i64| {
            let of = |text: &Option<String>| milli(text).unwrap_or(none);
            if of(a) >= of(b) { a.clone() } else { b.clone() }
        };
        Self {
            cpu_request: more(&self.cpu_request, &other.cpu_request, 0),
            cpu_limit: more(&self.cpu_limit, &other.cpu_limit, i64::MAX),
            memory_request: more(&self.memory_request, &other.memory_request, 0),
            memory_limit: more(&self.memory_limit, &other.memory_limit, i64::MAX),
        }
    }

    fn write(&self, into: &mut Option<ResourceRequirements>) {
        let amounts = [
            (false, "cpu", &self.cpu_request),
            (true, "cpu", &self.cpu_limit),
            (false, "memory", &self.memory_request),
            (true, "memory", &self.memory_limit),
        ];
        if into.is_none() && amounts.iter().all(|(_, _, amount)| amount.is_none()) {
            return;
        }
        let resources = into.get_or_insert_default();
        for (limits, name, amount) in amounts {
            let list = if limits {
                &mut resources.limits
            } else {
                &mut resources.requests
            };
            match amount {
                Some(amount) => {
                    let amount = ApiQuantity(amount.clone());
                    list.get_or_insert_default().insert(name.to_owned(), amount);
                }
                None => {
                    if let Some(given) = list {
                        given.remove(name);
                    }
                    // A list that is there is a word of its own, of a pod as a whole.
                    list.take_if(|given| given.is_empty());
                }
            }
        }
        into.take_if(|resources| *resources == ResourceRequirements::default());
    }
}

/// What a pod was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Its containers, by name.
    containers: BTreeMap<String, Amounts>,
    /// The pod as a whole (`spec.resources`).
    #[serde(default)]
    pod: Amounts,
}

/// What a running container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actuated {
    /// The instance.
    pub id: String,
    /// Its resources.
    pub has: Amounts,
}

impl Allocation {
    /// All that `pod` asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let all = pod::containers(pod).map(|(_, c)| (c.name.clone(), amounts(c)));
        Self {
            containers: all.collect(),
            pod: Amounts::of(pod::spec(pod).resources.as_ref()),
        }
    }

    /// Whether `pod` asks for something else.
    #[must_use]
    pub fn differs(&self, pod: &Pod) -> bool {
        let given = |c: &Container| self.containers.get(&c.name);
        let other = |c| given(c).is_some_and(|given| *given != amounts(c));
        pod::containers(pod).any(|(_, c)| other(c)) || self.differs_as_a_whole(pod)
    }

    /// Whether `pod` asks for something else for all of its containers together.
    #[must_use]
    pub fn differs_as_a_whole(&self, pod: &Pod) -> bool {
        self.pod != Amounts::of(pod::spec(pod).resources.as_ref())
    }

    /// The same pod with what it was given instead of what it asks for.
    #[must_use]
    pub fn laid_over(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if !self.differs(pod) {
            return pod.clone();
        }
        let mut copy = Pod::clone(pod);
        if let Some(spec) = &mut copy.spec {
            let inits = spec.init_containers.iter_mut().flatten();
            for container in inits.chain(&mut spec.containers) {
                if let Some(given) = self.containers.get(&container.name) {
                    given.write(&mut container.resources);
                }
            }
            self.pod.write(&mut spec.resources);
        }
        Arc::new(copy)
    }
}

fn amounts(container: &Container) -> Amounts {
    Amounts::of(container.resources.as_ref())
}

/// A running container that has not what it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The instance.
    pub id: ContainerId,
    /// Its name in the spec.
    pub name: Arc<str>,
    /// What it has.
    pub from: Amounts,
    /// What it was given.
    pub to: Amounts,
    /// By its `resizePolicy` it has to be made anew.
    pub restarts: bool,
}

/// The running containers of `pod`, which has its allocation for resources, that have something else by `actuated`:
/// those that get less come first. One that `actuated` does not know has what it was given.
#[must_use]
pub fn changes(
    pod: &Pod,
    observed: &ObservedPod,
    actuated: &BTreeMap<String, Actuated>,
) -> Vec<Change> {
    let lasting = pod::containers(pod).filter(|(kind, _)| *kind != ContainerKind::Init);
    let mut changes: Vec<Change> = lasting
        .filter_map(|(_, container)| {
            let newest = observed.newest(&container.name)?;
            let Actuated { id, has: from } = actuated.get(&container.name)?;
            let to = amounts(container);
            let same = newest.state == ContainerState::Running && newest.id.as_str() == id;
            (same && *from != to).then(|| Change {
                id: newest.id.clone(),
                name: newest.name.clone(),
                restarts: restarts(container, from, &to),
                from: from.clone(),
                to,
            })
        })
        .collect();
    changes.sort_by_key(|change| !change.to.shrinks_from(&change.from));
    changes
}

/// Whether the container's policy for a resource that changes has it made anew.
fn restarts(container: &Container, from: &Amounts, to: &Amounts) -> bool {
    let cpu = (&from.cpu_request, &from.cpu_limit) != (&to.cpu_request, &to.cpu_limit);
    let memory =
        (&from.memory_request, &from.memory_limit) != (&to.memory_request, &to.memory_limit);
    let policies = container.resize_policy.iter().flatten();
    let mut anew = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    anew.any(|policy| match policy.resource_name.as_str() {
        "cpu" => cpu,
        "memory" => memory,
        _ => false,
    })
}

/// `pod` with room for what its containers have as well as for what they get: its cgroup is never smaller than either.
#[must_use]
pub fn envelope(pod: &Arc<Pod>, changes: &[Change]) -> Arc<Pod> {
    let more = changes
        .iter()
        .map(|change| (change.name.to_string(), change.to.or_more(&change.from)));
    let larger = Allocation {
        containers: more.collect(),
        ..Allocation::of(pod)
    };
    larger.laid_over(pod)
}

/// Whether `pod` requests other cpu, and other memory, than `before` in some container.
#[must_use]
pub fn changed_requests(pod: &Pod, before: &Pod) -> (bool, bool) {
    let given = Allocation::of(before).containers;
    let mut changed = (false, false);
    for (_, container) in pod::containers(pod) {
        let now = amounts(container);
        if let Some(before) = given.get(&container.name) {
            changed.0 |= milli(&now.cpu_request) != milli(&before.cpu_request);
            changed.1 |= milli(&now.memory_request) != milli(&before.memory_request);
        }
    }
    changed
}

/// Whether `pod` requests more than `before`, in cpu or in memory of some container.
#[must_use]
pub fn asks_for_more(pod: &Pod, before: &Pod) -> bool {
    let given = Allocation::of(before).containers;
    pod::containers(pod).any(|(_, container)| {
        let now = amounts(container);
        given.get(&container.name).is_some_and(|before| {
            let more = |now, before| milli(now).unwrap_or(0) > milli(before).unwrap_or(0);
            more(&now.cpu_request, &before.cpu_request)
                || more(&now.memory_request, &before.memory_request)
        })
    })
}
