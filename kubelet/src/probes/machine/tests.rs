//! The seconds at which probes are asked, and what answers amount to.

use proptest::prelude::*;

use super::*;

const PERIOD: u64 = 10;

fn timing(initial_delay: u64, period: u64, successes: u32, failures: u32) -> Timing {
    Timing {
        initial_delay: Duration::from_secs(initial_delay),
        period: Duration::from_secs(period),
        successes,
        failures,
    }
}

fn at(seconds: f64) -> i64 {
    (seconds * 1e9).round() as i64
}

fn instance(id: &str, began: f64) -> Instance {
    Instance {
        id: id.into(),
        began: at(began),
        adopted: began < 0.0,
    }
}

/// A machine that sees `a`, which began at `began`, at `now`.
fn seeing(kind: ProbeKind, timing: Timing, began: f64, started: bool, now: f64) -> Machine {
    let mut machine = Machine::new(kind, timing, false);
    let first = First {
        settled: false,
        jitter: 0.5,
    };
    machine.see(at(now), Some((instance("a", began), started)), first);
    machine
}

/// Answers each attempt at once; the times of the first `count` attempts, in seconds.
fn asked(machine: &mut Machine, outcome: Outcome, count: usize) -> Vec<f64> {
    let mut times = Vec::new();
    while times.len() < count
        && let Some(due) = machine.due()
    {
        times.push(due as f64 / 1e9);
        machine.done(&"a".into(), outcome, due, due);
    }
    times
}

#[test]
fn liveness_and_startup_are_asked_at_whole_periods_of_the_container() {
    for kind in [ProbeKind::Liveness, ProbeKind::Startup] {
        for (delay, period, expected) in [
            (0, 10, [9.75, 19.75, 29.75]),
            (0, 1, [0.75, 1.75, 2.75]),
            // A tick that is just too early for the initial delay is put off.
            (5, 5, [5.0, 9.75, 14.75]),
            (3, 3, [3.0, 5.75, 8.75]),
            (15, 20, [19.75, 39.75, 59.75]),
            (10, 3, [11.75, 14.75, 17.75]),
            (1, 1, [1.0, 1.75, 2.75]),
            (30, 10, [30.0, 39.75, 49.75]),
            (31, 10, [39.75, 49.75, 59.75]),
        ] {
            let mut machine = seeing(kind, timing(delay, period, 9, 9), 100.0, true, 100.05);
            let times = asked(&mut machine, Outcome::Success, 3);
            assert_eq!(times, expected.map(|t| t + 100.0), "{delay} {period}");
        }
    }
}

#[test]
fn what_never_passes_is_given_up_at_the_second_that_the_manifest_states() {
    for (kind, delay, period, failures, expected) in [
        (ProbeKind::Startup, 0, 10, 30, 299.75),
        (ProbeKind::Liveness, 5, 5, 3, 14.75),
        (ProbeKind::Liveness, 3, 3, 3, 8.75),
        (ProbeKind::Liveness, 15, 20, 3, 59.75),
        (ProbeKind::Liveness, 0, 1, 1, 0.75),
    ] {
        let mut machine = seeing(
            kind,
            timing(delay, period, 1, failures),
            100.0,
            true,
            100.05,
        );
        let times = asked(&mut machine, Outcome::Failure, 1000);
        assert_eq!(times.last(), Some(&(expected + 100.0)), "{kind} {period}");
    }
}

#[test]
fn readiness_is_asked_as_soon_as_its_delay_is_over() {
    for (delay, expected) in [
        (0, [1.0, 11.0, 21.0]),
        (1, [1.0, 11.0, 21.0]),
        (5, [5.0, 15.0, 25.0]),
    ] {
        let mut machine = seeing(
            ProbeKind::Readiness,
            timing(delay, PERIOD, 1, 3),
            100.0,
            true,
            100.05,
        );
        let times = asked(&mut machine, Outcome::Failure, 3);
        assert_eq!(times, expected.map(|t| t + 100.0), "{delay}");
    }
}

#[test]
fn readiness_is_asked_at_once_when_the_startup_probe_has_passed() {
    for began in [100.0, -1000.0] {
        let mut machine = Machine::new(ProbeKind::Readiness, timing(2, PERIOD, 1, 3), true);
        let look = Some((instance("a", began), false));
        machine.see(at(100.1), look, First::default());
        assert_eq!(machine.due(), None);
        machine.see(
            at(103.3),
            Some((instance("a", began), true)),
            First::default(),
        );
        let times = asked(&mut machine, Outcome::Success, 2);
        assert_eq!(times, [103.3, 113.3]);
    }
    // But not before its initial delay.
    let mut machine = Machine::new(ProbeKind::Readiness, timing(30, PERIOD, 1, 3), true);
    machine.see(
        at(100.1),
        Some((instance("a", 100.0), false)),
        First::default(),
    );
    machine.see(
        at(103.3),
        Some((instance("a", 100.0), true)),
        First::default(),
    );
    assert_eq!(machine.due(), Some(at(130.0)));
}

#[test]
fn liveness_waits_for_the_start_and_keeps_its_ticks() {
    let mut machine = seeing(
        ProbeKind::Liveness,
        timing(0, PERIOD, 1, 3),
        100.0,
        false,
        100.1,
    );
    assert_eq!(machine.due(), None);
    machine.see(
        at(109.8),
        Some((instance("a", 100.0), true)),
        First::default(),
    );
    assert_eq!(asked(&mut machine, Outcome::Success, 2), [119.75, 129.75]);
}

#[test]
fn the_first_probes_after_the_agent_began_come_at_random_within_a_period() {
    for kind in ProbeKind::ALL {
        let mut machine = seeing(kind, timing(0, PERIOD, 9, 9), -100.0, true, 2.0);
        assert_eq!(
            asked(&mut machine, Outcome::Success, 2),
            [7.0, 17.0],
            "{kind}"
        );
        // The initial delay holds all the same.
        let mut machine = seeing(kind, timing(120, PERIOD, 9, 9), -100.0, true, 2.0);
        assert_eq!(asked(&mut machine, Outcome::Success, 1), [27.0], "{kind}");
        // An agent that has run for a period knows no such delay, nor has a container that it started.
        let mut machine = seeing(kind, timing(0, PERIOD, 9, 9), -100.0, true, 12.0);
        assert!(asked(&mut machine, Outcome::Success, 1)[0] < 22.0, "{kind}");
        let mut machine = seeing(kind, timing(0, PERIOD, 9, 9), 1.0, true, 1.0);
        let first = asked(&mut machine, Outcome::Success, 1)[0];
        let expected = if kind == ProbeKind::Readiness {
            2.0
        } else {
            10.75
        };
        assert_eq!(first, expected, "{kind}");
    }
}

#[test]
fn as_many_answers_in_a_row_as_the_threshold_says_are_a_verdict() {
    use Outcome::{Failure, Success, Unknown};
    type Row<'a> = (ProbeKind, &'a [Outcome], &'a [Option<bool>]);
    let rows: [Row<'_>; 5] = [
        (
            ProbeKind::Readiness,
            &[
                Success, Success, Failure, Failure, Success, Failure, Failure, Failure, Failure,
            ],
            &[
                None,
                Some(true),
                None,
                None,
                None,
                None,
                None,
                Some(false),
                Some(false),
            ],
        ),
        (
            ProbeKind::Readiness,
            &[Failure, Unknown, Failure, Unknown, Unknown, Failure],
            &[None, None, None, None, None, Some(false)],
        ),
        (
            ProbeKind::Liveness,
            &[
                Failure, Failure, Success, Success, Failure, Failure, Failure,
            ],
            &[None, None, None, Some(true), None, None, Some(false)],
        ),
        (
            ProbeKind::Startup,
            &[Failure, Failure, Failure],
            &[None, None, Some(false)],
        ),
        (
            ProbeKind::Startup,
            &[Unknown, Success, Success],
            &[None, None, Some(true)],
        ),
    ];
    for (row, (kind, outcomes, verdicts)) in rows.into_iter().enumerate() {
        let mut machine = seeing(kind, timing(0, PERIOD, 2, 3), 0.5, true, 0.5);
        for (step, (outcome, verdict)) in outcomes.iter().zip(verdicts).enumerate() {
            let due = machine
                .due()
                .unwrap_or_else(|| panic!("row {row} step {step}: held"));
            let done = machine.done(&"a".into(), *outcome, due, due + 1);
            assert_eq!(done, *verdict, "row {row} step {step}");
        }
        let ends = kind == ProbeKind::Startup
            || verdicts.last() == Some(&Some(false)) && kind == ProbeKind::Liveness;
        assert_eq!(machine.due().is_none(), ends, "row {row}");
    }
}

#[test]
fn a_new_instance_begins_anew() {
    let mut machine = seeing(ProbeKind::Liveness, timing(0, 1, 1, 2), 0.5, true, 0.5);
    let due = machine.due().unwrap();
    assert_eq!(machine.done(&"a".into(), Outcome::Failure, due, due), None);
    machine.see(at(2.0), None, First::default());
    assert_eq!(machine.due(), None);
    assert_eq!(machine.instance(), None);
    machine.see(at(3.0), Some((instance("b", 3.0), true)), First::default());
    assert_eq!(machine.due(), Some(at(3.75)));
    // An answer that comes late is not the new instance's.
    assert_eq!(
        machine.done(&"a".into(), Outcome::Failure, due, at(3.1)),
        None
    );
    assert_eq!(
        machine.done(&"b".into(), Outcome::Failure, at(3.75), at(3.8)),
        None
    );
    assert_eq!(
        machine.done(&"b".into(), Outcome::Failure, at(4.75), at(4.8)),
        Some(false)
    );
    assert_eq!(machine.due(), None, "held until there is another instance");
    machine.see(at(5.0), Some((instance("b", 3.0), true)), First::default());
    assert_eq!(machine.due(), None);
    machine.see(at(6.0), Some((instance("c", 6.0), true)), First::default());
    assert_eq!(machine.due(), Some(at(6.75)));
}

#[test]
fn what_had_started_before_the_agent_began_is_not_asked_whether_it_has() {
    let mut machine = Machine::new(ProbeKind::Startup, timing(0, 1, 1, 2), false);
    let settled = First {
        settled: true,
        jitter: 0.0,
    };
    machine.see(at(0.1), Some((instance("a", -5.0), true)), settled);
    assert_eq!(machine.due(), None);
    machine.see(at(0.2), Some((instance("b", 0.2), false)), First::default());
    assert!(machine.due().is_some());
}

#[test]
fn a_slow_answer_delays_the_next_attempt_and_no_attempts_queue() {
    let mut machine = seeing(ProbeKind::Liveness, timing(0, 1, 1, 99), 0.0, true, 0.0);
    assert_eq!(machine.due(), Some(at(0.75)));
    let done = |machine: &mut Machine, begun: f64, now: f64| {
        machine.done(&"a".into(), Outcome::Failure, at(begun), at(now));
        machine.due().unwrap() as f64 / 1e9
    };
    // One and a half periods: the tick that passed is made up for at once, and the one after it kept.
    assert_eq!(done(&mut machine, 0.75, 2.25), 2.25);
    assert_eq!(done(&mut machine, 2.25, 2.3), 2.75);
    // Five periods: once, not five times.
    assert_eq!(done(&mut machine, 2.75, 7.9), 7.9);
    assert_eq!(done(&mut machine, 7.9, 7.95), 8.75);
}

proptest! {
    /// Whatever happens: nothing is asked before the initial delay, of two attempts the second is later, never is a
    /// probe left without a next attempt unless it is settled, and a verdict needs its threshold.
    #[test]
    fn schedules_are_sane(
        kind in prop_oneof![Just(ProbeKind::Startup), Just(ProbeKind::Readiness), Just(ProbeKind::Liveness)],
        delay in 0u64..100, period in 1u64..60, successes in 1u32..4, failures in 1u32..4,
        began in -200.0f64..50.0, seen_after in 0.0f64..30.0, jitter in 0.0f64..1.0,
        answers in prop::collection::vec((0u8..3, 0.0f64..90.0), 1..30),
    ) {
        let timing = timing(delay, period, successes, failures);
        let mut machine = Machine::new(kind, timing, false);
        let mut now = at((began + seen_after).max(0.0));
        let instance = instance("a", began);
        machine.see(now, Some((instance.clone(), true)), First { settled: false, jitter });
        let allowed = instance.began + nanos(timing.initial_delay);
        let mut last = i64::MIN;
        let mut run = (Outcome::Unknown, 0);
        for (answer, takes) in answers {
            let Some(due) = machine.due() else {
                prop_assert!(kind != ProbeKind::Readiness, "readiness is never settled");
                break;
            };
            prop_assert!(due >= allowed, "asked {} before the initial delay", allowed - due);
            prop_assert!(due > last);
            prop_assert!(due <= now.max(allowed) + 2 * nanos(timing.period), "too late");
            let begun = due.max(now);
            now = begun + at(takes);
            last = begun;
            let outcome = [Outcome::Success, Outcome::Failure, Outcome::Unknown][usize::from(answer)];
            let verdict = machine.done(&"a".into(), outcome, begun, now);
            if outcome == Outcome::Unknown {
                prop_assert_eq!(verdict, None);
                continue;
            }
            run = if run.0 == outcome { (outcome, run.1 + 1) } else { (outcome, 1) };
            let passes = outcome == Outcome::Success;
            let needed = if passes { successes } else { failures };
            prop_assert_eq!(verdict, (run.1 >= needed).then_some(passes));
        }
    }
}
