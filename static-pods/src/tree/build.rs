//! YAML events to trees: anchors, merge keys, duplicate keys and the limits.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::scalar::{self, Scalar, ScalarTag};
use super::{
    Document, DuplicateKey, Entry, MAX_DEPTH, MAX_NODES, MAX_REPEATED_BYTES, Mapping, Node,
    Position, SyntaxError, Value, position,
};

/// Entries of a mapping while it is read. Large ones get an index, so that reading stays linear.
#[derive(Default)]
pub(super) struct MappingBuilder {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
}

impl MappingBuilder {
    /// Adds `entry`, or replaces the one of the same key, whose key position it returns.
    pub(super) fn set(&mut self, entry: Entry) -> Option<Position> {
        const SMALL: usize = 16;
        let known = if self.entries.len() < SMALL {
            self.entries.iter().position(|e| e.key == entry.key)
        } else {
            if self.index.is_empty() {
                let keys = self.entries.iter().enumerate();
                self.index = keys.map(|(i, e)| (e.key.clone(), i)).collect();
            }
            let known = self.index.get(&entry.key).copied();
            if known.is_none() {
                self.index.insert(entry.key.clone(), self.entries.len());
            }
            known
        };
        match known {
            Some(i) => Some(std::mem::replace(&mut self.entries[i], entry).key_at),
            None => {
                self.entries.push(entry);
                None
            }
        }
    }

    pub(super) fn finish(self) -> Mapping {
        Mapping {
            entries: self.entries,
        }
    }
}

/// A list or mapping that is still open.
struct Frame {
    at: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping {
        built: MappingBuilder,
        /// The key whose value comes next.
        key: Option<Key>,
    },
}

enum Key {
    Plain(String, Position),
    Merge,
}

/// What repeating a node costs.
#[derive(Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

fn weigh(node: &Node) -> Weight {
    let mut total = Weight {
        nodes: 1,
        bytes: 0,
        depth: 1,
    };
    let mut add = |child: &Node, key: usize| {
        let w = weigh(child);
        total.nodes += w.nodes;
        total.bytes += w.bytes + key;
        total.depth = total.depth.max(w.depth + 1);
    };
    match &node.value {
        Value::Sequence(items) => items.iter().for_each(|n| add(n, 0)),
        Value::Mapping(m) => m.iter().for_each(|e| add(&e.value, e.key.len())),
        Value::String(text) => total.bytes = text.len(),
        _ => {}
    }
    total
}

/// Reads the documents of `text`, which begins at line `first_line` of its file, up to the first error.
pub(super) fn parse(
    text: &str,
    first_line: usize,
    documents: &mut Vec<Result<Document, SyntaxError>>,
) {
    if let Some(error) = control_character(text, first_line) {
        documents.push(Err(error));
        return;
    }
    // YAML 1.1 lets tabs stand between a key's colon and its value, the parser does not: such a tab becomes a space.
    // Bounded, for each round reads the document again.
    const TABS: usize = 64;
    let mut text = Cow::Borrowed(text);
    for _ in 0..TABS {
        let Some(tab) = tab_after_colon(&text) else {
            break;
        };
        text.to_mut().replace_range(tab..=tab, " ");
    }
    read(&text, first_line, documents);
}

/// Longest document whose tabs are mended.
const SMALL: usize = 256 << 10;

/// The place of the tab that keeps the parser from reading `text`, when that is what stops it.
fn tab_after_colon(text: &str) -> Option<usize> {
    if text.len() > SMALL || !text.contains(":\t") {
        return None;
    }
    let error = Parser::new_from_str(text).find_map(Result::err)?;
    let before = text.char_indices().nth(error.marker().index())?.0;
    let spaces = text[..before].trim_end_matches([' ', '\t']);
    let found = text.as_bytes().get(spaces.len()) == Some(&b'\t') && spaces.ends_with(':');
    (found && error.info().starts_with("':' must be followed")).then_some(spaces.len())
}

/// The first character that YAML 1.1 does not let stand in a file.
fn control_character(text: &str, first_line: usize) -> Option<SyntaxError> {
    let illegal = |c: char| {
        (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
            || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let at = text.find(illegal)?;
    let c = text[at..].chars().next()?;
    let line = text[..at].matches('\n').count() + first_line;
    let column = text[..at].rsplit('\n').next()?.chars().count() + 1;
    let message = format!("control character {c:?} is not allowed");
    Some(SyntaxError::new(position(line, column), message))
}

fn read(text: &str, first_line: usize, documents: &mut Vec<Result<Document, SyntaxError>>) {
    let mut builder = Builder {
        line_offset: first_line - 1,
        ..Builder::default()
    };
    let mut events = Parser::new_from_str(text);
    while let Some(event) = events.next_event() {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(e) => {
                let mark = *e.marker();
                let at = builder.place(mark.line(), mark.col());
                let message = match e.info() {
                    "recursion limit exceeded" => "nested too deeply",
                    other => other,
                };
                Err(SyntaxError::new(at, message))
            }
        };
        match step {
            Ok(None) => {}
            Ok(Some(document)) => documents.push(Ok(document)),
            Err(e) => {
                documents.push(Err(e));
                return;
            }
        }
    }
}

#[derive(Default)]
struct Builder {
    line_offset: usize,
    frames: Vec<Frame>,
    /// Complete anchored nodes by the parser's number for them.
    anchors: HashMap<usize, (Node, Weight)>,
    root: Option<Node>,
    duplicates: Vec<DuplicateKey>,
    nodes: usize,
    repeated_bytes: usize,
}

impl Builder {
    fn place(&self, line: usize, column: usize) -> Position {
        position(line.max(1) + self.line_offset, column + 1)
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Document>, SyntaxError> {
        let at = self.place(span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(_) => {
                *self = Self {
                    line_offset: self.line_offset,
                    ..Self::default()
                };
            }
            Event::DocumentEnd => {
                let root = self.root.take();
                return Ok(root.map(|root| Document {
                    root,
                    duplicates: std::mem::take(&mut self.duplicates),
                }));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag.as_deref(), at)?;
            }
            Event::SequenceStart(anchor, _) => {
                self.open(at, anchor, Content::Sequence(Vec::new()))?;
            }
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping {
                    built: MappingBuilder::default(),
                    key: None,
                };
                self.open(at, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => self.alias(anchor, at)?,
            Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        Ok(None)
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values in one document");
            return Err(SyntaxError::new(at, message));
        }
        Ok(())
    }

    fn open(&mut self, at: Position, anchor: usize, content: Content) -> Result<(), SyntaxError> {
        self.count(1, at)?;
        if self.wants_key() {
            return Err(SyntaxError::new(at, "a list or mapping cannot be a key"));
        }
        if self.frames.len() >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(SyntaxError::new(at, message));
        }
        self.frames.push(Frame {
            at,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let value = match frame.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { built, .. } => Value::Mapping(built.finish()),
        };
        let node = Node {
            value,
            at: frame.at,
        };
        self.remember(frame.anchor, &node)?;
        self.value(node)
    }

    fn wants_key(&self) -> bool {
        let top = self.frames.last().map(|f| &f.content);
        matches!(top, Some(Content::Mapping { key: None, .. }))
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: Position,
    ) -> Result<(), SyntaxError> {
        self.count(1, at)?;
        let plain = style == ScalarStyle::Plain;
        let tag = match tag {
            None if plain => ScalarTag::Any,
            None => ScalarTag::Text,
            Some(tag) if tag.is_yaml_core_schema() => ScalarTag::from_suffix(&tag.suffix),
            Some(_) => ScalarTag::Foreign,
        };
        if self.wants_key() && text == "<<" && tag == ScalarTag::Any {
            return self.key(Key::Merge);
        }
        let read = scalar::resolve(tag, &text).map_err(|m| SyntaxError::new(at, m))?;
        if self.wants_key() {
            let name = scalar::key_text(&read)
                .ok_or_else(|| SyntaxError::new(at, format!("`{text}` cannot be a key")))?;
            let value = Value::String(name.clone());
            self.remember(anchor, &Node { value, at })?;
            return self.key(Key::Plain(name, at));
        }
        let value = read.into_value().map_err(|m| SyntaxError::new(at, m))?;
        let node = Node { value, at };
        self.remember(anchor, &node)?;
        self.value(node)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), SyntaxError> {
        let Some((_, weight)) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(at, "an alias within what it stands for"));
        };
        let weight = *weight;
        self.count(weight.nodes, at)?;
        self.repeat(weight, at)?;
        let Some((node, _)) = self.anchors.get(&anchor) else {
            return Ok(());
        };
        let node = node.clone();
        if !self.wants_key() {
            return self.value(node);
        }
        let name = match node.value {
            Value::Sequence(_) | Value::Mapping(_) => None,
            value => scalar::key_text(&Scalar::Value(value)),
        };
        match name {
            Some(name) => self.key(Key::Plain(name, at)),
            None => Err(SyntaxError::new(at, "this alias cannot be a key")),
        }
    }

    fn repeat(&mut self, weight: Weight, at: Position) -> Result<(), SyntaxError> {
        self.repeated_bytes += weight.bytes;
        if self.repeated_bytes > MAX_REPEATED_BYTES {
            return Err(SyntaxError::new(at, "aliases repeat too much text"));
        }
        if self.frames.len() + weight.depth > MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(SyntaxError::new(at, message));
        }
        Ok(())
    }

    /// Keeps a copy of an anchored node; the copy counts against the same limits as an alias.
    fn remember(&mut self, anchor: usize, node: &Node) -> Result<(), SyntaxError> {
        if anchor == 0 {
            return Ok(());
        }
        let weight = weigh(node);
        self.count(weight.nodes, node.at)?;
        self.repeat(weight, node.at)?;
        self.anchors.insert(anchor, (node.clone(), weight));
        Ok(())
    }

    fn key(&mut self, new: Key) -> Result<(), SyntaxError> {
        if let Some(Frame {
            content: Content::Mapping { key, .. },
            ..
        }) = self.frames.last_mut()
        {
            *key = Some(new);
        }
        Ok(())
    }

    /// Puts a complete node where it belongs.
    fn value(&mut self, node: Node) -> Result<(), SyntaxError> {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { built, key } => match key.take() {
                Some(Key::Plain(name, key_at)) => {
                    let first = built.set(Entry {
                        key: name.clone(),
                        key_at,
                        value: node,
                    });
                    if let Some(first) = first {
                        let path = self.path_of(&name);
                        self.duplicates.push(DuplicateKey {
                            path,
                            first,
                            second: key_at,
                        });
                    }
                }
                Some(Key::Merge) => merge(built, node)?,
                None => {}
            },
        }
        Ok(())
    }

    fn path_of(&self, key: &str) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.content {
                Content::Sequence(items) => {
                    path.push_str(&format!("[{}]", items.len()));
                }
                Content::Mapping {
                    key: Some(Key::Plain(name, _)),
                    ..
                } => push_field(&mut path, name),
                Content::Mapping { .. } => {}
            }
        }
        push_field(&mut path, key);
        path
    }
}

pub(super) fn push_field(path: &mut String, name: &str) {
    if name.contains(['.', '[', ']']) {
        path.push_str(&format!("[{name}]"));
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    }
}

/// What a merge brings takes the place of keys written before it and gives way to keys written after it; of several
/// mappings the earlier ones count.
fn merge(built: &mut MappingBuilder, node: Node) -> Result<(), SyntaxError> {
    let wrong = |at| SyntaxError::new(at, "`<<` takes a mapping or a list of mappings");
    let sources = match node.value {
        Value::Mapping(_) => vec![node],
        Value::Sequence(items) => items,
        _ => return Err(wrong(node.at)),
    };
    for source in sources.into_iter().rev() {
        let Value::Mapping(m) = source.value else {
            return Err(wrong(source.at));
        };
        for entry in m.entries {
            built.set(entry);
        }
    }
    Ok(())
}
