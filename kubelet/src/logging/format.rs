//! From an event to a line.

use std::error::Error;
use std::fmt::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use crate::errors::error_chain;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// klog's header, the quoted message, `key="value"`.
    #[default]
    Text,
    /// klog's JSON: `ts` (milliseconds since the epoch), `caller`, `msg`, `v`, then the fields.
    Json,
}

/// The message and fields of an event or span, the fields rendered already.
#[derive(Debug)]
pub(super) struct Fields {
    format: Format,
    message: String,
    rendered: String,
    named: Named,
}

/// The values of the fields that the journal has fields of its own for.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) pod: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) container: Option<String>,
    pub(super) reason: Option<String>,
}

impl Named {
    fn slot(&mut self, field: &str) -> Option<&mut Option<String>> {
        match field {
            "pod" => Some(&mut self.pod),
            "uid" => Some(&mut self.uid),
            "container" => Some(&mut self.container),
            "reason" => Some(&mut self.reason),
            _ => None,
        }
    }

    /// What is said nearer to the event counts.
    fn fill_in(&mut self, outer: &Self) {
        let Self {
            pod,
            uid,
            container,
            reason,
        } = self;
        let slots = [
            (pod, &outer.pod),
            (uid, &outer.uid),
            (container, &outer.container),
            (reason, &outer.reason),
        ];
        for (own, outer) in slots {
            if own.is_none() {
                own.clone_from(outer);
            }
        }
    }
}

impl Fields {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            message: String::new(),
            rendered: String::new(),
            named: Named::default(),
        }
    }

    /// Adds the fields of a span around this event.
    pub(super) fn append(&mut self, outer: &Self) {
        self.rendered.push_str(&outer.rendered);
        self.named.fill_in(&outer.named);
    }

    pub(super) fn named(&self) -> &Named {
        &self.named
    }

    /// The line without the header that says when and where, and without its end.
    pub(super) fn body(&self, metadata: &Metadata<'_>, wall: Timestamp) -> String {
        match self.format {
            Format::Text => {
                let mut text = String::with_capacity(2 + self.message.len() + self.rendered.len());
                // Writing to a String cannot fail.
                let _ = quote(&mut text, &self.message);
                text.push_str(&self.rendered);
                text
            }
            Format::Json => {
                let mut line = self.line(metadata, wall);
                line.truncate(line.trim_end().len());
                line
            }
        }
    }

    /// The line, with its end.
    pub(super) fn line(&self, metadata: &Metadata<'_>, wall: Timestamp) -> String {
        let file = metadata.file().unwrap_or("unknown");
        let file = file.rsplit('/').next().unwrap_or(file);
        let line = metadata.line().unwrap_or(0);
        let mut text = String::with_capacity(96 + self.message.len() + self.rendered.len());
        // Writing to a String cannot fail.
        let _ = match self.format {
            Format::Text => self.text(&mut text, *metadata.level(), wall, file, line),
            Format::Json => self.json(&mut text, *metadata.level(), wall, file, line),
        };
        text
    }

    fn text(
        &self,
        out: &mut String,
        level: Level,
        wall: Timestamp,
        file: &str,
        line: u32,
    ) -> fmt::Result {
        let severity = match level {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let time = TimeZone::UTC.to_datetime(wall);
        write!(
            out,
            "{severity}{:02}{:02} {:02}:{:02}:{:02}.{:06} {:>7} {file}:{line}] ",
            time.month(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond() / 1000,
            std::process::id(),
        )?;
        quote(out, &self.message)?;
        out.push_str(&self.rendered);
        out.push('\n');
        Ok(())
    }

    fn json(
        &self,
        out: &mut String,
        level: Level,
        wall: Timestamp,
        file: &str,
        line: u32,
    ) -> fmt::Result {
        let nanos = wall.as_nanosecond();
        write!(
            out,
            "{{\"ts\":{}.{:06},\"caller\":",
            nanos.div_euclid(1_000_000),
            nanos.rem_euclid(1_000_000)
        )?;
        json_text(out, &format!("{file}:{line}"))?;
        out.push_str(",\"msg\":");
        json_text(out, &self.message)?;
        // As upstream: an error has no verbosity.
        match level {
            Level::ERROR => {}
            Level::DEBUG => out.push_str(",\"v\":4"),
            Level::TRACE => out.push_str(",\"v\":6"),
            _ => out.push_str(",\"v\":0"),
        }
        out.push_str(&self.rendered);
        out.push_str("}\n");
        Ok(())
    }

    /// Writes the name of a field; its value is to follow.
    fn key(&mut self, name: &str) {
        let _ = match self.format {
            Format::Text => write!(self.rendered, " {name}="),
            Format::Json => {
                self.rendered.push(',');
                json_text(&mut self.rendered, name).and_then(|()| self.rendered.write_char(':'))
            }
        };
    }

    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.key(field.name());
        let _ = self.rendered.write_fmt(value);
    }

    fn quoted(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        if let Some(slot) = self.named.slot(field.name()) {
            *slot = Some(value.to_owned());
        }
        self.key(field.name());
        let _ = match self.format {
            Format::Text => quote(&mut self.rendered, value),
            Format::Json => json_text(&mut self.rendered, value),
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.quoted(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.bare(field, format_args!("{value}"));
        } else {
            self.quoted(field, &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.quoted(field, &error_chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.quoted(field, &format!("{value:?}"));
    }
}

/// `text` in double quotes, on one line.
fn quote(out: &mut String, text: &str) -> fmt::Result {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() && c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c))?,
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c))?,
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

fn json_text(out: &mut String, text: &str) -> fmt::Result {
    let text = serde_json::to_string(text).map_err(|_| fmt::Error)?;
    out.write_str(&text)
}
