//! Files with variables, which an init container may leave for others (KEP-3721): `NAME='value'`, a strict subset of the
//! shell's syntax.

use std::fmt;

/// A file with variables, as it was read just before. Its Debug does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Where it lies on the node, for messages.
    pub path: String,
    /// Its text; none for a file that cannot be read.
    pub text: Option<String>,
}

impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvFile({:?})", self.path)
    }
}

/// The value of `key` in `text`; empty where it has none. An error says where the text is not of the form.
pub(super) fn value(text: &str, key: &str) -> Result<String, String> {
    let wrong = |line: usize, what: &str| {
        Err(format!(
            "invalid environment variable format at line {line}: {what}"
        ))
    };
    // As upstream's reader: a line's end is no part of it, with a carriage return before it or not.
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.split_once('=') else {
            return wrong(number, "missing '='");
        };
        let bare = name.trim_end_matches([' ', '\t']);
        if bare.is_empty() {
            return wrong(number, "empty variable name");
        }
        if bare != name {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        if rest.starts_with([' ', '\t']) {
            // As in a shell: the variable is empty.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = rest.strip_prefix('\'') else {
            return wrong(number, "value must be enclosed in single quotes");
        };
        let mut found = String::new();
        let mut at = number;
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                found.push_str(end);
                break after.trim_start_matches([' ', '\t']);
            }
            found.push_str(rest);
            found.push('\n');
            let Some((next, line)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {number}: unclosed single quote"
                ));
            };
            (at, rest) = (next, line);
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong(at, "unexpected content after closing quote");
        }
        if name == key {
            return Ok(found);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn values_are_read_as_in_a_shell() {
        let text = "# a comment\n\n  A='one'\nB='two words' # said why\nC= 'nothing'\nD='several\nlines # no comment\n'\nE=''\nA='again'\n";
        for (key, expected) in [
            ("A", "one"),
            ("B", "two words"),
            ("C", ""),
            ("D", "several\nlines # no comment\n"),
            ("E", ""),
            ("F", ""),
        ] {
            assert_eq!(value(text, key), Ok(expected.to_owned()), "{key}");
        }
        assert_eq!(value("A='x'\r\n", "A"), Ok("x".to_owned()));
    }

    #[test]
    fn what_is_no_such_file_says_where() {
        let at = "invalid environment variable format at line";
        for (text, error) in [
            ("A", format!("{at} 1: missing '='")),
            ("\n='x'", format!("{at} 2: empty variable name")),
            (
                "A ='x'",
                format!("{at} 1: whitespace before '=' is not allowed"),
            ),
            (
                "A=x",
                format!("{at} 1: value must be enclosed in single quotes"),
            ),
            (
                "A=\"x\"",
                format!("{at} 1: value must be enclosed in single quotes"),
            ),
            (
                "A='x\ny'z",
                format!("{at} 2: unexpected content after closing quote"),
            ),
            (
                "A='x\n",
                "invalid environment variable format starting at line 1: unclosed single quote"
                    .to_owned(),
            ),
        ] {
            assert_eq!(value(text, "B"), Err(error), "{text:?}");
        }
        // What comes behind the key is not looked at.
        assert_eq!(value("A='x'\n?", "A"), Ok("x".to_owned()));
    }
}
