//! Flags, the KubeletConfiguration file and the drop-in directory, made one inert, validated [`Config`].
//!
//! Owns: the tables of flags, fields and feature gates of Kubernetes v1.36, all of them, so that any command line and
//! file of that release parses; what the agent does not act on is named in a warning when it is set.
//! Inputs: the arguments, the files they name, [`Environment`]. Outputs: a [`Config`] and warnings, or everything that
//! is wrong with what was set, each with its flag or its line and column. Spawns nothing.
//!
//! Precedence, least first: built-in defaults, the file of `--config`, the `*.conf` files of `--config-dir` in lexical
//! order (JSON merge patch), the flags; feature gates merge one by one. Settings that are this agent's own live in a
//! file and kind of their own (`--agent-config`).
//!
//! Deliberately not here: acting on any of it, deciding when to read it again, and asking the runtime (its cgroup driver wins over
//! ours, but it is asked later).

mod agent;
mod changes;
mod check;
mod ciphers;
mod credential_providers;
mod document;
mod durations;
mod fields;
mod flags;
mod gates;
mod issue;
mod labels;
mod layers;
mod model;
mod nearest;
mod node;
mod resolve;
mod settings;
mod validate;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cgroups::{Cgroups, MOUNT_ROOT, Version};

pub use agent::{
    AgentSettings, ApiPodSettings, ExecVerb, RestoreApiPods, SOCKET_NAME, SocketSetting,
    StaticPodObjects,
};
pub use changes::{Change, Values};
pub use credential_providers::{CredentialProvider, CredentialProviders, TokenAttributes};
pub use durations::{DurationError, GoDuration};
pub(crate) use flags::boolean as parse_bool;
pub use flags::{CommandLine, FlagValues, Invocation, UsageError, parse as parse_arguments};
pub use gates::{FeatureGates, Gate, Stage, known as known_gates};
pub use issue::{Issue, Issues, Origin};
pub(crate) use labels::qualified_name_fault;
pub use model::*;

use flags::{FLAGS, Group, Target};
use layers::Layers;
use resolve::Resolver;
use settings::Settings;

/// The Kubernetes release this agent is a kubelet of. kubeadm and the node's status read it.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// The text of `kubelet --help`.
#[must_use]
pub fn usage(commands: &[(String, String)]) -> String {
    flags::usage(commands)
}

/// The line of `kubelet --version`; with all there is to know when `raw`.
#[must_use]
pub fn version(raw: bool) -> String {
    if raw {
        format!(
            "version.Info{{Major:\"1\", Minor:\"36\", GitVersion:\"{KUBERNETES_VERSION}\", AgentVersion:\"{}\", Platform:\"linux/{}\"}}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
        )
    } else {
        format!("Kubernetes {KUBERNETES_VERSION}")
    }
}

/// What the host says of itself, read once, so that the rest is pure.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Where relative paths of flags begin.
    pub working_directory: PathBuf,
    /// The host's name, as the kernel has it.
    pub hostname: String,
    /// Whether `/sys/fs/cgroup` is anything but cgroup v2.
    pub cgroup_v1: bool,
}

impl Environment {
    /// Asks the host.
    ///
    /// # Errors
    /// When the working directory or the host's name cannot be read.
    pub fn of_host() -> Result<Self, ConfigError> {
        let working_directory = std::env::current_dir().map_err(|source| ConfigError::Host {
            what: "the working directory",
            source,
        })?;
        let hostname = nix::unistd::gethostname().map_err(|e| ConfigError::Host {
            what: "the host's name",
            source: e.into(),
        })?;
        let cgroup_v1 = !matches!(Cgroups::detect(Path::new(MOUNT_ROOT)), Ok(Version::V2));
        Ok(Self {
            working_directory,
            hostname: lossy(hostname),
            cgroup_v1,
        })
    }
}

fn lossy(text: OsString) -> String {
    text.to_string_lossy().into_owned()
}

/// Why there is no configuration. The process exits [`ConfigError::EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read the configuration file {}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The host does not say what is needed.
    #[error("cannot read {what}")]
    Host {
        /// What was asked.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Something set is wrong; all of it is listed.
    #[error("the configuration is invalid:\n{0}")]
    Invalid(Issues),
}

impl ConfigError {
    /// The exit status for a configuration error (`EX_CONFIG`, sysexits.h).
    pub const EXIT_CODE: u8 = 78;

    /// All that is wrong, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Invalid(Issues(issues)) => issues.iter().map(Issue::to_string).collect(),
            other => vec![crate::errors::error_chain(other)],
        }
    }
}

impl UsageError {
    /// The exit status for a command line that is wrong (`EX_USAGE`, sysexits.h).
    pub const EXIT_CODE: u8 = 64;
}

/// The configuration, and what is worth saying about it, once, in the log.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Deprecated flags, unknown fields, settings without effect.
    pub warnings: Vec<Issue>,
    /// What was set, to be compared with what is read later.
    pub values: Values,
}

/// Reads every file the command line names, merges, validates and types the result.
///
/// # Errors
/// When a file cannot be read or understood, or what is set breaks a rule.
pub fn load(line: &CommandLine, environment: &Environment) -> Result<Loaded, ConfigError> {
    let here: &Path = &environment.working_directory;
    let mut settings = Settings::new(Layers::read(line, here)?);
    let agent = match line.text("agent-config") {
        "" => AgentSettings::default(),
        path => AgentSettings::read(&here.join(path))?,
    };
    let judged = judge(&settings, line, environment);
    if !judged.issues.is_empty() {
        return Err(ConfigError::Invalid(Issues(judged.issues)));
    }
    let mut warnings = warnings(&mut settings, line, &judged.gates);
    let values = Values::of(&settings, &agent);
    let mut resolver = Resolver {
        settings: &settings,
        line,
        working_directory: here,
        hostname: &environment.hostname,
        warnings: &mut warnings,
    };
    let tokens = "KubeletServiceAccountTokenForCredentialProviders";
    let providers = credential_providers::read(
        resolver
            .flag_path("image-credential-provider-config")
            .as_deref(),
        resolver
            .flag_path("image-credential-provider-bin-dir")
            .as_deref(),
        judged.gates.enabled(tokens),
    )?;
    let mut config = resolver.config(judged.node, judged.gates, agent);
    config.images.credential_providers = providers;
    Ok(Loaded {
        config,
        warnings,
        values,
    })
}

/// What is to be said of one KubeletConfiguration file.
#[derive(Debug, Default)]
pub struct FileCheck {
    /// What keeps the agent from starting with it, in the order written.
    pub problems: Vec<Issue>,
    /// What is worth knowing besides: unknown fields, settings without effect.
    pub warnings: Vec<Issue>,
    /// The configuration of an agent with this file and no flags, when there are no problems.
    pub config: Option<Config>,
}

/// Judges the file `path`, which holds `bytes`, as `--config` of an agent without other flags. Other than [`load`],
/// which the first kind of error ends, it names all that is wrong: fields that cannot be understood and rules that the
/// others break. Reads no file.
#[must_use]
pub fn check_file(path: &Path, bytes: &[u8], environment: &Environment) -> FileCheck {
    let (layers, mut problems) = match Layers::of_file(path, bytes) {
        Ok(read) => read,
        Err(ConfigError::Invalid(Issues(problems))) => {
            return FileCheck {
                problems,
                ..FileCheck::default()
            };
        }
        Err(error) => {
            let at = static_pods::tree::Position::START;
            let path = path.into();
            let problem = Issue::new(
                Origin::File { path, at },
                crate::errors::error_chain(&error),
            );
            return FileCheck {
                problems: vec![problem],
                ..FileCheck::default()
            };
        }
    };
    let line = CommandLine::default();
    let mut settings = Settings::new(layers);
    let understood = problems.is_empty();
    let judged = judge(&settings, &line, environment);
    // A rule about a setting that nobody made may be broken by one that could not be understood.
    let counts = |issue: &Issue| understood || issue.origin != Origin::BuiltIn;
    problems.extend(judged.issues.into_iter().filter(counts));
    problems.sort_by_key(|issue| match &issue.origin {
        Origin::File { at, .. } => Some(*at),
        _ => None,
    });
    let mut warnings = warnings(&mut settings, &line, &judged.gates);
    let config = problems.is_empty().then(|| {
        Resolver {
            settings: &settings,
            line: &line,
            working_directory: &environment.working_directory,
            hostname: &environment.hostname,
            warnings: &mut warnings,
        }
        .config(judged.node, judged.gates, AgentSettings::default())
    });
    FileCheck {
        problems,
        warnings,
        config,
    }
}

/// What the KubeletConfiguration in `bytes` sets, as one object; `path` is named in errors. Fields that no kubelet of this
/// release knows are left out, and so are zeros that stand for the default. Reads no file.
///
/// # Errors
/// When it is no KubeletConfiguration, or a field cannot be understood.
pub fn settings_of(path: &Path, bytes: &[u8]) -> Result<Value, ConfigError> {
    let (layers, problems) = Layers::of_file(path, bytes)?;
    match problems.is_empty() {
        true => Ok(layers.merged),
        false => Err(ConfigError::Invalid(Issues(problems))),
    }
}

/// Settings against the rules.
struct Judged {
    gates: FeatureGates,
    node: node::NodeFlags,
    issues: Vec<Issue>,
}

/// Everything that is wrong with settings that were understood.
fn judge(settings: &Settings, line: &CommandLine, environment: &Environment) -> Judged {
    let mut issues = Vec::new();
    let gates =
        FeatureGates::resolve(&settings.bool_map("featureGates")).unwrap_or_else(|errors| {
            let origin = settings.origin("featureGates");
            issues.extend(
                errors
                    .into_iter()
                    .map(|error| Issue::new(origin.clone(), error)),
            );
            FeatureGates::default()
        });
    let node = node::node_flags(line, &environment.hostname).unwrap_or_else(|errors| {
        issues.extend(errors);
        node::NodeFlags::default()
    });
    issues.extend(validate::validate(settings, &gates, environment.cgroup_v1));
    Judged {
        gates,
        node,
        issues,
    }
}

fn warnings(settings: &mut Settings, line: &CommandLine, gates: &FeatureGates) -> Vec<Issue> {
    let mut warnings = settings.take_warnings();
    warnings.extend(settings.unbuilt());
    warnings.extend(ciphers::warnings(settings));
    warnings.extend(unbuilt_flags(line));
    warnings.extend(unbuilt_gates(gates, settings.origin("featureGates")));
    warnings
}

/// Flags that are no fields, are set to something else than their default, and that the agent does not act on.
fn unbuilt_flags(line: &CommandLine) -> Vec<Issue> {
    let own = line.given().iter().filter(|given| {
        let flag = given.flag;
        flag.target == Target::Own
            && !flag.built
            && flag.group != Group::Leftover
            && !is_default(given)
    });
    own.map(|given| {
        Issue::new(
            Origin::Flag(given.flag.name),
            "has no effect: this agent does not act on it",
        )
    })
    .collect()
}

fn is_default(given: &flags::Given) -> bool {
    debug_assert!(FLAGS.iter().any(|flag| flag.name == given.flag.name));
    let default = given.flag.default;
    match &given.value {
        Value::String(text) => text == default,
        Value::Bool(value) => default.parse() == Ok(*value),
        Value::Number(value) => default.parse().ok() == value.as_i64(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null => true,
    }
}

/// Gates that the agent acts on; the rest are known, checked, and change nothing.
const HEEDED_GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "AllowDNSOnlyNodeCSR",
    "CPUManagerPolicyAlphaOptions",
    "CPUManagerPolicyBetaOptions",
    "CPUManagerPolicyOptions",
    "CSIVolumeHealth",
    "ClusterTrustBundle",
    "ClusterTrustBundleProjection",
    "ContainerStopSignals",
    "DisableCPUQuotaWithExclusiveCPUs",
    "EnvFiles",
    "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority",
    "KubeletCrashLoopBackOffMax",
    "KubeletEnsureSecretPulledImages",
    "KubeletServiceAccountTokenForCredentialProviders",
    "LoggingAlphaOptions",
    "PodCertificateRequest",
    "ReloadKubeletServerCertificateFile",
    "RotateKubeletServerCertificate",
    "TopologyManagerPolicyAlphaOptions",
    "TopologyManagerPolicyBetaOptions",
    "TopologyManagerPolicyOptions",
];

fn unbuilt_gates(gates: &FeatureGates, origin: Origin) -> Option<Issue> {
    let names: Vec<String> = gates
        .changed()
        .filter(|(gate, _)| !HEEDED_GATES.contains(&gate.name))
        .map(|(gate, on)| format!("{}={on}", gate.name))
        .collect();
    let message = || format!("feature gates that have no effect: {}", names.join(", "));
    (!names.is_empty()).then(|| Issue::new(origin, message()))
}
