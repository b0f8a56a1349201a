use super::*;
use crate::managers::machine::NumaNode;

/// `any`, `none`, or nodes with a `!` behind them where they are not preferred: `0`, `0,1!`.
fn way(text: &str) -> Hint {
    match text {
        "any" => Hint::ANY,
        "none" => Hint::NONE,
        nodes => {
            let preferred = !nodes.ends_with('!');
            let nodes = nodes.trim_end_matches('!').split(',');
            Hint::over(
                NumaMask::of(nodes.map(|node| node.parse().unwrap())),
                preferred,
            )
        }
    }
}

fn written(hint: Hint) -> String {
    let mark = if hint.preferred { "" } else { "!" };
    match hint.mask {
        Some(mask) => format!("{mask}{mark}"),
        None => format!("-{mark}"),
    }
}

fn nodes(distances: &[&[u64]]) -> Vec<NumaNode> {
    let numbered = distances.iter().zip(0..);
    let nodes = numbered.map(|(distances, id)| NumaNode {
        id,
        distances: distances.to_vec(),
        ..NumaNode::default()
    });
    nodes.collect()
}

fn topology(policy: TopologyPolicy, prefer_closest: bool, distances: &[&[u64]]) -> Topology {
    let options = TopologyOptions {
        prefer_closest,
        ..TopologyOptions::default()
    };
    Topology::new(
        policy,
        TopologyScope::Container,
        &options,
        &nodes(distances),
    )
    .unwrap()
}

/// What comes of resources with these ways, one list a resource, each of one provider.
fn merged(topology: &Topology, ways: &[&[&str]]) -> String {
    let hints = ways.iter().map(|of_resource| {
        let of_resource = of_resource.iter().map(|text| way(text)).collect();
        vec![("r".to_owned(), Some(of_resource))]
    });
    topology
        .merge(hints.collect())
        .map_or("refused".to_owned(), written)
}

const TWO: &[&[u64]] = &[&[10, 21], &[21, 10]];

#[test]
fn hints_are_merged_by_each_policy() {
    use TopologyPolicy::{BestEffort, Restricted, SingleNumaNode};
    // The ways of up to three resources; what best-effort, restricted and single-numa-node make of them.
    let cases: &[(&[&[&str]], [&str; 3])] = &[
        (&[], ["0,1", "0,1", "-"]),
        (&[&["any"]], ["0,1", "0,1", "-"]),
        (&[&["none"]], ["0,1!", "refused", "refused"]),
        (&[&["0", "1", "0,1!"]], ["0", "0", "0"]),
        (&[&["1", "0,1!"], &["0", "1", "0,1!"]], ["1", "1", "1"]),
        (&[&["0"], &["1"]], ["0,1!", "refused", "refused"]),
        (&[&["0"], &["0,1!"]], ["0!", "refused", "refused"]),
        (&[&["0,1"]], ["0,1", "0,1", "refused"]),
        (&[&["0,1"], &["0,1"]], ["0,1", "0,1", "refused"]),
        (&[&["0,1"], &["any"]], ["0,1", "0,1", "refused"]),
        // The resource that needs most decides how many nodes an agreement that is not preferred has.
        (
            &[&["0,1!"], &["0!", "0,1!"]],
            ["0,1!", "refused", "refused"],
        ),
        (&[&["0", "1"], &["any"], &["1", "0,1!"]], ["1", "1", "1"]),
        (&[&["0!", "1!"], &["1"]], ["1!", "refused", "refused"]),
    ];
    for (ways, expected) in cases {
        for (policy, expected) in [BestEffort, Restricted, SingleNumaNode]
            .iter()
            .zip(expected)
        {
            let topology = topology(*policy, false, TWO);
            assert_eq!(merged(&topology, ways), *expected, "{policy:?} {ways:?}");
        }
    }
}

#[test]
fn no_resource_is_no_preference() {
    let topology = topology(TopologyPolicy::Restricted, false, TWO);
    let none = vec![Vec::new(), vec![("cpu".to_owned(), None)]];
    assert_eq!(topology.merge(none).map(written).as_deref(), Some("0,1"));
    let impossible = vec![vec![("cpu".to_owned(), Some(Vec::new()))]];
    assert_eq!(topology.merge(impossible), None);
}

#[test]
fn near_nodes_are_preferred_to_low_ones_where_that_is_configured() {
    let distances: &[&[u64]] = &[
        &[10, 31, 21, 31],
        &[31, 10, 31, 11],
        &[21, 31, 10, 31],
        &[31, 11, 31, 10],
    ];
    let pairs: &[&str] = &["0,1", "0,2", "1,3", "2,3"];
    let low = topology(TopologyPolicy::Restricted, false, distances);
    assert_eq!(merged(&low, &[pairs]), "0,1");
    let near = topology(TopologyPolicy::Restricted, true, distances);
    assert_eq!(merged(&near, &[pairs]), "1,3");
    // Fewer nodes are better still.
    assert_eq!(merged(&near, &[&["1,3", "2"]]), "2");
}

#[test]
fn options_are_read_in_upstreams_words() {
    let parse = |name: &str, value: &str| {
        let texts = [(name.to_owned(), value.to_owned())].into();
        TopologyOptions::parse(&texts).map_err(|error| error.to_string())
    };
    let closest = parse("prefer-closest-numa-nodes", "true").unwrap();
    assert!(closest.prefer_closest && closest.max_numa_nodes == 8);
    let more = parse("max-allowable-numa-nodes", "16").unwrap();
    assert_eq!(more.max_numa_nodes, 16);
    for (name, value, text) in [
        (
            "max-allowable-numa-nodes",
            "4",
            "the minimum value of \"max-allowable-numa-nodes\" should not be less than 8",
        ),
        (
            "max-allowable-numa-nodes",
            "x",
            "unable to convert policy option to integer \"max-allowable-numa-nodes\": strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            "prefer-closest-numa-nodes",
            "yes",
            "bad value for option \"prefer-closest-numa-nodes\": strconv.ParseBool: parsing \"yes\": invalid syntax",
        ),
        (
            "nearest",
            "true",
            "unknown Topology Manager Policy option: \"nearest\"",
        ),
    ] {
        assert_eq!(parse(name, value).unwrap_err(), text);
    }
}

#[test]
fn a_machine_of_too_many_nodes_is_refused() {
    let row: &[u64] = &[];
    let of = |count: usize, prefer_closest| {
        let options = TopologyOptions {
            prefer_closest,
            ..TopologyOptions::default()
        };
        let nodes = nodes(&vec![row; count]);
        let (policy, scope) = (TopologyPolicy::BestEffort, TopologyScope::Pod);
        Topology::new(policy, scope, &options, &nodes).map_err(|error| error.to_string())
    };
    assert!(of(8, false).is_ok());
    assert_eq!(
        of(9, false).unwrap_err(),
        "unsupported on machines with more than 8 NUMA Nodes"
    );
    assert_eq!(
        of(1, true).unwrap_err(),
        "cannot discover NUMA topology: error getting NUMA distances from cadvisor"
    );
}
