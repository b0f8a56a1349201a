//! Which images may go, and in which order. Pure: times are monotonic and arguments.
//!
//! Order and numbers are upstream's (`pkg/kubelet/images/image_gc_manager.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// An image, as far as its removal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The runtime's id of it.
    pub(super) id: String,
    /// Bytes.
    pub(super) size: u64,
    /// The runtime keeps it whatever comes.
    pub(super) pinned: bool,
}

/// What is known of the images that the runtime holds, by id, since the agent began.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<String, Record>);

#[derive(Debug)]
struct Record {
    found: Duration,
    /// When a container or a pod last used it; none while none has.
    used: Option<Duration>,
    size: u64,
    pinned: bool,
}

/// An image that nothing uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unused {
    /// When it was last used.
    pub(super) used: Option<Duration>,
    /// When it was first seen.
    pub(super) found: Duration,
    /// The runtime's id of it.
    pub(super) id: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Unused {
    /// Whether it is older than that: it may have been pulled for a container that is about to be made.
    pub(super) fn is_older_than(&self, age: Duration, now: Duration) -> bool {
        now.saturating_sub(self.found) >= age
    }

    /// Whether nothing has used it for longer than that.
    pub(super) fn is_forgotten(&self, age: Duration, now: Duration) -> bool {
        self.used.is_none_or(|used| now.saturating_sub(used) > age)
    }
}

impl Records {
    /// Takes over what the runtime holds and what of it is used.
    pub(super) fn follow(&mut self, held: &[Held], used: &BTreeSet<String>, now: Duration) {
        self.0
            .retain(|id, _| held.iter().any(|image| image.id == *id));
        for image in held {
            let record = self.0.entry(image.id.clone()).or_insert(Record {
                found: now,
                used: None,
                size: 0,
                pinned: false,
            });
            record.size = image.size;
            record.pinned = image.pinned;
            if used.contains(&image.id) {
                record.used = Some(now);
            }
        }
    }

    /// The images that nothing uses and nobody holds on to: first those whose last use is longest ago.
    pub(super) fn unused(&self, used: &BTreeSet<String>) -> Vec<Unused> {
        let free = |(id, record): &(&String, &Record)| !record.pinned && !used.contains(*id);
        let unused = self.0.iter().filter(free).map(|(id, record)| Unused {
            used: record.used,
            found: record.found,
            id: id.clone(),
            size: record.size,
        });
        let mut unused: Vec<Unused> = unused.collect();
        unused.sort_by_key(|one| (one.used, one.found));
        unused
    }

    /// An image has been removed.
    pub(super) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }
}

/// Percent of a file system that are taken, and how many bytes have to go so that only `low` percent are.
pub(super) fn excess(capacity: u64, available: u64, low: u8) -> (u8, u64) {
    let (capacity, available) = (u128::from(capacity), u128::from(available.min(capacity)));
    let left = available * 100 / capacity.max(1);
    let wanted = capacity * u128::from(100 - low.min(100)) / 100;
    let taken = u8::try_from(100 - left.min(100)).unwrap_or(100);
    let bytes = u64::try_from(wanted.saturating_sub(available)).unwrap_or(u64::MAX);
    (taken, bytes)
}

/// Bytes as upstream writes them in the message of a disk that stays full.
#[expect(clippy::cast_precision_loss, reason = "one digit behind the point")]
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = None;
    for next in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = Some(next);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{size:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(id: &str, pinned: bool) -> Held {
        Held {
            id: id.to_owned(),
            size: 10,
            pinned,
        }
    }

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_held_never() {
        let at = Duration::from_secs;
        let all = ["a", "b", "c", "d", "pinned"].map(|id| held(id, id == "pinned"));
        let mut records = Records::default();
        records.follow(&all[..3], &ids(&["a", "b"]), at(0));
        records.follow(&all, &ids(&["a"]), at(100));
        records.follow(&all, &ids(&["d"]), at(200));
        let unused = records.unused(&ids(&["d"]));
        let order: Vec<&str> = unused.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(order, ["c", "b", "a"], "never used, used at 0, used at 100");
        assert!(unused[0].is_older_than(at(200), at(200)));
        assert!(!unused[0].is_older_than(at(201), at(200)));
        assert!(
            unused[0].is_forgotten(at(1000), at(200)),
            "nothing ever used it"
        );
        assert!(!unused[2].is_forgotten(at(100), at(200)));
        assert!(unused[2].is_forgotten(at(99), at(200)));
        records.remove("c");
        records.follow(&all[..1], &BTreeSet::new(), at(300));
        let left = records.unused(&BTreeSet::new());
        assert_eq!(
            left.len(),
            1,
            "what the runtime no longer holds is forgotten"
        );
    }

    #[test]
    fn so_much_has_to_go() {
        assert_eq!(excess(1000, 150, 80), (85, 50));
        assert_eq!(excess(1000, 151, 80), (85, 49));
        assert_eq!(excess(1000, 160, 80), (84, 40));
        assert_eq!(excess(1000, 0, 80), (100, 200));
        assert_eq!(excess(1000, 2000, 80), (0, 0));
        assert_eq!(excess(u64::MAX, 0, 0), (100, u64::MAX));
    }

    #[test]
    fn sizes_are_written_as_upstream_does() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(10 << 30), "10.0 GiB");
        assert_eq!(size(5 << 50), "5120.0 TiB");
    }
}
