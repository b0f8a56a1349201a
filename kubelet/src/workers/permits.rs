//! How many pods are started at once, and what a start that hangs costs the others.
//!
//! More than two starts a core only make each of them slower, so a burst queues, first come first served. A start that
//! takes longer than [`StartPermits::PATIENCE`] gives its place away and counts as late until it is done. Once as many
//! are late as there are places, keeping order costs more than crowding: whoever waits begins at once. Late ones thus
//! hold places for no more than `places` × [`StartPermits::PATIENCE`] altogether, however many they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The places for starts. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct StartPermits {
    semaphore: Arc<Semaphore>,
    places: usize,
    /// How many starts have been under way for longer than [`StartPermits::PATIENCE`].
    late: Arc<watch::Sender<usize>>,
}

impl StartPermits {
    /// How long a start may hold its place while nothing comes of it.
    pub const PATIENCE: Duration = Duration::from_secs(2);

    /// Places for `starts` pods at once.
    #[must_use]
    pub fn new(starts: usize) -> Self {
        let places = starts.max(1);
        Self {
            semaphore: Arc::new(Semaphore::new(places)),
            places,
            late: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Waits for a place, or until so many starts hang that waiting makes no sense.
    pub(super) async fn acquire(&self) -> StartPermit {
        StartPermit {
            held: self.place().await,
            permits: self.clone(),
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let mut late = self.late.subscribe();
        // Cancel-safe: a place that is not taken stays free, a count that is not read stays as it is.
        tokio::select! {
            biased;
            // The semaphore is never closed; without a place a start would merely be early.
            place = self.semaphore.clone().acquire_owned() => place.ok(),
            // The sender lives as long as `self`.
            _ = late.wait_for(|late| *late >= self.places) => None,
        }
    }
}

/// Leave to start a pod. Dropped, it gives its place to the next.
pub(super) struct StartPermit {
    permits: StartPermits,
    /// None while the place is given away, and for whoever did not wait for one.
    held: Option<OwnedSemaphorePermit>,
}

impl StartPermit {
    /// Awaits `work`. Should it take longer than [`StartPermits::PATIENCE`], the place is given away until it is done.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        // Cancel-safe: `work` is polled on below, nothing of it is dropped.
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(StartPermits::PATIENCE) => {}
        }
        self.held = None;
        let late = Late::begin(&self.permits.late);
        let done = work.await;
        drop(late);
        self.held = self.permits.place().await;
        done
    }
}

/// Counts a start as late for as long as it lives, the end of a cancelled one included.
struct Late(Arc<watch::Sender<usize>>);

impl Late {
    fn begin(late: &Arc<watch::Sender<usize>>) -> Self {
        late.send_modify(|late| *late += 1);
        Self(late.clone())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.0.send_modify(|late| *late -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::{JoinHandle, JoinSet};
    use tokio::time::{Instant, sleep};

    use super::*;

    const PLACES: usize = 4;
    const MILLI: Duration = Duration::from_millis(1);

    /// Begins starts that never end.
    async fn hang(permits: &StartPermits, count: usize) -> JoinSet<()> {
        let mut hung = JoinSet::new();
        for _ in 0..count {
            let permits = permits.clone();
            hung.spawn(async move {
                let mut permit = permits.acquire().await;
                permit.during(std::future::pending::<()>()).await;
            });
            tokio::task::yield_now().await;
        }
        hung
    }

    /// Starts one thing that takes `work`, and says how long it had to wait before that.
    fn newcomer(permits: &StartPermits, work: Duration) -> JoinHandle<Duration> {
        let permits = permits.clone();
        let came = Instant::now();
        tokio::spawn(async move {
            let mut permit = permits.acquire().await;
            let waited = came.elapsed();
            permit.during(sleep(work)).await;
            waited
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_start_waits_for_two_seconds_at_most_however_many_hang() {
        for count in [PLACES, 20, 100, 1000] {
            let permits = StartPermits::new(PLACES);
            let _hung = hang(&permits, count).await;
            let waited = newcomer(&permits, MILLI).await.unwrap();
            assert!(
                waited <= StartPermits::PATIENCE + MILLI,
                "behind {count}: {waited:?}"
            );
            // And those after it do not wait at all.
            let waited = newcomer(&permits, MILLI).await.unwrap();
            assert!(waited <= MILLI, "later, beside {count}: {waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hung_starts_between_healthy_ones_cost_no_more_in_all() {
        let work = 100 * MILLI;
        for healthy in 1..8 {
            let permits = StartPermits::new(PLACES);
            let mut hung = Vec::new();
            let mut before = 0;
            for _ in 0..40 {
                hung.push(hang(&permits, 1).await);
                for _ in 0..healthy {
                    newcomer(&permits, work);
                    before += 1;
                    tokio::task::yield_now().await;
                }
            }
            let waited = newcomer(&permits, MILLI).await.unwrap();
            // What the healthy ones before it take by themselves, on the places there are.
            let fair = work * before / 4;
            let bound = fair + 2 * StartPermits::PATIENCE + 10 * MILLI;
            assert!(waited <= bound, "{healthy} to one: {waited:?}, {bound:?}");
        }
    }

    #[derive(Default)]
    struct Seen {
        order: Vec<usize>,
        in_flight: usize,
        most: usize,
    }

    /// Starts `count` things at once; gives the order in which they began, and the most that were under way together.
    async fn burst(permits: &StartPermits, count: usize) -> (Vec<usize>, usize) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut starts = JoinSet::new();
        for n in 0..count {
            let (permits, seen) = (permits.clone(), seen.clone());
            starts.spawn(async move {
                let mut permit = permits.acquire().await;
                {
                    let mut seen = seen.lock().unwrap();
                    seen.order.push(n);
                    seen.in_flight += 1;
                    seen.most = seen.most.max(seen.in_flight);
                }
                // Two calls, as of a sandbox and of a container, each almost as slow as one may be.
                for _ in 0..2 {
                    permit.during(sleep(StartPermits::PATIENCE - MILLI)).await;
                }
                seen.lock().unwrap().in_flight -= 1;
            });
            tokio::task::yield_now().await;
        }
        starts.join_all().await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (seen.order, seen.most)
    }

    #[tokio::test(start_paused = true)]
    async fn an_ordinary_burst_keeps_to_its_places_in_order() {
        let permits = StartPermits::new(PLACES);
        let (order, most) = burst(&permits, 50).await;
        assert_eq!(order, (0..50).collect::<Vec<_>>());
        assert_eq!(most, PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_that_hang_leave_the_others_their_places_and_their_order() {
        let permits = StartPermits::new(PLACES);
        let _hung = hang(&permits, PLACES - 1).await;
        sleep(StartPermits::PATIENCE + MILLI).await;
        let (order, most) = burst(&permits, 20).await;
        assert_eq!(order, (0..20).collect::<Vec<_>>());
        assert_eq!(most, PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_is_back_once_the_hung_starts_are_gone() {
        let permits = StartPermits::new(PLACES);
        let mut hung = hang(&permits, 20).await;
        sleep(StartPermits::PATIENCE + MILLI).await;
        assert_eq!(*permits.late.borrow(), PLACES);
        hung.shutdown().await;
        assert_eq!(*permits.late.borrow(), 0);
        assert_eq!(burst(&permits, 20).await.1, PLACES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_was_late_queues_again_for_what_is_left_of_it() {
        let permits = StartPermits::new(1);
        let mut slow = permits.acquire().await;
        slow.during(sleep(2 * StartPermits::PATIENCE)).await;
        assert!(slow.held.is_some());
        assert_eq!(permits.semaphore.available_permits(), 0);
        drop(slow);
        assert_eq!(permits.semaphore.available_permits(), 1);
    }
}
