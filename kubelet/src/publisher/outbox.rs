//! What has to be sent, to whom, and when. Pure: the time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::call::{Done, Errand, Job, Outcome};
use super::patch::{Text, patch};
use super::transitions::{ended, revived};
use crate::pod::{self, CONFIG_HASH_ANNOTATION, PodName, PodUid};
use crate::sources::{ApiPods, MirrorPod, ServerStatus};
use crate::status::{PodStatus, PodView, RUNTIME, Word, fingerprint, serialise};

/// Changes of one pod within this time go as one. (Upstream sends each change, one pod after the other.)
const WINDOW: Duration = Duration::from_millis(100);
/// The most calls at once.
const MOST_CALLS: usize = 8;
/// What somebody else changes in the node's part of a status is put right once in this time (upstream's batch period).
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// The pauses while the API server is away: the first one, and the longest. The word that it is back ends them.
const AWAY_FIRST: Duration = Duration::from_millis(200);
const AWAY_MOST: Duration = Duration::from_secs(10);
/// The pauses after a conflict, and after a refusal that time may not change.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const CONFLICT_MOST: Duration = Duration::from_secs(1);
const REFUSED_MOST: Duration = Duration::from_secs(30);

/// The objects at the API server that the node writes to: its pods, and the mirrors of static ones.
#[derive(Default)]
pub(super) struct Outbox {
    objects: BTreeMap<PodUid, Object>,
    calls: usize,
    /// The API server does not answer.
    away: Option<Pause>,
}

struct Object {
    name: PodName,
    mirror: bool,
    /// What the board has of it.
    view: Option<PodView>,
    /// What the API server shows.
    server: Arc<ServerStatus>,
    sent: Option<Sent>,
    /// What is being sent.
    sending: Option<Sent>,
    /// Since when there has been something to look at.
    since: Option<Duration>,
    /// A call is under way.
    busy: bool,
    hold: Option<Pause>,
    /// When somebody else's change was put right last.
    reconciled: Option<Duration>,
    /// The object was removed; it may have to wait for its finalizers.
    removed: bool,
}

/// What was sent last, and what the API server made of it.
struct Sent {
    status: Arc<PodStatus>,
    print: u64,
    shown: u64,
    /// It was the node that had something new to say.
    is_news: bool,
}

#[derive(Clone, Copy)]
struct Pause {
    until: Duration,
    length: Duration,
    /// Whatever else happens.
    not_before: Duration,
}

impl Pause {
    /// After a failure at `now`; each is twice as long as the one before, and less by up to a half, by chance.
    fn after(
        before: Option<Self>,
        now: Duration,
        first: Duration,
        most: Duration,
        random: u64,
    ) -> Self {
        let length = before.map_or(first, |b| (b.length * 2).min(most));
        let less = (length / 2).mul_f64((random % 1024) as f64 / 1024.0);
        Self {
            until: now + length - less,
            length,
            not_before: now,
        }
    }
}

/// What there is to do for one object.
enum Next {
    Nothing,
    NotBefore(Duration),
    Patch(Value, Sent),
    Delete,
}

impl Outbox {
    /// Takes over which objects there are, what they show, and what they should.
    pub(super) fn follow(&mut self, api: &ApiPods, board: &[PodView], now: Duration) {
        let mut of_uid: BTreeMap<&str, &PodView> = BTreeMap::new();
        let mut of_name: BTreeMap<PodName, &PodView> = BTreeMap::new();
        for view in board {
            match pod::is_static(&view.pod) {
                true => of_name.insert(PodName::of(&view.pod), view),
                false => of_uid.insert(view.pod.metadata.uid.as_deref().unwrap_or_default(), view),
            };
        }
        let is_mirror = |uid: &PodUid| api.mirrors.values().any(|m| m.uid == *uid);
        self.objects
            .retain(|uid, _| api.pods.contains_key(uid) || is_mirror(uid));
        for (uid, pod) in &api.pods {
            let view = of_uid.get(uid.as_str()).copied();
            self.see(uid, api, view, || (PodName::of(pod), false), now);
        }
        for (name, mirror) in &api.mirrors {
            let view = of_name.get(name).copied().filter(|v| is_of(mirror, v));
            self.see(&mirror.uid, api, view, || (name.clone(), true), now);
        }
    }

    fn see(
        &mut self,
        uid: &PodUid,
        api: &ApiPods,
        view: Option<&PodView>,
        whose: impl FnOnce() -> (PodName, bool),
        now: Duration,
    ) {
        let object = self.objects.entry(uid.clone()).or_insert_with(|| {
            let (name, mirror) = whose();
            Object::new(name, mirror, now)
        });
        let mut news = false;
        if let Some(server) = api.statuses.get(uid)
            && !Arc::ptr_eq(server, &object.server)
            && server.version >= object.server.version
        {
            news |= **server != *object.server;
            object.server = server.clone();
        }
        if !is_same(object.view.as_ref(), view) {
            news = true;
            object.view = view.cloned();
        }
        if news {
            object.since.get_or_insert(now);
        }
    }

    /// The next thing to do at `now`, if there is one. Who asks does it, and says so ([`Outbox::done`]).
    ///
    /// Pods that end come first: somebody waits for them. Among the rest it is who has waited longest.
    pub(super) fn next(&mut self, now: Duration) -> Option<Job> {
        if self.calls >= MOST_CALLS || self.away.is_some_and(|a| a.until > now || self.calls > 0) {
            return None;
        }
        let mut due: Vec<(bool, Duration, PodUid)> = self
            .objects
            .iter()
            .filter(|(_, object)| object.due_at().is_some_and(|at| at <= now))
            .filter_map(|(uid, o)| Some((!o.ends(), o.since?, uid.clone())))
            .collect();
        due.sort();
        for (_, _, uid) in due {
            let Some(object) = self.objects.get_mut(&uid) else {
                continue;
            };
            let errand = match object.decide(&uid, now) {
                Next::Nothing => {
                    object.since = None;
                    continue;
                }
                Next::NotBefore(until) => {
                    object.hold = Some(Pause {
                        until,
                        length: Duration::ZERO,
                        not_before: until,
                    });
                    continue;
                }
                Next::Patch(body, sent) => {
                    if !sent.is_news {
                        object.reconciled = Some(now);
                    }
                    object.sending = Some(sent);
                    Errand::Patch(body)
                }
                Next::Delete => Errand::Delete,
            };
            object.since = None;
            object.busy = true;
            self.calls += 1;
            return Some(Job {
                uid,
                name: object.name.clone(),
                errand,
                probes: self.away.is_some(),
            });
        }
        None
    }

    /// How long until there may be something to do without any news; none while only news can bring something.
    pub(super) fn wake_in(&self, now: Duration) -> Option<Duration> {
        if self.calls >= MOST_CALLS || (self.away.is_some() && self.calls > 0) {
            return None;
        }
        let first = self.objects.values().filter_map(Object::due_at).min()?;
        let at = self.away.map_or(first, |away| first.max(away.until));
        Some(at.saturating_sub(now))
    }

    /// Whether the API server is away, as far as was found out here.
    pub(super) fn is_waiting_for_server(&self) -> bool {
        self.away.is_some()
    }

    /// The API server is said to be back: it is asked now, unless it wished for more time.
    pub(super) fn try_now(&mut self, now: Duration) {
        if let Some(away) = &mut self.away {
            away.until = away.until.min(now.max(away.not_before));
        }
    }

    /// A job has been done, or has failed. `random` makes pauses differ from node to node.
    pub(super) fn done(&mut self, done: Done, now: Duration, random: u64) {
        self.calls = self.calls.saturating_sub(1);
        match &done.outcome {
            Outcome::Away(why, wished) => self.is_away(why, *wished, now, random),
            _ => self.is_back(),
        }
        let Some(object) = self.objects.get_mut(&done.uid) else {
            return;
        };
        object.busy = false;
        let sending = object.sending.take();
        let name = &object.name;
        let after = |most| Pause::after(object.hold, now, RETRY_FIRST, most, random);
        let failed = !matches!(done.outcome, Outcome::Patched(_) | Outcome::Deleted);
        match done.outcome {
            Outcome::Patched(shown) => {
                object.sent = sending.map(|sent| Sent {
                    shown: shown.print,
                    ..sent
                });
                if shown.version >= object.server.version {
                    object.server = Arc::new(*shown);
                }
                object.hold = None;
            }
            Outcome::Deleted => {
                tracing::debug!(pod = %name, uid = %done.uid, "the pod has ended, and its object is removed");
                object.removed = true;
                object.hold = None;
            }
            Outcome::Gone => object.hold = Some(after(REFUSED_MOST)),
            Outcome::Conflict => object.hold = Some(after(CONFLICT_MOST)),
            Outcome::Refused(error) => {
                tracing::warn!(pod = %name, uid = %done.uid, error, "the API server does not take the pod's status");
                object.hold = Some(after(REFUSED_MOST));
            }
            Outcome::Away(..) => {}
        }
        // The removal follows the last status; and who failed goes to the end of the queue.
        if failed || object.ends() {
            object.since.get_or_insert(now);
        }
    }

    fn is_away(&mut self, why: &str, wished: Duration, now: Duration, random: u64) {
        let before = self.away;
        if before.is_none() {
            tracing::warn!(
                error = why,
                "pods' statuses do not reach the API server; they follow when it answers"
            );
        }
        // Calls that were under way together fail together, and count once.
        if before.is_none_or(|away| away.until <= now) {
            let mut pause = Pause::after(before, now, AWAY_FIRST, AWAY_MOST, random);
            pause.not_before = now + wished;
            pause.until = pause.until.max(pause.not_before);
            self.away = Some(pause);
        }
    }

    fn is_back(&mut self) {
        if self.away.take().is_some() {
            tracing::info!("pods' statuses reach the API server again");
        }
    }
}

impl Object {
    fn new(name: PodName, mirror: bool, now: Duration) -> Self {
        Self {
            name,
            mirror,
            view: None,
            server: Arc::default(),
            sent: None,
            sending: None,
            since: Some(now),
            busy: false,
            hold: None,
            reconciled: None,
            removed: false,
        }
    }

    /// When there may be something to send; none while there is no news.
    fn due_at(&self) -> Option<Duration> {
        let since = self.since.filter(|_| !self.busy)?;
        let ready = match self.ends() {
            true => since,
            false => since + WINDOW,
        };
        Some(self.hold.map_or(ready, |hold| ready.max(hold.until)))
    }

    /// Whether nothing more is going to happen to the pod.
    fn ends(&self) -> bool {
        self.view.as_ref().is_some_and(|v| v.word == Word::Last)
    }

    fn decide(&self, uid: &PodUid, now: Duration) -> Next {
        let Some(view) = self.view.as_ref().filter(|v| v.word != Word::Unseen) else {
            return Next::Nothing;
        };
        if self.removed {
            return Next::Nothing;
        }
        let status = &view.status;
        // What has ended for good stays so: the worker is about to follow.
        if self.server.is_terminal() && !status.phase.is_terminal() && !self.mirror {
            return Next::Nothing;
        }
        if let Some(container) = self.revived(view) {
            tracing::error!(pod = %self.name, %uid, container, "a container that has ended for good is not shown as running again");
            return Next::Nothing;
        }
        let sent = self.sent.as_ref();
        let same_phase = self.server.phase == Some(status.phase);
        let reason = Text::of(
            status.reason.as_deref(),
            self.server.reason.as_deref(),
            sent.and_then(|s| s.status.reason.as_deref()),
            same_phase,
        );
        let message = Text::of(
            status.message.as_deref(),
            self.server.message.as_deref(),
            sent.and_then(|s| s.status.message.as_deref()),
            same_phase,
        );
        let ours = serialise(&view.pod, status, RUNTIME);
        let print = fingerprint(&ours);
        let texts = (reason, message) != (Text::Keep, Text::Keep);
        let is_sent = |s: &Sent| {
            let texts = s.status.reason == status.reason && s.status.message == status.message;
            s.print == print && texts
        };
        let (ours_is_new, theirs_differs) = match sent {
            None => (print != self.server.print || texts, false),
            Some(sent) => (!is_sent(sent), self.server.print != sent.shown || texts),
        };
        if !ours_is_new && !theirs_differs {
            return match self.is_to_go(view) {
                true => Next::Delete,
                false => Next::Nothing,
            };
        }
        if !ours_is_new
            && let Some(at) = self.reconciled.map(|at| at + RECONCILE_EVERY)
            && at > now
        {
            return Next::NotBefore(at);
        }
        let body = patch(uid, &ours, &self.server, reason, message);
        let sent = Sent {
            status: status.clone(),
            print,
            shown: 0,
            is_news: ours_is_new,
        };
        Next::Patch(body, sent)
    }

    /// Whether the pod has ended and the API server may remove its object. One without a grace period left is removed
    /// by the API server itself, as soon as its finalizers are gone.
    fn is_to_go(&self, view: &PodView) -> bool {
        let meta = &view.pod.metadata;
        let waits_for_node =
            meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds != Some(0);
        view.word == Word::Last && waits_for_node && !self.mirror && self.server.is_terminal()
    }

    fn revived<'a>(&'a self, view: &'a PodView) -> Option<&'a str> {
        match &self.sent {
            Some(sent) => revived(&view.pod, ended(&sent.status), &view.status),
            None => {
                let ended = self
                    .server
                    .ended
                    .iter()
                    .map(|(name, code)| (&**name, *code));
                revived(&view.pod, ended, &view.status)
            }
        }
    }
}

/// Whether `mirror` was made of the static pod in `view`, as it is now.
fn is_of(mirror: &MirrorPod, view: &PodView) -> bool {
    let annotations = view.pod.metadata.annotations.as_ref();
    let hash = annotations.and_then(|a| a.get(CONFIG_HASH_ANNOTATION));
    !mirror.deleting && hash.is_some_and(|hash| *hash == mirror.hash)
}

fn is_same(a: Option<&PodView>, b: Option<&PodView>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            Arc::ptr_eq(&a.status, &b.status) && Arc::ptr_eq(&a.pod, &b.pod) && a.word == b.word
        }
        (None, None) => true,
        _ => false,
    }
}
