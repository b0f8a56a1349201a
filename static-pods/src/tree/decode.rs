//! serde over the tree: errors know their field path and position, and fields that the type does not have are
//! recorded instead of lost.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};

use super::decoded::{DecodeError, Decoded, PUT_IN_QUOTES, UnknownField};
use super::path::Link;
use super::{Entry, Node, Position, Value};

impl Node {
    /// Decodes the tree into a `T`, by the rules of JSON as Go reads it: a field that is null is as good as absent,
    /// and nothing is converted between numbers, booleans and text. `Quantity` takes a number too.
    ///
    /// # Errors
    /// The first value that does not fit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Decoded<T>, DecodeError> {
        let unknown = RefCell::new(Vec::new());
        let decoder = Decoder {
            node: self,
            path: &Link::Root,
            unknown: &unknown,
        };
        match T::deserialize(decoder) {
            Ok(value) => Ok(Decoded {
                value,
                unknown: unknown.into_inner(),
            }),
            Err(e) => Err(e.finish(self.at)),
        }
    }
}

/// An error on its way up: the innermost value it passes says where it is.
#[derive(Debug)]
struct Failure {
    message: String,
    place: Option<(String, Position)>,
}

impl Failure {
    fn within(mut self, path: &Link<'_>, at: Position) -> Self {
        self.place.get_or_insert_with(|| (path.to_string(), at));
        self
    }

    fn finish(self, root: Position) -> DecodeError {
        let (path, at) = self.place.unwrap_or((String::new(), root));
        DecodeError {
            path,
            at,
            message: self.message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            place: None,
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    path: &'a Link<'a>,
    unknown: &'a RefCell<Vec<UnknownField>>,
}

impl<'a> Decoder<'a> {
    fn mismatch(&self, wanted: &str) -> Failure {
        let found = &self.node.value;
        let message = match found {
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_)
                if wanted == "text" =>
            {
                let shown = self.node.to_json();
                let kind = self.node.kind();
                format!("must be text, but {shown} is {kind}; {PUT_IN_QUOTES}")
            }
            Value::String(text) if text.len() <= 64 => {
                format!("must be {wanted}, but {text:?} is text")
            }
            _ => format!("must be {wanted}, but is {}", self.node.kind()),
        };
        Failure {
            message,
            place: None,
        }
        .within(self.path, self.node.at)
    }

    fn integer<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_u64(0),
            Value::Int(n) => visitor.visit_i64(n),
            Value::Uint(n) => visitor.visit_u64(n),
            Value::Float(n) => return Err(self.mismatch_number(n)),
            _ => return Err(self.mismatch("a whole number")),
        }
        .map_err(|e: Failure| e.within(self.path, self.node.at))
    }

    fn mismatch_number(&self, n: f64) -> Failure {
        Failure {
            message: format!("must be a whole number, but is {n}"),
            place: None,
        }
        .within(self.path, self.node.at)
    }

    fn float<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_f64(0.0),
            Value::Int(n) => visitor.visit_i64(n),
            Value::Uint(n) => visitor.visit_u64(n),
            Value::Float(n) => visitor.visit_f64(n),
            _ => return Err(self.mismatch("a number")),
        }
        .map_err(|e: Failure| e.within(self.path, self.node.at))
    }

    fn text<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_str(text),
            _ => return Err(self.mismatch("text")),
        }
        .map_err(|e: Failure| e.within(self.path, self.node.at))
    }

    fn map<'de, V: Visitor<'de>>(
        &self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let entries = match &self.node.value {
            Value::Null => [].iter(),
            Value::Mapping(m) => m.iter(),
            _ => return Err(self.mismatch("a mapping")),
        };
        let fields = Fields {
            entries,
            current: None,
            known: fields,
            parent: *self,
        };
        visitor
            .visit_map(fields)
            .map_err(|e| e.within(self.path, self.node.at))
    }
}

macro_rules! forward {
    ($($method:ident => $to:ident),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            self.$to(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(n) => visitor.visit_i64(*n),
            Value::Uint(n) => visitor.visit_u64(*n),
            Value::Float(n) => visitor.visit_f64(*n),
            Value::String(text) => visitor.visit_str(text),
            Value::Sequence(_) => return self.deserialize_seq(visitor),
            Value::Mapping(_) => return self.map(None, visitor),
        }
        .map_err(|e: Failure| e.within(self.path, self.node.at))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(b),
            _ => Err(self.mismatch("true or false")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.node.value {
            Value::Null => visitor.visit_unit(),
            _ => Err(self.mismatch("nothing")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if name != "Quantity" {
            return visitor
                .visit_newtype_struct(self)
                .map_err(|e| e.within(self.path, self.node.at));
        }
        // Quantities are written as text or as a number.
        match &self.node.value {
            Value::Null => visitor.visit_str("0"),
            Value::Int(n) => visitor.visit_string(n.to_string()),
            Value::Uint(n) => visitor.visit_string(n.to_string()),
            Value::Float(n) => visitor.visit_string(n.to_string()),
            Value::String(text) => visitor.visit_str(text),
            _ => Err(self.mismatch("a quantity")),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let items = match &self.node.value {
            Value::Null => [].as_slice(),
            Value::Sequence(items) => items,
            _ => return Err(self.mismatch("a list")),
        };
        let items = Items {
            items: items.iter().enumerate(),
            parent: self,
        };
        visitor
            .visit_seq(items)
            .map_err(|e| e.within(self.path, self.node.at))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let Value::String(text) = &self.node.value else {
            return Err(self.mismatch("text"));
        };
        let variant: de::value::StrDeserializer<'_, Failure> = text.as_str().into_deserializer();
        visitor.visit_enum(variant).map_err(|_| {
            let message = format!("{text:?} is none of {}", variants.join(", "));
            let place = None;
            Failure { message, place }.within(self.path, self.node.at)
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        // Nothing beneath is of interest: no recursion.
        visitor.visit_unit()
    }

    forward! {
        deserialize_i8 => integer, deserialize_i16 => integer, deserialize_i32 => integer,
        deserialize_i64 => integer, deserialize_i128 => integer,
        deserialize_u8 => integer, deserialize_u16 => integer, deserialize_u32 => integer,
        deserialize_u64 => integer, deserialize_u128 => integer,
        deserialize_f32 => float, deserialize_f64 => float,
        deserialize_char => text, deserialize_str => text, deserialize_string => text,
        deserialize_bytes => text, deserialize_byte_buf => text, deserialize_identifier => text,
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    parent: Decoder<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = Link::Index(self.parent.path, index);
        let item = Decoder {
            node,
            path: &path,
            unknown: self.parent.unknown,
        };
        let value = seed.deserialize(item);
        value.map(Some).map_err(|e| e.within(&path, node.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    /// The fields of the type; none for a map whose keys are data.
    known: Option<&'static [&'static str]>,
    parent: Decoder<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        self.current = self.entries.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        if let Some(known) = self.known
            && !known.contains(&entry.key.as_str())
        {
            let path = Link::Field(self.parent.path, &entry.key).to_string();
            self.parent.unknown.borrow_mut().push(UnknownField {
                path,
                at: entry.key_at,
                suggestion: nearest(&entry.key, known),
            });
        }
        let key: de::value::StrDeserializer<'_, Failure> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let Some(entry) = self.current else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let path = match self.known {
            Some(_) => Link::Field(self.parent.path, &entry.key),
            None => Link::Key(self.parent.path, &entry.key),
        };
        let value = seed.deserialize(Decoder {
            node: &entry.value,
            path: &path,
            unknown: self.parent.unknown,
        });
        value.map_err(|e| e.within(&path, entry.value.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// The name among `known` that `written` was most likely meant to be: at most two edits away, capitals aside.
fn nearest(written: &str, known: &[&'static str]) -> Option<&'static str> {
    // Long enough for every field there is; keeps the work bounded for keys that are megabytes long.
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    let written = written.to_lowercase();
    known
        .iter()
        .map(|name| (edits(&written, &name.to_lowercase()), *name))
        .filter(|(edits, name)| *edits <= 2 && *edits < name.len())
        .min()
        .map(|(_, name)| name)
}

/// How many insertions, deletions and replacements turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
