//! Numbers as Go writes them (`strconv.FormatFloat(v, 'g', -1, 64)`), so that the text is upstream's to the byte.

use std::fmt::Write;

/// From this decimal exponent on, a number is written with one.
const LARGE: i32 = 6;
/// Below this decimal exponent, a number is written with one.
const SMALL: i32 = -4;

/// Appends `value` to `text`.
pub(super) fn write(text: &mut String, value: f64) {
    if value.is_nan() {
        text.push_str("NaN");
    } else if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        finite(text, value);
    }
}

fn finite(text: &mut String, value: f64) {
    let begin = text.len();
    // Writing to a String does not fail. Both forms have the fewest digits that read back as the same number.
    let _ = write!(text, "{value:e}");
    let Some(at) = text[begin..].find('e') else {
        return;
    };
    let exponent: i32 = text[begin + at + 1..].parse().unwrap_or(0);
    if (SMALL..LARGE).contains(&exponent) {
        text.truncate(begin);
        let _ = write!(text, "{value}");
    } else {
        text.truncate(begin + at);
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(text, "e{sign}{:02}", exponent.unsigned_abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.005, "0.005"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (794_624.0, "794624"),
            (999_999.5, "999999.5"),
            (1_454_080.0, "1.45408e+06"),
            (25_276_063_744.0, "2.5276063744e+10"),
            (1_795_302_078.878_959_2, "1.7953020788789592e+09"),
            (86_547.231_314_331, "86547.231314331"),
            (1.844_674_407_370_955_2e19, "1.8446744073709552e+19"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            let mut text = String::from("x ");
            write(&mut text, value);
            assert_eq!(text[2..], *expected);
        }
    }
}
