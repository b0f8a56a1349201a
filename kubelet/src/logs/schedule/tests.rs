//! The rules, by made-up sizes and times.

use super::*;

const MAX: u64 = 10_000_000;
const INTERVAL: Duration = Duration::from_secs(10);
/// What a log with all its room is left alone for after its first write.
const WAIT: Duration = Duration::from_millis(450);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn running(ids: &[&str]) -> Vec<(String, String)> {
    ids.iter()
        .map(|id| ((*id).to_owned(), format!("/logs/{id}")))
        .collect()
}

fn schedule(ids: &[&str]) -> Schedule {
    let mut schedule = Schedule::new(INTERVAL, MAX);
    schedule.set_running(running(ids), Duration::ZERO);
    schedule
}

/// The same as they are due, with their next write to be told or not.
fn looks(ids: &[&str], watch: bool) -> Vec<Due> {
    let due = |(id, path)| Due { id, path, watch };
    running(ids).into_iter().map(due).collect()
}

fn in_turn(bytes: u64) -> Found {
    Found::Size {
        bytes,
        watched: Watched::Unasked,
        starved: false,
    }
}

fn size(bytes: u64) -> Found {
    Found::Size {
        bytes,
        watched: Watched::Yes,
        starved: false,
    }
}

fn starved(bytes: u64) -> Found {
    Found::Size {
        bytes,
        watched: Watched::Yes,
        starved: true,
    }
}

#[test]
fn nothing_is_waited_for_while_nothing_runs_or_writes() {
    let mut schedule = schedule(&[]);
    assert_eq!(schedule.next(ms(3)), None);
    schedule.set_running(running(&["a"]), ms(5));
    assert_eq!(schedule.next(ms(5)), Some(HEARD), "it may be at it already");
    schedule.looked("a", size(0), ms(255));
    assert_eq!(schedule.next(ms(255)), None);
    schedule.written("a", ms(90_000));
    assert_eq!(schedule.next(ms(90_000)), Some(WAIT));
    schedule.written("a", ms(90_100));
    assert_eq!(schedule.next(ms(90_100)), Some(WAIT - ms(100)), "the first");
    schedule.set_running(running(&[]), ms(90_200));
    assert_eq!(schedule.next(ms(90_200)), None);
}

#[test]
fn a_line_now_and_then_has_one_look_a_write() {
    let mut schedule = schedule(&["a"]);
    schedule.looked("a", size(0), ms(250));
    for n in 1..20 {
        let at = QUIET * u32::try_from(n).unwrap();
        schedule.written("a", at);
        assert_eq!(schedule.due(at + WAIT), looks(&["a"], true));
        schedule.looked("a", size(n * 100), at + WAIT);
        assert_eq!(schedule.next(at + WAIT), None);
    }
}

#[test]
fn logs_that_are_written_to_all_the_time_are_looked_at_together_and_unheard() {
    let ids = ["a", "b", "c"];
    let mut schedule = schedule(&ids);
    for id in ids {
        schedule.looked(id, size(0), ms(250));
    }
    // A line a second in each, at different times: twice each is heard of.
    for (id, begun) in ids.into_iter().zip([1000, 1150, 1300]) {
        schedule.written(id, ms(begun));
        assert_eq!(schedule.due(ms(begun) + WAIT), looks(&[id], true));
        schedule.looked(id, size(100), ms(begun) + WAIT);
    }
    for (id, begun) in ids.into_iter().zip([2000, 2150, 2300]) {
        schedule.written(id, ms(begun));
    }
    let mut now = ms(2000);
    let mut rounds = 0;
    while now < ms(60_000) {
        now += schedule.next(now).unwrap();
        let due = schedule.due(now);
        // They fall into step, whenever they were begun with.
        assert!(
            due == looks(&ids, false) || rounds < 3,
            "{due:?} at {now:?}"
        );
        for log in due {
            let lines = now.as_secs();
            assert!(!schedule.looked(&log.id, in_turn(lines * 100), now));
        }
        rounds += 1;
    }
    assert!((80..90).contains(&rounds), "{rounds}");

    // They are quiet: heard of again, and then left alone.
    let quiet = now;
    while let Some(next) = schedule.next(now) {
        now += next;
        for log in schedule.due(now) {
            let found = match log.watch {
                true => size(6000),
                false => in_turn(6000),
            };
            schedule.looked(&log.id, found, now);
        }
        assert!(now < quiet + QUIET * 2, "{schedule:?}");
    }
    assert!(now >= quiet + QUIET - ms(1000));
    schedule.written("a", now + QUIET);
    let at = now + QUIET + WAIT;
    assert_eq!(schedule.due(at), looks(&["a"], true));
}

#[test]
fn a_log_that_fills_is_looked_at_when_it_is_full() {
    let mut schedule = schedule(&["a"]);
    schedule.looked("a", size(0), ms(0));
    schedule.written("a", ms(1000));
    // 40 MB a second: five of ten megabytes are left, and full in an eighth of a second.
    schedule.looked("a", size(5_000_000), ms(1125));
    assert_eq!(schedule.next(ms(1125)), Some(ms(125)));
    assert_eq!(schedule.pace("a"), 40_000_000);
    schedule.looked("a", size(10_000_000), ms(1250));
    assert_eq!(schedule.next(ms(1250)), Some(ms(250)), "begun anew");
    // Faster than it can be looked at.
    schedule.looked("a", size(900_000_000), ms(1500));
    assert_eq!(schedule.next(ms(1500)), Some(SHORTEST));
}

#[test]
fn whatever_the_pace_was_a_burst_adds_less_than_a_second_of_it() {
    for size_before in [0, 1, MAX / 2, MAX - 1] {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(size_before), ms(0));
        schedule.written("a", ms(5000));
        let waited = schedule.next(ms(5000)).unwrap();
        let written = FAST * u64::try_from(waited.as_millis()).unwrap() / 1000;
        assert!(size_before + written <= MAX + FAST / 2, "{size_before}");
    }
}

#[test]
fn nor_does_one_between_two_looks_in_turn() {
    for size_before in [0, 1, MAX / 2, MAX - 200] {
        let mut schedule = schedule(&["a"]);
        schedule.looked("a", size(size_before), ms(0));
        for at in [1000, 2000] {
            schedule.written("a", ms(at));
            let found = match schedule.due(ms(at) + WAIT).first() {
                Some(Due { watch: true, .. }) => size(size_before + 1),
                _ => in_turn(size_before + 2),
            };
            schedule.looked("a", found, ms(at) + WAIT);
        }
        let waited = schedule.next(ms(2000) + WAIT).unwrap();
        let written = FAST * u64::try_from(waited.as_millis()).unwrap() / 1000;
        assert!(written >= FAST / 2, "it is in turn");
        assert!(
            size_before + written <= MAX + FAST / 2 + 50_000,
            "{size_before}"
        );
    }
}

#[test]
fn a_log_that_was_rotated_is_looked_at_once_without_word() {
    let mut schedule = schedule(&["a"]);
    schedule.looked("a", size(MAX), ms(250));
    assert_eq!(schedule.next(ms(250)), Some(WAIT));
    // It had gone, and the runtime has made it again.
    schedule.looked("a", Found::Lacking, ms(700));
    schedule.begun_anew("a", ms(710));
    assert_eq!(schedule.next(ms(710)), Some(WAIT));
}

#[test]
fn without_word_of_writes_or_a_log_the_interval_is_the_pace() {
    let mut schedule = schedule(&["a", "b", "c"]);
    let unwatched = Found::Size {
        bytes: 5,
        watched: Watched::Never,
        starved: false,
    };
    schedule.looked("a", unwatched, ms(250));
    schedule.looked("b", Found::Lacking, ms(250));
    schedule.looked("c", Found::Elsewhere, ms(250));
    assert_eq!(schedule.next(ms(250)), Some(INTERVAL));
    assert_eq!(schedule.due(ms(10_250)), looks(&["a", "b"], true));
    assert!(schedule.due(ms(10_249)).is_empty());
}

#[test]
fn room_is_made_for_a_log_that_was_written_to_and_cannot_grow() {
    let mut schedule = schedule(&["a"]);
    assert!(!schedule.looked("a", size(1000), ms(250)));
    schedule.written("a", ms(1000));
    // It still grew: another look without word, since a write that fails is none.
    assert!(!schedule.looked("a", starved(2000), ms(1450)));
    let next = schedule.next(ms(1450)).unwrap();
    assert!(schedule.looked("a", starved(2000), ms(1450) + next));
    assert_eq!(schedule.next(ms(3000)), None);
    // Nobody has written since: whoever took the room is not given more.
    assert!(!schedule.looked("a", starved(2000), ms(3000)));
    schedule.written("a", ms(4000));
    assert!(!schedule.looked("a", starved(2100), ms(4450)));
    let next = schedule.next(ms(4450)).unwrap();
    assert!(!schedule.looked("a", size(2100), ms(4450) + next), "room");
}

#[test]
fn an_agent_that_begins_on_a_full_disk_makes_room_once() {
    let mut schedule = schedule(&["a", "empty"]);
    assert!(!schedule.looked("a", starved(2000), ms(250)));
    assert!(!schedule.looked("empty", starved(0), ms(250)));
    let then = ms(250) + schedule.next(ms(250)).unwrap();
    assert!(schedule.looked("a", starved(2000), then));
    assert!(!schedule.looked("empty", starved(0), then));
    assert_eq!(schedule.next(then), None);
}

#[test]
fn the_interval_bounds_the_wait_for_a_large_log() {
    let mut schedule = Schedule::new(Duration::from_secs(3), 1 << 30);
    schedule.set_running(running(&["a"]), ms(0));
    schedule.looked("a", size(0), ms(250));
    schedule.written("a", ms(1000));
    assert_eq!(schedule.next(ms(1000)), Some(Duration::from_secs(3)));
}

#[test]
fn a_new_container_leaves_the_others_their_state() {
    let mut schedule = schedule(&["a"]);
    schedule.looked("a", size(7), ms(250));
    schedule.set_running(running(&["a", "b"]), ms(41_000));
    assert_eq!(schedule.due(ms(41_250)), looks(&["b"], true));
    schedule.looked("gone", size(1), ms(41_250));
    assert!(!schedule.has("gone") && schedule.has("a"));
}
