//! The faults: each begins, lasts as long as the test likes, and is healed.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use tonic::Code;

use super::Rig;
use super::instances::sandbox_process;
use super::pods::Wanted;
use super::proxy::{CHANGES, Effect, Moment, Rule};
use crate::random::Random;
use crate::wait::eventually;

/// How long a process may take to be gone after SIGKILL.
const DEATH: Duration = Duration::from_secs(10);
/// Ends of one pod's containers that are wanted in its life: from the third on it waits for 20 s and more to be started.
const DEATHS: u32 = 2;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of the agent; healed by a start.
    AgentKilled,
    /// SIGTERM of the agent; healed by a start.
    AgentTerminated,
    /// The agent's binary is replaced beneath it, and the agent ended; healed by a start.
    AgentUpgraded,
    /// SIGKILL of the agent at one of its next changes of the runtime; healed by a start.
    AgentKilledAtCall,
    /// SIGKILL of the agent, and every record it keeps is damaged; healed by a start.
    RecordsTorn,
    /// SIGKILL of containerd; healed by a start.
    ContainerdKilled,
    /// SIGSTOP of containerd; healed by SIGCONT.
    ContainerdStopped,
    /// SIGTERM of containerd; healed by a start.
    ContainerdTerminated,
    /// containerd, its containers and all it knows are gone; healed by a start.
    StateWiped,
    /// The names that a pod needs next are taken, and its sandbox is killed; healed by giving them back.
    NamesTaken,
    /// The image is removed; healed by loading it.
    ImageGone,
    /// A container is killed.
    ContainerKilled,
    /// A sandbox is killed.
    SandboxKilled,
    /// Changes are made late, unless the agent has given up.
    CallsDelayed,
    /// One change is made later than the agent waits for it.
    CallBelated,
    /// Some changes get no answer, and are not made.
    CallsHang,
    /// Some changes are made, and get no answer.
    AnswersLost,
    /// Some changes are refused.
    CallsFail,
    /// The file system of the agent's root directory is full.
    DiskFull,
    /// The manifest directory is removed; healed by making it again.
    ManifestsGone,
}

/// Every fault, by what it befalls: of each line one at a time.
pub const FAULTS: [&[Fault]; 4] = [
    &[
        Fault::AgentKilled,
        Fault::AgentTerminated,
        Fault::AgentUpgraded,
        Fault::AgentKilledAtCall,
        Fault::AgentKilledAtCall,
        Fault::RecordsTorn,
    ],
    &[
        Fault::ContainerdKilled,
        Fault::ContainerdStopped,
        Fault::ContainerdTerminated,
        Fault::StateWiped,
        Fault::NamesTaken,
        Fault::ImageGone,
        Fault::ContainerKilled,
        Fault::SandboxKilled,
    ],
    &[
        Fault::CallsDelayed,
        Fault::CallBelated,
        Fault::CallsHang,
        Fault::AnswersLost,
        Fault::CallsFail,
    ],
    &[Fault::DiskFull, Fault::ManifestsGone],
];

/// The calls that make something.
const CREATIONS: [&str; 3] = ["RunPodSandbox", "CreateContainer", "StartContainer"];

impl Fault {
    /// Lets it happen.
    ///
    /// # Errors
    /// When it cannot be done.
    pub async fn begin(self, rig: &Rig<'_>, random: &mut Random) -> Result<()> {
        rig.journal.note(format_args!("fault: {self:?}"));
        match self {
            Self::AgentKilled => rig.kill_agent(),
            Self::AgentTerminated => terminate(rig).await,
            Self::AgentUpgraded => {
                rig.agent.replace_binary()?;
                terminate(rig).await
            }
            Self::AgentKilledAtCall => {
                let moments = [
                    Moment::Before,
                    Moment::During(Duration::from_millis(random.below(200))),
                    Moment::After,
                ];
                let effect = Effect::Kills(rig.agent_process()?, *random.pick(&moments));
                let skip = usize::try_from(random.below(6))?;
                rig.expect_death();
                rig.proxy
                    .add(Rule::on(&CHANGES, effect).after(skip).times(1));
                Ok(())
            }
            Self::RecordsTorn => {
                rig.kill_agent()?;
                tear_records(rig, random)
            }
            Self::ContainerdKilled => rig.node.kill_containerd(),
            Self::ContainerdStopped => rig.node.signal_containerd(Signal::SIGSTOP),
            Self::ContainerdTerminated => rig.node.stop_containerd(),
            Self::StateWiped => {
                rig.node.kill_containerd()?;
                rig.node.wipe_containerd()
            }
            Self::NamesTaken => match rig.victim(random) {
                Some(pod) => {
                    rig.reserve_names(&pod).await?;
                    rig.kill_sandbox(&pod)
                }
                None => Ok(()),
            },
            Self::ImageGone => rig.remove_image().await,
            Self::ContainerKilled => match rig.victim(random) {
                Some(pod) => kill_container(rig, &pod),
                None => Ok(()),
            },
            Self::SandboxKilled => match rig.victim(random) {
                Some(pod) => rig.kill_sandbox(&pod),
                None => Ok(()),
            },
            Self::DiskFull => fill_disk(rig),
            Self::ManifestsGone => {
                fs::remove_dir_all(rig.node.manifests()).context("remove the manifest directory")
            }
            Self::CallsDelayed
            | Self::CallBelated
            | Self::CallsHang
            | Self::AnswersLost
            | Self::CallsFail => {
                rig.proxy.add(self.rule(random)?);
                Ok(())
            }
        }
    }

    fn rule(self, random: &mut Random) -> Result<Rule> {
        let skip = usize::try_from(random.below(3))?;
        let one = |random: &mut Random| [*random.pick(&CHANGES)];
        Ok(match self {
            Self::CallsDelayed => Rule::on(&CHANGES, Effect::Delays(Duration::from_millis(1500))),
            Self::CallBelated => {
                let late =
                    super::request_timeout() + Duration::from_millis(500 + random.below(3000));
                Rule::on(&[*random.pick(&CREATIONS)], Effect::Belated(late)).times(1)
            }
            Self::CallsHang => Rule::on(&one(random), Effect::Hangs).times(2),
            Self::AnswersLost => Rule::on(&CHANGES, Effect::LosesAnswer).after(skip).times(2),
            _ => {
                let code = *random.pick(&[Code::Unknown, Code::Unavailable, Code::Internal]);
                Rule::on(&CHANGES, Effect::Fails(code, "refused for a test"))
                    .after(skip)
                    .times(3)
            }
        })
    }

    /// Ends it: nothing goes wrong any more, though all that went wrong still shows.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn heal(self, rig: &Rig<'_>) -> Result<()> {
        rig.journal.note(format_args!("healed: {self:?}"));
        match self {
            Self::AgentKilled | Self::AgentTerminated | Self::AgentUpgraded | Self::RecordsTorn => {
                rig.revive_agent()
            }
            Self::AgentKilledAtCall => {
                if rig.proxy.met().is_empty() {
                    rig.journal.note("there was no such call");
                } else {
                    eventually(
                        "the agent is killed",
                        DEATH * super::patience(),
                        async || rig.agent.ended()?.context("it runs"),
                    )
                    .await?;
                }
                rig.proxy.heal();
                rig.revive_agent()
            }
            Self::ContainerdKilled | Self::ContainerdTerminated | Self::StateWiped => {
                rig.node.start_containerd().await
            }
            Self::ContainerdStopped => rig.node.signal_containerd(Signal::SIGCONT),
            Self::NamesTaken => rig.give_back_names().await,
            Self::ImageGone => rig.node.load_images(),
            Self::ContainerKilled | Self::SandboxKilled => Ok(()),
            Self::CallsDelayed
            | Self::CallBelated
            | Self::CallsHang
            | Self::AnswersLost
            | Self::CallsFail => {
                rig.proxy.heal();
                Ok(())
            }
            Self::DiskFull => {
                fs::remove_file(rig.root("filler")).context("empty the agent's file system")
            }
            Self::ManifestsGone => {
                fs::create_dir(rig.node.manifests()).context("make the manifest directory")?;
                for (name, pod) in rig.wanted() {
                    rig.node.put(&pod.file, &pod.manifest(&name))?;
                }
                Ok(())
            }
        }
    }
}

impl Rig<'_> {
    /// Kills the sandbox of a pod, if it has one.
    ///
    /// # Errors
    /// When it cannot be found or signalled.
    pub fn kill_sandbox(&self, pod: &str) -> Result<()> {
        let full = Wanted::full_name(pod);
        if let Some(pid) = sandbox_process(self.node, &full, &self.strangers.borrow())? {
            self.journal
                .note(format_args!("killed: the sandbox of {full}"));
            kill(pid, Signal::SIGKILL).context("kill a sandbox")?;
        }
        Ok(())
    }

    /// A pod that runs and may lose a container once more.
    fn victim(&self, random: &mut Random) -> Option<String> {
        let running = self.instances.running();
        let mut deaths = self.deaths.borrow_mut();
        let wanted = self.wanted();
        let names: Vec<String> = wanted
            .into_keys()
            .filter(|name| {
                let pod = format!("default/{}", Wanted::full_name(name));
                running.values().any(|identity| identity.pod == pod)
                    && deaths.get(name).is_none_or(|count| *count < DEATHS)
            })
            .collect();
        if names.is_empty() {
            return None;
        }
        let name = random.pick(&names).clone();
        *deaths.entry(name.clone()).or_default() += 1;
        Some(name)
    }
}

async fn terminate(rig: &Rig<'_>) -> Result<()> {
    rig.expect_death();
    let status = rig.agent.terminate().await?;
    ensure!(
        rig.agent.is_foreign() || status.success(),
        "after SIGTERM the agent ended with {status}"
    );
    Ok(())
}

/// Kills the first container that is found to run; one that ends by itself meanwhile is dead too.
fn kill_container(rig: &Rig<'_>, pod: &str) -> Result<()> {
    let full = format!("default/{}", Wanted::full_name(pod));
    let running = rig.instances.running();
    let found = running.iter().find(|(_, identity)| identity.pod == full);
    if let Some((id, identity)) = found {
        rig.journal.note(format_args!("killed: {identity}"));
        rig.instances.kill(id)?;
    }
    Ok(())
}

fn fill_disk(rig: &Rig<'_>) -> Result<()> {
    let mut filler = fs::File::create(rig.root("filler")).context("create a file")?;
    for size in [1 << 20, 4096, 1] {
        let block = vec![0_u8; size];
        while filler.write_all(&block).is_ok() {}
    }
    Ok(())
}

fn tear_records(rig: &Rig<'_>, random: &mut Random) -> Result<()> {
    let Ok(pods) = fs::read_dir(rig.root("pods")) else {
        return Ok(());
    };
    for pod in pods {
        let record = pod?.path().join("record.json");
        let Ok(bytes) = fs::read(&record) else {
            continue;
        };
        let how = random.below(4);
        rig.journal
            .note(format_args!("torn {how}: {}", record.display()));
        match how {
            0 => fs::write(&record, &bytes[..bytes.len() / 2])?,
            1 => fs::write(&record, vec![0; bytes.len()])?,
            2 => fs::write(&record, b"")?,
            _ => {
                fs::remove_file(&record)?;
                fs::create_dir(&record)?;
                fs::write(record.join("inhabitant"), b"")?;
            }
        }
    }
    Ok(())
}
