//! How the certificates of pods stand, by signer (upstream's `pkg/kubelet/metrics/collectors/podcertificate_metrics.go` and
//! `pkg/kubelet/podcertificate`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::text::{Exposition, Family, float};

const STATES: Family = Family::gauge(
    "kubelet_podcertificate_states",
    "[ALPHA] Gauge vector reporting the number of pod certificate projected volume sources, faceted by signer_name and state.",
);

/// How one certificate stands. Times are in seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none yet.
    Awaited,
    /// Its signer will give none.
    Denied,
    /// Its signer could give none.
    Failed,
    /// It is there.
    Issued {
        /// From when on the next one is late.
        overdue_at: i64,
        /// How long it is valid.
        not_after: i64,
    },
}

impl Standing {
    /// The value of the label `state`.
    fn at(self, now: i64) -> &'static str {
        match self {
            Self::Awaited => "not_yet_issued",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Issued { not_after, .. } if now > not_after => "expired",
            Self::Issued { overdue_at, .. } if now > overdue_at => "overdue_for_refresh",
            Self::Issued { .. } => "fresh",
        }
    }
}

/// The certificates of all pods, of each its signer and how it stands.
#[derive(Debug)]
pub struct PodCertificates(Mutex<(u64, All)>);

type All = BTreeMap<u64, (Box<str>, Standing)>;

impl PodCertificates {
    pub(super) const fn new() -> Self {
        Self(Mutex::new((0, BTreeMap::new())))
    }

    /// One more, by `signer`, which is counted for as long as what is returned lives.
    pub fn enter(&'static self, signer: &str) -> Counted {
        let (last, all) = &mut *self.lock();
        *last += 1;
        all.insert(*last, (signer.into(), Standing::Awaited));
        Counted {
            among: self,
            number: *last,
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, All)> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `now` is in seconds since the epoch.
    pub(super) fn write(&self, out: &mut Exposition, now: i64) {
        let locked = self.lock();
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (signer, standing) in locked.1.values() {
            *counts.entry((signer, standing.at(now))).or_default() += 1;
        }
        out.family(STATES);
        for ((signer, state), count) in counts {
            out.sample(&[("signer_name", signer), ("state", state)], float(count));
        }
    }
}

/// One certificate among all.
#[derive(Debug)]
pub struct Counted {
    among: &'static PodCertificates,
    number: u64,
}

impl Counted {
    /// It stands otherwise now.
    pub fn stands(&self, standing: Standing) {
        if let Some((_, present)) = self.among.lock().1.get_mut(&self.number) {
            *present = standing;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.among.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_its_signer_and_how_it_stands() {
        static ALL: PodCertificates = PodCertificates::new();
        let told = |now| {
            let mut out = Exposition::new();
            ALL.write(&mut out, now);
            let text = out.into_text();
            let samples = text.lines().filter_map(|line| {
                line.strip_prefix("kubelet_podcertificate_states")
                    .map(str::to_owned)
            });
            samples.collect::<Vec<_>>()
        };
        assert!(told(0).is_empty());
        let [one, two, other] = ["a.test/s", "a.test/s", "b.test/s"].map(|s| ALL.enter(s));
        assert_eq!(
            told(0),
            [
                "{signer_name=\"a.test/s\",state=\"not_yet_issued\"} 2",
                "{signer_name=\"b.test/s\",state=\"not_yet_issued\"} 1",
            ]
        );
        one.stands(Standing::Issued {
            overdue_at: 100,
            not_after: 200,
        });
        two.stands(Standing::Denied);
        other.stands(Standing::Failed);
        let rest = [
            "{signer_name=\"a.test/s\",state=\"denied\"} 1",
            "{signer_name=\"b.test/s\",state=\"failed\"} 1",
        ];
        for (now, state) in [
            (100, "fresh"),
            (101, "overdue_for_refresh"),
            (200, "overdue_for_refresh"),
            (201, "expired"),
        ] {
            let first = format!("{{signer_name=\"a.test/s\",state=\"{state}\"}} 1");
            let mut expected = vec![first, rest[0].to_owned(), rest[1].to_owned()];
            expected.sort();
            assert_eq!(told(now), expected, "{now}");
        }
        drop((one, two));
        assert_eq!(told(0), [rest[1]]);
    }
}
