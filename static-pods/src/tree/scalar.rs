//! What a scalar means: the YAML 1.1 rules of the parser upstream uses, which differ from YAML 1.2 in octal numbers,
//! booleans, digit separators and merge keys.

use super::Value;

/// A tag of the YAML type repository that changes how a scalar is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarTag {
    /// No tag: the text decides.
    Any,
    Text,
    Bool,
    Int,
    Float,
    Null,
    Timestamp,
    Binary,
    /// Some other tag: the text is taken as it is.
    Foreign,
}

impl ScalarTag {
    pub(super) fn from_suffix(suffix: &str) -> Self {
        match suffix {
            "str" => Self::Text,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "float" => Self::Float,
            "null" => Self::Null,
            "timestamp" => Self::Timestamp,
            "binary" => Self::Binary,
            _ => Self::Foreign,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any | Self::Foreign => "",
            Self::Text => "!!str",
            Self::Bool => "!!bool",
            Self::Int => "!!int",
            Self::Float => "!!float",
            Self::Null => "!!null",
            Self::Timestamp => "!!timestamp",
            Self::Binary => "!!binary",
        }
    }
}

/// A scalar as read: a value, or a number that JSON cannot hold.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar {
    Value(Value),
    /// `.inf`, `-.inf` or `.nan`.
    NotFinite(f64),
}

/// Reads `text` under `tag`.
///
/// # Errors
/// What to tell the user, when the text does not fit the tag.
pub(super) fn resolve(tag: ScalarTag, text: &str) -> Result<Scalar, String> {
    let found = match tag {
        ScalarTag::Text | ScalarTag::Foreign => {
            return Ok(Scalar::Value(Value::String(text.into())));
        }
        ScalarTag::Binary => {
            return decode_base64(text)
                .map(|bytes| {
                    Scalar::Value(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
                })
                .ok_or_else(|| "!!binary value contains invalid base64 data".into());
        }
        ScalarTag::Timestamp if looks_like_date(text) => {
            return Ok(Scalar::Value(Value::String(text.into())));
        }
        _ => plain(text),
    };
    let fits = matches!(
        (tag, &found),
        (ScalarTag::Any, _)
            | (ScalarTag::Bool, Scalar::Value(Value::Bool(_)))
            | (ScalarTag::Null, Scalar::Value(Value::Null))
            | (
                ScalarTag::Int,
                Scalar::Value(Value::Int(_) | Value::Uint(_))
            )
            | (
                ScalarTag::Float,
                Scalar::NotFinite(_) | Scalar::Value(Value::Float(_) | Value::Int(_))
            )
    );
    if !fits {
        // The text is left out: it may be a secret.
        return Err(format!("cannot read the text as {}", tag.name()));
    }
    Ok(found)
}

impl Scalar {
    /// The value in the tree. A number without a fraction is written to JSON without one, whatever its notation here:
    /// 80.0 is a valid port.
    ///
    /// # Errors
    /// What to tell the user, when JSON has no such number.
    pub(super) fn into_value(self) -> Result<Value, String> {
        match self {
            Self::Value(Value::Float(n)) if n.fract() == 0.0 && n.abs() < 9.0e18 => {
                Ok(Value::Int(n as i64))
            }
            Self::Value(value) => Ok(value),
            Self::NotFinite(n) => Err(format!("{n} is not a number that a field can hold")),
        }
    }
}

fn plain(text: &str) -> Scalar {
    let first = text.bytes().next().unwrap_or(b'~');
    let value = match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => word(text),
        b'.' => match text {
            ".nan" | ".NaN" | ".NAN" => return Scalar::NotFinite(f64::NAN),
            ".inf" | ".Inf" | ".INF" => return Scalar::NotFinite(f64::INFINITY),
            _ => float(&text.replace('_', "")),
        },
        b'+' | b'-' | b'0'..=b'9' => match text {
            "+.inf" | "+.Inf" | "+.INF" => return Scalar::NotFinite(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => return Scalar::NotFinite(f64::NEG_INFINITY),
            _ if looks_like_date(text) => None,
            _ => number(&text.replace('_', "")),
        },
        _ => None,
    };
    Scalar::Value(value.unwrap_or_else(|| Value::String(text.into())))
}

fn word(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => return None,
    })
}

/// Four digits and a dash: a date, which is text in JSON, and never a number.
fn looks_like_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 4 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-'
}

fn number(text: &str) -> Option<Value> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => ("", &text[1..]),
        b'-' => ("-", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // from_str_radix would take a second sign.
    if digits.bytes().all(|c| c.is_ascii_alphanumeric()) {
        if let Ok(n) = i64::from_str_radix(&format!("{sign}{digits}"), radix) {
            return Some(Value::Int(n));
        }
        let unsigned = !text.starts_with(['+', '-']);
        if unsigned && let Ok(n) = u64::from_str_radix(digits, radix) {
            return Some(Value::Uint(n));
        }
    }
    float(text)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, finite.
fn float(text: &str) -> Option<Value> {
    let allowed = |c: u8| c.is_ascii_digit() || matches!(c, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(allowed) || !text.bytes().any(|c| c.is_ascii_digit()) {
        return None;
    }
    let n: f64 = text.parse().ok()?;
    n.is_finite().then_some(Value::Float(n))
}

/// A key that is not text, as the text upstream makes of it; `None` for one that cannot be a key.
pub(super) fn key_text(scalar: &Scalar) -> Option<String> {
    Some(match scalar {
        Scalar::Value(Value::String(text)) => text.clone(),
        Scalar::Value(Value::Int(n)) => n.to_string(),
        Scalar::Value(Value::Bool(b)) => b.to_string(),
        Scalar::Value(Value::Float(n)) => short_float(*n),
        Scalar::NotFinite(n) if n.is_nan() => ".nan".into(),
        Scalar::NotFinite(n) if *n < 0.0 => "-.inf".into(),
        Scalar::NotFinite(_) => ".inf".into(),
        Scalar::Value(_) => return None,
    })
}

/// The shortest text for the nearest 32-bit float, with an exponent outside 1e-4 to 1e6; upstream rounds keys
/// so too.
fn short_float(n: f64) -> String {
    let n = n as f32;
    let size = n.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{n:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, size) = match exponent.strip_prefix('-') {
                    Some(size) => ('-', size),
                    None => ('+', exponent),
                };
                format!("{digits}e{sign}{size:0>2}")
            }
            None => text,
        };
    }
    n.to_string()
}

/// Standard base64 with padding; line ends between characters are skipped.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut padding) = (0u32, 0u32, 0u32);
    for c in text.bytes().filter(|c| !matches!(c, b'\r' | b'\n')) {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if count % 4 >= 2 => {
                padding += 1;
                count += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(six);
        count += 1;
        if count % 4 != 1 {
            let shift = 6 - 2 * ((count + 3) % 4);
            out.push(u8::try_from(bits >> shift & 0xff).unwrap_or_default());
        }
    }
    (count % 4 == 0 && padding <= 2).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        match resolve(ScalarTag::Any, text) {
            Ok(scalar) => scalar.into_value().unwrap(),
            Err(e) => panic!("{text}: {e}"),
        }
    }

    #[test]
    fn numbers_are_read_as_yaml_1_1() {
        for (text, want) in [
            ("0644", 420),
            ("0o644", 420),
            ("0x1A", 26),
            ("0b101", 5),
            ("-0b11", -3),
            ("1_000", 1000),
            ("+7", 7),
            ("-12", -12),
            ("0", 0),
            ("08", 8),
            ("1e3", 1000),
            ("80.0", 80),
            ("5.", 5),
        ] {
            assert_eq!(of(text), Value::Int(want), "{text}");
        }
        assert_eq!(of("18446744073709551615"), Value::Uint(u64::MAX));
        assert_eq!(of("0.5"), Value::Float(0.5));
        assert_eq!(of(".5"), Value::Float(0.5));
        assert_eq!(of("-1.5e-3"), Value::Float(-0.0015));
    }

    #[test]
    fn what_only_looks_like_a_number_is_text() {
        for text in [
            "0o9",
            "0xg",
            "1.2.3",
            "1e400",
            "_1",
            "--1",
            "+-1",
            "0x",
            ".",
            "-",
            "+",
            "1:30",
            "2001-12-14",
            "1e",
            "12h",
            "0x-1",
            "infinity",
            "nan",
            "-inf",
        ] {
            assert_eq!(of(text), Value::String(text.into()), "{text}");
        }
    }

    #[test]
    fn a_number_json_cannot_hold_is_an_error() {
        for text in [".inf", "-.Inf", "+.INF", ".nan"] {
            let scalar = resolve(ScalarTag::Any, text).unwrap();
            assert!(scalar.into_value().is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_booleans_and_null_in_three_spellings() {
        for text in [
            "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE",
        ] {
            assert_eq!(of(text), Value::Bool(true), "{text}");
        }
        for text in [
            "n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE",
        ] {
            assert_eq!(of(text), Value::Bool(false), "{text}");
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(of(text), Value::Null, "{text}");
        }
        for text in ["yEs", "oN", "tRue", "nULL", "yess"] {
            assert_eq!(of(text), Value::String(text.into()), "{text}");
        }
    }

    #[test]
    fn tags_decide() {
        let tagged = |tag, text| resolve(tag, text);
        assert_eq!(
            tagged(ScalarTag::Text, "80"),
            Ok(Scalar::Value(Value::String("80".into())))
        );
        assert_eq!(
            tagged(ScalarTag::Int, "80"),
            Ok(Scalar::Value(Value::Int(80)))
        );
        assert_eq!(
            tagged(ScalarTag::Int, "eighty"),
            Err("cannot read the text as !!int".into())
        );
        assert_eq!(
            tagged(ScalarTag::Binary, "aGVsbG8="),
            Ok(Scalar::Value(Value::String("hello".into())))
        );
        assert_eq!(
            tagged(ScalarTag::Binary, "aGVs\nbG8h"),
            Ok(Scalar::Value(Value::String("hello!".into())))
        );
        for bad in ["aGVsbG8", "a===", "====", "aG=s", "a b="] {
            assert!(tagged(ScalarTag::Binary, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_become_text() {
        let key = |text| {
            resolve(ScalarTag::Any, text)
                .ok()
                .as_ref()
                .and_then(key_text)
        };
        for (text, want) in [
            ("1", "1"),
            ("0644", "420"),
            ("yes", "true"),
            ("1.5", "1.5"),
            (".inf", ".inf"),
            ("1e3", "1000"),
            ("1e7", "1e+07"),
            ("0.00001", "1e-05"),
            ("plain", "plain"),
        ] {
            assert_eq!(key(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(key("~"), None);
    }
}
