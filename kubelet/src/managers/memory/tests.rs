use serde_json::json;

use super::*;
use crate::managers::Managers;
use crate::managers::machine::tests::{ONE_SOCKET_TWO_NODES, TWO_SOCKETS};
use crate::managers::topology::{Topology, TopologyOptions, TopologyPolicy, TopologyScope};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

/// A Guaranteed pod of containers with this memory, and huge pages where that is not empty; `init:` before a name makes it
/// an init container.
fn pod(containers: &[(&str, &str, &str)]) -> Pod {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for (name, memory, huge) in containers {
        let mut amounts = json!({"cpu": "100m", "memory": memory});
        if !huge.is_empty() {
            amounts["hugepages-2Mi"] = json!(huge);
        }
        let resources = json!({"requests": amounts, "limits": amounts});
        let (list, name) = match name.strip_prefix("init:") {
            Some(name) => (&mut inits, name),
            None => (&mut regular, *name),
        };
        list.push(json!({"name": name, "resources": resources}));
    }
    let pod = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"initContainers": inits, "containers": regular},
    });
    serde_json::from_value(pod).unwrap()
}

/// Two nodes of 8 GiB, with 32 MiB of huge pages on each; 1 GiB is reserved on the first.
struct Around {
    root: tempfile::TempDir,
    nodes: Vec<NumaNode>,
    reserved: ReservedMemory,
}

impl Around {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            nodes: TWO_SOCKETS.machine().nodes,
            reserved: [(0, [(MEMORY.to_owned(), GIB)].into())].into(),
        }
    }

    fn manager(&self) -> Result<MemoryManager, MemoryError> {
        let file = StateFile::new(self.root.path(), FILE_NAME, "memory");
        MemoryManager::new(&self.nodes, &self.reserved, GIB, file)
    }

    fn managers(&self) -> Managers {
        Managers::of(None, vec![Box::new(self.manager().unwrap())])
    }
}

fn mems(managers: &Managers, pod: &str, container: &str) -> String {
    let grants = managers.grants(&uid(pod), container);
    grants.cpuset_mems.unwrap_or_default()
}

#[test]
fn memory_comes_from_the_fewest_nodes_that_have_it() {
    let around = Around::new();
    let managers = around.managers();
    let ask = |name: &str, memory: &str| -> String {
        match managers.allocate(&uid(name), &pod(&[("c", memory, "")])) {
            Ok(()) => mems(&managers, name, "c"),
            Err(refused) => refused.message,
        }
    };
    assert_eq!(ask("a", "4Gi"), "0");
    assert_eq!(ask("b", "4Gi"), "1", "the first has not as much left");
    // Both together have it, but each gives by itself already.
    let none = "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected";
    assert_eq!(ask("c", "6Gi"), none);
    managers.release(&uid("a"));
    managers.release(&uid("b"));
    assert_eq!(ask("c", "9Gi"), "0,1");
    // A group gives to groups alone.
    assert_eq!(ask("d", "1Gi"), "0,1");
    managers.release(&uid("c"));
    managers.release(&uid("d"));
    assert_eq!(ask("e", "1Gi"), "0");
    assert_eq!(mems(&managers, "e", "other"), "");
}

#[test]
fn huge_pages_are_taken_with_the_memory() {
    let around = Around::new();
    let managers = around.managers();
    let all = pod(&[("c", "1Gi", "32Mi")]);
    for (name, expected) in [("a", "0"), ("b", "1")] {
        managers.allocate(&uid(name), &all).unwrap();
        assert_eq!(mems(&managers, name, "c"), expected);
    }
    assert!(managers.allocate(&uid("c"), &all).is_err());
    // What huge pages take is no memory of the node's.
    let state = std::fs::read_to_string(around.root.path().join(FILE_NAME)).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let node = &state["machineState"]["0"]["memoryMap"];
    assert_eq!(node["memory"]["allocatable"], 7 * GIB - 32 * MIB);
    assert_eq!(node["hugepages-2Mi"]["reserved"], 32 * MIB);
    assert_eq!(state["machineState"]["0"]["numberOfAssignments"], 2);
}

#[test]
fn later_containers_have_the_memory_of_init_containers() {
    let around = Around::new();
    let mut manager = around.manager().unwrap();
    let pod = pod(&[("init:i", "6Gi", ""), ("a", "4Gi", ""), ("b", "3Gi", "")]);
    let uid = uid("p");
    for (kind, container) in pod::containers(&pod) {
        let asking = Asking {
            uid: &uid,
            pod: &pod,
            kind,
            container,
        };
        manager.allocate(&asking, Hint::default()).unwrap();
    }
    manager.commit();
    let reserved: u64 = manager
        .nodes
        .values()
        .map(|node| node.table(MEMORY).reserved)
        .sum();
    let blocks = manager.entries["p"].values().flatten();
    assert_eq!(blocks.map(|block| block.size).sum::<u64>(), reserved);
    // An agent that comes back finds that it all adds up.
    let again = around.manager().unwrap();
    assert_eq!(again.entries, manager.entries);
    manager.release(&uid);
    let fresh = nodes::fresh(&around.nodes, &around.reserved);
    assert_eq!(manager.nodes, fresh);
}

#[test]
fn the_topology_manager_has_its_word() {
    let around = Around::new();
    let topology = |policy| {
        let options = TopologyOptions::default();
        let scope = TopologyScope::Container;
        Topology::new(policy, scope, &options, &around.nodes).unwrap()
    };
    let single = Managers::of(
        Some(topology(TopologyPolicy::SingleNumaNode)),
        vec![Box::new(around.manager().unwrap())],
    );
    let refused = single
        .allocate(&uid("a"), &pod(&[("c", "9Gi", "")]))
        .unwrap_err();
    assert_eq!(refused.reason, "TopologyAffinityError");
    single
        .allocate(&uid("a"), &pod(&[("c", "5Gi", "")]))
        .unwrap();
    // A pod that asks again, as after a restart, has it where it is.
    single
        .allocate(&uid("a"), &pod(&[("c", "5Gi", "")]))
        .unwrap();
    assert_eq!(mems(&single, "a", "c"), "0");
}

#[test]
fn what_was_lost_is_made_out_from_what_runs() {
    let around = Around::new();
    std::fs::write(around.root.path().join(FILE_NAME), "[]").unwrap();
    let managers = around.managers();
    assert!(managers.are_lost());
    managers.recover(&[RunningContainer {
        uid: uid("a"),
        name: "c".into(),
        cpus: Default::default(),
        mems: NumaMask::of([1]),
    }]);
    managers.adopt(&uid("a"), &pod(&[("c", "1Gi", "")]));
    assert_eq!(mems(&managers, "a", "c"), "1");
    managers
        .allocate(&uid("b"), &pod(&[("c", "1Gi", "")]))
        .unwrap();
    assert_eq!(mems(&managers, "b", "c"), "0");
}

#[test]
fn a_state_that_does_not_add_up_is_refused_in_upstreams_words() {
    let around = Around::new();
    let managers = around.managers();
    managers
        .allocate(&uid("a"), &pod(&[("c", "1Gi", "")]))
        .unwrap();
    assert!(around.manager().is_ok());
    let mut less = Around::new();
    less.nodes[0].memory_bytes -= MIB;
    let state = around.root.path().join(FILE_NAME);
    std::fs::copy(state, less.root.path().join(FILE_NAME)).unwrap();
    let refused = less.manager().err().unwrap().to_string();
    let text = "[memorymanager] the expected machine state is different from the real one";
    assert!(refused.starts_with(text), "{refused}");
}

#[test]
fn what_is_reserved_has_to_add_up_in_upstreams_words() {
    let nodes = ONE_SOCKET_TWO_NODES.machine().nodes;
    let of = |node: u32, resource: &str, bytes: u64| -> ReservedMemory {
        [(node, [(resource.to_owned(), bytes)].into())].into()
    };
    let refused = |reserved: &ReservedMemory, expected: u64| {
        let checked = error::check_reserved(&nodes, reserved, expected);
        checked.err().map(|error| error.to_string())
    };
    assert_eq!(refused(&of(1, MEMORY, GIB), GIB), None);
    assert_eq!(
        refused(&of(1, MEMORY, GIB), GIB + 100 * MIB).as_deref(),
        Some(
            "the total amount \"1Gi\" of type \"memory\" is not equal to the value \"1124Mi\" determined by Node Allocatable feature"
        )
    );
    assert_eq!(
        refused(&of(7, MEMORY, GIB), GIB).as_deref(),
        Some(
            "the reserved memory configuration references a NUMA node 7 that does not exist on this machine"
        )
    );
    assert_eq!(
        refused(&ReservedMemory::new(), 0).as_deref(),
        Some("[memorymanager] you should specify the system reserved memory")
    );
    let huge = refused(&of(0, "hugepages-2Mi", MIB), 0).unwrap();
    assert!(
        huge.contains("of type \"hugepages-2Mi\" is not equal to the value \"0\""),
        "{huge}"
    );
}
