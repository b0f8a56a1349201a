//! Settings that are this agent's own, in a file and kind of their own: `--agent-config`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::ConfigError;
use super::check::check;
use super::durations::GoDuration;
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
    /// What becomes of the API server's pods while it is away.
    pub api_pods: ApiPodSettings,
    /// `imageArchives`: a directory whose archives of images are imported.
    pub image_archives: Option<PathBuf>,
    /// `builtInSandboxImage`: whether the agent has one for a runtime without; by itself where there is no API server.
    pub built_in_sandbox_image: Option<bool>,
    /// `staticPodObjects`: whether ConfigMaps and Secrets of manifests serve static pods.
    pub static_pod_objects: StaticPodObjects,
    /// `staticPodObjectsDirectory`: the name of a directory for them alone, in that of the manifests.
    pub static_pod_objects_directory: Option<String>,
}

/// Whether ConfigMaps and Secrets of manifests serve static pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaticPodObjects {
    /// All of a node without an API server; on one that has joined a cluster, those that they served before.
    #[default]
    Auto,
    /// All.
    Always,
    /// None, as upstream.
    Never,
}

impl StaticPodObjects {
    const ALL: [Self; 3] = [Self::Auto, Self::Always, Self::Never];

    /// Whether they serve a pod that is new on a node that has an API server or not.
    #[must_use]
    pub fn serve_new_pods(self, joined: bool) -> bool {
        match self {
            Self::Auto => !joined,
            Self::Always => true,
            Self::Never => false,
        }
    }

    /// As it is written in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "Auto",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// What is kept of the API server's pods, and what is done with it when an agent begins that does not hear from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiPodSettings {
    /// `checkpointAPIPods`: they are kept, and go on after a mere restart of the agent.
    pub checkpoint: bool,
    /// `restoreAPIPods`: which of them begin anew after a reboot.
    pub restore: RestoreApiPods,
    /// `restoreAPIPodsMaxAge`: none do when the node's last lease is older.
    pub max_age: Duration,
}

impl Default for ApiPodSettings {
    fn default() -> Self {
        Self {
            checkpoint: true,
            restore: RestoreApiPods::default(),
            max_age: RESTORE_MAX_AGE,
        }
    }
}

/// The default of `restoreAPIPodsMaxAge`: enough for a power cut and the start of a whole site, and too little for a machine
/// that was put away and whose pods run elsewhere.
const RESTORE_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Which pods of the API server begin anew after a reboot, before it has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreApiPods {
    /// None, as upstream.
    #[default]
    Never,
    /// Those that have no claim, no CSI volume, no StatefulSet and no host port, and need nothing that the API server alone
    /// has.
    Stateless,
}

impl RestoreApiPods {
    /// As it is written in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::Stateless => "Stateless",
        }
    }
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

    /// Reads what the file `path` holds; reads no file.
    ///
    /// # Errors
    /// When anything in it is unknown or wrong.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
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
        let mut api_pods = ApiPodSettings::default();
        let value = |field: &str| {
            document
                .root
                .get(field)
                .map(|node| (node.at, node.to_json()))
        };
        if let Some((_, keeps)) = value("checkpointAPIPods") {
            api_pods.checkpoint = keeps.as_bool().unwrap_or(api_pods.checkpoint);
        }
        if let Some((at, which)) = value("restoreAPIPods") {
            match which.as_str() {
                Some("Never") => {}
                Some("Stateless") => api_pods.restore = RestoreApiPods::Stateless,
                Some(other) => faults.push((
                    at,
                    format!("restoreAPIPods must be \"Never\" or \"Stateless\", found {other:?}"),
                )),
                // Said already.
                None => {}
            }
            if api_pods.restore != RestoreApiPods::Never && !api_pods.checkpoint {
                faults.push((
                    at,
                    "restoreAPIPods needs checkpointAPIPods, which is false".to_owned(),
                ));
            }
        }
        let mut image_archives = None;
        if let Some((at, path)) = value("imageArchives") {
            // What is no text has been said already.
            if let Some(path) = path.as_str().filter(|path| !path.is_empty()) {
                match Path::new(path).is_absolute() {
                    true => image_archives = Some(PathBuf::from(path)),
                    false => faults.push((
                        at,
                        format!("imageArchives must be an absolute path, found {path:?}"),
                    )),
                }
            }
        }
        let built_in_sandbox_image =
            value("builtInSandboxImage").and_then(|(_, built_in)| built_in.as_bool());
        if let Some((at, age)) = value("restoreAPIPodsMaxAge") {
            // What is no duration has been said already.
            if let Some(Ok(age)) = age.as_str().map(GoDuration::parse) {
                api_pods.max_age = age.positive();
                if api_pods.max_age.is_zero() {
                    faults.push((
                        at,
                        format!("restoreAPIPodsMaxAge must be above zero, found {age}"),
                    ));
                }
            }
        }
        let mut static_pod_objects = StaticPodObjects::default();
        if let Some((at, which)) = value("staticPodObjects") {
            let known = |word: &StaticPodObjects| which.as_str() == Some(word.as_str());
            match StaticPodObjects::ALL.into_iter().find(known) {
                Some(known) => static_pod_objects = known,
                None if which.is_string() => faults.push((
                    at,
                    format!(
                        "staticPodObjects must be \"Auto\", \"Always\" or \"Never\", found {which}"
                    ),
                )),
                // Said already.
                None => {}
            }
        }
        let mut static_pod_objects_directory = None;
        if let Some((at, name)) = value("staticPodObjectsDirectory")
            && let Some(name) = name.as_str().filter(|name| !name.is_empty())
        {
            match name.contains('/') || name.starts_with('.') {
                false => static_pod_objects_directory = Some(name.to_owned()),
                true => faults.push((
                    at,
                    format!("staticPodObjectsDirectory must be the name of a directory in that of staticPodPath, and not begin with a dot, found {name:?}"),
                )),
            }
        }
        if faults.is_empty() {
            return Ok(Self {
                start_concurrency,
                socket,
                exec_verb,
                api_pods,
                image_archives,
                built_in_sandbox_image,
                static_pod_objects,
                static_pod_objects_directory,
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
        let kept = AgentSettings::default().api_pods;
        assert!(kept.checkpoint && kept.restore == RestoreApiPods::Never);
        let own = "checkpointAPIPods: true\nrestoreAPIPods: Stateless\nrestoreAPIPodsMaxAge: 10m\n";
        let settings = parse(&format!("{HEAD}{own}")).unwrap();
        let expected = ApiPodSettings {
            checkpoint: true,
            restore: RestoreApiPods::Stateless,
            max_age: Duration::from_secs(600),
        };
        assert_eq!(settings.api_pods, expected);
        let settings = parse(&format!("{HEAD}checkpointAPIPods: false\n")).unwrap();
        assert!(!settings.api_pods.checkpoint);
        let own = "imageArchives: /var/lib/images\nbuiltInSandboxImage: false\n";
        let settings = parse(&format!("{HEAD}{own}")).unwrap();
        assert_eq!(settings.image_archives, Some("/var/lib/images".into()));
        assert_eq!(settings.built_in_sandbox_image, Some(false));
        assert_eq!(settings.static_pod_objects, StaticPodObjects::Auto);
        let own = "staticPodObjects: Always\nstaticPodObjectsDirectory: objects\n";
        let settings = parse(&format!("{HEAD}{own}")).unwrap();
        assert_eq!(settings.static_pod_objects, StaticPodObjects::Always);
        let directory = settings.static_pod_objects_directory;
        assert_eq!(directory.as_deref(), Some("objects"));
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
                "imageArchives: images\n",
                "/a.yaml:3:16: imageArchives must be an absolute path, found \"images\"",
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
                "restoreAPIPods: Always\n",
                "/a.yaml:3:17: restoreAPIPods must be \"Never\" or \"Stateless\", found \"Always\"",
            ),
            (
                "checkpointAPIPods: false\nrestoreAPIPods: Stateless\n",
                "/a.yaml:4:17: restoreAPIPods needs checkpointAPIPods, which is false",
            ),
            (
                "restoreAPIPodsMaxAge: 0s\n",
                "/a.yaml:3:23: restoreAPIPodsMaxAge must be above zero, found 0s",
            ),
            (
                "staticPodObjects: always\n",
                "/a.yaml:3:19: staticPodObjects must be \"Auto\", \"Always\" or \"Never\", found \"always\"",
            ),
            (
                "staticPodObjectsDirectory: ../x\n",
                "/a.yaml:3:28: staticPodObjectsDirectory must be the name of a directory in that of staticPodPath, and not begin with a dot, found \"../x\"",
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
