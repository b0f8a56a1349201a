//! Which connection a watch of one object goes over: a server allows no more than 100 streams on one (kube-apiserver's
//! default of `--http2-max-streams-per-connection`), and whoever wants another then waits for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::Client;

/// Watches that go over one connection: other requests go over the first one, too.
const MOST: usize = 64;

/// The connections, and how many watches go over each.
pub(super) struct Connections {
    clients: Vec<Client>,
    used: Mutex<Vec<usize>>,
}

impl Connections {
    /// `main`, and `more` for when that is taken.
    pub(super) fn new(main: Client, more: &[Client]) -> Arc<Self> {
        let clients: Vec<_> = std::iter::once(main).chain(more.iter().cloned()).collect();
        Arc::new(Self {
            used: Mutex::new(vec![0; clients.len()]),
            clients,
        })
    }

    fn used(&self) -> MutexGuard<'_, Vec<usize>> {
        // Nothing panics under this lock.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For requests that are over when they are answered.
    pub(super) fn main(&self) -> Client {
        // There is always one.
        self.clients[0].clone()
    }

    /// A place for one watch: on the first connection with room, else on the one with the fewest.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        let mut used = self.used();
        let with_room = used.iter().position(|used| *used < MOST);
        let fewest = || used.iter().enumerate().min_by_key(|(_, used)| **used);
        let at = with_room
            .or_else(|| fewest().map(|(at, _)| at))
            .unwrap_or(0);
        used[at] += 1;
        Place {
            connections: self.clone(),
            at,
        }
    }
}

/// A place for one watch, for as long as this is held.
pub(super) struct Place {
    connections: Arc<Connections>,
    at: usize,
}

impl Place {
    pub(super) fn client(&self) -> Client {
        self.connections.clients[self.at].clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.used()[self.at] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::tests::api::Api;

    #[tokio::test]
    async fn watches_fill_one_connection_after_the_other() {
        let api = Api::default();
        let connections = Connections::new(api.client(), &[api.client(), api.client()]);
        let mut places: Vec<_> = (0..2 * MOST + 1).map(|_| connections.place()).collect();
        assert_eq!(*connections.used(), [MOST, MOST, 1]);
        places.remove(3);
        places.push(connections.place());
        assert_eq!(*connections.used(), [MOST, MOST, 1]);
        // Where all are full, the load is shared.
        places.extend((0..MOST + 2).map(|_| connections.place()));
        assert_eq!(*connections.used(), [MOST + 1, MOST + 1, MOST + 1]);
        places.clear();
        assert_eq!(*connections.used(), [0, 0, 0]);
    }
}
