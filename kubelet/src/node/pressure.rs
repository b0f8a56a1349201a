//! What is short on the node: signals against the eviction thresholds of the configuration. Pure but for [`Signals::read`].
//!
//! Signals and thresholds are those of the Kubernetes document "Node-pressure Eviction"; how each is measured follows
//! upstream's `pkg/kubelet/eviction`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use static_pods::quantity::Quantity;

use super::machine::meminfo_bytes;
use crate::config::EvictionConfig;

/// What is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Bytes or inodes of a file system.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// How much there is of something, and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// All of it.
    pub capacity: u64,
    /// What is left.
    pub available: u64,
}

/// Which condition a signal belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Memory,
    Disk,
    Pid,
}

/// What was measured, by signal; one that could not be is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals(BTreeMap<&'static str, Amount>);

impl Signals {
    /// Measures. `root` is the agent's directory (nodefs), `images` one on the file system of images.
    #[must_use]
    pub fn read(root: &Path, images: Option<&Path>) -> Self {
        let mut signals = Self::default();
        signals.put("memory.available", memory());
        signals.put("pid.available", pids());
        signals.disk(root, "nodefs.available", "nodefs.inodesFree");
        if let Some(images) = images {
            signals.disk(images, "imagefs.available", "imagefs.inodesFree");
        }
        signals
    }

    /// One signal.
    pub fn put(&mut self, signal: &'static str, amount: Option<Amount>) {
        if let Some(amount) = amount {
            self.0.insert(signal, amount);
        }
    }

    fn disk(&mut self, path: &Path, bytes: &'static str, inodes: &'static str) {
        let Ok(stat) = rustix::fs::statvfs(path) else {
            return;
        };
        let amount = |capacity, available| Amount {
            capacity,
            available,
        };
        let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        self.put(
            bytes,
            Some(amount(size(stat.f_blocks), size(stat.f_bavail))),
        );
        // A file system that makes inodes as it needs them says that it has none.
        let has_inodes = stat.f_files > 0;
        let free = amount(stat.f_files, stat.f_ffree);
        self.put(inodes, has_inodes.then_some(free));
    }
}

/// Memory less the working set: what is used, without the pages of files that nobody used of late.
fn memory() -> Option<Amount> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo")?;
    let capacity = meminfo_bytes(&meminfo, "MemTotal")?;
    let v1 = "/sys/fs/cgroup/memory";
    let used = match read(&format!("{v1}/memory.usage_in_bytes")) {
        Some(usage) => (
            usage.trim().parse().ok()?,
            stat_bytes(&read(&format!("{v1}/memory.stat"))?, "total_inactive_file"),
        ),
        // The root of cgroup v2 has no `memory.current`.
        None => (
            capacity.saturating_sub(meminfo_bytes(&meminfo, "MemFree")?),
            match read("/sys/fs/cgroup/memory.stat") {
                Some(stat) => stat_bytes(&stat, "inactive_file"),
                None => meminfo_bytes(&meminfo, "Inactive(file)"),
            },
        ),
    };
    let (usage, inactive): (u64, Option<u64>) = used;
    let working_set = usage.saturating_sub(inactive.unwrap_or(0));
    Some(Amount {
        capacity,
        available: capacity.saturating_sub(working_set),
    })
}

/// A line of a cgroup's `memory.stat`.
fn stat_bytes(stat: &str, name: &str) -> Option<u64> {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    let (_, bytes) = lines.find(|(key, _)| *key == name)?;
    bytes.trim().parse().ok()
}

/// Process ids: the kernel's most, and those not taken (`/proc/loadavg` counts threads).
fn pids() -> Option<Amount> {
    let capacity = super::machine::max_pids()?;
    let loads = std::fs::read_to_string("/proc/loadavg").ok()?;
    let taken: u64 = loads
        .split_whitespace()
        .nth(3)?
        .split_once('/')?
        .1
        .parse()
        .ok()?;
    Some(Amount {
        capacity,
        available: capacity.saturating_sub(taken),
    })
}

/// Where something begins to be short.
#[derive(Clone, Debug, PartialEq)]
enum Limit {
    Amount(u64),
    Part(f64),
}

/// The thresholds, and what of them was crossed when.
#[derive(Clone, Debug)]
pub struct Thresholds {
    limits: Vec<(String, Limit)>,
    transition: Duration,
    /// When each was last short, by the monotonic clock.
    short: [Option<Duration>; 3],
}

impl Thresholds {
    /// Those of the configuration, hard and soft. Texts that are no quantities count as nothing: it was checked.
    #[must_use]
    pub fn new(config: &EvictionConfig) -> Self {
        let limits = config.hard.iter().chain(&config.soft);
        let limits = limits.filter_map(|(signal, text)| Some((signal.clone(), limit(text)?)));
        Self {
            limits: limits.collect(),
            transition: config.pressure_transition,
            short: [None; 3],
        }
    }

    /// What is short at `now`. A condition stays for `evictionPressureTransitionPeriod` after it was last so.
    pub fn judge(&mut self, signals: &Signals, now: Duration) -> Pressure {
        for (signal, limit) in &self.limits {
            let Some(amount) = signals.0.get(signal.as_str()) else {
                continue;
            };
            if amount.available < limit.of(amount.capacity)
                && let Some(of) = condition_of(signal)
            {
                self.short[of as usize] = Some(now);
            }
        }
        let is_short = |of: Of| match self.short[of as usize] {
            Some(last) => last == now || now.saturating_sub(last) < self.transition,
            None => false,
        };
        Pressure {
            memory: is_short(Of::Memory),
            disk: is_short(Of::Disk),
            pid: is_short(Of::Pid),
        }
    }
}

impl Limit {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a percentage of an amount, cut off as upstream does"
    )]
    fn of(&self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => *amount,
            Self::Part(part) => (capacity as f64 * part) as u64,
        }
    }
}

fn limit(text: &str) -> Option<Limit> {
    match text.strip_suffix('%') {
        Some(percentage) => match percentage.parse::<f64>().ok()? {
            // Both switch the signal off.
            percentage if percentage <= 0.0 || percentage >= 100.0 => None,
            percentage => Some(Limit::Part(percentage / 100.0)),
        },
        None => {
            let amount = Quantity::parse_amount(text).ok()?.value();
            u64::try_from(amount).ok().map(Limit::Amount)
        }
    }
}

fn condition_of(signal: &str) -> Option<Of> {
    match signal {
        "memory.available" => Some(Of::Memory),
        "pid.available" => Some(Of::Pid),
        "nodefs.available" | "nodefs.inodesFree" | "imagefs.available" | "imagefs.inodesFree" => {
            Some(Of::Disk)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hard: &[(&str, &str)], transition: u64) -> EvictionConfig {
        let texts = hard.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        EvictionConfig {
            hard: texts.collect(),
            soft: BTreeMap::new(),
            soft_grace_period: BTreeMap::new(),
            minimum_reclaim: BTreeMap::new(),
            pressure_transition: Duration::from_secs(transition),
            max_pod_grace_seconds: None,
        }
    }

    fn signals(all: &[(&'static str, u64, u64)]) -> Signals {
        let mut signals = Signals::default();
        for &(signal, capacity, available) in all {
            let amount = Amount {
                capacity,
                available,
            };
            signals.put(signal, Some(amount));
        }
        signals
    }

    #[test]
    fn what_is_below_its_threshold_is_short_for_the_transition_period() {
        let config = config(
            &[
                ("memory.available", "100Mi"),
                ("nodefs.inodesFree", "5%"),
                ("pid.available", "0%"),
            ],
            300,
        );
        let mut thresholds = Thresholds::new(&config);
        let at = Duration::from_secs;
        let mebi = 1 << 20;
        let well = signals(&[
            ("memory.available", 1 << 30, 100 * mebi),
            ("nodefs.inodesFree", 1000, 50),
            ("pid.available", 100, 0),
        ]);
        assert_eq!(thresholds.judge(&well, at(0)), Pressure::default());
        let short = signals(&[
            ("memory.available", 1 << 30, 100 * mebi - 1),
            ("nodefs.inodesFree", 1000, 49),
        ]);
        let pressure = Pressure {
            memory: true,
            disk: true,
            pid: false,
        };
        assert_eq!(thresholds.judge(&short, at(10)), pressure);
        assert_eq!(thresholds.judge(&well, at(309)), pressure, "it stays");
        assert_eq!(thresholds.judge(&well, at(310)), Pressure::default());
    }

    #[test]
    fn without_a_transition_period_it_is_over_at_once() {
        let mut thresholds = Thresholds::new(&config(&[("imagefs.available", "15%")], 0));
        let at = Duration::from_secs;
        let judged = thresholds.judge(&signals(&[("imagefs.available", 100, 14)]), at(1));
        assert!(judged.disk);
        let judged = thresholds.judge(&signals(&[("imagefs.available", 100, 15)]), at(2));
        assert!(!judged.disk);
    }

    #[test]
    fn this_machine_can_be_measured() {
        let signals = Signals::read(Path::new("/"), Some(Path::new("/tmp")));
        for signal in [
            "memory.available",
            "pid.available",
            "nodefs.available",
            "imagefs.available",
        ] {
            let amount = signals.0[signal];
            assert!(
                amount.available <= amount.capacity && amount.capacity > 0,
                "{signal}"
            );
            assert!(amount.available > 0, "{signal}");
        }
    }
}
