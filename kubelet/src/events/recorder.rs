//! Takes events, from whatever task they happen in, and keeps what becomes of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::correlate::{COMBINED, Correlator};
use super::event::{Draft, Event, Object};
use super::outbox::Outbox;
use super::store::Store;
use crate::clock::Clock;

/// Bytes of a message that are kept (`NoteLengthLimit` of the events API).
const MOST_MESSAGE: usize = 1024;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// How often it has happened.
    pub count: u32,
    /// Whether it got through; one of an object that has too many is counted and nothing else.
    pub kept: bool,
}

/// The events of an agent.
#[derive(Debug)]
pub struct Recorder {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    correlator: Correlator,
    store: Store,
    last_id: i64,
    /// One for each API server that is told, and for each who watches.
    outboxes: Vec<Weak<Outbox>>,
}

impl Recorder {
    /// Without any events yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                correlator: Correlator::new(),
                store: Store::default(),
                last_id: 0,
                outboxes: Vec::new(),
            }),
        }
    }

    /// The events kept that `wanted` is true of, what happened the longest ago first.
    #[must_use]
    pub fn list(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Arc<Event>> {
        let state = self.state();
        state.store.iter().filter(|e| wanted(e)).cloned().collect()
    }

    /// The events of the node called `host`, those kept so far and those to come, for its API server. They are queued until
    /// the outbox is dropped.
    #[must_use]
    pub fn outbox(&self, host: &str) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(host));
        let mut state = self.state();
        for event in state.store.iter() {
            outbox.offer(event);
        }
        state.outboxes.push(Arc::downgrade(&outbox));
        outbox
    }

    /// The events kept so far, what happened the longest ago first, and those to come, of whatever node. They are queued
    /// until the outbox is dropped.
    #[must_use]
    pub fn follow(&self) -> (Vec<Arc<Event>>, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(""));
        let mut state = self.state();
        state.outboxes.push(Arc::downgrade(&outbox));
        (state.store.iter().cloned().collect(), outbox)
    }

    pub(super) fn note(&self, draft: &Draft<'_>) -> Noted {
        let now = self.clock.now();
        let draft = Draft {
            message: cut(draft.message),
            ..draft.clone()
        };
        let mut state = self.state();
        // Two events of a nanosecond, or of a clock that was set back, still have names of their own.
        state.last_id = now.wall_nanos().max(state.last_id.saturating_add(1));
        let id = state.last_id;
        let found = state.correlator.correlate(&draft, id, now);
        let noted = Noted {
            count: found.count,
            kept: found.kept,
        };
        if !found.kept {
            return noted;
        }
        let objects = state.store.iter().rev().map(|event| &event.object);
        let object = objects.into_iter().find(|object| object.is_of(&draft));
        let object = object.map_or_else(|| Arc::new(Object::of(&draft)), Arc::clone);
        let message = match found.combined {
            true => format!("{COMBINED}{}", draft.message).into(),
            false => draft.message.into(),
        };
        let event = Arc::new(Event {
            id: found.id,
            object,
            warning: draft.warning,
            reason: draft.reason.into(),
            message,
            combined: found.combined,
            first: found.first,
            last: now.wall,
            count: found.count,
        });
        state.store.keep(&event);
        state.outboxes.retain(|outbox| match outbox.upgrade() {
            Some(outbox) => {
                outbox.offer(&event);
                true
            }
            None => false,
        });
        noted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; were it to, at most the last event is missing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.state().store.bytes()
    }
}

/// The beginning of a message that is too long.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(MOST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
