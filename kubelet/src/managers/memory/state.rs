//! `<root>/memory_manager_state`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::managers::state_file::State;
use crate::managers::topology::NumaMask;

/// Name of the file in the root directory, as upstream has it.
pub(in crate::managers) const FILE_NAME: &str = "memory_manager_state";

/// One resource (`memory`, `hugepages-2Mi`) of one NUMA node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) total: u64,
    pub(super) system_reserved: u64,
    pub(super) allocatable: u64,
    pub(super) reserved: u64,
    pub(super) free: u64,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeState {
    /// How many blocks come from it.
    pub(super) number_of_assignments: i64,
    pub(super) memory_map: BTreeMap<String, Table>,
    /// The nodes that it gives memory together with, itself among them.
    pub(super) cells: Vec<u32>,
}

impl NodeState {
    /// The nodes that it gives memory together with.
    pub(super) fn group(&self) -> NumaMask {
        NumaMask::of(self.cells.iter().copied())
    }

    pub(super) fn table(&self, resource: &str) -> Table {
        self.memory_map.get(resource).copied().unwrap_or_default()
    }
}

/// The nodes by number.
pub(super) type Nodes = BTreeMap<u32, NodeState>;

/// What one container has of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Block {
    pub(super) numa_affinity: Vec<u32>,
    #[serde(rename = "type")]
    pub(super) resource: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Block {
    pub(super) fn mask(&self) -> NumaMask {
        NumaMask::of(self.numa_affinity.iter().copied())
    }
}

/// Blocks by pod UID and container.
pub(super) type Entries = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// What the file holds (upstream's first form, which it writes unless `PodLevelResourceManagers` is on).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MemoryState {
    policy_name: String,
    pub(super) machine_state: Nodes,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) entries: Entries,
    #[serde(default)]
    checksum: u64,
}

impl MemoryState {
    pub(super) fn new(policy: &str, nodes: &Nodes, entries: &Entries) -> Self {
        Self {
            policy_name: policy.to_owned(),
            machine_state: nodes.clone(),
            entries: entries.clone(),
            checksum: 0,
        }
    }
}

/// Items with spaces between them.
fn spaced<T>(items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) -> String {
    let mut text = String::new();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        write(&mut text, item);
    }
    text
}

fn numbers(list: &[u32]) -> String {
    spaced(list, |text, number| {
        // Writing to a string does not fail.
        let _ = write!(text, "{number}");
    })
}

impl State for MemoryState {
    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn set_checksum(&mut self, checksum: u64) {
        self.checksum = checksum;
    }

    fn printed(&self) -> String {
        let nodes = spaced(&self.machine_state, |text, (id, node)| {
            let tables = spaced(&node.memory_map, |text, (resource, table)| {
                let Table {
                    total,
                    system_reserved,
                    allocatable,
                    reserved,
                    free,
                } = table;
                let _ = write!(
                    text,
                    "{resource}:<*>{{TotalMemSize:(uint64){total} SystemReserved:(uint64){system_reserved} Allocatable:(uint64){allocatable} Reserved:(uint64){reserved} Free:(uint64){free}}}"
                );
            });
            let _ = write!(
                text,
                "{id}:<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable)map[{tables}] Cells:([]int)[{}]}}",
                node.number_of_assignments,
                numbers(&node.cells)
            );
        });
        let entries = spaced(&self.entries, |text, (uid, pod)| {
            let containers = spaced(pod, |text, (name, blocks)| {
                let blocks = spaced(blocks, |text, block| {
                    let _ = write!(
                        text,
                        "{{NUMAAffinity:([]int)[{}] Type:(v1.ResourceName){} Size:(uint64){}}}",
                        numbers(&block.numa_affinity),
                        block.resource,
                        block.size
                    );
                });
                let _ = write!(text, "{name}:[{blocks}]");
            });
            let _ = write!(text, "{uid}:map[{containers}]");
        });
        format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap)map[{nodes}] Entries:(state.ContainerMemoryAssignments)map[{entries}] Checksum:(checksum.Checksum)0}}",
            self.policy_name
        )
    }

    fn is_sound(&self) -> bool {
        let numbers = |list: &[u32]| list.iter().all(|node| *node <= NumaMask::MAX_NODE);
        let mut blocks = self.entries.values().flat_map(BTreeMap::values).flatten();
        self.machine_state.values().all(|node| numbers(&node.cells))
            && blocks.all(|block| numbers(&block.numa_affinity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managers::state_file::{Found, StateFile};

    #[test]
    fn upstreams_files_are_read_and_written_alike() {
        // Out of upstream's own tests, and as upstream 1.36.2 writes it.
        let texts = [
            r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#,
            r#"{"policyName":"Static","machineState":{"0":{"numberOfAssignments":1,"memoryMap":{"hugepages-1Gi":{"total":0,"systemReserved":0,"allocatable":0,"reserved":0,"free":0},"hugepages-2Mi":{"total":0,"systemReserved":0,"allocatable":0,"reserved":0,"free":0},"memory":{"total":25276510208,"systemReserved":314572800,"allocatable":24961937408,"reserved":33554432,"free":24928382976}},"cells":[0]}},"entries":{"c87683e5c567bd6f5154b6a23792d771":{"main":[{"numaAffinity":[0],"type":"memory","size":33554432}]}},"checksum":3568140204}"#,
        ];
        for (text, policy) in texts.into_iter().zip(["static", "Static"]) {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(FILE_NAME);
            std::fs::write(&path, text).unwrap();
            let file = StateFile::new(root.path(), FILE_NAME, "memory");
            let Found::Good(state) = file.load::<MemoryState>(policy).unwrap() else {
                panic!("not taken");
            };
            let (nodes, entries) = (&state.machine_state, &state.entries);
            file.store(MemoryState::new(policy, nodes, entries))
                .unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            // One digit changes it all.
            std::fs::write(&path, text.replacen("\"free\":", "\"free\":1", 1)).unwrap();
            let found = file.load::<MemoryState>(policy).unwrap();
            assert_eq!(found, Found::Corrupt);
        }
    }
}
