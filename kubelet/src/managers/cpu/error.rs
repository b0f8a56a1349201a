//! Why the static policy cannot be had.

use crate::managers::CpuSet;
use crate::managers::state_file::StateError;

/// Why the agent cannot start with the static CPU policy. In upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// An option that there is not.
    #[error("new static policy error: unknown CPU Manager Policy option: {0:?}")]
    UnknownOption(String),
    /// An option behind a feature gate.
    #[error(
        "new static policy error: CPU Manager Policy {level}-level Options not enabled, but option {option:?} provided"
    )]
    NotEnabled {
        /// `Alpha` or `Beta`.
        level: &'static str,
        /// The option.
        option: String,
    },
    /// A word that is neither true nor false.
    #[error(
        "new static policy error: bad value for option {option:?}: strconv.ParseBool: parsing {value:?}: invalid syntax"
    )]
    BadValue {
        /// The option.
        option: String,
        /// What it was set to.
        value: String,
    },
    /// Two options that do not go together.
    #[error(
        "new static policy error: static policy options {0} and {1} can not be used at the same time"
    )]
    Exclusive(&'static str, &'static str),
    /// Sockets are wanted, and single NUMA nodes.
    #[error(
        "new static policy error: Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
    )]
    SocketsAndSingleNode,
    /// Sockets are wanted that are smaller than NUMA nodes.
    #[error(
        "new static policy error: Align by socket is not compatible with hardware where number of sockets are more than number of NUMA"
    )]
    MoreSockets,
    /// Options without a policy.
    #[error("new none policy error: None policy: received unsupported options={0}")]
    OptionsOfNone(String),
    /// Nobody says how many CPUs are reserved.
    #[error("[cpumanager] unable to determine reserved CPU resources for static policy")]
    NoReservation,
    /// None is.
    #[error(
        "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
    )]
    NothingReserved,
    /// The machine does not have them.
    #[error(
        "new static policy error: [cpumanager] unable to reserve the required amount of CPUs (size of {reserved} did not equal {count})"
    )]
    CannotReserve {
        /// Those that were to be.
        reserved: CpuSet,
        /// How many are reserved.
        count: usize,
    },
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
}
