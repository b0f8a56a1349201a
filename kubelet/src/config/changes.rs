//! What a configuration that is read again says otherwise.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::agent::{AgentSettings, ExecVerb, SocketSetting};
use super::durations::GoDuration;
use super::fields::{self, FIELDS, Kind, Preset};
use super::settings::{Settings, preset};

/// Fields whose values may hold credentials.
const SECRET: &[&str] = &["staticPodURL", "staticPodURLHeader"];
/// Fields that the agent takes up while it runs ([`Config::logging`](super::Config::logging)).
const RELOADED: &[&str] = &["logging.verbosity", "logging.vmodule"];
/// Bytes of a value that a message has.
const MOST_SHOWN: usize = 120;

/// The values of all fields that are set, to tell later what another file changes. Its Debug shows no value.
#[derive(Clone, PartialEq, Eq)]
pub struct Values {
    set: BTreeMap<&'static str, String>,
    with_file: bool,
    agent: AgentSettings,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.set.keys()).finish()
    }
}

/// A field that has another value than before.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The path of the field.
    pub field: &'static str,
    /// What it was; none where that may be a credential.
    pub from: Option<String>,
    /// What it is; likewise.
    pub to: Option<String>,
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(
                f,
                "{}: {} -> {}",
                self.field,
                shortened(from),
                shortened(to)
            ),
            _ => write!(f, "{}: another value", self.field),
        }
    }
}

fn shortened(value: &str) -> String {
    if value.is_empty() {
        return "(none)".to_owned();
    }
    let mut end = value.len().min(MOST_SHOWN);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < value.len() { "…" } else { "" };
    format!("{}{more}", &value[..end])
}

impl Values {
    pub(super) fn of(settings: &Settings, agent: &AgentSettings) -> Self {
        let set = FIELDS.iter().filter_map(|field| {
            let value = settings.value(field.path)?;
            Some((field.path, rendered(field.kind, value)))
        });
        Self {
            set: set.collect(),
            with_file: settings.with_file(),
            agent: agent.clone(),
        }
    }

    /// The fields that differ in `new`, and that count only after a restart.
    #[must_use]
    pub fn wanting_restart(&self, new: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = FIELDS
            .iter()
            .map(|field| field.path)
            .filter(|path| !RELOADED.contains(path))
            .filter_map(|path| self.change(path, new))
            .collect();
        let theirs = agent_values(&new.agent);
        for ((field, from), (_, to)) in agent_values(&self.agent).into_iter().zip(theirs) {
            if from != to {
                changes.push(Change {
                    field,
                    from: Some(from),
                    to: Some(to),
                });
            }
        }
        changes
    }

    fn change(&self, field: &'static str, new: &Self) -> Option<Change> {
        let (from, to) = (self.value(field), new.value(field));
        let shown = |value: String| (!SECRET.contains(&field)).then_some(value);
        (from != to).then(|| Change {
            field,
            from: shown(from),
            to: shown(to),
        })
    }

    /// What is set, or what counts without it.
    fn value(&self, field: &str) -> String {
        let set = self.set.get(field).cloned();
        set.unwrap_or_else(|| match preset(field, self.with_file) {
            Preset::None => String::new(),
            Preset::Bool(value) => value.to_string(),
            Preset::Int(value) => value.to_string(),
            Preset::Float(value) => Value::from(value).to_string(),
            Preset::List(items) => Value::from(items).to_string(),
            Preset::Text(text) => {
                let kind = fields::find(field).map_or(Kind::Text, |field| field.kind);
                rendered(kind, &Value::from(text))
            }
        })
    }
}

/// One spelling for each value: `60s` is `1m0s`.
fn rendered(kind: Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Duration | Kind::DurationOrNanos, Value::String(text)) => {
            GoDuration::parse(text).map_or_else(|_| text.clone(), |span| span.to_string())
        }
        (Kind::DurationOrNanos, Value::Number(nanos)) => nanos
            .as_i64()
            .map_or_else(|| nanos.to_string(), |nanos| GoDuration(nanos).to_string()),
        (_, Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}

/// The settings of `--agent-config`, always in the same order.
fn agent_values(agent: &AgentSettings) -> [(&'static str, String); 10] {
    let concurrency = agent.start_concurrency;
    let socket = match &agent.socket {
        SocketSetting::Unset => "(default)".to_owned(),
        SocketSetting::None => String::new(),
        SocketSetting::At(path) => path.display().to_string(),
    };
    let exec_verb = match agent.exec_verb {
        ExecVerb::Create => "create",
        ExecVerb::Method => "method",
    };
    [
        (
            "startConcurrency",
            concurrency.map_or_else(String::new, |n| n.to_string()),
        ),
        ("socket", socket),
        ("execVerb", exec_verb.to_owned()),
        ("checkpointAPIPods", agent.api_pods.checkpoint.to_string()),
        ("restoreAPIPods", agent.api_pods.restore.as_str().to_owned()),
        (
            "restoreAPIPodsMaxAge",
            format!("{:?}", agent.api_pods.max_age),
        ),
        (
            "imageArchives",
            agent
                .image_archives
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string()),
        ),
        (
            "builtInSandboxImage",
            agent
                .built_in_sandbox_image
                .map_or_else(|| "(default)".to_owned(), |built_in| built_in.to_string()),
        ),
        (
            "staticPodObjects",
            agent.static_pod_objects.as_str().to_owned(),
        ),
        (
            "staticPodObjectsDirectory",
            agent
                .static_pod_objects_directory
                .clone()
                .unwrap_or_default(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::Layers;

    fn values(fields: &str) -> Values {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}"
        );
        let (layers, problems) = Layers::of_file("/c.yaml".as_ref(), text.as_bytes()).unwrap();
        assert_eq!(problems, []);
        Values::of(&Settings::new(layers), &AgentSettings::default())
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        let changes = values(old).wanting_restart(&values(new));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fields_that_differ_are_named_with_both_values() {
        assert_eq!(
            changes(
                "maxPods: 50\nevictionHard: {memory.available: 1Mi}\n",
                "syncFrequency: 30s\nevictionHard: {memory.available: 2Mi}\nfailSwapOn: false\n"
            ),
            [
                "syncFrequency: 1m0s -> 30s",
                "maxPods: 50 -> 110",
                "failSwapOn: true -> false",
                r#"evictionHard: {"memory.available":"1Mi"} -> {"memory.available":"2Mi"}"#,
            ]
        );
    }

    #[test]
    fn another_spelling_of_a_value_is_no_change() {
        assert_eq!(
            changes(
                "syncFrequency: 1m\nmaxPods: 110\n",
                "syncFrequency: 60s\nenforceNodeAllocatable: [pods]\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn what_is_taken_up_while_running_wants_no_restart() {
        assert_eq!(
            changes(
                "",
                "logging: {verbosity: 4, vmodule: [{filePattern: queue, verbosity: 5}]}\n"
            ),
            [""; 0]
        );
        assert_eq!(
            changes("", "logging: {format: json}\n"),
            ["logging.format: text -> json"]
        );
    }

    #[test]
    fn what_may_be_a_credential_is_not_shown() {
        let (old, new) = (
            values("staticPodURLHeader: {Authorization: [Basic aaaa]}\n"),
            values("staticPodURLHeader: {Authorization: [Basic bbbb]}\n"),
        );
        let changes = old.wanting_restart(&new);
        assert_eq!(
            format!("{changes:?}"),
            "[staticPodURLHeader: another value]"
        );
        assert!(!format!("{old:?}").contains("aaaa"));
    }

    #[test]
    fn the_agents_own_settings_count_too() {
        let old = values("");
        let mut new = old.clone();
        new.agent.socket = SocketSetting::None;
        assert_eq!(
            old.wanting_restart(&new)[0].to_string(),
            "socket: (default) -> (none)"
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = format!("staticPodPath: /{}\n", "ä".repeat(100));
        let shown = &changes("", &long)[0];
        assert!(shown.ends_with('…') && shown.len() < 200, "{shown}");
        assert!(shown.starts_with("staticPodPath: (none) -> /ä"));
    }
}
