//! The end of a pod: its containers stop, what it held is given back, and a little later its traces go.

use std::sync::Arc;
use std::time::Duration;

use super::queue::Wanted;
use super::{Place, Tools, Worker};
use crate::csi::Csi;
use crate::errors::error_chain;
use crate::events::About;
use crate::plan::{PodPlan, plan_removal, plan_termination};
use crate::pod::{self, Pod, PodUid};

/// How long ended containers and their logs outlive their pod (upstream's container garbage collection period):
/// a manifest that comes back finds its restart counts, and a user the last words.
const TRACES_STAY: Duration = Duration::from_secs(60);
/// A pod that is told to end has this much at least (upstream's `calculateEffectiveGracePeriod`).
const LEAST_GRACE: Duration = Duration::from_secs(1);
/// Between attempts at a step of the teardown that failed.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// A step of giving back what a pod held that takes longer is named, and named again as much later.
const STEP_PATIENCE: Duration = Duration::from_secs(30);

fn late() -> String {
    format!("has taken more than {STEP_PATIENCE:?}")
}

/// What a pod that has stopped still holds.
#[derive(Clone, Copy)]
enum Part {
    Volumes,
    Cgroup,
    Directory,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Cgroup => "cgroup",
            Self::Directory => "directory",
        }
    }

    async fn give_back(self, tools: &Tools, uid: &PodUid) -> Result<(), String> {
        match self {
            Self::Volumes => {
                let volumes = tools.volumes.clone();
                // They hold files of the volumes.
                let unbound = volumes.clone().unbind_sub_paths(uid.clone()).await;
                unbound.map_err(|error| error_chain(&error))?;
                // What drivers have mounted, they unmount.
                let given_back = tools.csi.tear_down(uid).await;
                given_back.map_err(|error| error_chain(&error))?;
                let done = volumes.tear_down_in_background(uid.clone()).await;
                done.map_err(|error| error_chain(&error))
            }
            Self::Cgroup => {
                let done = tools.cgroups.remove_pod(uid).await;
                done.map_err(|error| error_chain(&error))?;
                // Nothing runs, and no file of the pod is in use.
                tools.user_namespaces.release(uid).await;
                Ok(())
            }
            Self::Directory => {
                let done = tools.dirs.remove_in_background(uid).await;
                done.map_err(|error| error_chain(&error))?;
                // Should a start that was given up have been given some meanwhile.
                tools.user_namespaces.release(uid).await;
                Ok(())
            }
        }
    }
}

/// A doubling pause between attempts.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(RETRY_FIRST)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(RETRY_MOST);
    }

    /// The same, or until a storage driver comes: a volume may have waited for it.
    async fn wait_for_driver(&mut self, csi: &Csi) {
        // Cancel-safe: both only wait.
        tokio::select! {
            () = self.wait() => {}
            () = csi.drivers_changed() => {}
        }
    }
}

impl Worker {
    /// Stops all that runs of the pod. Each step is tried until it is done, and blocks nobody but a successor of the
    /// same name.
    pub(super) async fn terminate(&mut self) {
        let pod = self.orders.borrow().pod.clone();
        if !self.ends_in_view() {
            // As upstream: a pod that no source has is not shown, though it may still be stopping.
            // It may be on the board without this worker having put it there: by one that panicked.
            let own = self.board.take();
            let other = || self.tools.board.writer(&self.uid).ok().map(Arc::new);
            if let Some(writer) = own.or_else(other) {
                writer.remove();
            }
        }
        self.probes.pod_ends();
        self.runtime_seen().await;
        self.probes.hooks_over();
        self.stop_everything(&pod).await;
        self.probes.clear();
        self.let_go_of_objects().await;
    }

    /// When the termination under way has to be done, on the agent's monotonic clock; noted in the record.
    pub(super) fn termination_deadline(&mut self) -> Duration {
        let orders = self.orders.borrow().clone();
        let seconds = pod::grace_seconds(&orders.pod);
        let grace = Duration::from_secs(seconds.unsigned_abs()).max(LEAST_GRACE);
        let grace = match orders.place {
            Place::Leaving(time) => grace.min(time),
            Place::Evicted(eviction) => grace.min(eviction.grace),
            Place::Granted | Place::Refused(_) | Place::Preempted => grace,
        };
        let deadline = self.memory.termination_deadline(grace, &self.tools.clock);
        self.memory.store(&orders.pod, &self.tools.clock);
        deadline
    }

    async fn stop_everything(&mut self, pod: &Arc<Pod>) {
        let mut pause = Pause::new();
        let mut last = None;
        loop {
            let observed = match self.tools.observer.refresh(&self.uid).await {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::warn!(pod = %self.name, uid = %self.uid, %error, "cannot stop the pod yet");
                    pause.wait().await;
                    continue;
                }
            };
            let deadline = self.termination_deadline();
            let left = deadline.saturating_sub(self.tools.clock.now().monotonic);
            let plan = plan_termination(pod, &observed, left);
            if self.ends_in_view() {
                self.memory.note_exits(&observed, self.tools.clock.now());
                self.publish(pod, &observed, &plan);
            }
            if plan.finished {
                return;
            }
            self.tidy(&observed);
            self.memory.holds.clear();
            self.removals.forgive();
            // What went well and changed nothing is not to be hurried either.
            let in_vain = last.replace(observed.clone()).as_ref() == Some(&observed);
            let applied = match self.ends_in_view() {
                true => self.apply_in_view(pod, &observed, &plan).await,
                false => self.apply(pod, &observed, &plan).await,
            };
            if applied.failed || in_vain {
                pause.wait().await;
            }
        }
    }

    fn ends_in_view(&self) -> bool {
        self.orders.borrow().ends_in_view()
    }

    /// Says, of a pod that its source has until it has ended, that now it has: its status is the last one.
    pub(super) fn say_last(&mut self) {
        if self.ends_in_view()
            && let Some(writer) = &self.board
        {
            writer.set_last(&self.orders.borrow().pod);
        }
    }

    /// Gives back the volumes and the cgroup of a pod that is over and still wanted: its status and record stay. What
    /// cannot be given back now is given back when the pod goes.
    pub(super) async fn release(&mut self) {
        self.let_go_of_objects().await;
        for part in [Part::Volumes, Part::Cgroup] {
            // Cancel-safe: an order to stop finds what is left.
            tokio::select! {
                done = part.give_back(&self.tools, &self.uid) => if let Err(error) = done {
                    self.say_blocked(part, &error);
                },
                () = tokio::time::sleep(STEP_PATIENCE) => self.say_blocked(part, &late()),
            }
        }
    }

    /// Volumes first, then the cgroup, then the directory: each only once the one before is gone. Nobody waits for it
    /// but the same pod, should it be wanted again: it shows what it waits for.
    pub(super) async fn give_back(&mut self) {
        for part in [Part::Volumes, Part::Cgroup, Part::Directory] {
            let mut pause = Pause::new();
            while let Err(error) = self.try_to_give_back(part).await {
                self.say_blocked(part, &error);
                let csi = self.tools.csi.clone();
                let rest = pause.wait_for_driver(&csi);
                self.show_meanwhile(part, &error, rest).await;
            }
        }
        if self.orders.borrow().wanted != Wanted::Run {
            self.hide();
        }
        tracing::info!(pod = %self.name, uid = %self.uid, "pod has stopped");
    }

    /// Takes the pod off the board, unless its source has it still.
    fn hide(&mut self) {
        if self.ends_in_view() {
            return;
        }
        if let Some(writer) = self.board.take() {
            writer.remove();
        }
    }

    /// One attempt. It cannot be given up, a file system call being what it is; it is named when it takes its time.
    async fn try_to_give_back(&mut self, part: Part) -> Result<(), String> {
        let (tools, uid) = (self.tools.clone(), self.uid.clone());
        let mut work = Box::pin(async move { part.give_back(&tools, &uid).await });
        loop {
            let why = late();
            let late = async {
                self.show_meanwhile(part, &why, tokio::time::sleep(STEP_PATIENCE))
                    .await;
            };
            // Cancel-safe: `work` is polled on.
            tokio::select! {
                done = &mut work => return done,
                () = late => {}
            }
            self.say_blocked(part, &why);
        }
    }

    /// Waits for `rest`. Should the pod be wanted again meanwhile, the board shows what it waits for.
    async fn show_meanwhile(&mut self, part: Part, why: &str, rest: impl Future<Output = ()>) {
        let mut orders = self.orders.clone();
        let mut rest = std::pin::pin!(rest);
        loop {
            let wanted = self.orders.borrow().wanted;
            match wanted {
                Wanted::Run => self.show_blocked(part, why),
                Wanted::Wait | Wanted::Stop => self.hide(),
            }
            // Cancel-safe: the order stays in its channel. Without a registry the process ends.
            tokio::select! {
                () = &mut rest => return,
                Ok(()) = orders.changed() => {}
            }
        }
    }

    fn say_blocked(&self, part: Part, why: &str) {
        let step = part.as_str();
        tracing::warn!(pod = %self.name, uid = %self.uid, step, error = why, "pod is stuck terminating");
        let pod = self.orders.borrow().pod.clone();
        About::pod(&pod).warning(
            "FailedKillPod",
            &format!("error killing pod: {step}: {why}"),
        );
    }

    /// Shows a pod that is wanted again, and cannot begin before what its earlier life held is given back.
    fn show_blocked(&mut self, part: Part, why: &str) {
        let pod = self.orders.borrow().pod.clone();
        if self.board.is_none() {
            self.memory.status.send_replace(None);
            self.publish_first();
        }
        self.publish_unseen(&pod);
        let step = part.as_str();
        self.show_waiting(&format!(
            "waiting for the {step} of its earlier life to be given back: {why}"
        ));
    }

    /// Waits until the traces of the pod may go, and removes them. True when the pod is wanted again before that.
    pub(super) async fn linger(&mut self) -> bool {
        let mut orders = self.orders.clone();
        let board = self.board.take();
        let news = async {
            let mut board = board;
            loop {
                let told = orders.borrow_and_update().clone();
                if told.wanted == Wanted::Run {
                    return;
                }
                if let Some(writer) = board.take_if(|_| !told.ends_in_view()) {
                    writer.remove();
                }
                if orders.changed().await.is_err() {
                    // The registry is gone, which ends the process.
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut reclaim = self.reclaim.clone();
        let gone = async {
            // Cancel-safe: what is to go is gone the sooner. An error means that the agent ends.
            tokio::select! {
                () = tokio::time::sleep(TRACES_STAY) => {}
                Ok(()) = reclaim.changed() => {}
            }
            let pod = self.orders.borrow().pod.clone();
            self.remove_traces(&pod).await;
        };
        // Cancel-safe: the order stays in its channel, and what a removal that is dropped leaves, or still does, the next
        // look shows: only what has ended is removed.
        tokio::select! {
            biased;
            () = news => return true,
            () = gone => {}
        }
        self.tools.observer.forget(&self.uid);
        self.tools.images.forget(&self.uid);
        false
    }

    /// Removes all that the runtime holds of the pod, and its logs.
    pub(super) async fn remove_traces(&mut self, pod: &Arc<Pod>) {
        self.remove_ended(pod).await;
        if let Err(error) = self.tools.logs.remove_pod(&self.name, &self.uid) {
            About::pod(pod).warning("FailedLogRemoval", &error_chain(&error));
        }
    }

    /// Removes all that the runtime holds of the pod, nothing of which runs.
    pub(super) async fn remove_ended(&mut self, pod: &Arc<Pod>) {
        let mut pause = Pause::new();
        loop {
            match self.tools.observer.refresh(&self.uid).await {
                Ok(observed) if observed.is_empty() => break,
                Ok(observed) => {
                    self.tidy(&observed);
                    self.removals.forgive();
                    let plan = PodPlan {
                        steps: plan_removal(&observed),
                        ..PodPlan::default()
                    };
                    let applied = self.apply(pod, &observed, &plan).await;
                    if applied.acted && !applied.failed {
                        continue;
                    }
                }
                Err(error) => {
                    tracing::warn!(pod = %self.name, %error, "cannot remove the pod's containers yet")
                }
            }
            pause.wait().await;
        }
    }
}
