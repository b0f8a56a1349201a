//! The runtime's version as the Node object tells it: upstream reads it into numbers and writes it out again, and what
//! was no version to it is not shown.

/// `1.6.20~ds1` is `1.6.20`, `v1.7.13` is `1.7.13`, `2.1.0-rc.1+deb` stays; none for what is no version.
///
/// Three numbers, and what semantic versioning lets follow them, are kept whole; of anything else, the numbers.
pub(super) fn plain_version(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (numbers, rest) = text.split_at(end.unwrap_or(text.len()));
    // A dot that no digit follows belongs to the rest.
    let dots = numbers.split("..").next().unwrap_or_default();
    let rest = if dots.len() < numbers.len() || numbers.ends_with('.') {
        "."
    } else {
        rest
    };
    let mut components = Vec::new();
    for component in dots.trim_end_matches('.').split('.') {
        components.push((component, component.parse::<u64>().ok()?));
    }
    let zero = |text: &str| text.len() > 1 && text.starts_with('0');
    if components.len() < 2 || components.first().is_some_and(|(text, _)| zero(text)) {
        return None;
    }
    let semantic = components.len() == 3 && !components.iter().any(|(text, _)| zero(text));
    let numbers: Vec<String> = components.iter().map(|(_, n)| n.to_string()).collect();
    let kept = if semantic && follows(rest.trim_end()) {
        rest.trim_end()
    } else {
        ""
    };
    Some(numbers.join(".") + kept)
}

/// Whether this may follow the three numbers of a semantic version: `-pre.release`, `+build.metadata`, both in this order.
fn follows(rest: &str) -> bool {
    let words = |text: &str| {
        text.split('.').all(|word| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    let (pre, build) = match rest.split_once('+') {
        Some((pre, build)) => (pre, Some(build)),
        None => (rest, None),
    };
    let zero = |word: &str| {
        word.len() > 1 && word.starts_with('0') && word.bytes().all(|b| b.is_ascii_digit())
    };
    let pre_fits = pre.is_empty()
        || pre
            .strip_prefix('-')
            .is_some_and(|pre| words(pre) && !pre.split('.').any(zero));
    pre_fits && build.is_none_or(words)
}

#[cfg(test)]
mod tests {
    use super::plain_version;

    #[test]
    fn versions_are_written_as_upstream_does() {
        let cases = [
            ("1.6.20~ds1", Some("1.6.20")),
            ("v1.7.13", Some("1.7.13")),
            ("2.1.0-rc.1+deb.12", Some("2.1.0-rc.1+deb.12")),
            ("1.7.24~ds1-6+b4", Some("1.7.24")),
            ("2.1.0-rc.01", Some("2.1.0")),
            ("1.33", Some("1.33")),
            ("1.33.0.1-x", Some("1.33.0.1")),
            ("1.06.3-x", Some("1.6.3")),
            ("1.2.3.", Some("1.2.3")),
            ("1.2..3", Some("1.2")),
            ("1.2.3-", Some("1.2.3")),
            ("01.2", None),
            ("7", None),
            ("unknown", None),
            ("", None),
        ];
        for (given, told) in cases {
            assert_eq!(plain_version(given).as_deref(), told, "{given}");
        }
    }
}
