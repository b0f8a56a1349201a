//! A sequence of faults and of changes to the manifests, out of a seed.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::Rig;
use super::pods::Wanted;
use super::strike::{FAULTS, Fault};
use crate::random::Random;

/// How long everything may take to be as the manifests say, once nothing goes wrong any more. The longest waits are the
/// agent's own: twice the request timeout, then back-offs of ten and twenty seconds.
pub const SETTLE: Duration = Duration::from_secs(120);
/// The names of the pods.
const NAMES: [&str; 4] = ["p0", "p1", "p2", "p3"];

/// Goes on for `span`, at least once; everything is settled after each round.
///
/// # Errors
/// When it did not settle, or two instances ran at a time.
pub async fn run(rig: &Rig<'_>, seed: u64, span: Duration) -> Result<u32> {
    let mut random = Random::new(seed);
    let began = Instant::now();
    let mut rounds = 0;
    for name in &NAMES[..2] {
        rig.put(name, Wanted::new(name))?;
    }
    rig.settled(SETTLE).await?;
    while rounds == 0 || began.elapsed() < span {
        rounds += 1;
        round(rig, &mut random)
            .await
            .with_context(|| format!("seed {seed}, round {rounds}"))?;
    }
    Ok(rounds)
}

async fn round(rig: &Rig<'_>, random: &mut Random) -> Result<()> {
    let faults = choose(random);
    rig.journal.note(format_args!("--- {faults:?}"));
    if random.below(2) == 0 {
        change(rig, random)?;
    }
    for fault in &faults {
        pause(random, 600).await;
        fault.begin(rig, random).await?;
        for _ in 0..random.below(3) {
            pause(random, 400).await;
            change(rig, random)?;
        }
    }
    // Mostly short; now and then longer than a request of the agent waits.
    let longest = *random.pick(&[500, 2500, 2500, 9000]);
    pause(random, longest).await;
    for fault in faults.iter().rev() {
        fault.heal(rig).await?;
        pause(random, 300).await;
    }
    rig.settled(SETTLE).await.map(drop)
}

/// One fault, or two of different kinds.
fn choose(random: &mut Random) -> Vec<Fault> {
    let first = random.index(FAULTS.len());
    let mut faults = vec![*random.pick(FAULTS[first])];
    if random.below(3) == 0 {
        let second = random.index(FAULTS.len());
        let other = *random.pick(FAULTS[second]);
        // Those two give the proxy orders, and one would drop the other's.
        let both = first.min(second) == 0 && first.max(second) == 2;
        if first != second && !both {
            faults.push(other);
        }
    }
    faults
}

async fn pause(random: &mut Random, most: u64) {
    sleep(Duration::from_millis(random.below(most))).await;
}

/// Changes one manifest.
fn change(rig: &Rig<'_>, random: &mut Random) -> Result<()> {
    let name = *random.pick(&NAMES);
    let Some(mut pod) = rig.wanted().remove(name) else {
        let mut pod = Wanted::new(name);
        pod.version = u32::try_from(random.below(1000))?;
        pod.containers = 1 + usize::try_from(random.below(2))?;
        pod.stubborn = random.below(4) == 0;
        return rig.put(name, pod);
    };
    match random.below(6) {
        0 => rig.remove(name),
        1 => {
            rig.remove(name)?;
            rig.put(name, pod)
        }
        2 => {
            pod.file = format!("{name}-{}.yaml", random.below(100));
            rig.put(name, pod)
        }
        3 => {
            // There and back: the same pod as before, or its successor's successor.
            rig.edit(name)?;
            rig.put(name, pod)
        }
        _ => rig.edit(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            [random.below(1000), random.below(1000), random.below(1000)]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn every_fault_is_chosen() {
        let mut random = Random::new(1);
        let chosen: Vec<Fault> = (0..1000).flat_map(|_| choose(&mut random)).collect();
        for fault in FAULTS.iter().flat_map(|kind| kind.iter()) {
            assert!(chosen.contains(fault), "{fault:?}");
        }
    }
}
