//! What the kernel counts of one cgroup.
//!
//! Which file is which number follows upstream's cAdvisor and runc; the files are those of the kernel's documents
//! `admin-guide/cgroup-v1` and `admin-guide/cgroup-v2`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::level::Level;
use super::machine::Meminfo;
use crate::cgroups::Version;

/// Ticks of `cpuacct.stat` a second (`USER_HZ`): 100 on every architecture that Linux keeps.
const NANOS_PER_TICK: u64 = 1_000_000_000 / 100;
const NANOS_PER_MICRO: u64 = 1000;
/// A limit above this is none: what version 1 writes for it depends on the size of a page.
const UNLIMITED: u64 = 1 << 62;

/// What is read besides processor and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Limits of the processor, throttling, disks, counts of processes.
    pub(super) all: bool,
    /// How long work had to wait (PSI).
    pub(super) pressure: bool,
}

/// What the kernel counts of one cgroup. What it does not count is not there, or zero where upstream has zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// When it was read.
    pub at: Timestamp,
    /// The processor.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// How long work had to wait; none where the kernel does not tell (version 1).
    pub pressure: Option<Pressure>,
    /// Bytes and requests of disks, by device.
    pub disks: Vec<DiskTraffic>,
    /// Threads and processes, all below included.
    pub threads: Option<u64>,
    /// The most of them; none where nothing limits them.
    pub threads_most: Option<u64>,
    /// When the cgroup was made, seconds since the epoch.
    pub made_at: Option<i64>,
}

/// Use of the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it, nanoseconds.
    pub usage_nanos: u64,
    /// In programs.
    pub user_nanos: u64,
    /// In the kernel.
    pub system_nanos: u64,
    /// `cpu.shares`, or the weight of version 2 as shares.
    pub shares: Option<u64>,
    /// Microseconds a period; none where there is no quota.
    pub quota_micros: Option<u64>,
    /// Microseconds.
    pub period_micros: Option<u64>,
    /// What came of the quota.
    pub throttling: Throttling,
}

/// What came of a quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which something ran.
    pub periods: u64,
    /// Those in which it had to stop.
    pub throttled_periods: u64,
    /// For how long, nanoseconds.
    pub throttled_nanos: u64,
    /// Periods with more than the quota, from what was saved.
    pub bursts: u64,
    /// By how much, nanoseconds.
    pub burst_nanos: u64,
}

/// Use of memory, bytes unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub usage: u64,
    /// The most there ever was.
    pub most: u64,
    /// Without the pages of files that nobody used of late.
    pub working_set: u64,
    /// Pages of files.
    pub cache: u64,
    /// Anonymous pages.
    pub rss: u64,
    /// On swap.
    pub swap: u64,
    /// Pages of files that are mapped.
    pub mapped: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// Pages of files in use.
    pub active_file: u64,
    /// Pages of files that nobody used of late.
    pub inactive_file: u64,
    /// How often a limit was met.
    pub limit_hits: u64,
    /// Page faults.
    pub faults: u64,
    /// Those that read from a disk.
    pub major_faults: u64,
    /// How often something was killed for want of memory.
    pub oom_kills: u64,
    /// The most there may be; none without a limit.
    pub limit: Option<u64>,
    /// The soft limit, `memory.low` on version 2.
    pub reservation: Option<u64>,
    /// The most there may be on swap (version 2), or in both (version 1), as upstream.
    pub swap_limit: Option<u64>,
}

/// How long work had to wait for the three.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// For the processor.
    pub cpu: Stalls,
    /// For memory.
    pub memory: Stalls,
    /// For disks.
    pub io: Stalls,
}

/// Pressure stall information (`accounting/psi` of the kernel's documents).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stalls {
    /// Some tasks waited.
    pub some: Stall,
    /// All of them.
    pub full: Stall,
}

/// One line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Microseconds.
    pub total_micros: u64,
    /// Percent over ten seconds,
    pub avg10: f64,
    /// a minute,
    pub avg60: f64,
    /// five minutes.
    pub avg300: f64,
}

/// What went to and from a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskTraffic {
    /// `major:minor`.
    pub device: String,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Requests.
    pub writes: u64,
}

/// Reads the numbers of `level`. `machine` stands in for files that the root of version 2 does not have.
pub(super) fn read(
    level: &Level<'_>,
    at: Timestamp,
    parts: Parts,
    machine: Option<&Meminfo>,
) -> Numbers {
    let (cpu, memory) = match level.version() {
        Version::V1 => (cpu_v1(level, parts.all), memory_v1(level, parts.all)),
        Version::V2 => (
            cpu_v2(level, parts.all),
            memory_v2(level, parts.all, machine),
        ),
    };
    let disks = match (parts.all, level.version()) {
        (false, _) => Vec::new(),
        (true, Version::V1) => disks_v1(level),
        (true, Version::V2) => disks_v2(&level.read("io", "io.stat").unwrap_or_default()),
    };
    let tells = parts.pressure && level.version() == Version::V2;
    let pressure = tells.then(|| pressure(level)).flatten();
    let count = |file| {
        let wanted = parts.all.then_some(file);
        wanted.and_then(|file| level.number("pids", file))
    };
    Numbers {
        at,
        cpu,
        memory,
        pressure,
        disks,
        threads: count("pids.current"),
        threads_most: count("pids.max"),
        made_at: parts.all.then(|| level.made_at()).flatten(),
    }
}

/// Lines of a word and a number.
struct Keyed<'a>(BTreeMap<&'a str, u64>);

impl<'a> Keyed<'a> {
    fn parse(text: &'a str) -> Self {
        let pairs = text.lines().filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key, value.trim().parse().ok()?))
        });
        Self(pairs.collect())
    }

    fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

fn below_unlimited(limit: Option<u64>) -> Option<u64> {
    limit.filter(|limit| *limit < UNLIMITED)
}

fn cpu_v1(level: &Level<'_>, all: bool) -> Option<Cpu> {
    let usage_nanos = level.number("cpuacct", "cpuacct.usage")?;
    let mut cpu = Cpu {
        usage_nanos,
        ..Cpu::default()
    };
    if all {
        let text = level.read("cpuacct", "cpuacct.stat").unwrap_or_default();
        let ticks = Keyed::parse(&text);
        cpu.user_nanos = ticks.get("user").saturating_mul(NANOS_PER_TICK);
        cpu.system_nanos = ticks.get("system").saturating_mul(NANOS_PER_TICK);
        cpu.shares = level.number("cpu", "cpu.shares");
        // -1 is no number here, and no quota.
        cpu.quota_micros = level.number("cpu", "cpu.cfs_quota_us");
        cpu.period_micros = level.number("cpu", "cpu.cfs_period_us");
        let text = level.read("cpu", "cpu.stat").unwrap_or_default();
        let stat = Keyed::parse(&text);
        cpu.throttling = Throttling {
            periods: stat.get("nr_periods"),
            throttled_periods: stat.get("nr_throttled"),
            throttled_nanos: stat.get("throttled_time"),
            bursts: stat.get("nr_bursts"),
            burst_nanos: stat.get("burst_time"),
        };
    }
    Some(cpu)
}

fn cpu_v2(level: &Level<'_>, all: bool) -> Option<Cpu> {
    let text = level.read("cpu", "cpu.stat")?;
    let stat = Keyed::parse(&text);
    let nanos = |key| stat.get(key).saturating_mul(NANOS_PER_MICRO);
    let mut cpu = Cpu {
        usage_nanos: nanos("usage_usec"),
        user_nanos: nanos("user_usec"),
        system_nanos: nanos("system_usec"),
        throttling: Throttling {
            periods: stat.get("nr_periods"),
            throttled_periods: stat.get("nr_throttled"),
            throttled_nanos: nanos("throttled_usec"),
            bursts: stat.get("nr_bursts"),
            burst_nanos: nanos("burst_usec"),
        },
        ..Cpu::default()
    };
    if all {
        cpu.shares = level.number("cpu", "cpu.weight").map(shares_of_weight);
        let text = level.read("cpu", "cpu.max").unwrap_or_default();
        let mut words = text.split_whitespace();
        cpu.quota_micros = words.next().and_then(|quota| quota.parse().ok());
        cpu.period_micros = words.next().and_then(|period| period.parse().ok());
    }
    Some(cpu)
}

/// The shares of version 1 that upstream shows for a weight of version 2 (KEP-2254's formula, the other way round).
fn shares_of_weight(weight: u64) -> u64 {
    2 + weight.saturating_sub(1).saturating_mul(262_142) / 9_999
}

fn memory_v1(level: &Level<'_>, all: bool) -> Option<Memory> {
    let usage = level.number("memory", "memory.usage_in_bytes")?;
    let text = level.read("memory", "memory.stat").unwrap_or_default();
    let stat = Keyed::parse(&text);
    let inactive_file = stat.get("total_inactive_file");
    let number = |file| level.number("memory", file);
    let mut memory = Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        cache: stat.get("total_cache"),
        rss: stat.get("total_rss"),
        swap: stat.get("total_swap"),
        mapped: stat.get("total_mapped_file"),
        active_file: stat.get("total_active_file"),
        inactive_file,
        // Those of the cgroup itself, as upstream.
        faults: stat.get("pgfault"),
        major_faults: stat.get("pgmajfault"),
        limit: below_unlimited(number("memory.limit_in_bytes")),
        swap_limit: below_unlimited(number("memory.memsw.limit_in_bytes")),
        ..Memory::default()
    };
    if all {
        memory.most = number("memory.max_usage_in_bytes").unwrap_or(0);
        memory.kernel = number("memory.kmem.usage_in_bytes").unwrap_or(0);
        memory.limit_hits = number("memory.failcnt").unwrap_or(0);
        memory.reservation = below_unlimited(number("memory.soft_limit_in_bytes"));
        let text = level.read("memory", "memory.oom_control");
        memory.oom_kills = Keyed::parse(&text.unwrap_or_default()).get("oom_kill");
    }
    Some(memory)
}

fn memory_v2(level: &Level<'_>, all: bool, machine: Option<&Meminfo>) -> Option<Memory> {
    let number = |file| level.number("memory", file);
    // The root has no such file, and is all that the machine uses.
    let usage = match (number("memory.current"), machine) {
        (Some(usage), _) => usage,
        (None, Some(machine)) => machine.total.saturating_sub(machine.free),
        (None, None) => return None,
    };
    let text = level.read("memory", "memory.stat").unwrap_or_default();
    let stat = Keyed::parse(&text);
    let inactive_file = stat.get("inactive_file");
    let swap = number("memory.swap.current");
    let mut memory = Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        cache: stat.get("file"),
        rss: stat.get("anon"),
        swap: swap
            .or(machine.map(|machine| machine.swap_total.saturating_sub(machine.swap_free)))
            .unwrap_or(0),
        mapped: stat.get("file_mapped"),
        kernel: stat.get("kernel"),
        active_file: stat.get("active_file"),
        inactive_file,
        faults: stat.get("pgfault"),
        major_faults: stat.get("pgmajfault"),
        limit: below_unlimited(number("memory.max")),
        swap_limit: below_unlimited(number("memory.swap.max")),
        ..Memory::default()
    };
    if all {
        memory.most = number("memory.peak").unwrap_or(0);
        memory.reservation = below_unlimited(number("memory.low"));
        let text = level.read("memory", "memory.events").unwrap_or_default();
        let events = Keyed::parse(&text);
        memory.limit_hits = events.get("max");
        memory.oom_kills = events.get("oom_kill");
    }
    Some(memory)
}

fn pressure(level: &Level<'_>) -> Option<Pressure> {
    let read = |controller, file| stalls(&level.read(controller, file).unwrap_or_default());
    Some(Pressure {
        cpu: stalls(&level.read("cpu", "cpu.pressure")?),
        memory: read("memory", "memory.pressure"),
        io: read("io", "io.pressure"),
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
fn stalls(text: &str) -> Stalls {
    let mut stalls = Stalls::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let stall = match words.next() {
            Some("some") => &mut stalls.some,
            Some("full") => &mut stalls.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let average = || value.parse().unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = average(),
                "avg60" => stall.avg60 = average(),
                "avg300" => stall.avg300 = average(),
                "total" => stall.total_micros = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    stalls
}

/// `8:0 Read 4096` in two files.
fn disks_v1(level: &Level<'_>) -> Vec<DiskTraffic> {
    let mut disks: BTreeMap<String, DiskTraffic> = BTreeMap::new();
    let read = |what: &str| {
        let recursive = format!("blkio.throttle.{what}_recursive");
        let text = level.read("blkio", &recursive);
        text.or_else(|| level.read("blkio", &format!("blkio.throttle.{what}")))
            .unwrap_or_default()
    };
    for (is_bytes, text) in [
        (true, read("io_service_bytes")),
        (false, read("io_serviced")),
    ] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(kind), Some(count)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(count) = count.parse() else { continue };
            let disk = disks.entry(device.to_owned()).or_default();
            match (kind, is_bytes) {
                ("Read", true) => disk.read_bytes = count,
                ("Write", true) => disk.written_bytes = count,
                ("Read", false) => disk.reads = count,
                ("Write", false) => disk.writes = count,
                _ => {}
            }
        }
    }
    let named = disks
        .into_iter()
        .map(|(device, disk)| DiskTraffic { device, ..disk });
    named.collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn disks_v2(text: &str) -> Vec<DiskTraffic> {
    let disks = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let mut disk = DiskTraffic {
            device: words
                .next()
                .filter(|device| device.contains(':'))?
                .to_owned(),
            ..DiskTraffic::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let count = value.parse().unwrap_or(0);
            match key {
                "rbytes" => disk.read_bytes = count,
                "wbytes" => disk.written_bytes = count,
                "rios" => disk.reads = count,
                "wios" => disk.writes = count,
                _ => {}
            }
        }
        Some(disk)
    });
    disks.collect()
}
