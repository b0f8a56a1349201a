//! Values that upstream shows as JSON objects, and kinds of errors that only some families have.

use super::Errors;
use super::shown::{Bare, json, quoted};

/// A JSON string, or `null`.
pub(super) fn json_or_null(text: Option<&str>) -> String {
    text.map_or_else(null, json)
}

/// A JSON number or boolean, or `null`.
pub(super) fn bare_or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(null, |v| v.to_string())
}

fn null() -> String {
    "null".to_owned()
}

/// A JSON object: names with values that are JSON already, in this order.
pub(super) fn json_object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(n, v)| format!("{n:?}:{v}")).collect();
    format!("{{{}}}", fields.join(","))
}

impl Errors {
    /// `value`, a plain text, is none of `supported`, which stand in the order of the message.
    pub(super) fn unsupported_text(
        &mut self,
        path: impl Into<String>,
        value: &str,
        supported: &[&str],
    ) {
        let names: Vec<_> = supported.iter().map(|s| quoted(s)).collect();
        let detail = format!("supported values: {}", names.join(", "));
        self.push(
            path,
            &format!("Unsupported value: {}", quoted(value)),
            &detail,
        );
    }

    pub(super) fn too_many(&mut self, path: impl Into<String>, found: usize, most: usize) {
        let detail = format!("must have at most {most} items");
        self.push(path, &format!("Too many: {found}"), &detail);
    }

    /// The value is JSON already.
    pub(super) fn invalid_json(&mut self, path: impl Into<String>, json: String, detail: &str) {
        self.invalid(path, Bare(json), detail);
    }

    /// Required when empty, otherwise each message of `rule`.
    pub(super) fn named(&mut self, path: &str, name: &str, rule: impl Fn(&str) -> Vec<String>) {
        match name {
            "" => self.required(path, ""),
            name => self.all(path, name, rule(name)),
        }
    }

    /// Required when empty.
    pub(super) fn present(&mut self, path: &str, field: &str, value: &str) {
        if value.is_empty() {
            self.required(format!("{path}.{field}"), "");
        }
    }

    /// Runs `check`, whose errors bear upstream's path `shown`, for what stands at `real` in the document: some of
    /// upstream's paths leave out an index or misspell a field.
    pub(super) fn standing_at(&mut self, shown: &str, real: &str, check: impl FnOnce(&mut Self)) {
        let before = self.0.len();
        check(self);
        for error in self.0.iter_mut().skip(before) {
            // What was pointed at from within is nearer.
            if error.at.is_none()
                && let Some(rest) = error.path.strip_prefix(shown)
            {
                error.at = Some(format!("{real}{rest}"));
            }
        }
    }
}
