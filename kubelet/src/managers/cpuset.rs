//! A set of logical CPUs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The highest CPU that a list may name; Linux has at most 8192.
const MAX_CPU: u32 = 65_535;

/// Logical CPUs by number. Written as the kernel and upstream's state file have it: `0-3,8`, and nothing for no CPU.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<u32>);

/// A text that is no list of CPUs.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of CPUs such as 0-3,8")]
pub struct InvalidCpuSet(String);

impl CpuSet {
    /// No CPU.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is in it.
    #[must_use]
    pub fn has(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    /// The CPUs in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// The lowest CPU.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Those in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// Those in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Whether all of them are in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Whether some CPU is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = InvalidCpuSet;

    fn from_str(text: &str) -> Result<Self, InvalidCpuSet> {
        let wrong = || InvalidCpuSet(text.chars().take(80).collect());
        let number = |text: &str| {
            let number: Option<u32> = text.parse().ok();
            number.filter(|cpu| *cpu <= MAX_CPU).ok_or_else(wrong)
        };
        let mut cpus = Self::new();
        if text.is_empty() {
            return Ok(cpus);
        }
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(wrong());
            }
            cpus.0.extend(first..=last);
        }
        Ok(cpus)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, written) in [
            ("", ""),
            ("3", "3"),
            ("0-1,4", "0-1,4"),
            ("5,0,2,1", "0-2,5"),
            ("7-7", "7"),
        ] {
            let cpus: CpuSet = text.parse().unwrap();
            assert_eq!(cpus.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(cpus));
        }
        for bad in [",", "a", "3-1", "1-", "-1", "1,", "0-99999999", " 1"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sets_are_combined() {
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        assert_eq!(set("0-3").difference(&set("1,2")), set("0,3"));
        assert_eq!(set("0-3").intersection(&set("3-5")), set("3"));
        assert_eq!(set("0").union(&set("2")), set("0,2"));
        assert!(set("1").is_subset(&set("0-1")) && !set("1-2").is_subset(&set("0-1")));
        assert!(set("1-2").overlaps(&set("2-3")) && !set("1").overlaps(&set("2")));
    }
}
