//! Which pods have to go so that a critical pod has room.
//!
//! Source: the Kubernetes document "Guaranteed scheduling for critical add-on pods". Guaranteed pods are spared before
//! burstable ones, and those before the rest; within a class as few pods go as a greedy choice finds, and of two that
//! serve alike the one that asks for less.

use std::fmt;

use super::claim::{CPU, Claim};
use super::ledger::{Other, Standing};
use crate::pod::{PodUid, QosClass};

/// Amounts that are missing, by resource, none of them zero or less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs(Vec<(String, i64)>);

impl Needs {
    pub(super) fn new(amounts: impl IntoIterator<Item = (String, i64)>) -> Self {
        Self(amounts.into_iter().filter(|(_, n)| *n > 0).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is still missing once `claims` are gone.
    pub(super) fn without<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> Self {
        let mut left = self.0.clone();
        for claim in claims {
            for (resource, missing) in &mut left {
                *missing = missing.saturating_sub(claim.amount(resource));
            }
        }
        Self::new(left)
    }

    /// How far `claim` alone is from meeting the needs: 0 when it meets them all, the square of the missing fraction
    /// for each that it does not.
    #[expect(
        clippy::cast_precision_loss,
        reason = "fractions are compared, a rounded last digit changes no choice that matters"
    )]
    fn distance(&self, claim: &Claim) -> f64 {
        let parts = self.0.iter().map(|(resource, missing)| {
            let left = missing.saturating_sub(claim.amount(resource)).max(0);
            (left as f64 / *missing as f64).powi(2)
        });
        parts.sum()
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (resource, missing) in &self.0 {
            write!(f, "(res: {resource}, q: {missing}), ")?;
        }
        f.write_str("]")
    }
}

/// The pods among `others` that have to go for `preemptor`, so that `needs` are met.
///
/// # Errors
/// What would still be missing if all that may be made to go went.
pub(super) fn victims(
    preemptor: &Claim,
    others: &[Other<'_>],
    needs: &Needs,
) -> Result<Vec<PodUid>, Needs> {
    let of_class = |class: QosClass| -> Vec<&Other<'_>> {
        let may_go = others.iter().filter(|other| {
            other.standing == Standing::Holds
                && other.claim.qos == class
                && preemptor.may_preempt(other.claim)
        });
        may_go.collect()
    };
    let best_effort = of_class(QosClass::BestEffort);
    let burstable = of_class(QosClass::Burstable);
    let guaranteed = of_class(QosClass::Guaranteed);

    let lesser = || claims(&best_effort).chain(claims(&burstable));
    let short = needs.without(lesser().chain(claims(&guaranteed)));
    if !short.is_empty() {
        return Err(short);
    }
    // Of each class only what the classes below it, all gone, would not give.
    let first = cover(&guaranteed, needs.without(lesser()))?;
    let second = cover(
        &burstable,
        needs.without(claims(&best_effort).chain(claims(&first))),
    )?;
    let third = cover(
        &best_effort,
        needs.without(claims(&second).chain(claims(&first))),
    )?;
    let chosen = third.into_iter().chain(second).chain(first);
    Ok(chosen.map(|other| other.uid.clone()).collect())
}

fn claims<'a>(others: &'a [&Other<'a>]) -> impl Iterator<Item = &'a Claim> {
    others.iter().map(|other| other.claim)
}

/// Takes the pod that comes closest to the needs, again and again, until they are met.
fn cover<'a>(pool: &[&'a Other<'a>], mut needs: Needs) -> Result<Vec<&'a Other<'a>>, Needs> {
    let mut pool = pool.to_vec();
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let better = |a: &Other<'_>, b: &Other<'_>| {
            let nearer = needs.distance(a.claim).total_cmp(&needs.distance(b.claim));
            let smaller = |resource| a.claim.amount(resource).cmp(&b.claim.amount(resource));
            nearer
                .then_with(|| smaller("memory"))
                .then_with(|| smaller(CPU))
        };
        let best = (0..pool.len()).min_by(|a, b| better(pool[*a], pool[*b]));
        let Some(best) = best else {
            return Err(needs);
        };
        let next = pool.remove(best);
        needs = needs.without([next.claim]);
        chosen.push(next);
    }
    Ok(chosen)
}
