//! How long ago something was, as kubectl writes it (`k8s.io/apimachinery` `duration.HumanDuration`).

/// `seconds` in the one or two units that matter: `90s`, `3m5s`, `47h`, `3d4h`. Below zero, as clocks that differ have
/// it, is `0s`.
pub(super) fn short(seconds: i64) -> String {
    let s = seconds.max(0);
    let (m, h, d) = (s / 60, s / 3600, s / 86400);
    let two = |more: i64, unit: &str, less: i64, part: &str| match less {
        0 => format!("{more}{unit}"),
        _ => format!("{more}{unit}{less}{part}"),
    };
    match () {
        () if s < 120 => format!("{s}s"),
        () if m < 10 => two(m, "m", s % 60, "s"),
        () if m < 180 => format!("{m}m"),
        () if h < 8 => two(h, "h", m % 60, "m"),
        () if h < 48 => format!("{h}h"),
        () if d < 8 => two(d, "d", h % 24, "h"),
        () if d < 730 => format!("{d}d"),
        () if d < 8 * 365 => two(d / 365, "y", d % 365, "d"),
        () => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_grow_as_kubectls_do() {
        let (minute, hour, day) = (60, 3600, 86400);
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (10 * minute + 5, "10m"),
            (179 * minute + 59, "179m"),
            (3 * hour, "3h"),
            (7 * hour + 59 * minute, "7h59m"),
            (47 * hour + 59 * minute, "47h"),
            (2 * day, "2d"),
            (7 * day + 23 * hour, "7d23h"),
            (729 * day, "729d"),
            (730 * day, "2y"),
            (731 * day, "2y1d"),
            (8 * 365 * day, "8y"),
        ] {
            assert_eq!(short(seconds), text, "{seconds}");
        }
    }
}
