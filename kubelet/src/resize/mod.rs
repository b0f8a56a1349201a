//! In-place resize (KEP-1287): what containers may use, changed while they run.
//!
//! Owns: what a pod was given ([`Allocation`]) as against what its spec asks for, what has to be done about the
//! difference ([`changes`], [`envelope`]), and the words for it. Pure: no I/O, no clock. The registry decides who is given
//! what; a pod's worker acts upon it.
//!
//! cpu and memory of containers, nothing else: the API lets nothing else change. Resources of the whole pod are left as
//! they are, which the pod's status says.

mod allocation;
mod told;

pub use allocation::{
    Actuated, Allocation, Amounts, Change, asks_for_more, changed_requests, changes, envelope,
};
pub use told::{Pending, PendingReason, Progress, completed, failed, pending, started};

#[cfg(test)]
mod tests;
