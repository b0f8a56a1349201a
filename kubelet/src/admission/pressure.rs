//! What a node that is short of something takes on.

use super::claim::is_critical;
use super::predicates::tolerates;
use super::{Rejection, Taint};
use crate::cgroups::resources::qos_class;
use crate::eviction::{EVICTED, Pressure};
use crate::pod::{self, Pod, QosClass};

/// The taint that the control plane sets for a node that is short of memory.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Whether `pod` may run while the node is short of something.
///
/// # Errors
/// Critical pods may; while nothing but memory is short, so may those that ask for any, and those that tolerate the taint
/// of it. No other may.
pub fn admit_under(pressure: Pressure, pod: &Pod) -> Result<(), Rejection> {
    if !pressure.any() || is_critical(pod) {
        return Ok(());
    }
    let memory_alone = Pressure {
        memory: true,
        ..Pressure::default()
    };
    if pressure == memory_alone {
        let taint = Taint {
            key: MEMORY_TAINT.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        let mut tolerations = pod::spec(pod).tolerations.iter().flatten();
        if qos_class(pod) != QosClass::BestEffort || tolerations.any(|one| tolerates(one, &taint)) {
            return Ok(());
        }
    }
    let conditions = pressure.conditions().join(" ");
    Err(Rejection::new(
        EVICTED,
        format!("The node had condition: [{conditions}]. "),
    ))
}
