//! What a level is limited to, in the properties of a slice (systemd.resource-control(5)).

use zbus::zvariant::Value;

use super::super::hierarchy::Version;
use super::super::levels::Limits;
use super::super::resources::weight;

/// What systemd takes for "no limit" in numbers of 64 bits.
const INFINITY: u64 = u64::MAX;
/// systemd keeps a quota in hundredths of a cpu: microseconds of each second.
const PERCENT: i64 = 10_000;
const SECOND: i64 = 1_000_000;
/// The kernel's CFS period, microseconds.
const PERIOD: i64 = 100_000;

/// A property of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Property {
    pub(super) name: &'static str,
    pub(super) value: Value<'static>,
    /// The systemd that has it first; an older one refuses the whole call.
    pub(super) since: u32,
}

impl Property {
    pub(super) fn new(name: &'static str, value: impl Into<Value<'static>>) -> Self {
        Self {
            name,
            value: value.into(),
            since: 0,
        }
    }

    fn since(self, since: u32) -> Self {
        Self { since, ..self }
    }
}

/// `limits` with its quota rounded up to what systemd can keep, hundredths of a cpu: otherwise the file and the
/// property would differ, and systemd write its own over ours one day.
pub(in super::super) fn whole_percent(limits: &Limits) -> Limits {
    let mut limits = limits.clone();
    if let Some(quota) = limits.cpu_quota.filter(|quota| *quota > 0) {
        let period = limits.cpu_period.unwrap_or(PERIOD);
        let rest = a_second(quota, period) % PERCENT;
        if rest != 0 {
            let rounded = a_second(quota, period) - rest + PERCENT;
            limits.cpu_quota = Some(rounded.saturating_mul(period) / SECOND);
        }
    }
    limits
}

/// Microseconds of each second.
fn a_second(quota: i64, period: i64) -> i64 {
    quota.saturating_mul(SECOND) / period.max(1)
}

/// The properties that say what `limits` say. Huge pages have none: there the files alone count.
pub(in super::super) fn properties(version: Version, limits: &Limits) -> Vec<Property> {
    let v1 = version == Version::V1;
    let number = |value: i64| u64::try_from(value).unwrap_or(INFINITY);
    let mut properties = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let name = if v1 { "MemoryLimit" } else { "MemoryMax" };
        properties.push(Property::new(name, number(bytes)));
    }
    let kept = limits.memory_kept;
    if let (false, Some(bytes)) = (v1, kept.min) {
        properties.push(Property::new("MemoryMin", number(bytes)).since(240));
    }
    if let (false, Some(bytes)) = (v1, kept.low) {
        properties.push(Property::new("MemoryLow", number(bytes)));
    }
    if let Some(shares) = limits.cpu_shares {
        properties.push(match v1 {
            true => Property::new("CPUShares", shares),
            false => Property::new("CPUWeight", weight(shares)),
        });
    }
    if let Some(period) = limits.cpu_period {
        properties.push(Property::new("CPUQuotaPeriodUSec", number(period)).since(242));
    }
    if let Some(quota) = limits.cpu_quota {
        let quota = match quota {
            ..=0 => INFINITY,
            quota => number(a_second(quota, limits.cpu_period.unwrap_or(PERIOD))),
        };
        properties.push(Property::new("CPUQuotaPerSecUSec", quota));
    }
    if let Some(pids) = limits.pids {
        // systemd takes no 0.
        properties.push(Property::new("TasksMax", number(pids).max(1)));
    }
    if let Some(cpus) = limits.cpus.as_deref().filter(|_| !v1) {
        properties.push(Property::new("AllowedCPUs", cpu_bits(cpus)).since(244));
    }
    properties
}

/// A list of cpus as the kernel writes it (`0-3,8`) as bits, cpu 0 the lowest of the first byte.
fn cpu_bits(list: &str) -> Vec<u8> {
    let mut bits = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            continue;
        };
        for cpu in first..=last {
            let byte = usize::from(cpu / 8);
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            bits[byte] |= 1 << (cpu % 8);
        }
    }
    bits
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
            pids: Some(100),
            cpus: Some("0-1".to_owned()),
            ..Limits::default()
        }
    }

    fn shown(version: Version, limits: &Limits) -> Vec<String> {
        properties(version, limits)
            .iter()
            .map(|p| format!("{} {:?} {}", p.name, p.value, p.since))
            .collect()
    }

    #[test]
    fn properties_of_version_1() {
        assert_eq!(
            shown(Version::V1, &pod()),
            [
                "MemoryLimit U64(1048576) 0",
                "CPUShares U64(1024) 0",
                "CPUQuotaPeriodUSec U64(100000) 242",
                "CPUQuotaPerSecUSec U64(500000) 0",
                "TasksMax U64(100) 0",
            ]
        );
    }

    #[test]
    fn properties_of_version_2() {
        let shown_v2 = shown(Version::V2, &pod());
        assert_eq!(
            shown_v2[..5],
            [
                "MemoryMax U64(1048576) 0",
                "CPUWeight U64(39) 0",
                "CPUQuotaPeriodUSec U64(100000) 242",
                "CPUQuotaPerSecUSec U64(500000) 0",
                "TasksMax U64(100) 0",
            ]
        );
        assert!(shown_v2[5].starts_with("AllowedCPUs"), "{shown_v2:?}");
        let unlimited = Limits {
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            pids: Some(0),
            ..Limits::default()
        };
        assert_eq!(
            shown(Version::V2, &unlimited)[1..],
            [
                format!("CPUQuotaPerSecUSec U64({}) 0", u64::MAX),
                "TasksMax U64(1) 0".to_owned()
            ]
        );
        assert!(shown(Version::V2, &Limits::default()).is_empty());
    }

    #[test]
    fn a_quota_is_rounded_up_to_hundredths_of_a_cpu() {
        for (quota, period, rounded) in [
            (50_000, 100_000, 50_000),
            (25_500, 100_000, 26_000),
            (1_000, 100_000, 1_000),
            (1_001, 100_000, 2_000),
            (12_345, 50_000, 12_500),
            (-1, 100_000, -1),
        ] {
            let limits = Limits {
                cpu_quota: Some(quota),
                cpu_period: Some(period),
                ..Limits::default()
            };
            let limits = whole_percent(&limits);
            assert_eq!(limits.cpu_quota, Some(rounded), "{quota}");
            assert_eq!(whole_percent(&limits), limits, "once is enough");
        }
    }

    #[test]
    fn cpus_become_bits() {
        assert_eq!(cpu_bits("0-3,8\n"), [0b1111, 0b1]);
        assert_eq!(cpu_bits("0"), [1]);
        assert_eq!(cpu_bits("15"), [0, 0x80]);
        assert!(cpu_bits("").is_empty());
    }
}
