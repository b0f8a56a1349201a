//! Who has a place on the node, and who waits for one. Pure: the registry keeps one and tells it what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::claim::Claim;
use super::predicates::resized;
use super::{Node, Rejection, admit};
use crate::pod::{Pod, PodUid};

/// How firmly a pod sits on its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs, or may begin.
    Holds,
    /// It was admitted, and begins when the pods that make way for it are gone.
    Waits,
    /// It is being stopped; what it takes is free once nothing of it runs.
    Ends,
}

/// A pod that has a place, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Its UID.
    pub uid: &'a PodUid,
    /// What it takes.
    pub claim: &'a Claim,
    /// How firmly it sits there.
    pub standing: Standing,
}

/// What became of a pod that asked for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has one, and may begin.
    Admitted,
    /// It has one, and may begin when these pods, which have to be ended now, are gone.
    Preempts(Vec<PodUid>),
    /// It has none.
    Refused(Rejection),
}

#[derive(Debug)]
struct Place {
    claim: Claim,
    ends: bool,
    /// Pods that have to be gone before this one begins.
    after: BTreeSet<PodUid>,
}

/// The places of a node. A pod keeps its place until nothing of it runs, so that its successor never meets it.
#[derive(Debug)]
pub struct Ledger {
    node: Arc<Node>,
    places: BTreeMap<PodUid, Place>,
}

impl Ledger {
    /// An empty node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            places: BTreeMap::new(),
        }
    }

    /// Who asks from now on is held against `node`. Whoever has a place keeps it.
    pub fn set_node(&mut self, node: Arc<Node>) {
        self.node = node;
    }

    /// Whether the pod has a place, be it that it still waits for others to leave.
    #[must_use]
    pub fn has(&self, uid: &PodUid) -> bool {
        self.places.contains_key(uid)
    }

    /// Whether the pod has a place that nobody has to leave for it.
    #[must_use]
    pub fn may_begin(&self, uid: &PodUid) -> bool {
        self.places
            .get(uid)
            .is_some_and(|place| place.after.is_empty())
    }

    /// Whether the pod has a place that it is about to leave.
    #[must_use]
    pub fn ends(&self, uid: &PodUid) -> bool {
        self.places.get(uid).is_some_and(|place| place.ends)
    }

    /// Gives a place to a pod that runs already, whether it fits or not; a pod that has one keeps it.
    pub fn adopt(&mut self, uid: &PodUid, pod: &Pod) {
        self.places.entry(uid.clone()).or_insert_with(|| Place {
            claim: Claim::of_running(pod),
            ends: false,
            after: BTreeSet::new(),
        });
    }

    /// The node as those who ask are held against it.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Decides on a pod that asks for a place, and gives it one where it may have it.
    pub fn decide(&mut self, uid: &PodUid, pod: &Pod) -> Decision {
        let others: Vec<Other<'_>> = self.others(uid).collect();
        let admission = match admit(pod, &self.node, &others) {
            Ok(admission) => admission,
            Err(rejection) => return Decision::Refused(rejection),
        };
        let place = Place {
            claim: admission.claim,
            ends: false,
            after: admission.after.into_iter().collect(),
        };
        self.places.insert(uid.clone(), place);
        if admission.victims.is_empty() {
            return Decision::Admitted;
        }
        for victim in &admission.victims {
            self.end(victim);
        }
        Decision::Preempts(admission.victims)
    }

    /// Gives a pod that has a place what it asks for now, where there is room for that; else says why not, and the pod
    /// keeps what it has.
    ///
    /// # Errors
    /// When there is no room, or a quantity cannot be read.
    pub fn resize(&mut self, uid: &PodUid, pod: &Pod) -> Result<(), String> {
        let others: Vec<Other<'_>> = self.others(uid).collect();
        let claim = resized(pod, &self.node, &others)?;
        if let Some(place) = self.places.get_mut(uid) {
            place.claim = claim;
        }
        Ok(())
    }

    fn others<'a>(&'a self, uid: &'a PodUid) -> impl Iterator<Item = Other<'a>> {
        let others = self.places.iter().filter(move |(other, _)| *other != uid);
        others.map(|(uid, place)| Other {
            uid,
            claim: &place.claim,
            standing: place.standing(),
        })
    }

    /// The pod is being stopped: nobody has to be pushed off the node for what it is about to give back.
    pub fn end(&mut self, uid: &PodUid) {
        if let Some(place) = self.places.get_mut(uid) {
            place.ends = true;
        }
    }

    /// Nothing of the pod runs any more. True when that freed a place.
    pub fn release(&mut self, uid: &PodUid) -> bool {
        for place in self.places.values_mut() {
            place.after.remove(uid);
        }
        self.places.remove(uid).is_some()
    }
}

impl Place {
    fn standing(&self) -> Standing {
        if self.ends {
            Standing::Ends
        } else if self.after.is_empty() {
            Standing::Holds
        } else {
            Standing::Waits
        }
    }
}
