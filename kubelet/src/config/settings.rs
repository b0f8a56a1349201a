//! Typed reading of the merged layers, defaults filled in.

use std::collections::BTreeMap;

use serde_json::Value;

use super::durations::GoDuration;
use super::fields::{self, FIELDS, Preset};
use super::flags;
use super::issue::{Issue, Origin};
use super::layers::{Layers, get};

/// The port of the read-only server of a kubelet without `--config`.
const LEGACY_READ_ONLY_PORT: i64 = 10255;

/// Reads settings by the path of their field. The layers were checked against the table, so that a value has the type
/// of its field; a path that is not in the table reads as nothing.
#[derive(Debug)]
pub(super) struct Settings {
    layers: Layers,
}

/// The default of a field. What upstream keeps for command lines of old differs without `--config`.
pub(super) fn preset(path: &str, with_file: bool) -> Preset {
    if !with_file {
        match path {
            "authentication.anonymous.enabled" => return Preset::Bool(true),
            "authentication.webhook.enabled" => return Preset::Bool(false),
            "authorization.mode" => return Preset::Text("AlwaysAllow"),
            "readOnlyPort" => return Preset::Int(LEGACY_READ_ONLY_PORT),
            _ => {}
        }
    }
    fields::find(path).map_or(Preset::None, |field| field.preset)
}

impl Settings {
    pub(super) fn new(layers: Layers) -> Self {
        Self { layers }
    }

    pub(super) fn with_file(&self) -> bool {
        self.layers.with_file
    }

    pub(super) fn take_warnings(&mut self) -> Vec<Issue> {
        std::mem::take(&mut self.layers.warnings)
    }

    /// The value that was set.
    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        debug_assert!(fields::find(path).is_some(), "no field {path}");
        get(&self.layers.merged, path).filter(|value| !value.is_null())
    }

    pub(super) fn is_set(&self, path: &str) -> bool {
        self.value(path).is_some()
    }

    /// Whether a flag set it, rather than a file.
    pub(super) fn is_set_by_flag(&self, path: &str) -> bool {
        matches!(self.layers.origins.get(path), Some(Origin::Flag(_)))
    }

    /// Where a field was set.
    pub(super) fn origin(&self, path: &str) -> Origin {
        let origin = self.layers.origins.get(path).filter(|_| self.is_set(path));
        origin.cloned().unwrap_or(Origin::BuiltIn)
    }

    /// The default of a field.
    pub(super) fn preset(&self, path: &str) -> Preset {
        preset(path, self.layers.with_file)
    }

    pub(super) fn bool(&self, path: &str) -> bool {
        match (self.value(path).and_then(Value::as_bool), self.preset(path)) {
            (Some(value), _) | (None, Preset::Bool(value)) => value,
            _ => false,
        }
    }

    /// A boolean without a default.
    pub(super) fn bool_if_set(&self, path: &str) -> Option<bool> {
        self.value(path).and_then(Value::as_bool)
    }

    pub(super) fn int(&self, path: &str) -> i64 {
        match (self.value(path).and_then(Value::as_i64), self.preset(path)) {
            (Some(value), _) | (None, Preset::Int(value)) => value,
            _ => 0,
        }
    }

    /// A number without a default.
    pub(super) fn int_if_set(&self, path: &str) -> Option<i64> {
        self.value(path).and_then(Value::as_i64)
    }

    pub(super) fn float(&self, path: &str) -> f64 {
        match (self.value(path).and_then(Value::as_f64), self.preset(path)) {
            (Some(value), _) | (None, Preset::Float(value)) => value,
            _ => 0.0,
        }
    }

    pub(super) fn text(&self, path: &str) -> &str {
        match (self.value(path).and_then(Value::as_str), self.preset(path)) {
            (Some(value), _) | (None, Preset::Text(value)) => value,
            _ => "",
        }
    }

    pub(super) fn duration(&self, path: &str) -> GoDuration {
        let preset = match self.preset(path) {
            Preset::Text(text) => GoDuration::parse(text).unwrap_or_default(),
            _ => GoDuration::ZERO,
        };
        match self.value(path) {
            Some(Value::String(text)) => GoDuration::parse(text).unwrap_or(preset),
            Some(value) => value.as_i64().map_or(preset, GoDuration),
            None => preset,
        }
    }

    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        match (self.value(path), self.preset(path)) {
            (Some(Value::Array(items)), _) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            (None, Preset::List(items)) => items.iter().map(|&item| item.to_owned()).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn text_map(&self, path: &str) -> BTreeMap<String, String> {
        self.entries(path, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn bool_map(&self, path: &str) -> BTreeMap<String, bool> {
        self.entries(path, Value::as_bool)
    }

    pub(super) fn text_list_map(&self, path: &str) -> Vec<(String, String)> {
        let lists = self.entries(path, |value| value.as_array().cloned());
        let pairs = lists.into_iter().flat_map(|(name, values)| {
            values
                .into_iter()
                .filter_map(move |v| v.as_str().map(|v| (name.clone(), v.to_owned())))
        });
        pairs.collect()
    }

    fn entries<T>(&self, path: &str, read: impl Fn(&Value) -> Option<T>) -> BTreeMap<String, T> {
        match self.value(path) {
            Some(Value::Object(map)) => map
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), read(value)?)))
                .collect(),
            _ => BTreeMap::new(),
        }
    }

    /// The objects of a list.
    pub(super) fn objects(&self, path: &str) -> &[Value] {
        self.value(path)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// How a message names a field: the field, and the flag that sets it too.
    pub(super) fn name(path: &str) -> String {
        match flags::of_field(path) {
            Some(flag) => format!("{path} (--{})", flag.name),
            None => path.to_owned(),
        }
    }

    /// The fields that are set to something else than their default and that the agent does not act on. Where `enableServer`
    /// is false, nobody acts on those of the server.
    pub(super) fn unbuilt(&self) -> Vec<Issue> {
        let closed = !self.bool("enableServer");
        let set = FIELDS
            .iter()
            .filter(|field| !field.built && self.differs(field.path))
            .filter(|field| !(closed && fields::of_server(field.path)));
        set.map(|field| {
            Issue::new(
                self.origin(field.path),
                format!(
                    "{} has no effect: this agent does not act on it",
                    Self::name(field.path)
                ),
            )
        })
        .collect()
    }

    fn differs(&self, path: &str) -> bool {
        let Some(value) = self.value(path) else {
            return false;
        };
        match (value, self.preset(path)) {
            (Value::Bool(value), Preset::Bool(preset)) => *value != preset,
            (Value::Number(value), Preset::Int(preset)) => value.as_i64() != Some(preset),
            (Value::Number(value), Preset::Float(preset)) => value.as_f64() != Some(preset),
            (Value::String(value), Preset::Text(preset)) => {
                let (a, b) = (GoDuration::parse(value), GoDuration::parse(preset));
                value != preset && !(a.is_ok() && a == b)
            }
            (Value::Array(items), Preset::List(preset)) => !items
                .iter()
                .map(Value::as_str)
                .eq(preset.iter().map(|&item| Some(item))),
            (Value::String(value), _) => !value.is_empty(),
            (Value::Array(items), _) => !items.is_empty(),
            (Value::Object(map), _) => !map.is_empty(),
            (Value::Number(value), _) => value.as_f64() != Some(0.0),
            (Value::Bool(value), _) => *value,
            (Value::Null, _) => false,
        }
    }
}
