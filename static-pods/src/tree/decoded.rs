//! What decoding gives: a value, fields without room, or the place and reason of a failure.

use std::fmt;

use super::Position;

/// A decoded value and what of the tree it has no room for.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The value.
    pub value: T,
    /// Fields the type does not have, in the order met. Their values are lost, as upstream.
    pub unknown: Vec<UnknownField>,
}

/// A field that the type does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Its path.
    pub path: String,
    /// Where its key is.
    pub at: Position,
    /// The field of the type whose name is nearest, when one is near.
    pub suggestion: Option<&'static str>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what())
    }
}

impl UnknownField {
    /// What is said of it, without its path.
    #[must_use]
    pub fn what(&self) -> String {
        match self.suggestion {
            Some(name) => format!("unknown field, did you mean {name:?}?"),
            None => "unknown field".to_owned(),
        }
    }
}

/// What to do about a number or a boolean where text belongs.
pub(crate) const PUT_IN_QUOTES: &str = "put it in quotes";

/// A value that does not fit the type of its field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", Prefix(path))]
pub struct DecodeError {
    /// Path of the field; empty for the document itself.
    pub path: String,
    /// Where its value is.
    pub at: Position,
    /// What was expected and found, and what to write instead.
    pub message: String,
}

/// A field's path and a colon before what is said of it; nothing for the document itself.
pub(crate) struct Prefix<'a>(pub(crate) &'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            path => write!(f, "{path}: "),
        }
    }
}
