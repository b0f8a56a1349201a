//! JSON to a tree, by JSON's own rules.

use super::build::{MappingBuilder, push_field};
use super::{
    Document, DuplicateKey, Entry, MAX_DEPTH, MAX_NODES, Node, Position, SyntaxError, Value,
    position,
};

/// Reads `text`, which begins at line `first_line` of its file, as one JSON value.
pub(super) fn parse(text: &str, first_line: usize) -> Result<Document, SyntaxError> {
    let mut reader = Reader {
        rest: text,
        line: first_line,
        column: 1,
        nodes: 0,
        steps: Vec::new(),
        duplicates: Vec::new(),
    };
    let root = reader.value()?;
    reader.space();
    if !reader.rest.is_empty() {
        return Err(reader.error("something stands after the end of the JSON value"));
    }
    Ok(Document {
        root,
        duplicates: reader.duplicates,
    })
}

enum Step {
    Field(String),
    Index(usize),
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    nodes: usize,
    /// Where in the tree the reader is; also its depth.
    steps: Vec<Step>,
    duplicates: Vec<DuplicateKey>,
}

impl Reader<'_> {
    fn at(&self) -> Position {
        position(self.line, self.column)
    }

    fn error(&self, message: &str) -> SyntaxError {
        let found = match self.rest.chars().next() {
            Some(c) => format!("found {c:?}"),
            None => "found the end of the document".into(),
        };
        SyntaxError::new(self.at(), format!("invalid JSON: {message}; {found}"))
    }

    fn advance(&mut self, bytes: usize) {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.rest = rest;
    }

    fn space(&mut self) {
        let blank = |c| matches!(c, ' ' | '\t' | '\r' | '\n');
        let rest = self.rest.trim_start_matches(blank);
        self.advance(self.rest.len() - rest.len());
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest.starts_with(c);
        if found {
            self.advance(c.len_utf8());
        }
        found
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        self.space();
        let at = self.at();
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values in one document");
            return Err(SyntaxError::new(at, message));
        }
        if self.steps.len() >= MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(SyntaxError::new(at, message));
        }
        let value = match self.rest.as_bytes().first() {
            Some(b'{') => self.object()?,
            Some(b'[') => self.array()?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node { value, at })
    }

    fn word(&mut self) -> Result<Value, SyntaxError> {
        let words = [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
        ];
        for (word, value) in words {
            if self.rest.starts_with(word) {
                self.advance(word.len());
                return Ok(value);
            }
        }
        Err(self.error("expected a value"))
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        self.advance(1);
        let mut items = Vec::new();
        self.space();
        if self.eat(']') {
            return Ok(Value::Sequence(items));
        }
        loop {
            self.steps.push(Step::Index(items.len()));
            items.push(self.value()?);
            self.steps.pop();
            self.space();
            if self.eat(']') {
                return Ok(Value::Sequence(items));
            }
            if !self.eat(',') {
                return Err(self.error("expected a comma or the end of the list"));
            }
        }
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        self.advance(1);
        let mut built = MappingBuilder::default();
        self.space();
        if self.eat('}') {
            return Ok(Value::Mapping(built.finish()));
        }
        loop {
            self.space();
            let key_at = self.at();
            if !self.rest.starts_with('"') {
                return Err(self.error("expected a key in double quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.eat(':') {
                return Err(self.error("expected a colon after the key"));
            }
            self.steps.push(Step::Field(key.clone()));
            let value = self.value()?;
            self.steps.pop();
            let first = built.set(Entry {
                key: key.clone(),
                key_at,
                value,
            });
            if let Some(first) = first {
                let path = self.path_of(&key);
                self.duplicates.push(DuplicateKey {
                    path,
                    first,
                    second: key_at,
                });
            }
            self.space();
            if self.eat('}') {
                return Ok(Value::Mapping(built.finish()));
            }
            if !self.eat(',') {
                return Err(self.error("expected a comma or the end of the object"));
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Field(name) => push_field(&mut path, name),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        push_field(&mut path, key);
        path
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.advance(1);
        let mut text = String::new();
        loop {
            let run = self
                .rest
                .find(|c: char| c == '"' || c == '\\' || c < ' ')
                .unwrap_or(self.rest.len());
            text.push_str(&self.rest[..run]);
            self.advance(run);
            if self.eat('"') {
                return Ok(text);
            }
            if !self.eat('\\') {
                return Err(self.error("text without its closing quote on the same line"));
            }
            let c = self.rest.chars().next().unwrap_or('\0');
            let plain = match c {
                '"' | '\\' | '/' => c,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    text.push(self.unicode()?);
                    continue;
                }
                _ => return Err(self.error("no such escape")),
            };
            self.advance(1);
            text.push(plain);
        }
    }

    /// The character of `uXXXX`, or of a surrogate pair; half a pair is U+FFFD, as Go has it.
    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let unit = |text: &str| -> Option<u32> {
            let digits = text.strip_prefix('u')?.get(..4)?;
            let hex = digits.bytes().all(|c| c.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let Some(high) = unit(self.rest) else {
            return Err(self.error("\\u wants four hexadecimal digits"));
        };
        self.advance(5);
        if (0xd800..0xdc00).contains(&high) {
            let low = self.rest.strip_prefix('\\').and_then(unit);
            if let Some(low @ 0xdc00..0xe000) = low {
                self.advance(6);
                let c = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let legal = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let end = self.rest.find(|c| !legal(c)).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        let value = match serde_json::from_str::<serde_json::Number>(text) {
            Ok(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
                (Some(n), _, _) => Value::Int(n),
                (_, Some(n), _) => Value::Uint(n),
                (_, _, Some(n)) => Value::Float(n),
                _ => return Err(self.error("a number out of range")),
            },
            Err(_) => return Err(self.error("not a number")),
        };
        self.advance(end);
        Ok(value)
    }
}
