//! What is said of a setting, and where it was set.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use static_pods::tree::Position;

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    BuiltIn,
    /// A flag of this name.
    Flag(&'static str),
    /// A file.
    File {
        /// The file.
        path: Arc<Path>,
        /// Where in the file.
        at: Position,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in defaults"),
            Self::Flag(name) => write!(f, "--{name}"),
            Self::File { path, at } => write!(f, "{}:{at}", path.display()),
        }
    }
}

/// One thing that is wrong, or worth a warning, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where it was set.
    pub origin: Origin,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl Issue {
    pub(crate) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self {
            origin,
            message: message.into(),
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// Several issues, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues(pub Vec<Issue>);

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{issue}")?;
        }
        Ok(())
    }
}
