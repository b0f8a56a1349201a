//! The order of one run: interleaved pairs of the floor and each kubelet, so that a machine that slows down slows all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::events::TaskEvents;
use super::floor::{Ask, Floor};
use super::report::{FloorReport, Report, SubjectReport};
use super::sample::{Burst, Spread};
use super::subject::Subject;
use super::writers;

/// The widths that the floor is tried at, besides all at once.
const WIDTHS: [usize; 3] = [2, 4, 8];

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of bursts and how often each is repeated.
    pub bursts: Vec<(usize, usize)>,
    /// Containers killed, and manifests removed.
    pub singles: usize,
    /// How long an agent at rest is watched.
    pub idle: Duration,
    /// With how many pods an agent at rest is watched, and how many it adopts.
    pub crowd: usize,
}

impl Plan {
    /// Everything; minutes for each kubelet.
    #[must_use]
    pub fn full() -> Self {
        Self {
            bursts: vec![(1, 5), (10, 5), (50, 3), (110, 1)],
            singles: 7,
            // One of the agent's relists, which are 75 s apart.
            idle: Duration::from_secs(75),
            crowd: 50,
        }
    }

    /// One size of burst, and nothing else.
    #[must_use]
    pub fn burst(pods: usize) -> Self {
        Self {
            bursts: vec![(pods, 5)],
            singles: 0,
            idle: Duration::ZERO,
            crowd: 0,
        }
    }

    /// A look, in a minute or two.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            bursts: vec![(1, 3), (10, 3), (50, 1)],
            singles: 3,
            idle: Duration::from_secs(15),
            crowd: 50,
        }
    }
}

/// Measures `subjects` and the floor.
///
/// # Errors
/// The first thing that did not come to pass.
pub async fn run(
    plan: &Plan,
    floor: &Floor,
    events: &TaskEvents,
    subjects: &mut [Subject<'_>],
) -> Result<Report> {
    let mut report = Report {
        machine: super::report::Machine::read()?,
        floor: FloorReport::default(),
        subjects: Vec::new(),
    };
    for subject in &*subjects {
        report.subjects.push(SubjectReport {
            name: subject.name.clone(),
            binary: subject.binary_size()?,
            ..SubjectReport::default()
        });
    }
    idle_and_empty(subjects, &mut report).await?;
    for (pods, repeats) in &plan.bursts {
        bursts(
            plan,
            (*pods, *repeats),
            floor,
            events,
            subjects,
            &mut report,
        )
        .await?;
    }
    if plan.singles > 0 {
        singles(plan, floor, events, subjects, &mut report).await?;
        starts(plan, events, subjects, &mut report).await?;
        for (subject, found) in subjects.iter_mut().zip(&mut report.subjects) {
            say(&format!("{}: pods that write", subject.name));
            found.writing_cpu = writers::measure(subject, events, plan.idle).await?;
        }
    }
    Ok(report)
}

fn say(text: &str) {
    eprintln!("bench: {text}");
}

async fn idle_and_empty(subjects: &[Subject<'_>], report: &mut Report) -> Result<()> {
    for (subject, found) in subjects.iter().zip(&mut report.subjects) {
        say(&format!("{}: at rest without pods", subject.name));
        subject.start().await?;
        found.memory.insert(0, subject.memory_at_rest().await?);
        subject.end().await?;
    }
    Ok(())
}

async fn bursts(
    plan: &Plan,
    (pods, repeats): (usize, usize),
    floor: &Floor,
    events: &TaskEvents,
    subjects: &mut [Subject<'_>],
    report: &mut Report,
) -> Result<()> {
    let width = best_width(floor, events, pods).await?;
    let mut floors = Vec::new();
    let mut secured_floors = Vec::new();
    let mut totals: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut ratios = totals.clone();
    let mut seccomp_ratios = totals.clone();
    let mut cpu = totals.clone();
    for repeat in 0..repeats {
        let (base, _) = floor.burst(events, pods, width, Ask::Bare).await?;
        say(&format!("{pods} pods, floor: {:.2} s", base.total()));
        floor.clear().await?;
        floors.push(base.total());
        let (secured, _) = floor.burst(events, pods, width, Ask::Seccomp).await?;
        say(&format!(
            "{pods} pods, floor with seccomp: {:.2} s",
            secured.total()
        ));
        floor.clear().await?;
        secured_floors.push(secured.total());
        if repeat == 0 {
            report.floor.timelines.insert(pods, base.started.clone());
        }
        for (index, subject) in subjects.iter_mut().enumerate() {
            subject.start().await?;
            let before = subject.cpu_time()?;
            let burst = subject.burst(events, pods).await?;
            cpu[index].push((subject.cpu_time()? - before).as_secs_f64());
            totals[index].push(burst.total());
            ratios[index].push(burst.total() / base.total());
            seccomp_ratios[index].push(burst.total() / secured.total());
            say(&format!(
                "{pods} pods, {}: {:.2} s, {:.2} times the floor",
                subject.name,
                burst.total(),
                burst.total() / base.total()
            ));
            let found = &mut report.subjects[index];
            if repeat + 1 == repeats {
                if pods > 1 {
                    found.memory.insert(pods, subject.memory_at_rest().await?);
                }
                if pods == plan.crowd {
                    at_rest(plan, subject, found).await?;
                }
                timeline(found, pods, burst);
            }
            subject.end().await?;
        }
    }
    report.floor.bursts.insert(pods, Spread::of(&floors));
    let secured = Spread::of(&secured_floors);
    report.floor.seccomp_bursts.insert(pods, secured);
    report.floor.widths.insert(pods, width);
    for (index, found) in report.subjects.iter_mut().enumerate() {
        found.bursts.insert(pods, Spread::of(&totals[index]));
        found.ratios.insert(pods, Spread::of(&ratios[index]));
        let seccomp_ratios = Spread::of(&seccomp_ratios[index]);
        found.seccomp_ratios.insert(pods, seccomp_ratios);
        found.burst_cpu.insert(pods, Spread::of(&cpu[index]));
    }
    Ok(())
}

fn timeline(found: &mut SubjectReport, pods: usize, burst: Burst) {
    found.timelines.insert(pods, burst.started);
}

/// The number in flight at which bare calls are quickest.
async fn best_width(floor: &Floor, events: &TaskEvents, pods: usize) -> Result<usize> {
    let mut widths: BTreeMap<usize, f64> = BTreeMap::new();
    let tried: Vec<usize> = WIDTHS
        .into_iter()
        .chain([pods])
        .filter(|w| *w <= pods)
        .collect();
    // Twice each, not in a row: one slow moment of the machine decides nothing.
    for width in tried.iter().chain(&tried).copied() {
        let (burst, _) = floor.burst(events, pods, width, Ask::Bare).await?;
        floor.clear().await?;
        let best = widths.entry(width).or_insert(f64::INFINITY);
        *best = best.min(burst.total());
        say(&format!(
            "{pods} pods, floor, {width} in flight: {:.2} s",
            burst.total()
        ));
    }
    let best = widths.iter().min_by(|a, b| a.1.total_cmp(b.1));
    Ok(*best.context("no width")?.0)
}

async fn at_rest(plan: &Plan, subject: &Subject<'_>, found: &mut SubjectReport) -> Result<()> {
    say(&format!(
        "{}: at rest with {} pods",
        subject.name, plan.crowd
    ));
    found.idle_cpu = subject.idle_cpu(plan.idle).await?;
    found.idle_syscalls = subject.idle_syscalls(plan.idle).await?;
    Ok(())
}

/// Deaths and removals, one at a time.
async fn singles(
    plan: &Plan,
    floor: &Floor,
    events: &TaskEvents,
    subjects: &mut [Subject<'_>],
    report: &mut Report,
) -> Result<()> {
    let (_, mut made) = floor.burst(events, plan.singles, 2, Ask::Bare).await?;
    let mut replaced = Vec::new();
    let mut removed = Vec::new();
    for pod in &mut made {
        replaced.push(floor.replace(events, pod).await?);
        removed.push(floor.stop(events, pod).await?);
    }
    floor.clear().await?;
    report.floor.replace = Spread::of_durations(&replaced);
    report.floor.remove = Spread::of_durations(&removed);
    for (subject, found) in subjects.iter_mut().zip(&mut report.subjects) {
        say(&format!("{}: deaths and removals", subject.name));
        subject.start().await?;
        subject.burst(events, plan.singles).await?;
        let mut replaced = Vec::new();
        for container in floor.running().await? {
            replaced.push(subject.replace(events, &container).await?);
        }
        let mut removed = Vec::new();
        for _ in 0..plan.singles {
            removed.push(subject.remove(events).await?);
        }
        found.replace = Spread::of_durations(&replaced);
        found.remove = Spread::of_durations(&removed);
        subject.end().await?;
    }
    Ok(())
}

/// Starts of the agent: with one pod to start, and with many to adopt.
async fn starts(
    plan: &Plan,
    events: &TaskEvents,
    subjects: &mut [Subject<'_>],
    report: &mut Report,
) -> Result<()> {
    for (subject, found) in subjects.iter_mut().zip(&mut report.subjects) {
        say(&format!("{}: starts", subject.name));
        let mut first = Vec::new();
        for _ in 0..plan.singles.min(3) {
            first.push(subject.first_pod(events).await?);
            subject.end().await?;
        }
        found.first_pod = Spread::of_durations(&first);
        subject.start().await?;
        subject.burst(events, plan.crowd).await?;
        let mut adopt = Vec::new();
        for _ in 0..plan.singles.min(3) {
            adopt.push(subject.adopt(events, plan.crowd).await?);
        }
        found.adopt = Spread::of_durations(&adopt);
        subject.end().await?;
    }
    Ok(())
}
