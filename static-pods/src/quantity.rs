//! Resource quantities as the Kubernetes API writes them: parsing, comparison, canonical text.
//!
//! Values are kept exactly in billionths, the finest scale upstream keeps, and saturate far above the largest value a
//! cluster can mean. Pure.

use std::cmp::Ordering;
use std::fmt;

/// A quantity, such as `500m`, `1.5Gi` or `2`.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
    /// The text as written, where upstream keeps it instead of making it canonical.
    kept: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    Decimal,
    Exponent,
    Binary,
}

/// Text that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct InvalidQuantity;

/// Why a text is no amount of a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAmount {
    /// It is no quantity at all.
    #[error(transparent)]
    Quantity(#[from] InvalidQuantity),
    /// Below zero, which no request, limit or size can be.
    #[error("it is negative")]
    Negative,
}

const NANO: i128 = 1_000_000_000;
/// Enough digits for every value there is; keeps the arithmetic inside 128 bits.
const MOST_DIGITS: usize = 100;

impl Quantity {
    /// Reads a quantity.
    ///
    /// # Errors
    /// When `text` is not one: no digits and suffix of the API's grammar.
    pub fn parse(text: &str) -> Result<Self, InvalidQuantity> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(InvalidQuantity),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let digits_end = |s: &str| s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        let (whole, rest) = rest.split_at(digits_end(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits_end(rest)),
            None => ("", rest),
        };
        let whole = whole.trim_start_matches('0');
        if whole.len() + fraction.len() > MOST_DIGITS {
            return Err(InvalidQuantity);
        }
        let (format, scale) = suffix_of(suffix).ok_or(InvalidQuantity)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => scaled(whole, fraction, exponent),
            Scale::Two(bits) => binary(whole, fraction, bits),
        };
        let nano = if negative { -magnitude } else { magnitude };
        // Below one, upstream turns a binary quantity into a decimal one.
        let format = match format {
            Format::Binary if magnitude < NANO => Format::Decimal,
            other => other,
        };
        let kept = keeps_text(whole, fraction, scale).then(|| text.to_owned());
        Ok(Self { nano, format, kept })
    }

    /// Reads an amount of a resource: a quantity that is not below zero.
    ///
    /// # Errors
    /// When `text` is no quantity, or is below zero.
    pub fn parse_amount(text: &str) -> Result<Self, InvalidAmount> {
        let quantity = Self::parse(text)?;
        match quantity.nano < 0 {
            true => Err(InvalidAmount::Negative),
            false => Ok(quantity),
        }
    }

    /// So many whole units: bytes, pieces.
    #[must_use]
    pub fn of(whole: u64) -> Self {
        Self {
            nano: i128::from(whole) * NANO,
            ..Self::default()
        }
    }

    /// So many bytes, written in powers of 1024.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        Self {
            format: Format::Binary,
            ..Self::of(bytes)
        }
    }

    /// So many thousandths: of a processor.
    #[must_use]
    pub fn of_milli(milli: u64) -> Self {
        Self {
            nano: i128::from(milli) * (NANO / 1000),
            ..Self::default()
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// The value in thousandths, rounded up (away from zero); capped at what 64 bits hold, as the API's is.
    #[must_use]
    pub fn milli(&self) -> i64 {
        capped(divide_up(self.nano, NANO / 1000))
    }

    /// The value in whole units, rounded up (away from zero); capped at what 64 bits hold, as the API's is.
    #[must_use]
    pub fn value(&self) -> i64 {
        capped(divide_up(self.nano, NANO))
    }

    /// The sum of both; the notation of the first.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            nano: self.nano.saturating_add(other.nano),
            format: if self.nano == 0 {
                other.format
            } else {
                self.format
            },
            kept: None,
        }
    }

    /// Rounds up to thousandths, the finest the API keeps for resources.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        if self.nano % 1_000_000 == 0 {
            return self;
        }
        Self {
            nano: divide_up(self.nano, NANO / 1000) * (NANO / 1000),
            kept: None,
            ..self
        }
    }
}

fn capped(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(match value < 0 {
        true => i64::MIN,
        false => i64::MAX,
    })
}

fn divide_up(n: i128, by: i128) -> i128 {
    n / by + (n % by).signum()
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn suffix_of(suffix: &str) -> Option<(Format, Scale)> {
    let decimal = |exponent| Some((Format::Decimal, Scale::Ten(exponent)));
    let binary = |bits| Some((Format::Binary, Scale::Two(bits)));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Some((Format::Exponent, Scale::Ten(exponent)))
        }
    }
}

/// `whole.fraction` times ten to the `exponent`, in billionths, rounded up, saturating.
fn scaled(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let fraction = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let shift = i64::from(exponent) + 9 - fraction;
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if length + shift > 37 {
        return i128::MAX / 2;
    }
    if length + shift <= 0 {
        return 1;
    }
    let (keep, drop) = match shift {
        0.. => (digits, ""),
        _ => digits.split_at(usize::try_from(length + shift).unwrap_or_default()),
    };
    let up = i128::from(drop.bytes().any(|c| c != b'0'));
    let zeros = u32::try_from(shift.max(0)).unwrap_or_default();
    keep.parse::<i128>().unwrap_or(i128::MAX / 2) * 10_i128.pow(zeros) + up
}

fn binary(whole: &str, fraction: &str, bits: u32) -> i128 {
    // Largest value upstream lets a binary quantity have.
    const MOST: i128 = (i64::MAX as i128) * NANO;
    let units = whole
        .parse::<i128>()
        .unwrap_or(if whole.is_empty() { 0 } else { MOST });
    let head = units.saturating_mul(NANO).saturating_mul(1 << bits);
    // A fraction of a binary unit: nine digits decide, what is behind them rounds up.
    let (nine, rest) = fraction.split_at(fraction.len().min(9));
    let parts = format!("{nine:0<9}").parse::<i128>().unwrap_or_default();
    let tail = parts.saturating_mul(1 << bits) + i128::from(rest.bytes().any(|c| c != b'0'));
    head.saturating_add(tail).min(MOST)
}

/// Whether upstream keeps the text as written: it is close enough to canonical.
fn keeps_text(whole: &str, fraction: &str, scale: Scale) -> bool {
    let whole = if whole.is_empty() { "0" } else { whole };
    let shifted = format!("{whole}{fraction}");
    if shifted.len() > 15 {
        return false;
    }
    match scale {
        Scale::Two(bits) => {
            let odd = shifted.parse::<u64>().is_ok_and(|n| n & 7 != 0);
            let room = 14 - i64::try_from(shifted.len()).unwrap_or(0) - i64::from(bits) * 3 / 10;
            fraction.is_empty() && odd && room >= 0
        }
        Scale::Ten(exponent) => {
            let scale = exponent - i32::try_from(fraction.len()).unwrap_or(0);
            (-9..=18).contains(&scale)
                && scale % 3 == 0
                && !shifted.ends_with("000")
                && !shifted.starts_with('0')
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kept) = &self.kept {
            return f.write_str(kept);
        }
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano % NANO == 0;
        let units = self.nano / NANO;
        if self.format == Format::Binary && whole && units.abs() >= 1024 {
            let (mut units, mut power) = (units, 0);
            while power < 6 && units % 1024 == 0 {
                units /= 1024;
                power += 1;
            }
            return write!(
                f,
                "{units}{}",
                ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]
            );
        }
        let (mut mantissa, mut power) = (self.nano, 0);
        while power < 9 && mantissa % 1000 == 0 {
            mantissa /= 1000;
            power += 1;
        }
        match self.format {
            Format::Exponent if power == 3 => write!(f, "{mantissa}"),
            Format::Exponent => write!(f, "{mantissa}e{}", (power as i32 - 3) * 3),
            _ => write!(
                f,
                "{mantissa}{}",
                ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power]
            ),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_become_canonical() {
        for (text, want) in [
            ("0", "0"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1000000", "1M"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("0.0001", "100u"),
            ("500Mi", "500Mi"),
            ("128974848", "128974848"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("0Ki", "0"),
            ("0.5Ki", "512"),
            ("-1", "-1"),
            ("1.5", "1500m"),
            ("2048Ki", "2Mi"),
            ("1.1n", "2n"),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.to_string(), want, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "1 Gi", "1gi", "1KI", "1,5", "ten", "1e", "1e1.5", "1Gi2", "--1", "0x10", " 1",
        ] {
            assert_eq!(Quantity::parse(text).err(), Some(InvalidQuantity), "{text}");
        }
    }

    #[test]
    fn values_compare_across_notations() {
        let of = |text| Quantity::parse(text).unwrap();
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert!(of("999m") < of("1"));
        assert!(of("1G") < of("1Gi"));
        assert_eq!(of("100u").rounded_to_milli().to_string(), "1m");
        assert_eq!(of("1.5").milli(), 1500);
        assert_eq!(of("1.5").value(), 2);
        assert_eq!(of("-1.5").value(), -2);
        assert_eq!(of("500m").plus(&of("1.5")).to_string(), "2");
        assert_eq!(of("100Ei"), of("99Ei"), "capped");
        assert_eq!(Quantity::of(3).plus(&Quantity::of_milli(1)).milli(), 3001);
        assert_eq!(Quantity::of(u64::MAX).value(), i64::MAX);
        assert!(Quantity::default().is_zero() && of("0Gi").is_zero() && !of("1n").is_zero());
    }

    #[test]
    fn values_round_up_and_are_capped() {
        for (text, milli) in [
            ("+1", 1000),
            (".5", 500),
            ("5.", 5000),
            ("1.0005", 1001),
            ("1n", 1),
            ("0.0000000000000000000000000000001", 1),
            ("2E-3", 2),
            ("1e-400", 1),
            ("-0", 0),
        ] {
            let read = Quantity::parse_amount(text).map(|amount| amount.milli());
            assert_eq!(read, Ok(milli), "{text}");
        }
        for (text, units) in [
            ("1.5Gi", 3 << 29),
            ("0.1Ki", 103),
            ("129e6", 129_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1m", 1),
            ("9Ei", i64::MAX),
            ("1e400", i64::MAX),
            ("9223372036854775808", i64::MAX),
            ("100000000000000000000000000000000000000000000", i64::MAX),
            ("99999999999999999999Ei", i64::MAX),
            ("10000000000000000000000n", 10_000_000_000_000),
        ] {
            let read = Quantity::parse_amount(text).map(|amount| amount.value());
            assert_eq!(read, Ok(units), "{text}");
        }
        assert_eq!(
            Quantity::parse_amount("-1").err(),
            Some(InvalidAmount::Negative)
        );
        assert_eq!(
            Quantity::parse_amount("1K").err(),
            Some(InvalidAmount::Quantity(InvalidQuantity))
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_canonical_text_keeps_its_value(text in "[-+]?[0-9.]{0,30}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,3}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let again = Quantity::parse(&quantity.to_string());
                prop_assert_eq!(again.ok(), Some(quantity));
            }
        }
    }
}
