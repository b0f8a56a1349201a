//! The board: each pod's latest status, written by its worker alone and read by everybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::types::PodStatus;
use crate::pod::{Pod, PodUid};

/// A pod with its status; cloning it copies two pointers.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The pod as its source gave it.
    pub pod: Arc<Pod>,
    /// Its latest status.
    pub status: Arc<PodStatus>,
    /// What the status is worth.
    pub word: Word,
}

/// What a status on the board is worth to somebody who passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nobody has looked at what runs of the pod: it is what was known before, and no news.
    Unseen,
    /// It was derived from what the runtime shows.
    Current,
    /// The pod has ended, and all that it held is given back: there will be no other.
    Last,
}

/// A second writer was asked for while the first one lives.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the status of pod {0} already has a writer")]
pub struct WriterTaken(pub PodUid);

/// What a pod's worker is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepAtWork {
    /// `makes the sandbox` …
    pub what: Arc<str>,
    /// Since when, by the monotonic clock.
    pub since: Duration,
}

#[derive(Default)]
struct Entry {
    claimed: bool,
    view: Option<PodView>,
    step: Option<StepAtWork>,
    setback: Option<&'static str>,
}

/// The statuses of all pods. Cloning shares it.
#[derive(Clone, Default)]
pub struct StatusBoard {
    entries: Arc<Mutex<BTreeMap<PodUid, Entry>>>,
    changes: watch::Sender<()>,
}

impl StatusBoard {
    /// An empty board.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The writer of the pod with `uid`. A status that an earlier writer left stays until the first
    /// [`StatusWriter::set`].
    ///
    /// # Errors
    /// When the pod has a writer: two workers for one pod are a mistake in the agent.
    pub fn writer(&self, uid: &PodUid) -> Result<StatusWriter, WriterTaken> {
        let mut entries = self.lock();
        let entry = entries.entry(uid.clone()).or_default();
        if entry.claimed {
            return Err(WriterTaken(uid.clone()));
        }
        entry.claimed = true;
        drop(entries);
        Ok(StatusWriter {
            board: self.clone(),
            uid: uid.clone(),
        })
    }

    /// The pod with `uid` and its status.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<PodView> {
        self.lock().get(uid)?.view.clone()
    }

    /// Every pod that has a status, by UID.
    #[must_use]
    pub fn snapshot(&self) -> Vec<PodView> {
        let entries = self.lock();
        entries.values().filter_map(|e| e.view.clone()).collect()
    }

    /// What the workers are at, by the UIDs of their pods; without those that only wait.
    #[must_use]
    pub fn steps(&self) -> Vec<(PodUid, StepAtWork)> {
        let entries = self.lock();
        let at_work = entries.iter().filter_map(|(uid, entry)| {
            let step = entry.step.clone()?;
            Some((uid.clone(), step))
        });
        at_work.collect()
    }

    /// Why pods as a whole do not start, by their UIDs: the reason of the last event of it. Their statuses have no place for it.
    #[must_use]
    pub fn setbacks(&self) -> BTreeMap<PodUid, &'static str> {
        let entries = self.lock();
        let set_back = |(uid, entry): (&PodUid, &Entry)| Some((uid.clone(), entry.setback?));
        entries.iter().filter_map(set_back).collect()
    }

    /// News whenever the status of any pod changes, a pod goes, or meets another setback.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// No code that can panic runs under the lock, so a poisoned one still guards a whole map.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one hand that writes a pod's status. Dropped, it leaves the status where it is: a worker that was lost is
/// replaced, and its pod is shown meanwhile.
pub struct StatusWriter {
    board: StatusBoard,
    uid: PodUid,
}

impl StatusWriter {
    /// Publishes `status`; says whether anything changed. An unchanged status keeps its place in memory.
    pub fn set(&self, pod: &Arc<Pod>, status: PodStatus) -> bool {
        self.write(pod, status, Word::Current)
    }

    /// Shows a status of a pod that nobody has looked at yet.
    pub fn set_unseen(&self, pod: &Arc<Pod>, status: PodStatus) -> bool {
        self.write(pod, status, Word::Unseen)
    }

    /// Says of the status on the board that it is the last one of `pod`.
    pub fn set_last(&self, pod: &Arc<Pod>) {
        if let Some(status) = self.current() {
            self.write(pod, PodStatus::clone(&status), Word::Last);
        }
    }

    fn write(&self, pod: &Arc<Pod>, status: PodStatus, word: Word) -> bool {
        let mut entries = self.board.lock();
        let entry = entries.entry(self.uid.clone()).or_default();
        if let Some(view) = &mut entry.view
            && *view.status == status
        {
            let news = !Arc::ptr_eq(&view.pod, pod) || view.word != word;
            view.pod = pod.clone();
            view.word = word;
            drop(entries);
            if news {
                self.board.changes.send_replace(());
            }
            return news;
        }
        entry.view = Some(PodView {
            pod: pod.clone(),
            status: Arc::new(status),
            word,
        });
        drop(entries);
        self.board.changes.send_replace(());
        true
    }

    /// Says what the pod's worker is at; none when it waits. That is no change of the status.
    pub fn at(&self, step: Option<StepAtWork>) {
        if let Some(entry) = self.board.lock().get_mut(&self.uid) {
            entry.step = step;
        }
    }

    /// Says what keeps the pod as a whole from starting, as the reason of an event; none once it goes on.
    pub fn set_back(&self, reason: Option<&'static str>) {
        let mut entries = self.board.lock();
        let Some(entry) = entries.get_mut(&self.uid) else {
            return;
        };
        let news = entry.setback != reason;
        entry.setback = reason;
        drop(entries);
        if news {
            self.board.changes.send_replace(());
        }
    }

    /// The status on the board.
    #[must_use]
    pub fn current(&self) -> Option<Arc<PodStatus>> {
        self.board.get(&self.uid).map(|view| view.status)
    }

    /// Takes the pod off the board: nobody asks for it any more.
    pub fn remove(&self) {
        if let Some(entry) = self.board.lock().get_mut(&self.uid) {
            entry.view = None;
        }
        self.board.changes.send_replace(());
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        let mut entries = self.board.lock();
        if let Some(entry) = entries.get_mut(&self.uid) {
            entry.claimed = false;
            entry.step = None;
            entry.setback = None;
            if entry.view.is_none() {
                entries.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::QosClass;
    use crate::status::Phase;

    fn uid(text: &str) -> PodUid {
        PodUid::parse(text).unwrap()
    }

    fn status(phase: Phase) -> PodStatus {
        PodStatus {
            phase,
            reason: None,
            message: None,
            start_time: None,
            conditions: Vec::new(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            qos: QosClass::BestEffort,
        }
    }

    #[test]
    fn readers_see_what_the_writer_set_in_order_of_uid_and_share_the_pod() {
        let board = StatusBoard::new();
        let pod = Arc::new(Pod::default());
        let b = board.writer(&uid("b")).unwrap();
        let a = board.writer(&uid("a")).unwrap();
        assert!(board.snapshot().is_empty(), "no status yet");
        assert!(b.set(&pod, status(Phase::Running)));
        assert!(a.set(&pod, status(Phase::Pending)));
        let phases: Vec<_> = board.snapshot().iter().map(|v| v.status.phase).collect();
        assert_eq!(phases, [Phase::Pending, Phase::Running]);
        assert!(Arc::ptr_eq(&board.get(&uid("a")).unwrap().pod, &pod));
    }

    #[test]
    fn a_setback_is_news_once_and_goes_with_its_worker() {
        let board = StatusBoard::new();
        let writer = board.writer(&uid("a")).unwrap();
        let mut changes = board.changes();
        writer.set_back(Some("FailedCreatePodSandBox"));
        assert_eq!(
            board.setbacks(),
            [(uid("a"), "FailedCreatePodSandBox")].into()
        );
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        writer.set_back(Some("FailedCreatePodSandBox"));
        assert!(!changes.has_changed().unwrap(), "each try says the same");
        writer.set_back(None);
        assert!(changes.has_changed().unwrap() && board.setbacks().is_empty());
        writer.set_back(Some("FailedMount"));
        drop(writer);
        assert!(board.setbacks().is_empty());
    }

    #[test]
    fn a_step_is_shown_while_its_worker_is_at_it_and_is_no_change_of_the_status() {
        let board = StatusBoard::new();
        let writer = board.writer(&uid("a")).unwrap();
        let changes = board.changes();
        let step = StepAtWork {
            what: "makes the sandbox".into(),
            since: Duration::from_secs(7),
        };
        writer.at(Some(step.clone()));
        assert_eq!(board.steps(), [(uid("a"), step.clone())]);
        writer.at(None);
        assert!(board.steps().is_empty());
        writer.at(Some(step));
        drop(writer);
        assert!(board.steps().is_empty(), "its worker is gone");
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn an_equal_status_is_no_change_and_keeps_its_allocation() {
        let board = StatusBoard::new();
        let pod = Arc::new(Pod::default());
        let writer = board.writer(&uid("a")).unwrap();
        let mut changes = board.changes();
        assert!(writer.set(&pod, status(Phase::Running)));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let first = writer.current().unwrap();
        assert!(!writer.set(&pod, status(Phase::Running)));
        assert!(!changes.has_changed().unwrap());
        assert!(Arc::ptr_eq(&first, &writer.current().unwrap()));
        assert!(
            writer.set(&Arc::new(Pod::default()), status(Phase::Running)),
            "another pod object"
        );
        assert!(writer.set(&pod, status(Phase::Failed)));
    }

    #[test]
    fn a_pod_has_one_writer_at_a_time_and_outlives_it() {
        let board = StatusBoard::new();
        let writer = board.writer(&uid("a")).unwrap();
        assert_eq!(board.writer(&uid("a")).err(), Some(WriterTaken(uid("a"))));
        writer.set(&Arc::new(Pod::default()), status(Phase::Running));
        drop(writer);
        assert_eq!(
            board.snapshot().len(),
            1,
            "a lost worker's pod is still shown"
        );
        board.writer(&uid("a")).unwrap().remove();
        assert!(board.snapshot().is_empty());
        assert!(
            board.lock().is_empty(),
            "nothing stays of a pod that is gone"
        );
    }
}
