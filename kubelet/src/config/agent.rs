//! Settings that are this agent's own, in a file and kind of their own: `--agent-config`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ConfigError;
use super::check::check;
use super::fields::{AGENT_FIELDS, Kind};
use super::issue::{Issue, Issues, Origin};
use super::layers::single_document;

/// `apiVersion` of the file.
const API_VERSION: &str = "agent.kubelet/v1alpha1";
/// `kind` of the file.
const KIND: &str = "AgentConfiguration";

/// What upstream has no field for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSettings {
    /// `startConcurrency`: how many pods start at once; none for two a core.
    pub start_concurrency: Option<NonZeroU32>,
    /// `socket`: where the agent answers this machine's own questions.
    pub socket: SocketSetting,
    /// `execVerb`: what leave it takes to enter a container.
    pub exec_verb: ExecVerb,
}

/// What a user must be allowed on `nodes/proxy` for exec, attach, run and port-forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecVerb {
    /// `create`, however it is asked: leave to read is none to execute.
    #[default]
    Create,
    /// `method`: the verb of the HTTP method, as upstream. A WebSocket begins with GET, and so `get` is enough for it.
    Method,
}

/// The path of the agent's own unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SocketSetting {
    /// Not set: [`SOCKET_NAME`] in the root directory of an agent that runs by itself, none of one that has an API server.
    #[default]
    Unset,
    /// Set to nothing: none.
    None,
    /// Set to an absolute path.
    At(PathBuf),
}

/// The name of the agent's socket in its root directory.
pub const SOCKET_NAME: &str = "agent.sock";

impl AgentSettings {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is unknown or wrong.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &bytes)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let path: Arc<Path> = path.into();
        let document = single_document(&path, bytes, API_VERSION, KIND)?;
        let checked = check(&document, AGENT_FIELDS);
        let mut faults = checked.mistyped;
        faults.extend(checked.strangers);
        let concurrency = document.root.get("startConcurrency");
        let value = concurrency.and_then(|node| node.to_json().as_u64());
        let start_concurrency =
            value.and_then(|value| NonZeroU32::new(u32::try_from(value).unwrap_or(0)));
        if let (Some(node), None, true) = (concurrency, start_concurrency, faults.is_empty()) {
            faults.push((
                node.at,
                format!(
                    "startConcurrency must be {} above zero",
                    Kind::Int32.describe()
                ),
            ));
        }
        let mut socket = SocketSetting::Unset;
        if let Some(node) = document.root.get("socket") {
            match node.to_json().as_str().map(Path::new) {
                Some(path) if path.as_os_str().is_empty() => socket = SocketSetting::None,
                Some(path) if path.is_absolute() && path.file_name().is_some() => {
                    socket = SocketSetting::At(path.to_owned());
                }
                Some(path) => faults.push((
                    node.at,
                    format!("socket must be the absolute path of a socket, or empty for none, found {path:?}"),
                )),
                // Said already.
                None => {}
            }
        }
        let mut exec_verb = ExecVerb::default();
        if let Some(node) = document.root.get("execVerb") {
            match node.to_json().as_str() {
                Some("create") => {}
                Some("method") => exec_verb = ExecVerb::Method,
                Some(other) => faults.push((
                    node.at,
                    format!("execVerb must be \"create\" or \"method\", found {other:?}"),
                )),
                // Said already.
                None => {}
            }
        }
        if faults.is_empty() {
            return Ok(Self {
                start_concurrency,
                socket,
                exec_verb,
            });
        }
        faults.sort();
        let issue = |(at, message)| {
            Issue::new(
                Origin::File {
                    path: Arc::clone(&path),
                    at,
                },
                message,
            )
        };
        Err(ConfigError::Invalid(Issues(
            faults.into_iter().map(issue).collect(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentSettings, String> {
        AgentSettings::parse(Path::new("/a.yaml"), text.as_bytes()).map_err(|e| e.to_string())
    }

    const HEAD: &str = "apiVersion: agent.kubelet/v1alpha1\nkind: AgentConfiguration\n";

    #[test]
    fn known_fields() {
        assert_eq!(parse(HEAD), Ok(AgentSettings::default()));
        let settings = parse(&format!("{HEAD}startConcurrency: 4\n")).unwrap();
        assert_eq!(settings.start_concurrency, NonZeroU32::new(4));
        assert_eq!(settings.socket, SocketSetting::Unset);
        assert_eq!(settings.exec_verb, ExecVerb::Create);
        let settings = parse(&format!("{HEAD}execVerb: method\n")).unwrap();
        assert_eq!(settings.exec_verb, ExecVerb::Method);
        let settings = parse(&format!("{HEAD}socket: \"\"\n")).unwrap();
        assert_eq!(settings.socket, SocketSetting::None);
        let settings = parse(&format!("{HEAD}socket: /run/kubelet.sock\n")).unwrap();
        assert_eq!(
            settings.socket,
            SocketSetting::At("/run/kubelet.sock".into())
        );
    }

    #[test]
    fn everything_else_is_refused_with_its_place() {
        for (body, error) in [
            (
                "startConcurency: 4\n",
                "/a.yaml:3:1: unknown field \"startConcurency\"; did you mean \"startConcurrency\"?",
            ),
            (
                "startConcurrency: 0\n",
                "/a.yaml:3:19: startConcurrency must be a whole number above zero",
            ),
            (
                "execVerb: GET\n",
                "/a.yaml:3:11: execVerb must be \"create\" or \"method\", found \"GET\"",
            ),
            (
                "startConcurrency: x\n",
                "/a.yaml:3:19: startConcurrency must be a whole number, found the text \"x\"",
            ),
            (
                "socket: run/kubelet.sock\n",
                "/a.yaml:3:9: socket must be the absolute path of a socket, or empty for none, found \"run/kubelet.sock\"",
            ),
            (
                "socket: /\n",
                "/a.yaml:3:9: socket must be the absolute path of a socket, or empty for none, found \"/\"",
            ),
            (
                "socket: 4\n",
                "/a.yaml:3:9: socket must be text, found the number 4; put it in quotes",
            ),
        ] {
            let found = parse(&format!("{HEAD}{body}")).unwrap_err();
            assert!(found.ends_with(error), "{found}");
        }
        let found = parse("apiVersion: v1\nkind: AgentConfiguration\n").unwrap_err();
        assert!(
            found.ends_with(
                "/a.yaml:1:13: apiVersion must be \"agent.kubelet/v1alpha1\", found \"v1\""
            ),
            "{found}"
        );
    }
}
