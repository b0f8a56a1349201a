//! When what failed is tried again. Pure.
//!
//! What the API server refuses, or has no time for, concerns one pod: it rests. An API server that cannot be reached
//! concerns all: one request is tried after each rest until one is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::plan::{Action, hash};
use crate::pod::PodName;

/// After a refusal: quotas change within minutes, policies within days. (Upstream tries with each sync of the pod, each
/// 60 to 90 s.)
pub(super) const REFUSED: Rest = Rest {
    first: Duration::from_secs(5),
    most: Duration::from_secs(90),
};
/// After an answer that another try may change: too many requests, an error of the server's.
pub(super) const BUSY: Rest = Rest {
    first: Duration::from_millis(500),
    most: Duration::from_secs(30),
};
/// After a request without an answer.
const AWAY: Rest = Rest {
    first: Duration::from_millis(500),
    most: Duration::from_secs(10),
};

/// Rests that double.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    first: Duration,
    most: Duration,
}

impl Rest {
    /// The rest after `failures`, between half of it and all of it by `jitter`, from 0 to 1.
    fn after(self, failures: u32, jitter: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
        let whole = self.first.saturating_mul(doubled).min(self.most);
        whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// What failed and has not been done since.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: BTreeMap<PodName, Failed>,
    away: Option<Away>,
}

#[derive(Debug)]
struct Failed {
    /// What was tried.
    tried: String,
    /// Why it failed, in a word.
    why: String,
    /// It may go well as soon as the API server has time.
    busy: bool,
    failures: u32,
    until: Duration,
}

#[derive(Debug)]
struct Away {
    failures: u32,
    until: Duration,
}

impl Attempts {
    /// How long `action` has to wait; zero when it need not.
    pub(super) fn rest(&self, action: &Action, now: Duration) -> Duration {
        let away = self.away.as_ref().map_or(Duration::ZERO, |away| away.until);
        let failed = self.failed.get(&action.name());
        let failed = failed
            .filter(|failed| failed.tried == what(action))
            .map_or(Duration::ZERO, |failed| failed.until);
        away.max(failed).saturating_sub(now)
    }

    /// It was done.
    pub(super) fn done(&mut self, name: &PodName) {
        self.away = None;
        self.failed.remove(name);
    }

    /// It was answered otherwise, `why` in a word. Says whether that is news.
    pub(super) fn failed(
        &mut self,
        action: &Action,
        why: &str,
        rest: Rest,
        now: Duration,
        jitter: f64,
    ) -> bool {
        self.away = None;
        let tried = what(action);
        let before = self.failed.get(&action.name());
        let before = before.filter(|before| before.tried == tried);
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let news = before.is_none_or(|before| before.why != why);
        let failed = Failed {
            tried,
            why: why.to_owned(),
            busy: rest.most == BUSY.most,
            failures,
            until: now + rest.after(failures, jitter),
        };
        self.failed.insert(action.name(), failed);
        news
    }

    /// There was no answer. Says whether that is news.
    pub(super) fn unanswered(&mut self, now: Duration, jitter: f64) -> bool {
        let failures = self.away.as_ref().map_or(0, |away| away.failures);
        let failures = failures.saturating_add(1);
        let until = now + AWAY.after(failures, jitter);
        self.away = Some(Away { failures, until });
        failures == 1
    }

    /// The API server is back: no rest on its account, nor for want of its time.
    pub(super) fn back(&mut self) {
        self.heard();
        for failed in self.failed.values_mut().filter(|failed| failed.busy) {
            failed.until = Duration::ZERO;
        }
    }

    /// The API server has been heard of: no rest on its account.
    pub(super) fn heard(&mut self) {
        if let Some(away) = &mut self.away {
            away.until = Duration::ZERO;
        }
    }

    /// Forgets the pods that nothing is to be done about any more.
    pub(super) fn keep(&mut self, actions: &[Action]) {
        if !self.failed.is_empty() {
            self.failed
                .retain(|name, _| actions.iter().any(|action| action.name() == *name));
        }
    }
}

/// Tells one thing to do from another: another version of the pod, or another node object, is another matter.
fn what(action: &Action) -> String {
    match action {
        Action::Create { pod, node } => format!("create {} {node}", hash(pod)),
        Action::Delete { uid, .. } => format!("delete {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_within_bounds_and_are_jittered() {
        let whole = |failures| REFUSED.after(failures, 1.0).as_secs();
        let rests = [1, 2, 3, 5, 6, 60, u32::MAX].map(whole);
        assert_eq!(rests, [5, 10, 20, 80, 90, 90, 90]);
        assert_eq!(REFUSED.after(1, 0.0), Duration::from_millis(2500));
        assert_eq!(AWAY.after(40, 0.5), Duration::from_millis(7500));
    }
}
