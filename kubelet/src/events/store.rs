//! The events kept, bounded in number and in bytes: those that happened the longest ago make room.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Event;

/// The most events kept.
pub const MOST_EVENTS: usize = 1000;
/// The most bytes that they take, by an estimate that is too high where several are about one object.
pub const MOST_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Store {
    /// What happened the longest ago comes first.
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Store {
    /// Keeps `event`, in place of the one with its id where there is one.
    pub(super) fn keep(&mut self, event: &Arc<Event>) {
        // Events repeat soon, if at all.
        if let Some(at) = self.events.iter().rposition(|kept| kept.id == event.id)
            && let Some(before) = self.events.remove(at)
        {
            self.bytes -= before.bytes();
        }
        self.bytes += event.bytes();
        self.events.push_back(event.clone());
        while self.events.len() > MOST_EVENTS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// Those kept, what happened the longest ago first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.iter()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
