//! Durations as Go writes and reads them (`time.ParseDuration`): `1m30s`, `300ms`, `-1.5h`, `0`.

use std::time::Duration;

/// A signed span of time, nanoseconds: what Go's `time.Duration` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {text:?}: {why}")]
pub struct DurationError {
    text: String,
    why: &'static str,
}

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl GoDuration {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Reads `text`: an optional sign, then numbers with a unit each (`ns us ms s m h`), or a lone `0`.
    ///
    /// # Errors
    /// When a number has no unit or an unknown one, or the whole does not fit 64 bits of nanoseconds.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let fail = |why| DurationError {
            text: text.to_owned(),
            why,
        };
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(fail("empty; write a number and a unit, such as 30s"));
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_end);
            let unit_end = after
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            if unit.is_empty() {
                return Err(fail("missing unit; write one of ns, us, ms, s, m, h"));
            }
            let (_, scale) = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(|| fail("unknown unit; write one of ns, us, ms, s, m, h"))?;
            total += scaled(number, *scale).ok_or_else(|| fail("not a number"))?;
            if total > i128::from(i64::MAX) + i128::from(negative) {
                return Err(fail("too long"));
            }
            rest = after;
        }
        let signed = if negative { -total } else { total };
        i64::try_from(signed)
            .map(Self)
            .map_err(|_| fail("too long"))
    }

    /// The span as an unsigned one; a negative one is nothing.
    #[must_use]
    pub fn positive(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

/// `number` (digits with at most one dot) times `scale`, cut to whole units.
fn scaled(number: &str, scale: u64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<i128>().ok()
        }
    };
    let scale = i128::from(scale);
    let mut value = digits(whole)?.checked_mul(scale)?;
    // No unit is finer than a nanosecond, so more than 14 digits behind the dot cannot change the result.
    let fraction = &fraction[..fraction.len().min(14)];
    let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    value += digits(fraction)? * scale / divisor;
    Some(value)
}

impl From<Duration> for GoDuration {
    fn from(span: Duration) -> Self {
        Self(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl std::fmt::Display for GoDuration {
    /// As Go prints it: `1m30s`, `4h0m0s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let with_fraction = |f: &mut std::fmt::Formatter<'_>, value: u64, unit: u64| {
            let (whole, part) = (value / unit, value % unit);
            if part == 0 {
                return write!(f, "{whole}");
            }
            let width = unit.ilog10() as usize;
            let part = format!("{part:0width$}");
            write!(f, "{whole}.{}", part.trim_end_matches('0'))
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => {
                with_fraction(f, nanos, 1_000)?;
                f.write_str("\u{b5}s")
            }
            1_000_000..1_000_000_000 => {
                with_fraction(f, nanos, 1_000_000)?;
                f.write_str("ms")
            }
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                with_fraction(f, nanos % 60_000_000_000, 1_000_000_000)?;
                f.write_str("s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("1m30s", 90_000_000_000),
            ("4h0m0s", 14_400_000_000_000),
            ("100ms", 100_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("-10s", -10_000_000_000),
            ("+1us", 1_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(GoDuration::parse(text), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "-",
            "12",
            "s",
            "1x",
            ".s",
            "1..5s",
            "9223372036854775808ns",
            "1 s",
            "1m 30s",
        ] {
            assert!(GoDuration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prints_as_go_prints() {
        for text in [
            "0s",
            "1ns",
            "1.5\u{b5}s",
            "100ms",
            "1m30s",
            "4h0m0s",
            "1.5s",
            "-10s",
            "24h0m0.000000001s",
        ] {
            let parsed = GoDuration::parse(text).unwrap();
            assert_eq!(parsed.to_string(), text);
        }
    }
}
