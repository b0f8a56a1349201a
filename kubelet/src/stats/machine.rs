//! Numbers of the machine as a whole.

use std::path::Path;

/// Of `/proc/meminfo`, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meminfo {
    /// All memory.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// All swap.
    pub swap_total: u64,
    /// What of it nobody uses.
    pub swap_free: u64,
}

impl Meminfo {
    /// Reads it; zeros where the file has none.
    pub(super) fn read(proc: &Path) -> Self {
        Self::parse(&text(&proc.join("meminfo")))
    }

    fn parse(text: &str) -> Self {
        let bytes = |name| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kibibytes.map_or(0, |kibibytes: u64| kibibytes.saturating_mul(1024))
        };
        Self {
            total: bytes("MemTotal"),
            free: bytes("MemFree"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
        }
    }
}

/// When the machine was booted, seconds since the epoch (`btime` of `/proc/stat`).
pub(super) fn booted_at(proc: &Path) -> Option<i64> {
    let text = text(&proc.join("stat"));
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// How many processes and threads there are, of `/proc/loadavg`: `0.1 0.2 0.3 1/188 4242`.
pub(super) fn tasks(proc: &Path) -> Option<u64> {
    let text = text(&proc.join("loadavg"));
    let counts = text.split_whitespace().nth(3)?;
    counts.split_once('/')?.1.parse().ok()
}

/// What `/proc/diskstats` has of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Requests, requests that were joined with others, sectors, milliseconds.
    pub reads: [u64; 4],
    /// The same.
    pub writes: [u64; 4],
    /// Requests that go on.
    pub current: u64,
    /// Milliseconds in which any did.
    pub busy_millis: u64,
    /// The sum of their times, milliseconds.
    pub weighted_millis: u64,
}

/// The counts of the device called `name` (`vda`).
pub(super) fn disk_counts(proc: &Path, name: &str) -> Option<DiskCounts> {
    let text = text(&proc.join("diskstats"));
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(2);
        if words.next() != Some(name) {
            return None;
        }
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        let four = |at: usize| numbers.get(at..at + 4)?.try_into().ok();
        Some(DiskCounts {
            reads: four(0)?,
            writes: four(4)?,
            current: *numbers.get(8)?,
            busy_millis: *numbers.get(9)?,
            weighted_millis: *numbers.get(10)?,
        })
    })
}

/// What the device with these numbers (`8:0`) is called: `/dev/sda`. `sys` is `/sys`.
pub(super) fn device_name(sys: &Path, numbers: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b':';
    if !numbers.bytes().all(plain) {
        return None;
    }
    let text = text(&sys.join("dev/block").join(numbers).join("uevent"));
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

/// The numbers of the device that `path` lies on: `8:0`.
pub(super) fn device_of(path: &Path) -> Option<String> {
    let device = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Some(format!("{major}:{minor}"))
}

/// How many cores and sockets there are: physical cores, sockets (`/proc/cpuinfo`). A machine that does not say has one
/// socket, and as many cores as it has processors.
pub(crate) fn topology(proc: &Path, processors: usize) -> (usize, usize) {
    let text = text(&proc.join("cpuinfo"));
    let (mut cores, mut sockets) = (Vec::new(), Vec::new());
    let (mut socket, mut any) = ("", false);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "physical id" => {
                socket = value.trim();
                if !sockets.contains(&socket) {
                    sockets.push(socket);
                }
            }
            "core id" => {
                any = true;
                let core = (socket, value.trim());
                if !cores.contains(&core) {
                    cores.push(core);
                }
            }
            _ => {}
        }
    }
    match any {
        true => (cores.len(), sockets.len().max(1)),
        false => (processors, 1),
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn the_machines_own_files_are_understood() {
        let proc = proc_with(&[
            (
                "meminfo",
                "MemTotal:       24683656 kB\nMemFree:         100 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n",
            ),
            ("stat", "cpu  1 2 3\nbtime 1795238216\nprocesses 9\n"),
            ("loadavg", "2.43 1.65 1.25 3/188 9932\n"),
            (
                "diskstats",
                " 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 0 0\n 254 1 vda1 9 9 9 9 9 9 9 9 9 9 9\n",
            ),
            (
                "cpuinfo",
                "processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 0\n\n\
                 processor\t: 2\nphysical id\t: 1\ncore id\t\t: 0\n",
            ),
        ]);
        let path = proc.path();
        let meminfo = Meminfo::read(path);
        assert_eq!(meminfo.total, 25_276_063_744);
        assert_eq!((meminfo.swap_total, meminfo.swap_free), (8192, 4096));
        assert_eq!(booted_at(path), Some(1_795_238_216));
        assert_eq!(tasks(path), Some(188));
        let disk = disk_counts(path, "vda").unwrap();
        assert_eq!(disk.reads, [1, 2, 3, 4]);
        assert_eq!(
            (disk.writes[3], disk.current, disk.weighted_millis),
            (8, 9, 11)
        );
        assert_eq!(disk_counts(path, "sda"), None);
        assert_eq!(topology(path, 3), (2, 2));
        assert_eq!(topology(Path::new("/nowhere"), 4), (4, 1));
    }
}
