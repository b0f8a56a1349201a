//! What one level is limited to, and the files of the kernel that say so (cgroup-v1 and cgroup-v2 documents).

use std::collections::BTreeMap;

use super::hierarchy::{FILE_LIMIT, Version};
use super::memory_qos::{Kept, MEMORY_LOW, MEMORY_MIN};
use super::resources::{huge_page_name, weight};
use crate::dir::{Dir, DirError};

/// Limits of huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum HugePages {
    /// Left as they are.
    #[default]
    Untouched,
    /// As much as the parent has, for every size.
    Unbounded,
    /// Bytes by size of page in bytes; sizes that are absent are not to be used at all.
    Exactly(BTreeMap<u64, u64>),
}

/// The values of one level; `None` leaves what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) cpu_shares: Option<u64>,
    /// Microseconds a period, -1 for no limit.
    pub(super) cpu_quota: Option<i64>,
    /// Microseconds.
    pub(super) cpu_period: Option<i64>,
    pub(super) memory_bytes: Option<i64>,
    /// Version 2.
    pub(super) memory_kept: Kept,
    pub(super) pids: Option<i64>,
    /// The cpus of a level of version 2, as the kernel writes them: `0-3`.
    pub(super) cpus: Option<String>,
    pub(super) huge_pages: HugePages,
}

/// One file of a level and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
}

/// "No limit" that the hugetlb controllers of both versions take.
const UNBOUNDED: u64 = 1 << 62;

/// The files to write for `limits`, in the order in which the kernel takes them.
pub(super) fn settings(version: Version, limits: &Limits, page_sizes: &[u64]) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file: &str, value: String| {
        settings.push(Setting {
            controller,
            file: file.to_owned(),
            value,
        });
    };
    let v1 = version == Version::V1;
    if let Some(shares) = limits.cpu_shares {
        match v1 {
            true => set("cpu", "cpu.shares", shares.to_string()),
            false => set("cpu", "cpu.weight", weight(shares).to_string()),
        }
    }
    match (v1, limits.cpu_quota, limits.cpu_period) {
        (true, quota, period) => {
            if let Some(period) = period {
                set("cpu", "cpu.cfs_period_us", period.to_string());
            }
            if let Some(quota) = quota {
                set("cpu", "cpu.cfs_quota_us", quota.to_string());
            }
        }
        (false, Some(quota), period) => {
            let quota = match quota {
                ..=0 => "max".to_owned(),
                quota => quota.to_string(),
            };
            let value = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            set("cpu", "cpu.max", value);
        }
        (false, None, _) => {}
    }
    if let Some(bytes) = limits.memory_bytes {
        let file = if v1 {
            "memory.limit_in_bytes"
        } else {
            "memory.max"
        };
        set("memory", file, bytes.to_string());
    }
    for (file, kept) in [
        (MEMORY_MIN, limits.memory_kept.min),
        (MEMORY_LOW, limits.memory_kept.low),
    ] {
        if let (false, Some(bytes)) = (v1, kept) {
            set("memory", file, bytes.to_string());
        }
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", pids.to_string());
    }
    if let (false, Some(cpus)) = (v1, &limits.cpus) {
        set("cpuset", "cpuset.cpus", cpus.clone());
    }
    for &size in page_sizes {
        let bytes = match &limits.huge_pages {
            HugePages::Untouched => continue,
            HugePages::Unbounded => UNBOUNDED,
            HugePages::Exactly(sizes) => sizes.get(&size).copied().unwrap_or(0),
        };
        let suffix = if v1 { "limit_in_bytes" } else { "max" };
        let file = format!("hugetlb.{}.{suffix}", huge_page_name(size));
        set("hugetlb", &file, bytes.to_string());
    }
    settings
}

/// Whether the file has the value, or is one the kernel does not have.
pub(super) fn is_set(level: &Dir, setting: &Setting) -> Result<bool, DirError> {
    let present = level.read_file(&setting.file, FILE_LIMIT)?;
    Ok(present.is_none_or(|present| present.trim_ascii() == setting.value.as_bytes()))
}

/// Writes one setting unless the file already has it. A file the kernel does not have (a size of huge page of an
/// optional controller) is skipped.
pub(super) fn apply(level: &Dir, setting: &Setting) -> Result<(), DirError> {
    match is_set(level, setting)? {
        true => Ok(()),
        false => level.set(&setting.file, &setting.value).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Limits {
        Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_bytes: Some(1 << 20),
            memory_kept: Kept {
                min: Some(4096),
                low: Some(8192),
            },
            pids: Some(100),
            cpus: Some("0-1".into()),
            huge_pages: HugePages::Exactly([(2 << 20, 4 << 20)].into()),
        }
    }

    fn shown(version: Version, limits: &Limits) -> Vec<String> {
        settings(version, limits, &[2 << 20, 1 << 30])
            .iter()
            .map(|s| format!("{}: {}={}", s.controller, s.file, s.value))
            .collect()
    }

    #[test]
    fn files_of_version_1() {
        assert_eq!(
            shown(Version::V1, &pod()),
            [
                "cpu: cpu.shares=1024",
                "cpu: cpu.cfs_period_us=100000",
                "cpu: cpu.cfs_quota_us=50000",
                "memory: memory.limit_in_bytes=1048576",
                "pids: pids.max=100",
                "hugetlb: hugetlb.2MB.limit_in_bytes=4194304",
                "hugetlb: hugetlb.1GB.limit_in_bytes=0",
            ]
        );
    }

    #[test]
    fn files_of_version_2() {
        assert_eq!(
            shown(Version::V2, &pod()),
            [
                "cpu: cpu.weight=39",
                "cpu: cpu.max=50000 100000",
                "memory: memory.max=1048576",
                "memory: memory.min=4096",
                "memory: memory.low=8192",
                "pids: pids.max=100",
                "cpuset: cpuset.cpus=0-1",
                "hugetlb: hugetlb.2MB.max=4194304",
                "hugetlb: hugetlb.1GB.max=0",
            ]
        );
        let unlimited = Limits {
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            huge_pages: HugePages::Unbounded,
            ..Limits::default()
        };
        assert_eq!(
            shown(Version::V2, &unlimited),
            [
                "cpu: cpu.max=max 100000",
                "hugetlb: hugetlb.2MB.max=4611686018427387904",
                "hugetlb: hugetlb.1GB.max=4611686018427387904",
            ]
        );
    }

    #[test]
    fn nothing_to_set_writes_nothing() {
        assert!(shown(Version::V1, &Limits::default()).is_empty());
        assert!(shown(Version::V2, &Limits::default()).is_empty());
    }

    #[test]
    fn a_file_the_kernel_lacks_is_skipped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let setting = Setting {
            controller: "memory",
            file: "memory.max".into(),
            value: "5".into(),
        };
        apply(&dir, &setting).unwrap();
        assert!(dir.names().unwrap().is_empty());
        std::fs::write(temp.path().join("memory.max"), "7\n").unwrap();
        apply(&dir, &setting).unwrap();
        assert_eq!(
            std::fs::read(temp.path().join("memory.max")).unwrap(),
            b"5\n"
        );
    }
}
