//! Gives the workers' pods their places: asks for one pod after the other, and tells each worker what came of it.

use super::{Handle, Registry};
use crate::pod::{self, PodName, PodUid};
use crate::workers::places::{Asked, Rank, Seat};
use crate::workers::queue::{Stage, Wanted};
use crate::workers::{Orders, Place};

impl Registry {
    /// Notes which pods have left their places since the last time.
    pub(super) fn follow_places(&mut self) {
        for (uid, handle) in &self.handles {
            let stage = *handle.stage.borrow();
            let orders = handle.orders.borrow();
            self.freed |= self.places.follow(uid, &orders.pod, orders.seat(stage));
        }
    }

    /// Asks for places, for one pod after the other: for those that are to run, and where a place became free for all
    /// that have none.
    pub(super) fn give_places(&mut self, mut asking: Vec<PodUid>) {
        if std::mem::take(&mut self.freed) {
            let waiting = self.handles.iter().filter(|(uid, handle)| {
                let (stage, orders) = (*handle.stage.borrow(), handle.orders.borrow());
                self.places.waits(uid, &orders.pod, orders.seat(stage))
            });
            asking.extend(waiting.map(|(uid, _)| uid.clone()));
        }
        asking.sort_by_cached_key(|uid| self.rank(uid));
        for uid in asking {
            // It has a place, and begins when it has its devices.
            if self.fetches.has(&uid) {
                continue;
            }
            let Some(handle) = self.handles.get(&uid) else {
                continue;
            };
            let (runs, orders) = (self.runs_already(&uid), handle.orders.borrow().clone());
            let seat = orders.seat(*handle.stage.borrow());
            if let Some(rejection) = self.node_refuses(&uid, &orders.pod, seat, runs) {
                self.places.refuse(&uid);
                // One that has no place says why already.
                if orders.wanted != Wanted::Run || orders.place == Place::Granted {
                    self.refuse(&uid, rejection);
                }
                continue;
            }
            let place = match self.places.ask(&uid, &orders.pod, seat, runs) {
                None => continue,
                Some(Asked::Granted) => Place::Granted,
                Some(Asked::Leaves) => self.why_it_leaves(&orders.pod),
                // What it had to say when it made room still holds.
                Some(Asked::Refused(_)) if orders.seat_is_given_up() => continue,
                Some(Asked::Refused(rejection)) => Place::Refused(rejection),
                Some(Asked::Preempts(victims)) => {
                    self.preempt(&handle.name, &victims);
                    continue;
                }
            };
            if place == Place::Granted && self.fetch_devices(&uid, &orders.pod) {
                continue;
            }
            self.order(&uid, |orders| {
                orders.wanted = Wanted::Run;
                orders.place = place;
            });
        }
    }

    /// Takes back what earlier lives of the agent gave to single containers of pods that are no more.
    pub(super) fn take_back(&self) {
        let left = |handle: &Handle| {
            let (stage, orders) = (*handle.stage.borrow(), handle.orders.borrow());
            orders.seat(stage).is_left()
        };
        let seats = self.handles.iter().map(|(uid, handle)| (uid, left(handle)));
        let lost = self.panicked.keys().map(|uid| (uid, false));
        self.places.retain(seats.chain(lost));
    }

    fn preempt(&self, by: &PodName, victims: &[PodUid]) {
        for victim in victims {
            if let Some(handle) = self.handles.get(victim) {
                tracing::info!(pod = %by, victim = %handle.name, "a critical pod needs the room of another, which is ended for it");
            }
            self.order(victim, |orders| orders.place = Place::Preempted);
        }
    }

    fn runs_already(&self, uid: &PodUid) -> bool {
        let observed = self.tools.observer.subscribe(uid);
        self.places.runs_already(uid, &observed.borrow())
    }

    fn rank(&self, uid: &PodUid) -> Option<Rank> {
        let handle = self.handles.get(uid)?;
        let runs = self.runs_already(uid);
        let later = !pod::is_static(&handle.orders.borrow().pod);
        let name = handle.name.clone();
        Some((!runs, later, handle.since, name, uid.clone()))
    }
}

impl Orders {
    /// Whether the pod had a place and was told to leave it.
    fn seat_is_given_up(&self) -> bool {
        matches!(self.place, Place::Preempted | Place::Leaving(_))
    }

    fn seat(&self, stage: Stage) -> Seat<'_> {
        Seat {
            wanted: self.wanted,
            stage,
            place: &self.place,
        }
    }
}
