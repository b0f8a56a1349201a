//! How long a container that keeps ending waits before it is started again.
//!
//! The first restart after an exit is immediate; the ones after wait 10 s, 20 s, 40 s … up to a cap, counted from the
//! exit. An entry lapses when a container has run for more than twice the cap since it was last started. (Kubernetes:
//! Pod lifecycle, "Container restart policy"; KEP-4603.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use static_pods::fnv::Fnv64;

use super::types::{BackoffRecord, ExitRecord};
use crate::clock::Now;
use crate::runtime::ContainerId;

/// A moment in the past on the monotonic clock. It may lie before that clock's zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    age: Duration,
    noted: Duration,
}

impl Exit {
    /// The moment `finished_at` on the monotonic clock.
    #[must_use]
    pub fn at(finished_at: Duration) -> Self {
        Self {
            age: Duration::ZERO,
            noted: finished_at,
        }
    }

    /// How long ago it was at `now`.
    #[must_use]
    pub fn age(self, now: Duration) -> Duration {
        self.age.saturating_add(now.saturating_sub(self.noted))
    }

    /// A moment of the wall clock, as far back as it says and no further than `limit`; one in the future is now.
    #[must_use]
    pub fn of_wall(time: Timestamp, clocks: Now, limit: Duration) -> Self {
        let age = clocks.wall.duration_since(time);
        Self {
            age: Duration::try_from(age).unwrap_or_default().min(limit),
            noted: clocks.monotonic,
        }
    }

    /// The same by the wall clock.
    #[must_use]
    pub fn to_wall(self, clocks: Now) -> Timestamp {
        let age = jiff::SignedDuration::try_from(self.age(clocks.monotonic));
        let time = age.ok().and_then(|age| clocks.wall.checked_sub(age).ok());
        time.unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// What a back-off belongs to: a container by name, made of one image with one set of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffKey<'a> {
    container: &'a str,
    fingerprint: u64,
}

impl<'a> BackoffKey<'a> {
    /// The key of `container`.
    #[must_use]
    pub fn of(container: &'a Container) -> Self {
        let image = container.image.as_deref().unwrap_or_default();
        let resources = container.resources.as_ref();
        // Maps are sorted and the type has nothing that cannot be written; were it otherwise, the image would do.
        let resources = resources
            .and_then(|r| serde_json::to_string(r).ok())
            .unwrap_or_default();
        Self {
            container: &container.name,
            fingerprint: Fnv64::of(format!("{image}/{resources}").as_bytes()),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    fingerprint: u64,
    delay: Duration,
    updated: Exit,
}

/// The crash back-offs of one pod's containers.
#[derive(Clone, Debug)]
pub struct Backoffs {
    initial: Duration,
    cap: Duration,
    entries: BTreeMap<Arc<str>, Entry>,
    exits: BTreeMap<Arc<str>, (ContainerId, Exit)>,
}

impl Backoffs {
    /// The delay after the first restart, where nothing else is configured.
    pub const INITIAL: Duration = Duration::from_secs(10);

    /// No container has a back-off yet. A cap below `initial` bounds that too.
    #[must_use]
    pub fn new(initial: Duration, cap: Duration) -> Self {
        Self {
            initial: initial.min(cap),
            cap,
            entries: BTreeMap::new(),
            exits: BTreeMap::new(),
        }
    }

    /// When the instance `id` of `container` ended, `finished_wall` by the runtime's account.
    ///
    /// The wall clock is asked once for each exit: later calls for the same instance answer as the first did, so that a
    /// step of the clock moves no wait that has begun.
    pub fn note_exit(
        &mut self,
        container: &str,
        id: &ContainerId,
        finished_wall: Timestamp,
        clocks: Now,
    ) -> Exit {
        if let Some((known, exit)) = self.exits.get(container)
            && known == id
        {
            return *exit;
        }
        let exit = Exit::of_wall(finished_wall, clocks, self.horizon());
        self.exits.insert(container.into(), (id.clone(), exit));
        exit
    }

    /// What is left of the wait after `exit`; `None` when the container may be started.
    #[must_use]
    pub fn remaining(&self, key: BackoffKey<'_>, exit: Exit, now: Duration) -> Option<Duration> {
        let entry = self.entry(key)?;
        if self.has_lapsed(entry, exit, now) {
            return None;
        }
        entry
            .delay
            .checked_sub(exit.age(now))
            .filter(|left| !left.is_zero())
    }

    /// The delay in force, for messages (`back-off 20s restarting failed container=…`).
    #[must_use]
    pub fn delay(&self, key: BackoffKey<'_>) -> Option<Duration> {
        self.entry(key).map(|entry| entry.delay)
    }

    /// The container is started again after `exit`: the next wait is the first one, or twice the last.
    pub fn advance(&mut self, key: BackoffKey<'_>, exit: Exit, now: Duration) {
        let running_on = self
            .entry(key)
            .filter(|entry| !self.has_lapsed(entry, exit, now));
        let delay = running_on.map_or(self.initial, |entry| {
            entry.delay.saturating_mul(2).min(self.cap)
        });
        let entry = Entry {
            fingerprint: key.fingerprint,
            delay,
            updated: Exit::at(now),
        };
        self.entries.insert(key.container.into(), entry);
    }

    /// Brings `records` up to date with the back-offs.
    ///
    /// A record whose back-off has not moved on stays as it is: worked out anew from the two clocks its times would
    /// differ a little each time, and the file be written for nothing.
    pub fn write_records(&self, records: &mut BTreeMap<String, BackoffRecord>, clocks: Now) {
        records.retain(|name, _| self.entries.contains_key(name.as_str()));
        for (name, entry) in &self.entries {
            let fingerprint = format!("{:016x}", entry.fingerprint);
            let delay_ms = u64::try_from(entry.delay.as_millis()).unwrap_or(u64::MAX);
            let last_exit = self.exits.get(name);
            let same = |old: &BackoffRecord| {
                let old_id = old.last_exit.as_ref().map(|exit| exit.id.as_str());
                old.fingerprint == fingerprint
                    && old.delay_ms == delay_ms
                    && old_id == last_exit.map(|(id, _)| id.as_str())
            };
            if records.get(&**name).is_some_and(same) {
                continue;
            }
            let record = BackoffRecord {
                fingerprint,
                delay_ms,
                since: entry.updated.to_wall(clocks),
                last_exit: last_exit.map(|(id, exit)| ExitRecord {
                    id: id.as_str().to_owned(),
                    finished_at: exit.to_wall(clocks),
                }),
            };
            records.insert(name.to_string(), record);
        }
    }

    /// The back-offs that were written down before the agent was restarted.
    ///
    /// Time that passed meanwhile is known from the wall clock alone. It counts as at least nothing and at most just
    /// over twice the cap, so that no step of the clock makes a wait longer than its delay.
    #[must_use]
    pub fn from_records(
        initial: Duration,
        cap: Duration,
        records: &BTreeMap<String, BackoffRecord>,
        clocks: Now,
    ) -> Self {
        let mut backoffs = Self::new(initial, cap);
        for (name, record) in records {
            let Ok(fingerprint) = u64::from_str_radix(&record.fingerprint, 16) else {
                continue;
            };
            let name: Arc<str> = name.as_str().into();
            // An exit may be a horizon old and the start before it as much older: twice keeps their distance.
            let entry = Entry {
                fingerprint,
                delay: Duration::from_millis(record.delay_ms).min(cap),
                updated: Exit::of_wall(record.since, clocks, backoffs.horizon().saturating_mul(2)),
            };
            if let Some(exit) = &record.last_exit {
                let finished = Exit::of_wall(exit.finished_at, clocks, backoffs.horizon());
                let id = ContainerId::from(exit.id.as_str());
                backoffs.exits.insert(name.clone(), (id, finished));
            }
            backoffs.entries.insert(name, entry);
        }
        backoffs
    }

    fn entry(&self, key: BackoffKey<'_>) -> Option<&Entry> {
        let entry = self.entries.get(key.container)?;
        (entry.fingerprint == key.fingerprint).then_some(entry)
    }

    /// Whether the container ran for more than twice the cap between its last start and `exit`.
    fn has_lapsed(&self, entry: &Entry, exit: Exit, now: Duration) -> bool {
        let ran = entry.updated.age(now).checked_sub(exit.age(now));
        ran.is_some_and(|ran| ran > self.cap.saturating_mul(2))
    }

    /// Beyond this age one moment is as good as another.
    fn horizon(&self) -> Duration {
        self.cap
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests;
