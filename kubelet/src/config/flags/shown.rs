//! Flags with their values as text, for `/flagz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{CommandLine, FLAGS, Flag, Syntax, Target, default_text};
use crate::config::durations::GoDuration;

/// What stands for a value that may be a credential.
const MASKED: &str = "CLASSIFIED";
/// Fields that may hold one.
const CLASSIFIED: [&str; 2] = ["staticPodURL", "staticPodURLHeader"];
/// Flags that end the process before it could show them.
const NEVER_SHOWN: [&str; 2] = ["help", "version"];

/// The flags of one command line. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FlagValues {
    given: Arc<BTreeMap<&'static str, String>>,
}

impl FlagValues {
    pub(crate) fn new(line: &CommandLine) -> Self {
        let given = line.given().iter();
        let given = given.map(|given| (given.flag.name, shown(given.flag, &given.value)));
        Self {
            given: Arc::new(given.collect()),
        }
    }

    /// Every flag there is, with what was given or else its default. Credentials are masked.
    #[must_use]
    pub fn all(&self) -> BTreeMap<&'static str, String> {
        let shown = FLAGS
            .iter()
            .filter(|flag| !NEVER_SHOWN.contains(&flag.name));
        let values = shown.map(|flag| match self.given.get(flag.name) {
            Some(given) => (flag.name, given.clone()),
            None => (flag.name, default(flag)),
        });
        values.collect()
    }
}

fn default(flag: &Flag) -> String {
    let text = default_text(flag);
    match flag.syntax {
        Syntax::Texts => format!("[{text}]"),
        Syntax::Duration => {
            GoDuration::parse(&text).map_or_else(|_| text.clone(), |span| span.to_string())
        }
        _ => text,
    }
}

fn shown(flag: &Flag, value: &Value) -> String {
    if matches!(flag.target, Target::Field(path) if CLASSIFIED.contains(&path)) {
        return MASKED.to_owned();
    }
    match (flag.syntax, value) {
        (Syntax::Duration, Value::String(text)) => {
            GoDuration::parse(text).map_or_else(|_| text.clone(), |span| span.to_string())
        }
        (Syntax::Texts, Value::Array(items)) => format!("[{}]", joined(items.iter().map(plain))),
        (_, Value::Array(items)) => joined(items.iter().map(plain)),
        (Syntax::PairsBelow, Value::Object(map)) => pairs(map, '<'),
        (_, Value::Object(map)) => pairs(map, '='),
        (_, value) => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

fn pairs(map: &serde_json::Map<String, Value>, sign: char) -> String {
    joined(
        map.iter()
            .map(|(key, value)| format!("{key}{sign}{}", plain(value))),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Invocation, parse};
    use super::*;

    fn all(arguments: &[&str]) -> BTreeMap<&'static str, String> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        match parse(arguments, &[]).unwrap() {
            Invocation::Run(line) => FlagValues::new(&line).all(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_are_written_as_upstream_writes_them() {
        let flags = all(&[
            "--sync-frequency=90s",
            "--cluster-dns=10.0.0.10,10.0.0.11",
            "--eviction-hard=memory.available<100Mi,nodefs.available<10%",
            "--system-reserved=cpu=1",
            "--node-ip=10.1.1.1",
            "--fail-swap-on=false",
            "--manifest-url=https://user:secret@host/",
            "--manifest-url-header=Authorization:secret",
        ]);
        for (name, value) in [
            ("sync-frequency", "1m30s"),
            ("cluster-dns", "[10.0.0.10,10.0.0.11]"),
            (
                "eviction-hard",
                "memory.available<100Mi,nodefs.available<10%",
            ),
            ("system-reserved", "cpu=1"),
            ("node-ip", "10.1.1.1"),
            ("fail-swap-on", "false"),
            ("manifest-url", "CLASSIFIED"),
            ("manifest-url-header", "CLASSIFIED"),
            // What nobody gave.
            ("max-pods", "110"),
            ("enforce-node-allocatable", "[pods]"),
            ("allowed-unsafe-sysctls", "[]"),
            ("runtime-request-timeout", "2m0s"),
            ("authorization-mode", "AlwaysAllow"),
            ("kubeconfig", ""),
        ] {
            assert_eq!(flags.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!flags.contains_key("help") && !flags.contains_key("version"));
    }
}
