//! A located tree from YAML or JSON: every value knows its line and column.
//!
//! Owns: turning bytes into [`Document`]s, finding the position of a field path, and driving serde from the tree.
//! Inputs: the bytes of one file. Outputs: one [`Document`] or [`SyntaxError`] for each document of the file.
//! Spawns nothing; pure.
//!
//! The rules are those of the YAML that upstream reads manifests and configuration with, which is YAML 1.1: `0644` is
//! 420, `yes` and `off` are booleans, `<<` merges, keys that are numbers or booleans become text. A document whose
//! first character is `{` is JSON and nothing else, as upstream has it.
//!
//! Deliberately not here: any knowledge of pods or of configuration fields.

mod build;
mod decode;
mod decoded;
mod json;
mod path;
mod scalar;

use std::fmt;

pub use decoded::{DecodeError, Decoded, UnknownField};
pub(crate) use decoded::{PUT_IN_QUOTES, Prefix};

/// Most bytes of one file (upstream's limit for a manifest).
pub const MAX_BYTES: usize = 10 << 20;
/// Deepest nesting of sequences and mappings. Recursion over the tree is bounded by it.
pub const MAX_DEPTH: usize = 256;
/// Most nodes of one document, what aliases and merges repeat included.
pub const MAX_NODES: usize = 400_000;
/// Most bytes of text that aliases and merges may repeat in one document.
pub const MAX_REPEATED_BYTES: usize = 16 << 20;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it begins; a value that an alias repeats keeps the place it was written at.
    pub at: Position,
}

/// What JSON can hold. Binary data and timestamps are text; infinities and not-a-number are refused when read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that only fits without a sign.
    Uint(u64),
    /// A number with a fraction, or one too large for the others. In YAML a float without a fraction is read as `Int`.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with values, in the order written.
    Mapping(Mapping),
}

/// Keys with values in the order written, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    entries: Vec<Entry>,
}

/// One key of a [`Mapping`] with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key as text.
    pub key: String,
    /// Where the key is.
    pub key_at: Position,
    /// The value.
    pub value: Node,
}

impl Mapping {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    /// The entry of `key`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    /// All entries, in the order written.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The document's value; [`Value::Null`] when it is empty.
    pub root: Node,
    /// The keys that stand twice in one mapping, in the order met. The last one counts, as upstream.
    pub duplicates: Vec<DuplicateKey>,
}

/// A key that stands twice in one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKey {
    /// Path of the key, such as `spec.containers[0].image`.
    pub path: String,
    /// The place whose value is dropped.
    pub first: Position,
    /// The place whose value counts.
    pub second: Position,
}

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Where reading stopped.
    pub at: Position,
    /// What is wrong there.
    pub message: String,
}

impl SyntaxError {
    fn new(at: Position, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
        }
    }
}

/// Reads all documents of a file, in order. A file is split at lines that begin with `---` before anything else, so
/// that what is wrong in one document leaves the others alone. Documents without content are left out.
#[must_use]
pub fn parse(bytes: &[u8]) -> Vec<Result<Document, SyntaxError>> {
    if bytes.len() > MAX_BYTES {
        return vec![Err(SyntaxError::new(
            Position::START,
            format!(
                "{} bytes are more than the {MAX_BYTES} a file may have",
                bytes.len()
            ),
        ))];
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return vec![Err(not_utf8(bytes, e.valid_up_to()))],
    };
    let mut documents = Vec::new();
    for chunk in split(text) {
        if chunk.text.trim_start().starts_with('{') {
            documents.push(json::parse(chunk.text, chunk.first_line));
        } else {
            build::parse(chunk.text, chunk.first_line, &mut documents);
        }
    }
    documents.retain(|d| !matches!(d, Ok(d) if d.root.value == Value::Null));
    documents
}

fn not_utf8(bytes: &[u8], at: usize) -> SyntaxError {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count())
        + 1;
    SyntaxError::new(
        position(line, column),
        format!(
            "byte 0x{:02x} is not UTF-8 text; save the file as UTF-8",
            bytes[at]
        ),
    )
}

fn position(line: usize, column: usize) -> Position {
    let fit = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: fit(line),
        column: fit(column),
    }
}

/// The text of one document and the line it begins at, from 1.
struct Chunk<'a> {
    text: &'a str,
    first_line: usize,
}

/// Splits at lines that begin with `---`. The mark stays with what follows it; directives stay with the mark that
/// ends them.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut begin, mut first_line) = (0, 1);
    let mut only_directives = true;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let mark = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        let bare = line.trim();
        if mark {
            if !only_directives {
                chunks.push(Chunk {
                    text: &text[begin..offset],
                    first_line,
                });
                (begin, first_line) = (offset, index + 1);
            }
            only_directives = false;
        } else if !(bare.is_empty() || bare.starts_with('#') || line.starts_with('%')) {
            only_directives = false;
        }
        offset += line.len();
    }
    chunks.push(Chunk {
        text: &text[begin..],
        first_line,
    });
    chunks
}

impl Node {
    /// The value of `key` when this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_mapping().and_then(|m| m.get(key))
    }

    /// The mapping, when it is one.
    #[must_use]
    pub fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(m) => Some(m),
            _ => None,
        }
    }

    /// The items, when it is a list.
    #[must_use]
    pub fn as_sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The text, when it is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The same value without positions.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::from(*n),
            Value::Uint(n) => Json::from(*n),
            Value::Float(n) => Json::from(*n),
            Value::String(s) => Json::String(s.clone()),
            Value::Sequence(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Mapping(m) => Json::Object(
                m.iter()
                    .map(|e| (e.key.clone(), e.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// What kind of value this is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Uint(_) | Value::Float(_) => "a number",
            Value::String(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

#[cfg(test)]
mod tests;
