//! Lines of names and values: the values of lines that follow one another stand in one column, as Go's tabwriter has it.

use std::mem;

/// Columns of the screen from one depth to the next.
const INDENT: usize = 2;

/// Lines that are still to be aligned, and those that are.
#[derive(Default)]
pub(super) struct Lines {
    text: String,
    /// Names with their indentation, and values, of the lines that have one column.
    run: Vec<(String, String)>,
}

impl Lines {
    /// `key:  value`.
    pub(super) fn entry(&mut self, depth: usize, key: &str, value: impl AsRef<str>) {
        self.row(depth, &format!("{key}:"), value);
    }

    /// `first  second`.
    pub(super) fn row(&mut self, depth: usize, first: &str, second: impl AsRef<str>) {
        let first = format!("{:indent$}{first}", "", indent = depth * INDENT);
        self.run.push((first, second.as_ref().to_owned()));
    }

    /// `key:`, with nothing behind it: the column ends.
    pub(super) fn title(&mut self, depth: usize, key: &str) {
        self.line(depth, &format!("{key}:"));
    }

    /// A line without a value: the column ends.
    pub(super) fn line(&mut self, depth: usize, line: &str) {
        self.align();
        let indent = depth * INDENT;
        self.text.push_str(&format!("{:indent$}{line}\n", ""));
    }

    /// `key:  first`, and the others below the first; `<none>` without any.
    pub(super) fn list(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let mut key = format!("{key}:");
        let mut values = values.peekable();
        if values.peek().is_none() {
            self.row(0, &key, super::NONE);
        }
        for value in values {
            self.row(0, &mem::take(&mut key), value);
        }
    }

    /// The text of all lines.
    pub(super) fn finish(mut self) -> String {
        self.align();
        self.text
    }

    fn align(&mut self) {
        let run = mem::take(&mut self.run);
        let width = run
            .iter()
            .map(|(first, _)| first.chars().count())
            .max()
            .unwrap_or_default()
            + 2;
        for (first, second) in run {
            let gap = width - first.chars().count();
            // A value of several lines goes on below its first.
            let mut parts = second.trim_end().split('\n');
            let line = format!("{first}{:gap$}{}", "", parts.next().unwrap_or_default());
            self.text.push_str(line.trim_end());
            self.text.push('\n');
            for part in parts {
                self.text.push_str(&format!("{:width$}{part}\n", ""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_follow_one_another_have_one_column() {
        let mut lines = Lines::default();
        lines.entry(0, "Name", "a");
        lines.entry(0, "Namespace", "b");
        lines.list("Labels", ["x=1", "y=2"].into_iter().map(str::to_owned));
        lines.title(0, "IPs");
        lines.entry(1, "IP", "::1");
        lines.entry(0, "Message", "one\ntwo");
        lines.list("Tolerations", std::iter::empty());
        assert_eq!(
            lines.finish(),
            "Name:       a\nNamespace:  b\nLabels:     x=1\n            y=2\nIPs:\n  IP:         ::1\nMessage:      one\n              two\nTolerations:  <none>\n"
        );
    }
}
