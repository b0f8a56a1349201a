//! Real containers while everything around the agent goes wrong. What is asked in every one: never two instances of a
//! container at a time, and in the end exactly the pods of the manifests. See `tests::faults`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::faults::pods::Wanted;
use tests::faults::proxy::{CHANGES, Effect, Moment, Rule};
use tests::faults::schedule::{self, SETTLE};
use tests::faults::settled::TRACES;
use tests::faults::strike::Fault;
use tests::faults::{Rig, with_rig};
use tests::random::Random;
use tests::wait::eventually;
use tokio::time::sleep;
use tonic::Code;

/// A round of the schedule of `make test`; `make soak` sets the variable.
const SPAN: Duration = Duration::from_secs(45);
/// Seconds of the schedule.
const SOAK_SECONDS: &str = "SOAK_SECONDS";
/// Its seed.
const SOAK_SEED: &str = "SOAK_SEED";

const MOMENTS: [Moment; 3] = [
    Moment::Before,
    Moment::During(Duration::from_millis(25)),
    Moment::After,
];

/// Lets `fault` happen for `time`, and waits until all is well again.
async fn suffer(rig: &Rig<'_>, fault: Fault, time: Duration) -> Result<()> {
    let mut random = Random::new(1);
    fault.begin(rig, &mut random).await?;
    sleep(time).await;
    fault.heal(rig).await?;
    let settled = rig.settled(SETTLE).await;
    settled.map(drop).with_context(|| format!("{fault:?}"))
}

/// Kills the agent at one call after the other of what `act` brings about, until there is no further call. `act` must
/// end in other containers than there were after `prepare`.
async fn kill_at_each_call(
    rig: &Rig<'_>,
    moment: Moment,
    prepare: impl AsyncFn() -> Result<()>,
    act: impl AsyncFn() -> Result<()>,
) -> Result<usize> {
    for step in 0.. {
        prepare().await?;
        let before = rig.settled(SETTLE).await?;
        let effect = Effect::Kills(rig.agent_process()?, moment);
        rig.expect_death();
        rig.proxy
            .add(Rule::on(&CHANGES, effect).after(step).times(1));
        act().await?;
        let died = eventually("the call, or the end", SETTLE, async || {
            if !rig.proxy.met().is_empty() {
                rig.agent.ended()?.context("it is to die")?;
                return Ok(true);
            }
            rig.ensure_sound()?;
            ensure!(rig.look().await? != before, "nothing has changed yet");
            Ok(false)
        })
        .await?;
        rig.proxy.heal();
        rig.revive_agent()?;
        rig.settled(SETTLE)
            .await
            .with_context(|| format!("killed {moment:?} call {step}"))?;
        if !died {
            return Ok(step);
        }
    }
    Ok(0)
}

/// A pod that stays, and must be none the worse.
async fn one_stays(rig: &Rig<'_>) -> Result<()> {
    rig.put("stays", Wanted::new("stays"))?;
    rig.settled(SETTLE).await.map(drop)
}

#[test]
fn the_agent_is_killed_at_each_call_that_replaces_a_pod() {
    with_rig("killed-at-edit", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        for moment in MOMENTS {
            let calls = kill_at_each_call(rig, moment, async || Ok(()), async || rig.edit("a"));
            let calls = calls.await?;
            // Stop and stop, run, create, start.
            ensure!(calls >= 5, "there were but {calls} calls");
        }
        Ok(())
    });
}

#[test]
fn the_agent_is_killed_at_each_call_that_repairs_a_pod() {
    with_rig("killed-at-repair", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        // Another pod each time, which has no back-off yet.
        let prepare = async || rig.edit("a");
        let act = async || rig.kill_sandbox("a");
        for moment in MOMENTS {
            let calls = kill_at_each_call(rig, moment, prepare, act).await?;
            ensure!(calls >= 3, "there were but {calls} calls");
        }
        Ok(())
    });
}

#[test]
fn the_runtime_goes_away_and_comes_back() {
    with_rig("runtime", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        for (fault, time) in [
            (Fault::ContainerdKilled, 1),
            (Fault::ContainerdTerminated, 1),
            // Longer than a request waits.
            (Fault::ContainerdStopped, 5),
        ] {
            let before = rig.settled(SETTLE).await?;
            suffer(rig, fault, Duration::from_secs(time)).await?;
            let after = rig.settled(SETTLE).await?;
            ensure!(before == after, "{fault:?} cost a container");
            // And in the middle of work.
            rig.edit("a")?;
            sleep(Duration::from_millis(150)).await;
            suffer(rig, fault, Duration::from_secs(1)).await?;
        }
        suffer(rig, Fault::StateWiped, Duration::from_secs(1)).await
    });
}

#[test]
fn calls_are_late_lost_or_refused() {
    with_rig("calls", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        let late = Duration::from_secs(4);
        for effect in [
            Effect::Delays(Duration::from_millis(700)),
            Effect::Fails(Code::Unknown, "refused for a test"),
            Effect::Hangs,
            Effect::LosesAnswer,
            Effect::Belated(late),
        ] {
            // Each kind of call once: a pod's replacement makes five of them.
            for method in &CHANGES {
                let rule = Rule::on(std::slice::from_ref(method), effect.clone());
                rig.proxy.add(rule.times(1));
            }
            rig.edit("a")?;
            rig.settled(SETTLE).await?;
            rig.proxy.heal();
        }
        // What was late has come.
        sleep(late).await;
        rig.settled(SETTLE).await.map(drop)
    });
}

#[test]
fn names_are_taken_and_images_vanish() {
    with_rig("names", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        rig.settled(SETTLE).await?;
        // Not healed until the pod runs again: under the next names.
        Fault::NamesTaken.begin(rig, &mut Random::new(1)).await?;
        let before = rig.instances.total();
        eventually("another instance", SETTLE, async || {
            rig.ensure_sound()?;
            ensure!(rig.instances.total() > before, "none yet");
            Ok(())
        })
        .await?;
        rig.settled(SETTLE).await?;
        Fault::NamesTaken.heal(rig).await?;

        Fault::ImageGone.begin(rig, &mut Random::new(1)).await?;
        rig.edit("a")?;
        eventually("the pod says that it has no image", SETTLE, async || {
            rig.ensure_sound()?;
            let state = rig.agent.pod("a")?.container("c0")?.state.clone();
            let waiting = state.and_then(|state| state.waiting);
            let reason = waiting.and_then(|waiting| waiting.reason);
            let said = reason.unwrap_or_default();
            ensure!(
                said == "ErrImagePull" || said == "ImagePullBackOff",
                "{said}"
            );
            Ok(())
        })
        .await?;
        // Killed while it asks for the image.
        let effect = Effect::Kills(rig.agent_process()?, Moment::During(Duration::ZERO));
        rig.expect_death();
        rig.proxy.add(Rule::on(&["PullImage"], effect).times(1));
        rig.edit("a")?;
        eventually("it dies", SETTLE, async || {
            rig.agent.ended()?.context("it lives")
        })
        .await?;
        rig.proxy.heal();
        rig.revive_agent()?;
        Fault::ImageGone.heal(rig).await?;
        rig.settled(SETTLE).await.map(drop)
    });
}

#[test]
fn the_agents_own_files_are_damaged() {
    with_rig("files", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        let before = rig.settled(SETTLE).await?;

        for seed in 0..3 {
            Fault::RecordsTorn
                .begin(rig, &mut Random::new(seed))
                .await?;
            Fault::RecordsTorn.heal(rig).await?;
            rig.agent.ready("a", SETTLE).await?;
            let after = rig.settled(SETTLE).await?;
            ensure!(before == after, "a torn record cost a container");
        }

        Fault::DiskFull.begin(rig, &mut Random::new(1)).await?;
        rig.edit("a")?;
        rig.put("new", Wanted::new("new"))?;
        sleep(Duration::from_secs(3)).await;
        rig.ensure_sound()?;
        Fault::DiskFull.heal(rig).await?;
        rig.settled(SETTLE).await?;

        for fault in [
            Fault::AgentKilled,
            Fault::AgentTerminated,
            Fault::AgentUpgraded,
        ] {
            let before = rig.settled(SETTLE).await?;
            suffer(rig, fault, Duration::ZERO).await?;
            let after = rig.settled(SETTLE).await?;
            ensure!(before == after, "{fault:?} cost a container");
        }
        // Before it is ready, again and again.
        let before = rig.settled(SETTLE).await?;
        for milliseconds in [5, 50, 150, 300, 600] {
            rig.kill_agent()?;
            rig.revive_agent()?;
            sleep(Duration::from_millis(milliseconds)).await;
        }
        let after = rig.settled(SETTLE).await?;
        ensure!(
            before == after,
            "an agent that is killed as it starts cost a container"
        );
        Ok(())
    });
}

#[test]
fn the_manifest_directory_goes_and_comes_back() {
    with_rig("manifests", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        for _ in 0..2 {
            Fault::ManifestsGone.begin(rig, &mut Random::new(1)).await?;
            // As upstream: a path that is not there wants no pods.
            eventually("nothing runs", SETTLE, async || {
                rig.ensure_sound()?;
                let running = rig.instances.running();
                ensure!(running.is_empty(), "{running:?}");
                Ok(())
            })
            .await?;
            Fault::ManifestsGone.heal(rig).await?;
            rig.settled(SETTLE).await?;
            // And it is watched again, rather than looked at now and then.
            rig.edit("a")?;
            rig.settled(Duration::from_secs(15)).await?;
        }
        Ok(())
    });
}

#[test]
fn traces_go_though_the_agent_is_killed_as_it_removes_them() {
    with_rig("traces", async |rig| {
        rig.put("a", Wanted::new("a"))?;
        one_stays(rig).await?;
        rig.edit("a")?;
        rig.settled(SETTLE).await?;
        for method in ["RemoveContainer", "RemovePodSandbox"] {
            let effect = Effect::Kills(rig.agent_process()?, Moment::After);
            rig.expect_death();
            rig.proxy.add(Rule::on(&[method], effect).times(1));
            eventually("it dies", TRACES, async || {
                rig.agent.ended()?.context("it lives")
            })
            .await?;
            rig.proxy.heal();
            rig.revive_agent()?;
            rig.settled(SETTLE).await?;
        }
        rig.no_traces().await
    });
}

#[test]
fn a_seeded_schedule() {
    let number = |variable: &str| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    let soak = number(SOAK_SECONDS).map(Duration::from_secs);
    // A run that does not say otherwise is another one each time; the seed is in what it prints.
    let seed = number(SOAK_SEED).unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {:?}", soak.unwrap_or(SPAN));
    with_rig(&format!("seed-{seed}"), async |rig| {
        let rounds = schedule::run(rig, seed, soak.unwrap_or(SPAN)).await?;
        println!("{rounds} rounds, {} instances", rig.instances.total());
        if soak.is_some() {
            rig.no_traces().await?;
        }
        Ok(())
    });
}
