//! Made-up machines, for all tests of the room.

use super::*;

/// How a made-up machine is built: `threads` CPUs a core, numbered as Linux does, first threads first.
#[derive(Clone, Copy)]
pub(in crate::managers) struct Shape {
    pub(in crate::managers) sockets: u32,
    pub(in crate::managers) nodes_per_socket: u32,
    /// Cores that share a cache; all of a node's where that is 0.
    pub(in crate::managers) cores_per_cache: u32,
    pub(in crate::managers) cores_per_node: u32,
    pub(in crate::managers) threads: u32,
}

impl Shape {
    /// The machine without looking at files.
    pub(in crate::managers) fn machine(self) -> Machine {
        let nodes = self.sockets * self.nodes_per_socket;
        let cores = nodes * self.cores_per_node;
        let mut machine = Machine::default();
        for id in 0..nodes {
            let near = |other: u32| match other {
                other if other == id => 10,
                other if other / self.nodes_per_socket == id / self.nodes_per_socket => 11,
                _ => 21,
            };
            machine.nodes.push(NumaNode {
                id,
                memory_bytes: 8 << 30,
                huge_pages: BTreeMap::from([(2 << 20, 16)]),
                distances: (0..nodes).map(near).collect(),
            });
        }
        for cpu in 0..cores * self.threads {
            let core = cpu % cores;
            let node = core / self.cores_per_node;
            let socket = node / self.nodes_per_socket;
            let cache = core.checked_div(self.cores_per_cache).unwrap_or(socket);
            let place = Cpu {
                node,
                socket,
                core,
                cache,
            };
            machine.cpus.insert(cpu, place);
        }
        machine
    }

    /// The same as files below a directory, as the kernel has them.
    fn write(self, system: &Path) {
        let machine = self.machine();
        let list = |of: &dyn Fn(&Cpu) -> bool| {
            let cpus = machine.cpus.iter().filter(|(_, cpu)| of(cpu));
            cpus.map(|(cpu, _)| *cpu).collect::<CpuSet>().to_string()
        };
        let put = |path: String, text: String| {
            let path = system.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text + "\n").unwrap();
        };
        for node in &machine.nodes {
            let id = node.id;
            let kilobytes = node.memory_bytes / 1024;
            put(
                format!("node/node{id}/cpulist"),
                list(&|cpu| cpu.node == id),
            );
            put(
                format!("node/node{id}/meminfo"),
                format!("Node {id} MemTotal:       {kilobytes} kB\nNode {id} MemFree:  1 kB"),
            );
            let distances: Vec<String> = node.distances.iter().map(u64::to_string).collect();
            put(format!("node/node{id}/distance"), distances.join(" "));
            put(
                format!("node/node{id}/hugepages/hugepages-2048kB/nr_hugepages"),
                "16".to_owned(),
            );
        }
        for (id, cpu) in &machine.cpus {
            let core = cpu.core % (self.cores_per_node * self.nodes_per_socket);
            put(format!("cpu/cpu{id}/topology/core_id"), core.to_string());
            put(
                format!("cpu/cpu{id}/topology/physical_package_id"),
                cpu.socket.to_string(),
            );
            let all = self.cores_per_cache == 0;
            let shared = list(&|other| match all {
                true => other.node == cpu.node,
                false => other.cache == cpu.cache,
            });
            let caches = [("0", "1", id.to_string()), ("3", "3", shared)];
            for (index, level, shared) in caches {
                let cache = format!("cpu/cpu{id}/cache/index{index}");
                put(format!("{cache}/level"), level.to_owned());
                put(format!("{cache}/id"), cpu.cache.to_string());
                put(format!("{cache}/shared_cpu_list"), shared);
            }
        }
    }
}

/// One socket with two NUMA nodes of two cores of two threads each: 0,1,4,5 and 2,3,6,7.
pub(in crate::managers) const ONE_SOCKET_TWO_NODES: Shape = Shape {
    sockets: 1,
    nodes_per_socket: 2,
    cores_per_cache: 0,
    cores_per_node: 2,
    threads: 2,
};

/// Two sockets of one node, of six cores of two threads each: 0-5,12-17 and 6-11,18-23.
pub(in crate::managers) const TWO_SOCKETS: Shape = Shape {
    sockets: 2,
    nodes_per_socket: 1,
    cores_per_cache: 0,
    cores_per_node: 6,
    threads: 2,
};

/// One socket and node of eight cores of one thread, two cores a cache.
pub(in crate::managers) const SPLIT_CACHES: Shape = Shape {
    sockets: 1,
    nodes_per_socket: 1,
    cores_per_cache: 2,
    cores_per_node: 8,
    threads: 1,
};

#[test]
fn what_the_kernel_lists_is_read() {
    for shape in [ONE_SOCKET_TWO_NODES, TWO_SOCKETS, SPLIT_CACHES] {
        let system = tempfile::tempdir().unwrap();
        shape.write(system.path());
        assert_eq!(Machine::read(system.path()).unwrap(), shape.machine());
    }
}

#[test]
fn a_kernel_without_numa_has_a_node_for_each_socket() {
    let system = tempfile::tempdir().unwrap();
    TWO_SOCKETS.write(system.path());
    std::fs::remove_dir_all(system.path().join("node")).unwrap();
    // CPUs that are off do not count.
    std::fs::write(system.path().join("cpu/cpu23/online"), "0\n").unwrap();
    let machine = Machine::read(system.path()).unwrap();
    let ids: Vec<u32> = machine.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, [0, 1]);
    assert_eq!(machine.all_cpus().to_string(), "0-22");
    assert_eq!(machine.cpus[&6].node, 1);
}

#[test]
fn a_machine_without_cpus_is_none() {
    let empty = tempfile::tempdir().unwrap();
    let error = Machine::read(empty.path()).unwrap_err();
    assert_eq!(error.to_string(), "could not detect number of cpus");
}

#[test]
fn this_machine_can_be_read() {
    let machine = Machine::read(Path::new(SYSTEM)).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(machine.cpus.len() >= cores && !machine.nodes.is_empty());
}
