use super::*;
use crate::eviction::signals::Amount;

const MEBI: u64 = 1 << 20;

fn map(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    let texts = list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    texts.collect()
}

fn config(hard: &[(&str, &str)], soft: &[(&str, &str, &str)]) -> EvictionConfig {
    let graces: Vec<(&str, &str)> = soft
        .iter()
        .map(|(signal, _, grace)| (*signal, *grace))
        .collect();
    let soft: Vec<(&str, &str)> = soft
        .iter()
        .map(|(signal, text, _)| (*signal, *text))
        .collect();
    EvictionConfig {
        hard: map(hard),
        soft: map(&soft),
        soft_grace_period: map(&graces),
        minimum_reclaim: BTreeMap::new(),
        pressure_transition: Duration::from_secs(300),
        max_pod_grace_seconds: None,
    }
}

fn judge(config: &EvictionConfig) -> Judge {
    Judge::new(
        thresholds(config, false).unwrap(),
        config.pressure_transition,
    )
}

fn observed(all: &[(Signal, u64, u64)]) -> Observations {
    let mut observed = Observations::default();
    for &(signal, capacity, available) in all {
        let amount = Amount {
            capacity,
            available,
        };
        observed.put(signal, amount);
    }
    observed
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn due(judgement: &Judgement) -> Vec<Signal> {
    judgement.due.iter().map(|one| one.signal).collect()
}

#[test]
fn what_is_below_its_threshold_is_due_and_short_for_the_transition_period() {
    let config = config(
        &[
            ("memory.available", "100Mi"),
            ("nodefs.inodesFree", "5%"),
            ("pid.available", "0%"),
        ],
        &[],
    );
    let mut judge = judge(&config);
    let well = observed(&[
        (Signal::Memory, 1 << 30, 100 * MEBI),
        (Signal::NodefsInodes, 1000, 50),
        (Signal::Pids, 100, 0),
    ]);
    assert_eq!(judge.judge(&well, at(0)), Judgement::default());
    let short = observed(&[
        (Signal::NodefsInodes, 1000, 49),
        (Signal::Memory, 1 << 30, 100 * MEBI - 1),
    ]);
    let pressure = Pressure {
        memory: true,
        disk: true,
        pid: false,
    };
    let judged = judge.judge(&short, at(10));
    assert_eq!(judged.pressure, pressure);
    assert_eq!(due(&judged), [Signal::Memory, Signal::NodefsInodes]);
    let judged = judge.judge(&well, at(309));
    assert_eq!(
        (judged.pressure, due(&judged)),
        (pressure, vec![]),
        "it stays"
    );
    assert_eq!(judge.judge(&well, at(310)), Judgement::default());
}

#[test]
fn a_soft_threshold_is_borne_for_its_grace_period_without_a_break() {
    let config = config(&[], &[("memory.available", "200Mi", "1m30s")]);
    let mut judge = judge(&config);
    let short = observed(&[(Signal::Memory, 1 << 30, MEBI)]);
    let well = observed(&[(Signal::Memory, 1 << 30, 1 << 29)]);
    let judged = judge.judge(&short, at(0));
    assert!(judged.pressure.memory, "the condition does not wait");
    assert!(judged.due.is_empty());
    assert!(judge.judge(&short, at(89)).due.is_empty());
    assert!(judge.judge(&well, at(89)).due.is_empty());
    assert!(judge.judge(&short, at(90)).due.is_empty(), "it begins anew");
    assert!(judge.judge(&short, at(179)).due.is_empty());
    let judged = judge.judge(&short, at(180));
    assert_eq!(due(&judged), [Signal::Memory]);
    assert!(!judged.due[0].is_hard());
}

#[test]
fn what_was_due_stays_so_until_more_than_the_threshold_is_free() {
    let mut config = config(&[("nodefs.available", "10%")], &[]);
    config.minimum_reclaim = map(&[("nodefs.available", "50")]);
    let mut judge = judge(&config);
    let free = |available| observed(&[(Signal::NodefsBytes, 1000, available)]);
    assert!(judge.judge(&free(120), at(0)).due.is_empty());
    assert_eq!(due(&judge.judge(&free(99), at(10))), [Signal::NodefsBytes]);
    assert_eq!(due(&judge.judge(&free(149), at(20))), [Signal::NodefsBytes]);
    assert!(!judge.is_resolved(&free(149)));
    assert!(judge.is_resolved(&free(150)));
    assert!(judge.judge(&free(150), at(30)).due.is_empty());
    assert!(judge.judge(&free(120), at(40)).due.is_empty());
}

#[test]
fn writable_layers_go_by_the_thresholds_of_the_file_system_that_they_share() {
    let config = config(
        &[
            ("nodefs.available", "10%"),
            ("imagefs.available", "20%"),
            ("containerfs.available", "90%"),
        ],
        &[],
    );
    let below = |layout| {
        let mut judge = judge(&config);
        judge.set_layout(layout);
        let own = |one: &&Threshold| one.signal == Signal::ContainerfsBytes;
        let own: Vec<String> = judge
            .thresholds()
            .iter()
            .filter(own)
            .map(|one| one.quantity(1000).to_string())
            .collect();
        own
    };
    assert_eq!(below(Layout::One), ["100"]);
    assert_eq!(below(Layout::Images), ["200"]);
    assert_eq!(below(Layout::Split), ["100"]);
}

#[test]
fn all_pods_together_are_held_to_the_hard_threshold_of_memory() {
    let config = config(
        &[("memory.available", "100Mi")],
        &[("memory.available", "200Mi", "1m")],
    );
    let all = thresholds(&config, true).unwrap();
    let signals: Vec<Signal> = all.iter().map(|one| one.signal).collect();
    let expected = [Signal::Memory, Signal::Memory, Signal::AllocatableMemory];
    assert_eq!(signals, expected);
    assert!(all[2].is_hard());
}

#[test]
fn percentages_are_cut_off_as_upstream_does() {
    let config = config(
        &[("nodefs.available", "10%"), ("memory.available", "1.5Gi")],
        &[],
    );
    let all = thresholds(&config, false).unwrap();
    let text = |signal, capacity| {
        let one = all.iter().find(|one| one.signal == signal).unwrap();
        one.quantity(capacity).to_string()
    };
    // 10% in single precision is a little more than a tenth.
    assert_eq!(text(Signal::NodefsBytes, 269_490_393_088), "26949039710");
    assert_eq!(text(Signal::Memory, 1), "1536Mi");
}

#[test]
fn what_cannot_be_used_is_refused() {
    let fails = |config: &EvictionConfig| thresholds(config, false).unwrap_err().to_string();
    assert_eq!(
        fails(&config(&[("memory", "1Mi")], &[])),
        "evictionHard: unsupported eviction signal memory"
    );
    for bad in ["-1", "0", "101%", "-1%", "lots", "%"] {
        let text = fails(&config(&[("nodefs.available", bad)], &[]));
        assert!(
            text.starts_with("evictionHard: nodefs.available: "),
            "{text}"
        );
    }
    let mut soft = config(&[], &[("nodefs.available", "5%", "1m")]);
    soft.soft_grace_period.clear();
    assert_eq!(
        fails(&soft),
        "evictionSoft: grace period must be specified for the soft eviction threshold nodefs.available"
    );
    for bad in ["-1m", "1", "soon"] {
        let text = fails(&config(&[], &[("nodefs.available", "5%", bad)]));
        assert!(text.ends_with(" is no time"), "{text}");
    }
    let mut reclaim = config(&[], &[]);
    reclaim.minimum_reclaim = map(&[("disk", "1Mi")]);
    assert!(fails(&reclaim).starts_with("evictionMinimumReclaim: "));
}
