//! How events become fewer, by the rules of client-go's `EventCorrelator` (`tools/record/events_cache.go`), with its
//! defaults. Pure: no I/O, no clock.
//!
//! One after the other: events of one object, type and reason that differ in their messages are combined from the tenth
//! message on; an event that was there before counts up; and of one object and type no more than a burst of 25 gets
//! through, then one each five minutes.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use jiff::Timestamp;

use super::event::Draft;
use super::lru::{Lru, MOST_ENTRIES};
use crate::clock::Now;

/// What a combined event's message begins with.
pub(super) const COMBINED: &str = "(combined from similar events): ";
/// With so many messages, similar events are combined (`defaultAggregateMaxEvents`).
const MOST_MESSAGES: usize = 10;
/// Without a similar event for longer than this, the next one begins anew (`defaultAggregateIntervalInSeconds`).
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// Events about one object that get through at once (`defaultSpamBurst`).
const BURST: f64 = 25.0;
/// How long until another one does (`defaultSpamQPS`).
const REFILL: Duration = Duration::from_secs(300);

/// What is known of the events so far: hashes and numbers, no texts.
#[derive(Debug)]
pub(super) struct Correlator {
    hasher: RandomState,
    similar: Lru<Similar>,
    seen: Lru<Seen>,
    buckets: Lru<Bucket>,
}

/// Events that differ in their messages.
#[derive(Debug)]
struct Similar {
    messages: Vec<u64>,
    last: Duration,
}

/// One event, or similar ones combined.
#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u32,
    id: i64,
    first: Timestamp,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correlated {
    /// That of the event it is one more of; its own when it is the first.
    pub(super) id: i64,
    pub(super) first: Timestamp,
    pub(super) count: u32,
    /// Its message begins with [`COMBINED`].
    pub(super) combined: bool,
    /// Whether it gets through.
    pub(super) kept: bool,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            similar: Lru::new(MOST_ENTRIES),
            seen: Lru::new(MOST_ENTRIES),
            buckets: Lru::new(MOST_ENTRIES),
        }
    }

    /// Takes an event that happens `now` and would be called `id`.
    pub(super) fn correlate(&mut self, draft: &Draft<'_>, id: i64, now: Now) -> Correlated {
        let object = (
            draft.host,
            draft.kind,
            draft.namespace,
            draft.name,
            draft.uid,
            draft.warning,
        );
        let group = self.hash((object, draft.reason));
        let combined = self.is_one_of_many(group, draft.message, now.monotonic);
        let key = match combined {
            true => group,
            false => self.hash((object, draft.reason, &draft.field_path, draft.message)),
        };
        let new = || Seen {
            count: 0,
            id,
            first: now.wall,
        };
        let seen = self.seen.entry(key, new, |_| false);
        seen.count = seen.count.saturating_add(1);
        let seen = *seen;
        let kept = self.gets_through(self.hash(object), now.monotonic);
        Correlated {
            id: seen.id,
            first: seen.first,
            count: seen.count,
            combined,
            kept,
        }
    }

    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    fn is_one_of_many(&mut self, group: u64, message: &str, now: Duration) -> bool {
        let message = self.hash(message);
        let new = || Similar {
            messages: Vec::new(),
            last: now,
        };
        let is_over = |similar: &Similar| now.saturating_sub(similar.last) > SIMILAR_FOR;
        let similar = self.similar.entry(group, new, is_over);
        if is_over(similar) {
            similar.messages.clear();
        }
        similar.last = now;
        if !similar.messages.contains(&message) {
            similar.messages.push(message);
        }
        let many = similar.messages.len() >= MOST_MESSAGES;
        if many {
            similar.messages.pop();
        }
        many
    }

    fn gets_through(&mut self, object: u64, now: Duration) -> bool {
        let new = || Bucket {
            tokens: BURST,
            at: now,
        };
        let refilled = |bucket: &Bucket| {
            let refilled = now.saturating_sub(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
            (bucket.tokens + refilled).min(BURST)
        };
        let is_full = |bucket: &Bucket| refilled(bucket) >= BURST;
        let bucket = self.buckets.entry(object, new, is_full);
        bucket.tokens = refilled(bucket);
        bucket.at = now;
        let through = bucket.tokens >= 1.0;
        if through {
            bucket.tokens -= 1.0;
        }
        through
    }
}
