//! The file of `--config`, the drop-ins of `--config-dir` and the flags, merged.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use static_pods::tree::{self, Document, Position};

use super::ConfigError;
use super::check::{Checked, check};
use super::durations::GoDuration;
use super::fields::{FIELDS, Field, Kind};
use super::flags::{CommandLine, Syntax, Target};
use super::issue::{Issue, Issues, Origin};

/// `apiVersion` of the files.
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// `kind` of the files.
const KIND: &str = "KubeletConfiguration";

/// Everything that was set, before defaults.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// The merged document.
    pub(super) merged: Value,
    /// Where each field that is set was set last.
    pub(super) origins: BTreeMap<&'static str, Origin>,
    /// What does not stop the start.
    pub(super) warnings: Vec<Issue>,
    /// Whether there is a file of `--config`; the defaults depend on it.
    pub(super) with_file: bool,
}

/// What a file with strangers in it is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// A warning each: a newer kubeadm's file must work.
    Lenient,
    /// Refused.
    Strict,
}

impl Layers {
    /// Reads and merges everything the command line names. Relative paths begin at `working_directory`.
    ///
    /// # Errors
    /// When a file cannot be read, or anything in it cannot be understood.
    pub(super) fn read(line: &CommandLine, working_directory: &Path) -> Result<Self, ConfigError> {
        let mut layers = Self {
            merged: Value::Object(Map::new()),
            ..Self::default()
        };
        let config = line.text("config");
        if !config.is_empty() {
            layers.with_file = true;
            layers.add_file(&working_directory.join(config), Strictness::Lenient)?;
        }
        let directory = line.text("config-dir");
        if !directory.is_empty() {
            for path in drop_ins(&working_directory.join(directory))? {
                layers.add_file(&path, Strictness::Strict)?;
            }
        }
        layers.clear_zeros();
        layers.add_flags(line);
        Ok(layers)
    }

    fn add_file(&mut self, path: &Path, strictness: Strictness) -> Result<(), ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        self.add(path, &bytes, strictness)
    }

    fn add(
        &mut self,
        path: &Path,
        bytes: &[u8],
        strictness: Strictness,
    ) -> Result<(), ConfigError> {
        let errors = self.merge(path, bytes, strictness)?;
        match errors.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Invalid(Issues(errors))),
        }
    }

    /// What one file sets, and what in it cannot be understood; that is left out of what is set.
    ///
    /// # Errors
    /// When there is no document of the right kind.
    pub(super) fn of_file(path: &Path, bytes: &[u8]) -> Result<(Self, Vec<Issue>), ConfigError> {
        let mut layers = Self {
            merged: Value::Object(Map::new()),
            with_file: true,
            ..Self::default()
        };
        let errors = layers.merge(path, bytes, Strictness::Lenient)?;
        layers.clear_zeros();
        Ok((layers, errors))
    }

    /// Merges a document; gives what of it cannot be understood, in the order written.
    fn merge(
        &mut self,
        path: &Path,
        bytes: &[u8],
        strictness: Strictness,
    ) -> Result<Vec<Issue>, ConfigError> {
        let path: Arc<Path> = path.into();
        let document = single_document(&path, bytes, API_VERSION, KIND)?;
        let Checked {
            fields,
            strangers,
            mistyped,
            unusable,
        } = check(&document, FIELDS);
        let locate = |(at, message): (Position, String)| {
            Issue::new(
                Origin::File {
                    path: Arc::clone(&path),
                    at,
                },
                message,
            )
        };
        let mut errors: Vec<Issue> = mistyped.into_iter().map(locate).collect();
        let strangers = strangers.into_iter().map(locate);
        match strictness {
            Strictness::Strict => errors.extend(strangers),
            Strictness::Lenient => self.warnings.extend(strangers),
        }
        errors.sort_by_key(|issue| match &issue.origin {
            Origin::File { at, .. } => *at,
            _ => Position::START,
        });
        let mut patch = document.root.to_json();
        for path in &unusable {
            remove(&mut patch, path);
        }
        resolve_paths(&mut patch, path.parent().unwrap_or(Path::new("/")));
        merge_patch(&mut self.merged, patch);
        let usable = |field: &Field| !unusable.iter().any(|path| path == field.path);
        for (field, at) in fields.into_iter().filter(|(field, _)| usable(field)) {
            self.origins.insert(
                field.path,
                Origin::File {
                    path: Arc::clone(&path),
                    at,
                },
            );
        }
        Ok(errors)
    }

    /// Takes out what only looks set: zero means the default for many fields, and kubeadm writes zeros.
    fn clear_zeros(&mut self) {
        for field in FIELDS.iter().filter(|field| field.zero_is_default) {
            if get(&self.merged, field.path).is_some_and(|value| is_zero(value, field)) {
                remove(&mut self.merged, field.path);
                self.origins.remove(field.path);
            }
        }
    }

    fn add_flags(&mut self, line: &CommandLine) {
        for given in line.given() {
            if let Some(warning) = given.flag.deprecation_warning() {
                self.warnings
                    .push(Issue::new(Origin::Flag(given.flag.name), warning));
            }
            let Target::Field(path) = given.flag.target else {
                continue;
            };
            if given.flag.syntax == Syntax::Ip && given.value == "" {
                continue;
            }
            let slot = slot(&mut self.merged, path);
            match (&mut *slot, &given.value) {
                // Gates merge one by one; every other flag replaces what the files say.
                (Value::Object(before), Value::Object(gates)) if path == "featureGates" => {
                    before.extend(gates.clone());
                }
                _ => *slot = given.value.clone(),
            }
            self.origins.insert(path, Origin::Flag(given.flag.name));
        }
    }
}

fn refused(path: &Arc<Path>, at: Position, message: String) -> ConfigError {
    let origin = Origin::File {
        path: Arc::clone(path),
        at,
    };
    ConfigError::Invalid(Issues(vec![Issue::new(origin, message)]))
}

/// The one document of a file, which is to hold a `what`.
pub(super) fn one_document(
    path: &Arc<Path>,
    bytes: &[u8],
    what: &str,
) -> Result<Document, ConfigError> {
    let refuse = |at, message| refused(path, at, message);
    let mut documents = tree::parse(bytes).into_iter();
    let document = match documents.next() {
        Some(Ok(document)) => document,
        Some(Err(e)) => return Err(refuse(e.at, e.message)),
        None => {
            return Err(refuse(
                Position::START,
                format!("the file is empty; it must hold a {what}"),
            ));
        }
    };
    if let Some(second) = documents.next() {
        let at = second.map_or_else(|e| e.at, |document| document.root.at);
        return Err(refuse(
            at,
            "a second document begins here; write one per file".to_owned(),
        ));
    }
    Ok(document)
}

/// The one document of a file, with its `apiVersion` and `kind` checked.
pub(super) fn single_document(
    path: &Arc<Path>,
    bytes: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<Document, ConfigError> {
    let document = one_document(path, bytes, &format!("{kind} of {api_version}"))?;
    for (key, expected) in [("apiVersion", api_version), ("kind", kind)] {
        let node = document.root.get(key);
        if node.and_then(|node| node.as_str()) != Some(expected) {
            let at = node.map_or(document.root.at, |node| node.at);
            let found = node.and_then(|n| n.as_str()).map_or_else(
                || "it is missing".to_owned(),
                |text| format!("found {text:?}"),
            );
            return Err(refused(
                path,
                at,
                format!("{key} must be {expected:?}, {found}"),
            ));
        }
    }
    Ok(document)
}

/// The `*.conf` files below `directory`, in lexical order, subdirectories in their place.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigError::Unreadable { path, source }
    };
    let mut found = Vec::new();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable(directory))? {
        let entry = entry.map_err(unreadable(directory))?;
        // As upstream's walk: a link to a directory is not followed.
        let is_directory = entry
            .file_type()
            .map_err(unreadable(&entry.path()))?
            .is_dir();
        entries.push((entry.file_name(), entry.path(), is_directory));
    }
    entries.sort();
    for (_, path, is_directory) in entries {
        if is_directory {
            found.extend(drop_ins(&path)?);
        } else if path.extension() == Some(OsStr::new("conf")) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes the relative paths of a document relative to the directory of its file.
fn resolve_paths(document: &mut Value, directory: &Path) {
    for field in FIELDS.iter().filter(|field| field.kind == Kind::Path) {
        if let Some(Value::String(text)) = get_mut(document, field.path)
            && !text.is_empty()
            && Path::new(text.as_str()).is_relative()
        {
            *text = directory.join(text.as_str()).to_string_lossy().into_owned();
        }
    }
}

/// JSON merge patch (RFC 7396).
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            merge_patch(map.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn is_zero(value: &Value, field: &Field) -> bool {
    match (value, field.kind) {
        (Value::String(text), Kind::Duration | Kind::DurationOrNanos) => {
            GoDuration::parse(text) == Ok(GoDuration::ZERO)
        }
        (Value::String(text), _) => text.is_empty(),
        (Value::Number(number), _) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// The value at a path of plain field names.
pub(super) fn get<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(document, |value, step| value.get(step))
}

fn get_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.')
        .try_fold(document, |value, step| value.get_mut(step))
}

fn remove(document: &mut Value, path: &str) {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (get_mut(document, parent), name),
        None => (Some(document), path),
    };
    if let Some(Value::Object(map)) = parent {
        map.remove(name);
    }
}

/// The value at `path`, made when it is not there.
fn slot<'a>(document: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(document, |value, step| {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        // Indexing an object by a missing key makes the entry.
        &mut value[step]
    })
}

#[cfg(test)]
mod tests;
