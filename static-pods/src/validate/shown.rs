//! How a value stands in a message. Upstream quotes text as Go does, and writes everything else as JSON: values of a
//! named kind (an operator, a policy), pointers, lists.

use std::fmt::{self, Write as _};

/// A value as it stands in a message.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

/// Plain text: Go's `%q`.
impl Shown for &str {
    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Shown for i32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Something that stands in no quotes, whatever it is.
pub(super) struct Bare<T>(pub(super) T);

impl<T: fmt::Display> Shown for Bare<T> {
    fn shown(&self) -> String {
        self.0.to_string()
    }
}

/// Text of a named kind, or behind a pointer: Go's JSON.
pub(super) struct Json<'a>(pub(super) &'a str);

impl Shown for Json<'_> {
    fn shown(&self) -> String {
        json(self.0)
    }
}

/// A list of texts: Go's JSON.
impl Shown for &[String] {
    fn shown(&self) -> String {
        let items: Vec<_> = self.iter().map(|item| json(item)).collect();
        format!("[{}]", items.join(","))
    }
}

/// `text` as Go's `%q` writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c => escape(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn escape(out: &mut String, c: char) {
    let code = u32::from(c);
    // Writing to a String does not fail.
    let _ = match code {
        0..0x80 => write!(out, "\\x{code:02x}"),
        0x80..0x10000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// Whether Go prints `c` as it is: letters, marks, numbers, punctuation, symbols, and of the spaces the ASCII one.
pub(super) fn is_printable(c: char) -> bool {
    // Not alone: at the start of a text a combining mark counts as unprintable.
    let text: String = ['a', c].into_iter().collect();
    matches!(c, '"' | '\\' | '\'') || text.escape_debug().count() == 2
}

/// `text` as Go writes it in JSON, with the characters that bite in HTML escaped.
pub(super) fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..=' ' if c != ' ' => push_unicode(&mut out, c),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => push_unicode(&mut out, c),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn push_unicode(out: &mut String, c: char) {
    // Writing to a String does not fail.
    let _ = write!(out, "\\u{:04x}", u32::from(c));
}

#[cfg(test)]
mod tests {
    use super::{json, quoted};

    #[test]
    fn texts_are_quoted_as_go_does() {
        let text = "a\"\\'\n\t\u{7}\u{1}\u{7f}\u{a0}é\u{301}\u{e000}\u{10ffff}<&";
        assert_eq!(
            quoted(text),
            r#""a\"\\'\n\t\a\x01\x7f\u00a0é́\ue000\U0010ffff<&""#
        );
        assert_eq!(
            json("a\"\\'\n\u{7}\u{1}\u{7f}é<>&\u{2028}"),
            "\"a\\\"\\\\'\\n\\u0007\\u0001\u{7f}é\\u003c\\u003e\\u0026\\u2028\""
        );
    }
}
