//! The state of earlier lives of the agent: as the file has it, or, where that was corrupt, as containers run.

use super::request::whole_cpus;
use super::state::CpuState;
use super::{CpuError, CpuManager, POLICY};
use crate::managers::CpuSet;
use crate::managers::recovery::RunningContainer;
use crate::managers::state_file::Found;
use crate::managers::topology::{Asking, HintProvider as _};
use crate::pod::{self, ContainerKind};

impl CpuManager {
    pub(super) fn restore(&mut self) -> Result<(), CpuError> {
        match self.file.load::<CpuState>(POLICY)? {
            Found::Good(state) => {
                // A file that cannot be read has not come this far.
                (self.shared, self.entries) = state.read().unwrap_or_default();
            }
            Found::Missing => {}
            Found::Corrupt => self.lost = true,
        }
        if self.shared.is_empty() && self.entries.is_empty() {
            self.shared = self.sharable();
            self.unsaved = true;
            self.commit();
            return Ok(());
        }
        self.check()
            .map_err(|why| CpuError::State(self.file.invalid(why)))
    }

    /// Whether the state can be true here, in upstream's words.
    fn check(&self) -> Result<(), String> {
        let (reserved, shared) = (&self.reserved, &self.shared);
        if shared.is_empty() {
            return Err("default cpuset cannot be empty".to_owned());
        }
        let both = reserved.intersection(shared);
        if self.options.strict {
            if !both.is_empty() {
                return Err(format!(
                    "some of strictly reserved cpus: \"{both}\" are present in defaultCpuSet: \"{shared}\""
                ));
            }
        } else if both != *reserved {
            return Err(format!(
                "not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\""
            ));
        }
        let mut known = shared.clone();
        for (uid, pod) in &self.entries {
            for (name, cpus) in pod {
                if cpus.overlaps(shared) {
                    return Err(format!(
                        "pod: {uid}, container: {name} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\""
                    ));
                }
                known = known.union(cpus);
            }
        }
        let all = self.sharable();
        if known != all {
            return Err(format!(
                "current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{known}\""
            ));
        }
        Ok(())
    }

    /// CPUs that containers may have for themselves that run since before the state was lost, and whose pods are not known.
    pub(super) fn held(&self) -> CpuSet {
        let found = self.found.iter().flatten();
        let held = found.filter(|found| self.may_be_own(found));
        held.flat_map(|found| found.cpus.iter()).collect()
    }

    /// Whether the container may have had its CPUs for itself: nobody else has any of them.
    fn may_be_own(&self, found: &RunningContainer) -> bool {
        let cpus = &found.cpus;
        let pod = self.entries.get(found.uid.as_str());
        let of_pod = pod.into_iter().flat_map(std::collections::BTreeMap::values);
        let free = of_pod.fold(self.shared.clone(), |free, own| free.union(own));
        let mut others = self
            .found
            .iter()
            .flatten()
            .filter(|other| other.uid != found.uid);
        !cpus.is_empty()
            && !cpus.overlaps(&self.reserved)
            && cpus.is_subset(&free)
            && !others.any(|other| other.cpus.overlaps(cpus))
    }

    /// What the container had when the state was lost, if it can have been its own; for an init container, which runs no
    /// more, a part of what the pod's others had.
    pub(super) fn found_own(&self, asking: &Asking<'_>, count: usize) -> Option<CpuSet> {
        let found = self.found.as_ref()?;
        let of_pod = found.iter().filter(|found| found.uid == *asking.uid);
        let own = of_pod
            .clone()
            .find(|found| *found.name == *asking.container.name);
        if let Some(own) = own {
            let fits = own.cpus.len() == count && self.may_be_own(own);
            return fits.then(|| own.cpus.clone());
        }
        if asking.kind != ContainerKind::Init {
            return None;
        }
        let regular = of_pod.filter(|found| {
            let mut specs = pod::containers(asking.pod);
            let spec = specs.find(|(_, spec)| *spec.name == *found.name);
            let whole = |(kind, spec): (ContainerKind, _)| {
                kind == ContainerKind::Regular && whole_cpus(asking.pod, spec) == found.cpus.len()
            };
            spec.is_some_and(whole) && self.may_be_own(found)
        });
        let cpus: CpuSet = regular
            .flat_map(|found| found.cpus.iter())
            .take(count)
            .collect();
        (cpus.len() == count).then_some(cpus)
    }
}
