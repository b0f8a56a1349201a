//! Field paths: written as upstream writes them, and looked up in the tree.

use super::{Node, Position, Value};
use std::fmt;

/// A path under construction, one link a level, on the stack of whoever walks the tree.
#[derive(Clone, Copy)]
pub(super) enum Link<'a> {
    Root,
    Field(&'a Link<'a>, &'a str),
    /// A key of a map whose keys are data (labels, resource names).
    Key(&'a Link<'a>, &'a str),
    Index(&'a Link<'a>, usize),
}

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Root => Ok(()),
            Link::Field(Link::Root, name) => f.write_str(name),
            Link::Field(parent, name) if name.contains(['.', '[', ']']) => {
                write!(f, "{parent}[{name}]")
            }
            Link::Field(parent, name) => write!(f, "{parent}.{name}"),
            Link::Key(parent, key) => write!(f, "{parent}[{key}]"),
            Link::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Splits `spec.containers[0].resources.limits[cpu]` into its steps.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').unwrap_or(inside.len());
            let step = &inside[..end];
            rest = inside.get(end + 1..).unwrap_or_default();
            rest = rest.strip_prefix('.').unwrap_or(rest);
            return Some(step);
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let step = &rest[..end];
        rest = &rest[end..];
        rest = rest.strip_prefix('.').unwrap_or(rest);
        Some(step)
    })
}

impl Node {
    /// The position of the value at `path`, such as `spec.containers[0].image` or `metadata.labels[app]`.
    #[must_use]
    pub fn at_path(&self, path: &str) -> Option<Position> {
        self.find(path).ok().map(|node| node.at)
    }

    /// The position of the value at `path`, or of its nearest parent that exists: where to point for a field that is
    /// missing.
    #[must_use]
    pub fn nearest(&self, path: &str) -> Position {
        match self.find(path) {
            Ok(node) => node.at,
            Err(position) => position,
        }
    }

    /// The node at `path`.
    ///
    /// # Errors
    /// The position of the deepest part of the path that exists (its key, where it has one).
    pub fn find(&self, path: &str) -> Result<&Node, Position> {
        let mut node = self;
        let mut at = self.at;
        for step in steps(path) {
            match &node.value {
                Value::Mapping(m) => {
                    let entry = m.entry(step).ok_or(at)?;
                    node = &entry.value;
                    at = entry.key_at;
                }
                Value::Sequence(items) => {
                    node = step
                        .parse::<usize>()
                        .ok()
                        .and_then(|index| items.get(index))
                        .ok_or(at)?;
                    at = node.at;
                }
                _ => return Err(at),
            }
        }
        Ok(node)
    }

    /// The path of the field whose key or value stands at `at`. Where a mapping begins with its first key, the key is
    /// meant. Nothing when no key or value stands there.
    #[must_use]
    pub fn path_at(&self, at: Position) -> Option<String> {
        self.path_below(&Link::Root, at)
    }

    fn path_below(&self, path: &Link<'_>, at: Position) -> Option<String> {
        let below = match &self.value {
            Value::Mapping(m) => m.iter().find_map(|entry| {
                let link = Link::Field(path, &entry.key);
                let within = || entry.value.path_below(&link, at);
                (entry.key_at == at)
                    .then(|| link.to_string())
                    .or_else(within)
            }),
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| item.path_below(&Link::Index(path, index), at)),
            _ => None,
        };
        below.or_else(|| (self.at == at).then(|| path.to_string()))
    }
}
