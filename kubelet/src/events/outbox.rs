//! What still has to be told to an API server, or to somebody who watches, bounded in number and in bytes: what waits the longest makes room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::Event;
use super::store::{MOST_BYTES, MOST_EVENTS};

/// Events of one node on their way to its API server, oldest first. What counts up while it waits is one event still.
#[derive(Debug)]
pub struct Outbox {
    host: Box<str>,
    queue: Mutex<Queue>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    bytes: usize,
    dropped: u64,
}

/// An event to tell.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) event: Arc<Event>,
    /// Whether it has never been told before.
    pub(super) new: bool,
}

impl Outbox {
    /// Of the node called `host`; without a name, of whatever is noted.
    pub(super) fn new(host: &str) -> Self {
        Self {
            host: host.into(),
            queue: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// The node whose events these are.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Queues `event` if it is of this node, and of nobody else's: a pod that only the runtime knew names no node.
    pub(super) fn offer(&self, event: &Arc<Event>) {
        let host = &*event.object.host;
        if !host.is_empty() && !self.host.is_empty() && host != &*self.host {
            return;
        }
        let mut queue = self.lock();
        let queued = queue.waiting.iter_mut().rev();
        let same = queued.into_iter().find(|p| p.event.id == event.id);
        let before = same.map(|pending| {
            let before = pending.event.bytes();
            pending.event = event.clone();
            before
        });
        queue.bytes += event.bytes();
        match before {
            Some(before) => queue.bytes -= before,
            None => queue.waiting.push_back(Pending {
                event: event.clone(),
                new: event.count == 1,
            }),
        }
        while queue.waiting.len() > MOST_EVENTS || queue.bytes > MOST_BYTES {
            if queue.take().is_none() {
                break;
            }
            queue.dropped += 1;
        }
        drop(queue);
        self.news.notify_one();
    }

    /// The next event, once there is one. Cancel-safe: it is taken in the same step as it is given.
    pub(super) async fn next(&self) -> Pending {
        loop {
            if let Some(pending) = self.lock().take() {
                return pending;
            }
            self.news.notified().await;
        }
    }

    /// The next event, once there is one, whether it is told for the first time, and how many before it had to make room.
    /// Cancel-safe: it is taken in the same step as it is given.
    pub async fn next_event(&self) -> (Arc<Event>, bool, u64) {
        let pending = self.next().await;
        (pending.event, pending.new, self.take_dropped())
    }

    /// How many had to make room since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under this lock; were it to, at most the last event is missing.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn take(&mut self) -> Option<Pending> {
        let pending = self.waiting.pop_front()?;
        self.bytes -= pending.event.bytes();
        Some(pending)
    }
}
