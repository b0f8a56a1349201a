//! The API's kinds of names (RFC 1123, RFC 6335), and what it says of texts that are none.

/// Longest DNS label (RFC 1123).
const LABEL: usize = 63;
/// Longest DNS name (RFC 1123).
const SUBDOMAIN: usize = 253;
/// Longest port name (RFC 6335).
const PORT_NAME: usize = 15;

/// Upstream counts bytes everywhere, and says so in some places only.
fn too_long(text: &str, most: usize, unit: &str) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} {unit}"))
}

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        [first, .., last] => {
            inner(*first) && inner(*last) && text.bytes().all(|c| inner(c) || c == b'-')
        }
        [only] => inner(*only),
    }
}

/// What is wrong with `text` as a DNS label.
pub(super) fn label(text: &str) -> Vec<String> {
    let mut messages: Vec<_> = too_long(text, LABEL, "characters").into_iter().collect();
    if !is_label(text) {
        if is_subdomain(text) {
            messages.push("must not contain dots".into());
        } else {
            messages.push(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                 start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                 validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                    .into(),
            );
        }
    }
    messages
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// What is wrong with `text` as a DNS name.
pub(super) fn subdomain(text: &str) -> Vec<String> {
    subdomain_in(text, "characters")
}

fn subdomain_in(text: &str, unit: &str) -> Vec<String> {
    let mut messages: Vec<_> = too_long(text, SUBDOMAIN, unit).into_iter().collect();
    if !is_subdomain(text) {
        messages.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .into(),
        );
    }
    messages
}

/// What is wrong with `text` as a DNS name, one with underscores too (RFC 2782).
pub(super) fn subdomain_or_underscore(text: &str) -> Vec<String> {
    let mut messages: Vec<_> = too_long(text, SUBDOMAIN, "characters")
        .into_iter()
        .collect();
    let is_part = |part: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = part.strip_prefix('_').unwrap_or(part).as_bytes();
        let ends =
            bytes.first().is_some_and(|c| inner(*c)) && bytes.last().is_some_and(|c| inner(*c));
        ends && bytes.iter().all(|c| inner(*c) || matches!(c, b'-' | b'_'))
    };
    if !text.split('.').all(is_part) {
        messages.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
                .into(),
        );
    }
    messages
}

/// What is wrong with `text` as the name of a port.
pub(super) fn port(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > PORT_NAME {
        messages.push(format!("must be no more than {PORT_NAME} characters"));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    {
        messages
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".into());
    }
    messages
}

/// What is wrong with `number` as a port.
pub(super) fn port_number(number: i32) -> Option<&'static str> {
    (!(1..=65535).contains(&number)).then_some("must be between 1 and 65535, inclusive")
}

/// What is wrong with `text` as the name of an environment variable.
pub(super) fn variable(text: &str) -> Option<&'static str> {
    let legal = text
        .bytes()
        .all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    (!legal).then_some(
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// Letters and digits at both ends, with `-`, `_` and `.` between.
fn is_word(text: &str) -> bool {
    let end = |c: u8| c.is_ascii_alphanumeric();
    match text.as_bytes() {
        [] => false,
        [only] => end(*only),
        [first, .., last] => {
            end(*first)
                && end(*last)
                && text
                    .bytes()
                    .all(|c| end(c) || matches!(c, b'-' | b'_' | b'.'))
        }
    }
}

/// What is wrong with `text` as a label's key or a resource's name: a word, with a DNS name and a slash before it or
/// not.
pub(super) fn qualified(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let parts: Vec<_> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".into());
            } else {
                let found = subdomain_in(prefix, "bytes").into_iter();
                messages.extend(found.map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                 with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                 validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix \
                 and '/' (e.g. 'example.com/MyName')"
                    .into(),
            ];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".into());
    } else if let Some(message) = too_long(name, LABEL, "bytes") {
        messages.push(format!("name part {message}"));
    }
    if !is_word(name) {
        messages.push(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                .into(),
        );
    }
    messages
}

/// What is wrong with `text` as the value of a label.
pub(super) fn label_value(text: &str) -> Vec<String> {
    let mut messages: Vec<_> = too_long(text, LABEL, "bytes").into_iter().collect();
    if !text.is_empty() && !is_word(text) {
        messages.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .into(),
        );
    }
    messages
}

/// What is wrong with `text` as a key of a secret or config map.
pub(super) fn config_key(text: &str) -> Vec<String> {
    /// Longest key (Kubernetes API).
    const LONGEST: usize = 253;
    let mut messages = Vec::new();
    if text.len() > LONGEST {
        messages.push(format!("must be no more than {LONGEST} characters"));
    }
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    if text.is_empty() || !text.bytes().all(legal) {
        messages.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
             'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .into(),
        );
    }
    match text {
        "." => messages.push("must not be '.'".into()),
        ".." => messages.push("must not be '..'".into()),
        text if text.starts_with("..") => messages.push("must not start with '..'".into()),
        _ => {}
    }
    messages
}
