use proptest::prelude::*;

use super::*;
use crate::managers::machine::tests::{ONE_SOCKET_TWO_NODES, SPLIT_CACHES, Shape, TWO_SOCKETS};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

const PACKED: Choice = Choice {
    across_cores: false,
    by_cache: false,
    distribute: None,
};
const BY_CACHE: Choice = Choice {
    by_cache: true,
    ..PACKED
};
const SPREAD: Choice = Choice {
    across_cores: true,
    ..PACKED
};

fn distribute(group: usize) -> Choice {
    Choice {
        distribute: Some(group),
        ..PACKED
    }
}

#[test]
fn cpus_are_taken_by_topology() {
    // The machine, what is free, how many are taken and how, and which those are.
    let cases: &[(&str, Shape, &str, usize, Choice, &str)] = &[
        ("nothing", TWO_SOCKETS, "0-23", 0, PACKED, ""),
        ("one", TWO_SOCKETS, "0-23", 1, PACKED, "0"),
        ("a core", TWO_SOCKETS, "0-23", 2, PACKED, "0,12"),
        (
            "a core and a half",
            TWO_SOCKETS,
            "0-23",
            3,
            PACKED,
            "0-1,12",
        ),
        ("a socket", TWO_SOCKETS, "0-23", 12, PACKED, "0-5,12-17"),
        (
            "more than a socket",
            TWO_SOCKETS,
            "0-23",
            14,
            PACKED,
            "0-6,12-18",
        ),
        (
            "the socket that is free",
            TWO_SOCKETS,
            "1-23",
            12,
            PACKED,
            "6-11,18-23",
        ),
        (
            "the core in use first",
            TWO_SOCKETS,
            "0-11,13-23",
            1,
            PACKED,
            "0",
        ),
        (
            "no core is broken that need not be",
            TWO_SOCKETS,
            "1-23",
            1,
            PACKED,
            "12",
        ),
        (
            "from the fuller socket",
            TWO_SOCKETS,
            "4-23",
            2,
            PACKED,
            "4,16",
        ),
        (
            "a node of a socket",
            ONE_SOCKET_TWO_NODES,
            "0-7",
            4,
            PACKED,
            "0-1,4-5",
        ),
        (
            "the node that is free",
            ONE_SOCKET_TWO_NODES,
            "1-7",
            4,
            PACKED,
            "2-3,6-7",
        ),
        (
            "whole cores of either",
            ONE_SOCKET_TWO_NODES,
            "1-3,5-7",
            2,
            PACKED,
            "1,5",
        ),
        ("a cache", SPLIT_CACHES, "0-7", 2, BY_CACHE, "0-1"),
        (
            "a cache that is free",
            SPLIT_CACHES,
            "1-7",
            2,
            BY_CACHE,
            "2-3",
        ),
        (
            "a cache and a part",
            SPLIT_CACHES,
            "1-7",
            3,
            BY_CACHE,
            "1-3",
        ),
        ("without caches", SPLIT_CACHES, "1-7", 2, PACKED, "1-2"),
        ("part of a cache", SPLIT_CACHES, "1-7", 1, BY_CACHE, "1"),
        ("from core to core", TWO_SOCKETS, "0-23", 3, SPREAD, "0-2"),
        ("evenly", TWO_SOCKETS, "0-23", 8, distribute(1), "0-3,12-15"),
        (
            "evenly over both",
            TWO_SOCKETS,
            "0-23",
            14,
            distribute(1),
            "0-3,6-9,12-14,18-20",
        ),
        (
            "evenly in whole cores",
            TWO_SOCKETS,
            "0-23",
            16,
            distribute(2),
            "0-3,6-9,12-15,18-21",
        ),
        (
            "a group more on one",
            TWO_SOCKETS,
            "0-23",
            18,
            distribute(2),
            "0-4,6-9,12-16,18-21",
        ),
        (
            "not in groups",
            TWO_SOCKETS,
            "0-23",
            3,
            distribute(2),
            "0-1,12",
        ),
    ];
    for (name, shape, free, count, choice, expected) in cases {
        let taken = take(&shape.machine(), &set(free), *count, *choice).unwrap();
        assert_eq!(taken.to_string(), *expected, "{name}");
    }
}

#[test]
fn more_than_is_free_cannot_be_taken() {
    let machine = TWO_SOCKETS.machine();
    for choice in [PACKED, SPREAD, distribute(1)] {
        let error = take(&machine, &set("1-3"), 4, choice).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough cpus available to satisfy request: requested=4, available=3"
        );
    }
}

/// A machine whose cores have one CPU or two.
#[test]
fn of_unequal_cores_no_cpu_is_taken_that_is_not_free() {
    let mut machine = TWO_SOCKETS.machine();
    for cpu in 18..24 {
        machine.cpus.remove(&cpu);
    }
    let free = set("1-5,13-17,6-11");
    for count in 1..=free.len() {
        let taken = take(&machine, &free, count, PACKED).unwrap();
        assert!(
            taken.len() == count && taken.is_subset(&free),
            "{count}: {taken}"
        );
    }
}

proptest! {
    /// Whatever is free, as many CPUs as are asked for are taken of it, and it always comes to an end.
    #[test]
    fn exactly_so_many_are_taken_of_what_is_free(
        sockets in 1..4_u32,
        nodes_per_socket in 1..4_u32,
        cores_per_node in 1..5_u32,
        threads in 1..3_u32,
        cores_per_cache in 0..3_u32,
        busy in proptest::collection::btree_set(0..96_u32, 0..60),
        part in 0.0..=1.0_f64,
        across_cores: bool,
        by_cache: bool,
        group in proptest::option::of(1..3_usize),
    ) {
        let shape = Shape { sockets, nodes_per_socket, cores_per_cache, cores_per_node, threads };
        let machine = shape.machine();
        let free = machine.all_cpus().difference(&busy.into_iter().collect());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part of a few CPUs")]
        let count = (free.len() as f64 * part) as usize;
        let choice = Choice { across_cores, by_cache, distribute: group };
        let taken = take(&machine, &free, count, choice).unwrap();
        prop_assert_eq!(taken.len(), count);
        prop_assert!(taken.is_subset(&free));
    }
}
