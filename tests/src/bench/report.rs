//! What a run found, and how it is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::process::Memory;
use super::sample::Spread;
use super::writers;

/// One run. Times in seconds, memory in kilobytes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What bare CRI calls reached.
    pub floor: FloorReport,
    /// What each kubelet reached.
    pub subjects: Vec<SubjectReport>,
}

/// A machine, by its size.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// Memory, kilobytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// What `containerd --version` says.
    pub containerd: String,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// When `/proc` or containerd cannot be asked.
    pub fn read() -> Result<Self> {
        let info = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let memory = info
            .split_whitespace()
            .nth(1)
            .context("MemTotal")?
            .parse()?;
        let version = Command::new("containerd").arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout);
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            memory,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            containerd: version
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        })
    }
}

/// The floor's figures. Keys are numbers of pods.
#[derive(Debug, Default, Serialize)]
pub struct FloorReport {
    /// How many pods in flight were quickest.
    pub widths: BTreeMap<usize, usize>,
    /// Until all containers ran.
    pub bursts: BTreeMap<usize, Spread>,
    /// The same, where each sandbox has the runtime's seccomp profile.
    pub seccomp_bursts: BTreeMap<usize, Spread>,
    /// When each container ran, in one burst.
    pub timelines: BTreeMap<usize, Vec<f64>>,
    /// From a death to the next start.
    pub replace: Spread,
    /// From StopContainer to the end.
    pub remove: Spread,
}

/// One kubelet's figures. Keys are numbers of pods.
#[derive(Debug, Default, Serialize)]
pub struct SubjectReport {
    /// How it is called.
    pub name: String,
    /// Size of its binary, bytes.
    pub binary: u64,
    /// From the manifests in place until all containers ran.
    pub bursts: BTreeMap<usize, Spread>,
    /// The same, in times of the floor of the same pair.
    pub ratios: BTreeMap<usize, Spread>,
    /// The same, in times of the floor with seccomp.
    pub seccomp_ratios: BTreeMap<usize, Spread>,
    /// Processor time of a burst.
    pub burst_cpu: BTreeMap<usize, Spread>,
    /// When each container ran, in one burst.
    pub timelines: BTreeMap<usize, Vec<f64>>,
    /// At rest after a burst.
    pub memory: BTreeMap<usize, Memory>,
    /// From a death to the successor's start.
    pub replace: Spread,
    /// From a manifest's removal to its container's end.
    pub remove: Spread,
    /// From the agent's start to its first pod's.
    pub first_pod: Spread,
    /// From the agent's start until `/pods` shows all running pods ready.
    pub adopt: Spread,
    /// Thousandths of a core, at rest with the crowd.
    pub idle_cpu: f64,
    /// System calls a minute, at rest with the crowd.
    pub idle_syscalls: f64,
    /// Thousandths of a core, with pods that write a line a second.
    pub writing_cpu: f64,
}

impl Report {
    /// As a table of Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let machine = &self.machine;
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let memory = machine.memory as f64 / 1_048_576.0;
        let mut text = format!(
            "{} cores, {memory:.0} GiB, Linux {}, {}\n\nMedian, and least to most in parentheses.\n\n",
            machine.cores, machine.kernel, machine.containerd
        );
        self.row(&mut text, "", "bare CRI calls", |s| s.name.clone());
        self.row(&mut text, "---", "---", |_| "---".to_owned());
        for (pods, floor) in &self.floor.bursts {
            let width = self.floor.widths.get(pods).copied().unwrap_or_default();
            let own = format!("{} with {width} in flight", seconds(floor));
            self.row(
                &mut text,
                &format!("{pods} pods, manifests in place to all running"),
                &own,
                |s| s.bursts.get(pods).map(seconds).unwrap_or_default(),
            );
            self.row(&mut text, "… in times of the floor", "1", |s| {
                s.ratios.get(pods).map(plain).unwrap_or_default()
            });
            let secured = self.floor.seccomp_bursts.get(pods);
            self.row(
                &mut text,
                "… in times of the floor with the sandbox's seccomp profile",
                &secured.map(seconds).unwrap_or_default(),
                |s| s.seccomp_ratios.get(pods).map(plain).unwrap_or_default(),
            );
            self.row(&mut text, "… processor time", "", |s| {
                s.burst_cpu.get(pods).map(seconds).unwrap_or_default()
            });
        }
        let floor = &self.floor;
        self.row(
            &mut text,
            "a container's death to its successor",
            &seconds(&floor.replace),
            |s| seconds(&s.replace),
        );
        self.row(
            &mut text,
            "a manifest's removal to its container's end",
            &seconds(&floor.remove),
            |s| seconds(&s.remove),
        );
        self.row(&mut text, "agent's start to its first pod", "", |s| {
            seconds(&s.first_pod)
        });
        self.row(&mut text, "agent's start to all pods adopted", "", |s| {
            seconds(&s.adopt)
        });
        self.row(
            &mut text,
            "at rest with pods: thousandths of a core",
            "",
            |s| format!("{:.2}", s.idle_cpu),
        );
        self.row(
            &mut text,
            "at rest with pods: system calls a minute",
            "",
            |s| format!("{:.0}", s.idle_syscalls),
        );
        let writers = writers::PODS;
        self.row(
            &mut text,
            &format!("{writers} pods writing a line a second: thousandths of a core"),
            "",
            |s| format!("{:.2}", s.writing_cpu),
        );
        let counts: Vec<usize> = self
            .subjects
            .first()
            .map(|s| s.memory.keys().copied().collect())
            .unwrap_or_default();
        for pods in counts {
            let label = format!("MB resident with {pods} pods (anonymous + files + shared; PSS)");
            self.row(&mut text, &label, "", |s| {
                s.memory.get(&pods).map(megabytes).unwrap_or_default()
            });
        }
        self.row(&mut text, "binary, MB", "", |s| {
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let size = s.binary as f64 / 1e6;
            format!("{size:.1}")
        });
        text
    }

    fn row(
        &self,
        text: &mut String,
        what: &str,
        floor: &str,
        of: impl Fn(&SubjectReport) -> String,
    ) {
        let _ = write!(text, "| {what} | {floor} |");
        for subject in &self.subjects {
            let _ = write!(text, " {} |", of(subject));
        }
        text.push('\n');
    }
}

fn plain(spread: &Spread) -> String {
    let Spread {
        median,
        min,
        max,
        samples,
    } = *spread;
    if samples < 2 {
        return format!("{median:.2}");
    }
    format!("{median:.2} ({min:.2}–{max:.2})")
}

fn seconds(spread: &Spread) -> String {
    let Spread {
        median,
        min,
        max,
        samples,
    } = *spread;
    match samples {
        0 => String::new(),
        _ if median < 1.0 && samples > 1 => {
            format!("{:.0} ms ({:.0}–{:.0})", median * 1e3, min * 1e3, max * 1e3)
        }
        _ if median < 1.0 => format!("{:.0} ms", median * 1e3),
        1 => format!("{median:.2} s"),
        _ => format!("{median:.2} s ({min:.2}–{max:.2})"),
    }
}

fn megabytes(memory: &Memory) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mb = |kilobytes: u64| kilobytes as f64 / 1024.0;
    format!(
        "{:.1} ({:.1} + {:.1} + {:.1}; {:.1})",
        mb(memory.rss),
        mb(memory.anon),
        mb(memory.file),
        mb(memory.shmem),
        mb(memory.pss)
    )
}
