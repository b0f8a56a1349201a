//! Devices among what the managers give: promised at admission, below the managers' lock, and asked for afterwards.

use super::Devices;
use crate::managers::{
    AllocateError, Asking, ContainerGrants, Hint, HintProvider, Hints, NumaMask,
};
use crate::pod::{Pod, PodUid};

/// The devices, as the managers ask for them.
pub(super) struct Provider {
    devices: Devices,
    /// The machine's NUMA nodes.
    machine: NumaMask,
}

impl Devices {
    /// As the managers ask for them, on a machine with these NUMA nodes.
    #[must_use]
    pub fn provider(&self, machine: NumaMask) -> Box<dyn HintProvider> {
        Box::new(Provider {
            devices: self.clone(),
            machine,
        })
    }
}

impl HintProvider for Provider {
    fn container_hints(&self, asking: &Asking<'_>) -> Hints {
        let inventory = self.devices.inventory();
        inventory.container_hints(asking, self.machine)
    }

    fn pod_hints(&self, uid: &PodUid, pod: &Pod) -> Hints {
        let inventory = self.devices.inventory();
        inventory.pod_hints(uid.as_str(), pod, self.machine)
    }

    fn allocate(&mut self, asking: &Asking<'_>, affinity: Hint) -> Result<(), AllocateError> {
        let mut inventory = self.devices.inventory();
        let (uid, container) = (asking.uid.as_str(), asking.container);
        inventory
            .reserve(uid, asking.pod, container, affinity.mask)
            .map_err(AllocateError::Unexpected)
    }

    /// What runs has its devices, or gets them when it is begun anew: its plugin may not be there yet.
    fn adopt(&mut self, _: &Asking<'_>, _: Hint) -> Result<(), AllocateError> {
        Ok(())
    }

    fn grants(&self, uid: &PodUid, container: &str, grants: &mut ContainerGrants) {
        grants.devices = self.devices.grants(uid, container);
    }

    fn release(&mut self, uid: &PodUid) {
        self.devices.inventory().release(uid.as_str());
    }

    fn holders(&self) -> Vec<PodUid> {
        let holders = self.devices.inventory().holders();
        holders
            .iter()
            .filter_map(|uid| PodUid::parse(uid).ok())
            .collect()
    }

    fn commit(&mut self) -> bool {
        // No container has to have something else for it.
        let changed = self.devices.inventory().take_unsaved();
        if changed {
            self.devices.save_or_say();
        }
        false
    }
}
