use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::managers::Managers;
use crate::managers::machine::tests::{ONE_SOCKET_TWO_NODES, TWO_SOCKETS};
use crate::managers::topology::{
    NumaMask, Topology, TopologyOptions, TopologyPolicy, TopologyScope,
};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

/// A Guaranteed pod of containers with these CPUs; `init:` and `side:` before a name make it an init container or a sidecar.
fn pod(containers: &[(&str, &str)]) -> Pod {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for (name, cpu) in containers {
        let amounts = json!({"cpu": cpu, "memory": "64Mi"});
        let resources = json!({"requests": amounts, "limits": amounts});
        match name.split_once(':') {
            Some(("init", name)) => inits.push(json!({"name": name, "resources": resources})),
            Some((_, name)) => {
                inits.push(json!({"name": name, "resources": resources, "restartPolicy": "Always"}))
            }
            None => regular.push(json!({"name": name, "resources": resources})),
        }
    }
    let pod = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"initContainers": inits, "containers": regular},
    });
    serde_json::from_value(pod).unwrap()
}

struct Around {
    root: tempfile::TempDir,
    options: BTreeMap<String, String>,
    gates: FeatureGates,
    reserved: Option<CpuSet>,
    machine: Machine,
}

impl Around {
    fn new(machine: Machine) -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            options: BTreeMap::new(),
            gates: FeatureGates::default(),
            reserved: None,
            machine,
        }
    }

    fn with(mut self, options: &[&str]) -> Self {
        let alpha = [("CPUManagerPolicyAlphaOptions".to_owned(), true)].into();
        self.gates = FeatureGates::resolve(&alpha).unwrap();
        self.options = options
            .iter()
            .map(|name| ((*name).to_owned(), "true".to_owned()))
            .collect();
        self
    }

    fn manager(&self) -> Result<CpuManager, CpuError> {
        self.manager_of(Some(1000))
    }

    fn manager_of(&self, reserved_milli: Option<i64>) -> Result<CpuManager, CpuError> {
        let inputs = CpuInputs {
            options: &self.options,
            gates: &self.gates,
            reserved: self.reserved.as_ref(),
            reserved_milli,
            single_node: false,
        };
        let file = StateFile::new(self.root.path(), FILE_NAME, "CPU");
        CpuManager::new(self.machine.clone(), inputs, file)
    }

    fn managers(&self) -> Managers {
        Managers {
            static_cpus: true,
            ..Managers::of(None, vec![Box::new(self.manager().unwrap())])
        }
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.root.path().join(FILE_NAME)).unwrap()
    }
}

fn cpus_of(managers: &Managers, pod: &str, container: &str) -> String {
    let grants = managers.grants(&uid(pod), container);
    grants.cpuset_cpus.unwrap()
}

fn refusal(managers: &Managers, name: &str, pod: &Pod) -> (String, String) {
    let refused = managers.allocate(&uid(name), pod).unwrap_err();
    (refused.reason.into_owned(), refused.message)
}

#[test]
fn whole_cpus_of_guaranteed_pods_are_their_own_and_the_rest_is_shared() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine());
    let managers = around.managers();
    assert_eq!(cpus_of(&managers, "other", "c"), "0-7");
    managers
        .allocate(&uid("a"), &pod(&[("c", "2"), ("part", "500m")]))
        .unwrap();
    // CPU 0 is reserved, and so no core of the first node is whole but 1,5.
    assert_eq!(cpus_of(&managers, "a", "c"), "1,5");
    assert_eq!(cpus_of(&managers, "a", "part"), "0,2-4,6-7");
    assert_eq!(cpus_of(&managers, "other", "c"), "0,2-4,6-7");
    assert!(managers.grants(&uid("a"), "c").lifts_quota);
    assert!(!managers.grants(&uid("a"), "part").lifts_quota);
    assert!(managers.lift_quota(&uid("a"), &pod(&[("c", "2")])));
    // Asked again, it has the same.
    managers
        .allocate(&uid("a"), &pod(&[("c", "2"), ("part", "500m")]))
        .unwrap();
    assert_eq!(cpus_of(&managers, "a", "c"), "1,5");
    let (reason, message) = refusal(&managers, "b", &pod(&[("c", "1"), ("d", "5")]));
    assert_eq!(reason, "UnexpectedAdmissionError");
    assert_eq!(
        message,
        "Allocate failed due to not enough cpus available to satisfy request: requested=5, available=4, which is unexpected"
    );
    // What its first container had been given is given back.
    assert_eq!(cpus_of(&managers, "other", "c"), "0,2-4,6-7");
    managers.release(&uid("a"));
    assert_eq!(cpus_of(&managers, "other", "c"), "0-7");
}

#[test]
fn later_containers_have_the_cpus_of_init_containers_but_not_of_sidecars() {
    let around = Around::new(TWO_SOCKETS.machine());
    let managers = around.managers();
    let pod = pod(&[("init:i", "4"), ("side:s", "2"), ("a", "2"), ("b", "2")]);
    managers.allocate(&uid("p"), &pod).unwrap();
    let of = |name| set(&cpus_of(&managers, "p", name));
    let (i, s, a, b) = (of("i"), of("s"), of("a"), of("b"));
    assert!(
        s.is_subset(&i),
        "the sidecar takes what the init container has had"
    );
    assert!(!a.overlaps(&s) && !b.overlaps(&s) && !a.overlaps(&b));
    let both = a.union(&b);
    assert_eq!(both.intersection(&i).len(), 2, "what is left of it goes on");
    assert_eq!(set(&cpus_of(&managers, "x", "x")).len(), 24 - 6);
    managers.release(&uid("p"));
    assert_eq!(cpus_of(&managers, "x", "x"), "0-23");
}

#[test]
fn pods_with_resources_as_a_whole_share() {
    let around = Around::new(TWO_SOCKETS.machine());
    let managers = around.managers();
    let mut whole = pod(&[("c", "2")]);
    let resources =
        json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
    whole.spec.as_mut().unwrap().resources = Some(serde_json::from_value(resources).unwrap());
    managers.allocate(&uid("p"), &whole).unwrap();
    assert_eq!(cpus_of(&managers, "p", "c"), "0-23");
}

#[test]
fn cpus_of_a_guaranteed_pod_do_not_change_while_it_runs() {
    let managers = Around::new(TWO_SOCKETS.machine()).managers();
    let refused = managers.refuses_resize(true, false);
    let expected =
        "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    assert_eq!(refused.as_deref(), Some(expected));
    assert_eq!(managers.refuses_resize(false, true), None);
    assert_eq!(Managers::none().refuses_resize(true, true), None);
}

#[test]
fn the_state_outlives_the_agent() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine());
    let before = around.managers();
    before.allocate(&uid("a"), &pod(&[("c", "2")])).unwrap();
    before.allocate(&uid("gone"), &pod(&[("c", "1")])).unwrap();
    drop(before);
    let managers = around.managers();
    assert!(!managers.are_lost());
    assert_eq!(cpus_of(&managers, "a", "c"), "1,5");
    managers.retain(&BTreeSet::from([uid("a")]));
    assert_eq!(cpus_of(&managers, "x", "c"), "0,2-4,6-7");
    assert!(around.file().starts_with(
        r#"{"policyName":"static","defaultCpuSet":"0,2-4,6-7","entries":{"a":{"c":"1,5"}},"checksum":"#
    ));
}

#[test]
fn what_was_lost_is_made_out_from_what_runs() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine());
    std::fs::write(around.root.path().join(FILE_NAME), "{").unwrap();
    let managers = around.managers();
    assert!(managers.are_lost());
    let runs = |pod: &str, name: &str, cpus: &str| RunningContainer {
        uid: uid(pod),
        name: name.into(),
        cpus: set(cpus),
        mems: NumaMask::default(),
    };
    managers.recover(&[
        runs("a", "c", "2,6"),
        runs("shares", "c", "0-1,4-5,7"),
        runs("late", "c", "3"),
    ]);
    assert!(!managers.are_lost());
    managers.adopt(&uid("shares"), &pod(&[("c", "500m")]));
    managers.adopt(&uid("a"), &pod(&[("init:i", "1"), ("c", "2")]));
    assert_eq!(
        cpus_of(&managers, "a", "c"),
        "2,6",
        "it keeps what it runs on"
    );
    assert_eq!(
        cpus_of(&managers, "a", "i"),
        "2",
        "what has ended takes no more"
    );
    // A pod of which nobody knows yet keeps its CPUs from new ones.
    managers.allocate(&uid("new"), &pod(&[("c", "4")])).unwrap();
    assert_eq!(cpus_of(&managers, "new", "c"), "1,4-5,7");
    managers.adopt(&uid("late"), &pod(&[("c", "1")]));
    assert_eq!(cpus_of(&managers, "late", "c"), "3");
    assert_eq!(cpus_of(&managers, "x", "c"), "0");
}

#[test]
fn a_state_that_cannot_be_true_is_refused_in_upstreams_words() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine());
    let write = |shared: &str, entries: &Entries| {
        let file = StateFile::new(around.root.path(), FILE_NAME, "CPU");
        file.store(CpuState::new(POLICY, &set(shared), entries))
            .unwrap();
        around.manager().err().map(|error| error.to_string())
    };
    let own =
        |cpus: &str| -> Entries { [("p".to_owned(), [("c".to_owned(), set(cpus))].into())].into() };
    assert_eq!(write("0-5", &own("6-7")), None);
    for (shared, entries, text) in [
        (
            "0-6",
            own("6-7"),
            "pod: p, container: c cpuset: \"6-7\" overlaps with default cpuset \"0-6\"",
        ),
        (
            "0-5",
            own("6"),
            "current set of available CPUs \"0-7\" doesn't match with CPUs in state \"0-6\"",
        ),
        (
            "1-7",
            own("0"),
            "not all reserved cpus: \"0\" are present in defaultCpuSet: \"1-7\"",
        ),
        ("", own("0-7"), "default cpuset cannot be empty"),
    ] {
        let refused = write(shared, &entries).unwrap();
        assert!(refused.starts_with(text), "{refused}");
        assert!(refused.contains("invalid state, please drain node and remove policy state file"));
    }
}

#[test]
fn what_is_reserved_is_checked_in_upstreams_words() {
    let mut around = Around::new(TWO_SOCKETS.machine());
    let refused = |around: &Around, milli| around.manager_of(milli).err().unwrap().to_string();
    assert_eq!(
        refused(&around, None),
        "[cpumanager] unable to determine reserved CPU resources for static policy"
    );
    assert_eq!(
        refused(&around, Some(0)),
        "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
    );
    assert_eq!(around.manager_of(Some(1100)).unwrap().reserved, set("0,12"));
    around.reserved = Some(set("3,5"));
    assert_eq!(around.manager_of(Some(2000)).unwrap().reserved, set("3,5"));
    assert_eq!(
        refused(&around, Some(1000)),
        "new static policy error: [cpumanager] unable to reserve the required amount of CPUs (size of 3,5 did not equal 1)"
    );
}

#[test]
fn strictly_reserved_cpus_are_not_shared() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine()).with(&["strict-cpu-reservation"]);
    let managers = around.managers();
    assert_eq!(cpus_of(&managers, "x", "c"), "1-7");
    managers.allocate(&uid("a"), &pod(&[("c", "2")])).unwrap();
    drop(managers);
    assert_eq!(cpus_of(&around.managers(), "x", "c"), "2-4,6-7");
}

#[test]
fn whole_cores_or_nothing_where_that_is_configured() {
    let around = Around::new(ONE_SOCKET_TWO_NODES.machine()).with(&["full-pcpus-only"]);
    let managers = around.managers();
    let (reason, message) = refusal(&managers, "a", &pod(&[("c", "1")]));
    assert_eq!(reason, "SMTAlignmentError");
    assert_eq!(
        message,
        "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2"
    );
    managers.allocate(&uid("a"), &pod(&[("c", "4")])).unwrap();
    let (_, message) = refusal(&managers, "b", &pod(&[("c", "4")]));
    assert_eq!(
        message,
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 2, requested CPUs = 4, CPUs per core = 2"
    );
}

#[test]
fn options_are_checked_in_upstreams_words() {
    let refused = |options: &[&str]| {
        let around = Around::new(TWO_SOCKETS.machine()).with(options);
        around.manager().err().unwrap().to_string()
    };
    assert_eq!(
        refused(&["full-pcpus-only", "distribute-cpus-across-cores"]),
        "new static policy error: static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time"
    );
    assert_eq!(
        refused(&["whole"]),
        "new static policy error: unknown CPU Manager Policy option: \"whole\""
    );
    let mut around = Around::new(TWO_SOCKETS.machine()).with(&["align-by-socket"]);
    assert!(around.manager().is_ok());
    around.gates = FeatureGates::default();
    assert_eq!(
        around.manager().err().unwrap().to_string(),
        "new static policy error: CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided"
    );
}

/// What comes of pods under the topology manager's policies: the CPUs, or the refusal's reason.
#[test]
fn cpus_come_from_the_nodes_that_the_topology_manager_wants() {
    use TopologyPolicy::{BestEffort, Restricted, SingleNumaNode};
    use TopologyScope::{Container, Pod as Whole};
    let given = |policy, scope, pods: &[Pod]| -> Vec<String> {
        let around = Around::new(ONE_SOCKET_TWO_NODES.machine());
        let options = TopologyOptions::default();
        let topology = Topology::new(policy, scope, &options, &around.machine.nodes).unwrap();
        let managers = Managers::of(Some(topology), vec![Box::new(around.manager().unwrap())]);
        let numbered = pods.iter().enumerate();
        let given = numbered.map(|(index, pod)| {
            let name = format!("p{index}");
            match managers.allocate(&uid(&name), pod) {
                Ok(()) => cpus_of(&managers, &name, "c"),
                Err(refused) => format!("{}: {}", refused.reason, refused.message),
            }
        });
        given.collect()
    };
    let affinity = "TopologyAffinityError: Resources cannot be allocated with Topology locality";
    let three = [pod(&[("c", "2")]), pod(&[("c", "3")]), pod(&[("c", "2")])];
    // The first node has three CPUs to give, the second four: two, three, and two of which one is on either.
    assert_eq!(
        given(SingleNumaNode, Container, &three),
        ["1,5", "2-3,6", affinity]
    );
    assert_eq!(
        given(Restricted, Container, &three),
        ["1,5", "2-3,6", affinity]
    );
    assert_eq!(
        given(BestEffort, Container, &three),
        ["1,5", "2-3,6", "4,7"]
    );
    // Five need both nodes, on an empty machine too.
    let five = [pod(&[("c", "5")])];
    assert_eq!(given(Restricted, Container, &five), ["2-4,6-7"]);
    assert_eq!(given(SingleNumaNode, Container, &five), [affinity]);
    // All containers of a pod together, or each by itself.
    let pair = [pod(&[("c", "3"), ("d", "2")])];
    assert_eq!(given(SingleNumaNode, Container, &pair), ["1,4-5"]);
    assert_eq!(given(SingleNumaNode, Whole, &pair), [affinity]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes and goes, no CPU is two pods' at once, or shared and somebody's own; and none gets lost.
    #[test]
    fn nobody_has_a_cpu_of_another(
        steps in proptest::collection::vec((0..6_u32, 0..7_usize, 0..4_usize, any::<bool>()), 1..40)
    ) {
        let around = Around::new(TWO_SOCKETS.machine());
        let mut manager = around.manager().unwrap();
        for (index, cpus, init, goes) in steps {
            let uid = uid(&format!("p{index}"));
            if goes {
                manager.release(&uid);
            } else {
                let (cpus, init) = (cpus.to_string(), init.to_string());
                let pod = pod(&[("init:i", &init), ("c", &cpus), ("d", "1")]);
                for (kind, container) in crate::pod::containers(&pod) {
                    let asking = Asking { uid: &uid, pod: &pod, kind, container };
                    if manager.allocate(&asking, Hint::default()).is_err() {
                        manager.release(&uid);
                        break;
                    }
                }
            }
            manager.commit();
            let of_pods: Vec<CpuSet> = manager
                .entries
                .values()
                .map(|pod| pod.values().fold(CpuSet::new(), |all, own| all.union(own)))
                .collect();
            let sum: usize = of_pods.iter().map(CpuSet::len).sum();
            prop_assert_eq!(sum + manager.shared.len(), 24);
            let all = of_pods.iter().fold(manager.shared.clone(), |all, own| all.union(own));
            prop_assert_eq!(all, manager.machine.all_cpus());
            prop_assert!(manager.reserved.is_subset(&manager.shared));
            let again = around.manager().unwrap();
            prop_assert_eq!(&again.entries, &manager.entries);
            prop_assert_eq!(&again.shared, &manager.shared);
        }
    }
}
