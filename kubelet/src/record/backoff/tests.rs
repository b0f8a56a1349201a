//! Back-offs over time, over restarts of the agent and over steps of the wall clock.

use super::*;

const S: fn(u64) -> Duration = Duration::from_secs;
const WEB: BackoffKey<'static> = BackoffKey {
    container: "web",
    fingerprint: 1,
};

fn backoffs() -> Backoffs {
    Backoffs::new(Backoffs::INITIAL, Duration::from_secs(300))
}

fn wall(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn clocks(second: u32) -> Now {
    Now {
        wall: wall(i64::from(second)),
        monotonic: S(u64::from(second)),
    }
}

#[test]
fn the_first_restart_is_immediate_and_the_waits_double_up_to_the_cap() {
    let mut backoffs = backoffs();
    let mut now = S(1000);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let exit = Exit::at(now);
        let wait = backoffs.remaining(WEB, exit, now).unwrap_or_default();
        waits.push(wait.as_secs());
        now += wait;
        assert_eq!(backoffs.remaining(WEB, exit, now), None, "the wait is over");
        backoffs.advance(WEB, exit, now);
        now += S(1);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn the_wait_counts_from_the_exit() {
    let mut backoffs = backoffs();
    backoffs.advance(WEB, Exit::at(S(100)), S(100));
    let exit = Exit::at(S(101));
    assert_eq!(backoffs.remaining(WEB, exit, S(104)), Some(S(7)));
    assert_eq!(backoffs.remaining(WEB, exit, S(111)), None);
    assert_eq!(backoffs.delay(WEB), Some(S(10)));
}

#[test]
fn a_container_that_ran_for_more_than_twice_the_cap_begins_anew() {
    let mut backoffs = backoffs();
    backoffs.advance(WEB, Exit::at(S(0)), S(0));
    backoffs.advance(WEB, Exit::at(S(20)), S(20));
    assert_eq!(backoffs.delay(WEB), Some(S(20)));
    assert_eq!(
        backoffs.remaining(WEB, Exit::at(S(620)), S(621)),
        Some(S(19)),
        "600 s is not more"
    );
    assert_eq!(backoffs.remaining(WEB, Exit::at(S(621)), S(621)), None);
    backoffs.advance(WEB, Exit::at(S(621)), S(621));
    assert_eq!(backoffs.delay(WEB), Some(S(10)));
}

#[test]
fn another_image_or_other_resources_end_the_back_off() {
    let of = |json: serde_json::Value| -> Container { serde_json::from_value(json).unwrap() };
    let old = of(serde_json::json!({"name": "web", "image": "a:1"}));
    let image = of(serde_json::json!({"name": "web", "image": "a:2"}));
    let resources = of(
        serde_json::json!({"name": "web", "image": "a:1", "resources": {"limits": {"cpu": "1"}}}),
    );
    let command = of(serde_json::json!({"name": "web", "image": "a:1", "command": ["x"]}));
    let mut backoffs = backoffs();
    backoffs.advance(BackoffKey::of(&old), Exit::at(S(0)), S(0));
    assert_eq!(backoffs.delay(BackoffKey::of(&image)), None);
    assert_eq!(backoffs.delay(BackoffKey::of(&resources)), None);
    assert_eq!(backoffs.delay(BackoffKey::of(&command)), Some(S(10)));
    backoffs.advance(BackoffKey::of(&image), Exit::at(S(1)), S(1));
    assert_eq!(backoffs.delay(BackoffKey::of(&image)), Some(S(10)));
}

#[test]
fn a_cap_below_the_first_delay_bounds_it() {
    let mut backoffs = Backoffs::new(Backoffs::INITIAL, S(1));
    backoffs.advance(WEB, Exit::at(S(0)), S(0));
    assert_eq!(backoffs.remaining(WEB, Exit::at(S(1)), S(1)), Some(S(1)));
}

#[test]
fn a_step_of_the_wall_clock_moves_no_wait_that_has_begun() {
    let id = ContainerId::from("c1");
    for step in [-100_000, 100_000] {
        let mut backoffs = backoffs();
        backoffs.advance(WEB, Exit::at(S(0)), S(0));
        let first = backoffs.note_exit("web", &id, wall(48), clocks(50));
        let stepped = Now {
            wall: wall(51 + step),
            monotonic: S(51),
        };
        assert_eq!(backoffs.note_exit("web", &id, wall(48), stepped), first);
        assert_eq!(backoffs.remaining(WEB, first, S(51)), Some(S(7)));
        let other = backoffs.note_exit("web", &ContainerId::from("c2"), wall(48), stepped);
        let left = backoffs.remaining(WEB, other, S(51)).unwrap_or_default();
        assert!(left <= S(10), "never longer than the delay: {left:?}");
    }
}

#[test]
fn an_exit_before_the_monotonic_clocks_zero_keeps_its_age() {
    let mut backoffs = backoffs();
    let exit = backoffs.note_exit("web", &ContainerId::from("c"), wall(-50), clocks(1));
    assert_eq!(exit.age(S(1)), S(51));
}

fn restarted(records: &BTreeMap<String, BackoffRecord>, clocks: Now) -> Backoffs {
    Backoffs::from_records(Backoffs::INITIAL, Duration::from_secs(300), records, clocks)
}

fn crashed() -> (BTreeMap<String, BackoffRecord>, ContainerId) {
    let mut backoffs = backoffs();
    let id = ContainerId::from("c1");
    for second in [0, 15, 40] {
        backoffs.advance(WEB, Exit::at(S(second)), S(second));
    }
    backoffs.note_exit("web", &id, wall(50), clocks(50));
    let mut records = BTreeMap::new();
    backoffs.write_records(&mut records, clocks(50));
    (records, id)
}

#[test]
fn a_wait_goes_on_after_a_restart_of_the_agent() {
    let (records, id) = crashed();
    let monotonic = S(3);
    let after = Now {
        wall: wall(60),
        monotonic,
    };
    let mut backoffs = restarted(&records, after);
    let exit = backoffs.note_exit("web", &id, wall(50), after);
    assert_eq!(backoffs.remaining(WEB, exit, monotonic), Some(S(30)));
    assert_eq!(backoffs.delay(WEB), Some(S(40)));
}

#[test]
fn no_step_of_the_clock_across_a_restart_makes_a_wait_longer_than_its_delay() {
    let (records, id) = crashed();
    for step in [-1_000_000, -10, 0, 10, 300, 1_000_000] {
        let after = Now {
            wall: wall(60 + step),
            monotonic: S(3),
        };
        let mut backoffs = restarted(&records, after);
        let exit = backoffs.note_exit("web", &id, wall(50), after);
        let left = backoffs.remaining(WEB, exit, S(3)).unwrap_or_default();
        assert!(left <= S(40), "step {step}: {left:?}");
    }
}

#[test]
fn a_long_run_before_a_long_absence_of_the_agent_still_begins_anew() {
    let (mut records, _) = crashed();
    let record = records.get_mut("web").unwrap();
    record.since = wall(0);
    record.last_exit = None;
    let after = clocks(1500);
    let mut backoffs = restarted(&records, after);
    let exit = backoffs.note_exit("web", &ContainerId::from("c2"), wall(1200), after);
    backoffs.advance(WEB, exit, S(1500));
    assert_eq!(backoffs.delay(WEB), Some(S(10)));
}

#[test]
fn records_stay_as_they_are_until_a_back_off_moves_on() {
    let (records, _) = crashed();
    let mut backoffs = restarted(&records, clocks(60));
    let mut same = records.clone();
    backoffs.write_records(&mut same, clocks(77));
    assert_eq!(same, records);
    backoffs.advance(WEB, Exit::at(S(90)), S(90));
    backoffs.write_records(&mut same, clocks(90));
    assert_eq!(same["web"].delay_ms, 80_000);
    assert_eq!(same["web"].since, wall(90));
}
