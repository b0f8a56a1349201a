//! What is short on the node, and which pods end for it (the Kubernetes document "Node-pressure Eviction").
//!
//! Owns: the signals ([`Observations`]), the thresholds of the configuration and what of them is met since when
//! ([`Judge`], pure), the order in which pods are evicted (`ranking`, pure), what a pod may take of the node's disk
//! (`limits`, pure).
//! Inputs: what the machine, its pods and their files take (`stats/`), the pods on the board, the configuration; with
//! `kernelMemcgNotification` the kernel's word that memory is getting short.
//! Outputs: [`Pressure`], which the node's conditions and admission go by; orders to the registry of `workers/` to evict a
//! pod; for disks that are full, first the removal of what nobody uses (`images/`, ended containers).
//! Tasks: one, the [`Evictor`], which looks each ten seconds, and sooner when the kernel says so.
//! Does not: end a pod itself (that is its worker's), evict a static, mirror or critical pod, set taints (the control
//! plane does, by the conditions).

mod evictor;
mod limits;
mod local_storage;
mod memory_notice;
mod ranking;
mod signals;
mod thresholds;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::pod::PodUid;

pub use evictor::{Evictor, EvictorInputs};
pub use signals::{Amount, Disks, Layout, Observations, Resource, Signal};
pub use thresholds::{Judge, Judgement, Threshold, ThresholdError, thresholds};

/// Reason of a pod that was evicted, and of one that is refused for want of something.
pub const EVICTED: &str = "Evicted";

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Bytes or inodes of a file system.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

impl EvictionLink {
    /// The next order. A line whose other end is gone has none.
    pub async fn next(&mut self) -> Evict {
        match self.orders.recv().await {
            Some(evict) => evict,
            None => std::future::pending().await,
        }
    }
}

impl Pressure {
    /// Whether anything is.
    #[must_use]
    pub fn any(self) -> bool {
        self.memory || self.disk || self.pid
    }

    /// The conditions of the node that say so.
    #[must_use]
    pub fn conditions(self) -> Vec<&'static str> {
        let all = [
            (self.memory, "MemoryPressure"),
            (self.disk, "DiskPressure"),
            (self.pid, "PIDPressure"),
        ];
        let short = all.into_iter().filter(|(short, _)| *short);
        short.map(|(_, condition)| condition).collect()
    }
}

/// Why a pod is evicted, and how.
#[derive(Debug)]
pub struct Eviction {
    /// What its status and its event say.
    pub message: Arc<str>,
    /// Whether it ends for the sake of the node, and not for what it did itself: then the condition `DisruptionTarget`
    /// says so.
    pub for_the_node: bool,
    /// How long it has to end.
    pub grace: Duration,
    /// Told when nothing of it runs, and what it held is given back.
    pub ended: Notify,
}

/// Each is another one: what is compared is whether it is the same order.
impl PartialEq for Eviction {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Eviction {}

/// An order to the registry.
#[derive(Clone, Debug)]
pub struct Evict {
    /// The pod.
    pub uid: PodUid,
    /// Why, and how.
    pub eviction: Arc<Eviction>,
}

/// The registry's end of the line.
#[derive(Debug)]
pub struct EvictionLink {
    /// What is short.
    pub pressure: watch::Receiver<Pressure>,
    /// The pods to evict.
    pub orders: mpsc::Receiver<Evict>,
}
