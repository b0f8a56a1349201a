//! The managers of what single containers have for themselves.

use std::path::Path;

use super::AgentError;
use super::build::{kept, reserved};
use crate::admission;
use crate::clock::Clock;
use crate::config::Config;
use crate::managers::devices::Devices;
use crate::managers::{Managers, ManagersInputs, SYSTEM};

/// The devices, and the managers that give them out with CPUs and memory.
pub(super) fn managers(
    config: &Config,
    memory_bytes: u64,
    clock: &Clock,
) -> Result<(Devices, Managers), AgentError> {
    let inputs = ManagersInputs {
        config: &config.managers,
        gates: &config.gates,
        root: &config.paths.root,
        reserved_cpu_milli: reserved(config)?.get("cpu").copied(),
        reserved_memory: admission::reserved_memory(memory_bytes, &kept(config)),
        system: Path::new(SYSTEM),
    };
    let devices = Devices::open(&config.paths.root, clock.clone()).map_err(AgentError::Devices)?;
    let provider = devices.provider(inputs.numa_nodes()?);
    let managers = Managers::new(&inputs, vec![provider])?;
    Ok((devices, managers))
}
