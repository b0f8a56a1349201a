//! This node: facts of the machine that pods are shaped by; its object and its lease at the API server.
//!
//! Owns: what is read of the machine ([`memory_bytes()`] and the like, at start); the Node object, as far as it is the
//! agent's: its registration, its status ([`status`], pure); its lease.
//! Inputs: the configuration, the machine, what is short on it (`eviction/`), the runtime's status, the API server. Outputs: requests to the API server,
//! events of the node, and a `watch` of what the agent keeps of its own Node object ([`NodeObject`]).
//! Tasks, all of a joined node only: [`run_own_node`] watches the object, [`run_status`] registers it and reports,
//! [`run_lease`] renews the lease.
//! Does not: change labels, taints or `unschedulable` that others set; decide which pods run on it; evict.

mod addresses;
mod gather;
mod lease;
mod machine;
mod object;
mod own;
mod patch;
mod register;
mod report;
pub mod status;
pub mod types;
mod version;

#[cfg(test)]
mod tests;

pub use self::gather::{Gatherer, NodeSettings};
pub(crate) use self::gather::{initial_labels, machine_info};
pub use self::lease::{LeaseSettings, run_lease};
pub use self::machine::{
    NodeError, architecture, default_route_addresses, file_system_bytes, has_apparmor,
    kernel_release, max_pids, memory_bytes, own_cgroup_v2, swap_bytes, swaps,
};
pub use self::object::NodeObject;
pub use self::own::{OwnNode, run_own_node};
pub(crate) use self::register::patch_status as patch_node;
pub use self::report::{Reporter, run_status};
