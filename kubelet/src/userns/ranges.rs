//! Which pod has which ids. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::own_ids::OwnIds;
use super::range::Range;
use crate::pod::PodUid;

/// The ranges that pods have, and the ids that new ones come from.
#[derive(Debug)]
pub(super) struct Ranges {
    own: OwnIds,
    held: BTreeMap<PodUid, Range>,
    /// Pods of which it is not known whether they have one, and which.
    unknown: BTreeSet<PodUid>,
}

impl Ranges {
    pub(super) fn new(own: OwnIds) -> Self {
        Self {
            own,
            held: BTreeMap::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// What `uid` has.
    pub(super) fn of(&self, uid: &PodUid) -> Option<Range> {
        self.held.get(uid).copied()
    }

    /// Whether `range` is one that is given out now: the configuration may have changed.
    pub(super) fn is_current(&self, range: Range) -> bool {
        self.own.slot(range).is_some()
    }

    /// The pods that are not to share with `range`'s owner and do.
    pub(super) fn sharing(&self, range: Range) -> Vec<PodUid> {
        let held = self.held.iter().filter(|(_, has)| has.overlaps(range));
        held.map(|(uid, _)| uid.clone()).collect()
    }

    /// Notes what `uid` has, wherever it comes from.
    pub(super) fn hold(&mut self, uid: PodUid, range: Range) {
        self.unknown.remove(&uid);
        self.held.insert(uid, range);
    }

    /// Notes that nobody knows what `uid` has.
    pub(super) fn lose(&mut self, uid: PodUid) {
        self.held.remove(&uid);
        self.unknown.insert(uid);
    }

    /// A pod of which nobody knows what it has.
    pub(super) fn lost(&self) -> Option<&PodUid> {
        self.unknown.first()
    }

    /// Whether nobody knows what `uid` has.
    pub(super) fn is_lost(&self, uid: &PodUid) -> bool {
        self.unknown.contains(uid)
    }

    /// Gives `uid` the first free range from a place on that is `at` of all of them, from 0 to 1 (upstream's choice is
    /// random too: what a pod left behind is less often the next one's). None where none is free.
    pub(super) fn take(&mut self, uid: &PodUid, at: f64) -> Option<Range> {
        let mut taken = BTreeSet::new();
        for range in self.held.values() {
            taken.extend(self.own.slots_under(*range));
        }
        let count = self.own.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is below the count, and not below 0"
        )]
        let start = (f64::from(count) * at) as u32;
        let mut slots = (start..count).chain(0..start.min(count));
        let range = self.own.range(slots.find(|slot| !taken.contains(slot))?)?;
        self.held.insert(uid.clone(), range);
        Some(range)
    }

    /// Takes back what `uid` has.
    pub(super) fn release(&mut self, uid: &PodUid) {
        self.held.remove(uid);
        self.unknown.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::super::range::UNIT;
    use super::*;

    fn uid(n: u32) -> PodUid {
        PodUid::parse(&format!("u{n}")).unwrap()
    }

    /// Ranges of one unit, so many of them, from the third unit on.
    fn ranges(count: u32) -> Ranges {
        Ranges::new(OwnIds::new(2 * UNIT, count * UNIT, UNIT, 1).unwrap())
    }

    #[test]
    fn no_two_pods_share_and_what_is_free_is_found_wherever_the_search_begins() {
        let mut ranges = ranges(4);
        let taken: Vec<u32> = [0.6, 0.6, 0.999, 0.0]
            .iter()
            .zip(0..)
            .map(|(at, n)| ranges.take(&uid(n), *at).unwrap().first() / UNIT)
            .collect();
        assert_eq!(taken, [4, 5, 2, 3]);
        assert_eq!(ranges.take(&uid(9), 0.5), None, "there is no fifth");
        ranges.release(&uid(1));
        let again = ranges.take(&uid(9), 0.0).unwrap();
        assert_eq!(again.first(), 5 * UNIT);
    }

    #[test]
    fn what_was_given_under_another_configuration_is_not_given_again() {
        let mut ranges = ranges(4);
        // Half of the first and all of the second: it begins before the first.
        let large = Range::new(UNIT, 3 * UNIT).unwrap();
        ranges.hold(uid(0), large);
        assert!(!ranges.is_current(large));
        assert_eq!(ranges.of(&uid(0)), Some(large));
        let first = |ranges: &mut Ranges, n| ranges.take(&uid(n), 0.0).map(|r| r.first() / UNIT);
        assert_eq!(first(&mut ranges, 1), Some(4));
        assert_eq!(first(&mut ranges, 2), Some(5));
        assert_eq!(first(&mut ranges, 3), None);
        assert!(ranges.is_current(ranges.of(&uid(1)).unwrap()));
        assert_eq!(ranges.sharing(large), [uid(0)]);
    }

    #[test]
    fn what_was_lost_is_known_again_or_free() {
        let mut ranges = ranges(2);
        ranges.lose(uid(0));
        ranges.lose(uid(1));
        assert_eq!(ranges.lost(), Some(&uid(0)));
        ranges.hold(uid(0), Range::new(2 * UNIT, UNIT).unwrap());
        assert_eq!(ranges.lost(), Some(&uid(1)));
        ranges.release(&uid(1));
        assert_eq!(ranges.lost(), None);
        assert_eq!(ranges.take(&uid(2), 0.0).unwrap().first(), 3 * UNIT);
    }
}
