//! The agent's own process, as Prometheus' client libraries tell of it.

use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;

use crate::metrics::{Exposition, Family, float};

/// Clock ticks a second in `/proc` (`USER_HZ`): 100 on every architecture that Linux keeps.
const TICKS: f64 = 100.0;

const CPU: Family = Family::counter(
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds.",
);
const MAX_FILES: Family = Family::gauge(
    "process_max_fds",
    "Maximum number of open file descriptors.",
);
const OPEN_FILES: Family = Family::gauge("process_open_fds", "Number of open file descriptors.");
const RESIDENT: Family = Family::gauge(
    "process_resident_memory_bytes",
    "Resident memory size in bytes.",
);
const START: Family = Family::gauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
);
/// The same as the endpoints tell it that have nothing else of the process.
const START_ALONE: Family = Family::gauge(
    "process_start_time_seconds",
    "[ALPHA] Start time of the process since unix epoch in seconds.",
);
const VIRTUAL: Family = Family::gauge(
    "process_virtual_memory_bytes",
    "Virtual memory size in bytes.",
);
const VIRTUAL_MAX: Family = Family::gauge(
    "process_virtual_memory_max_bytes",
    "Maximum amount of virtual memory available in bytes.",
);

/// Writes all of it.
pub(super) fn write(out: &mut Exposition) {
    let own = Path::new("/proc/self");
    let text = |name: &str| std::fs::read_to_string(own.join(name)).unwrap_or_default();
    let stat = text("stat");
    let limits = text("limits");
    if let Some(stat) = Stat::parse(&stat) {
        out.single(CPU, float(stat.ticks) / TICKS);
        if let Some(most) = limit(&limits, "Max open files") {
            out.single(MAX_FILES, most);
        }
        if let Ok(files) = std::fs::read_dir(own.join("fd")) {
            // The directory itself is open while it is read.
            let open = u64::try_from(files.count()).unwrap_or(u64::MAX);
            out.single(OPEN_FILES, float(open.saturating_sub(1)));
        }
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let resident = stat.resident_pages.saturating_mul(page);
        out.single(RESIDENT, float(resident));
        if let Some(start) = start() {
            out.single(START, start);
        }
        out.single(VIRTUAL, float(stat.virtual_bytes));
        if let Some(most) = limit(&limits, "Max address space") {
            out.single(VIRTUAL_MAX, most);
        }
    }
}

/// Writes when it began.
pub(super) fn write_start(out: &mut Exposition) {
    if let Some(start) = start() {
        out.single(START_ALONE, start);
    }
}

/// When it began, whole seconds since the epoch.
pub(super) fn start_seconds() -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time of this century, rounded as upstream rounds it"
    )]
    start().map(|seconds| seconds.round() as u64)
}

/// When it began, to a whole second.
pub(in crate::server) fn started_at() -> Option<Timestamp> {
    let seconds = i64::try_from(start_seconds()?).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// When it began, seconds since the epoch.
fn start() -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let system = std::fs::read_to_string("/proc/stat").ok()?;
        let mut lines = system.lines();
        let booted: u64 =
            lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
        Some(float(booted) + float(Stat::parse(&stat)?.began) / TICKS)
    })
}

/// Of `/proc/self/stat`.
struct Stat {
    ticks: u64,
    /// Ticks after the machine was booted.
    began: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// The name of the program, in parentheses, may have anything in it.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.rsplit_once(')')?.1;
        // The state is the third field of all, and the first here.
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            began: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// A soft limit of `/proc/self/limits`; Go has the highest number there is for none.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(float(u64::MAX)),
        number => Some(float(number.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_have_parentheses() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 13 14 20 0 9 0 4242 1000000 77 18446744073709551615 1";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.ticks, stat.began), (400, 4242));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (1_000_000, 77));
    }

    #[test]
    fn no_limit_is_the_highest_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            20000                30000                files     \n\
            Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(20000.0));
        assert_eq!(limit(limits, "Max address space"), Some(float(u64::MAX)));
        assert_eq!(limit(limits, "Max nothing"), None);
    }

    #[test]
    fn this_process_has_begun() {
        let start = start_seconds().unwrap();
        assert!(start > 1_577_836_800, "after 2020: {start}");
    }
}
