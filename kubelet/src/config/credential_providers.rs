//! `--image-credential-provider-config` and `--image-credential-provider-bin-dir`: which programs know credentials of which
//! registries.
//!
//! Source: the Kubernetes document "Configure a kubelet image credential provider"; messages are upstream's
//! (`pkg/credentialprovider/plugin/config.go`).

mod rules;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use static_pods::tree::{Document, Position};

use super::ConfigError;
use super::durations::GoDuration;
use super::issue::{Issue, Issues, Origin};
use super::layers::one_document;

const KIND: &str = "CredentialProviderConfig";
const GROUP: &str = "kubelet.config.k8s.io";
/// The version of the file that knows of service accounts.
const WITH_TOKENS: &str = "v1";
const VERSIONS: [&str; 3] = [WITH_TOKENS, "v1alpha1", "v1beta1"];
/// Upstream's endings of files in a directory.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];
const CONFIG_FLAG: &str = "image-credential-provider-config";
const BINARIES_FLAG: &str = "image-credential-provider-bin-dir";

/// Programs that know credentials of registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialProviders {
    /// In the order of the files; of two that know credentials of a place the first one's are tried first.
    pub providers: Vec<CredentialProvider>,
    /// `sha256:` and the digest of the files as they are.
    pub hash: String,
    /// Where the programs are.
    pub binaries: PathBuf,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialProvider {
    /// The name of the program in the directory of all.
    pub name: String,
    /// The form of what it is asked and answers: `credentialprovider.kubelet.k8s.io/v1`, `v1beta1` or `v1alpha1`.
    pub api_version: String,
    /// Images that it is asked for: `host[:port][/path]`, with `*` in the labels of the host.
    pub match_images: Vec<String>,
    /// For how long an answer holds that does not say so itself; zero for not at all.
    pub default_cache: Duration,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is added to its environment.
    pub env: Vec<(String, String)>,
    /// How it is given tokens of service accounts, if it is.
    pub token: Option<TokenAttributes>,
}

/// How a program is given tokens of pods' service accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAttributes {
    /// Whom the token is for.
    pub audience: String,
    /// `cacheType: Token`: an answer holds for the very token; otherwise for the service account.
    pub cached_by_token: bool,
    /// Whether it is asked for pods with a service account alone.
    pub required: bool,
    /// Annotations of a service account that it is told, and without which it is not asked.
    pub required_annotations: Vec<String>,
    /// Annotations that it is told where they are.
    pub optional_annotations: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct File {
    api_version: String,
    kind: String,
    providers: Vec<Written>,
}

/// A provider as it is written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    args: Vec<String>,
    env: Vec<Variable>,
    token_attributes: Option<WrittenToken>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenToken {
    service_account_token_audience: String,
    cache_type: String,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Vec<String>,
    optional_service_account_annotation_keys: Vec<String>,
}

/// Reads what the two flags name; none where neither is set. `tokens`: whether providers may be given tokens.
///
/// # Errors
/// When a file cannot be read or understood, what is set breaks a rule, or a program is missing.
pub(super) fn read(
    config: Option<&Path>,
    binaries: Option<&Path>,
    tokens: bool,
) -> Result<Option<CredentialProviders>, ConfigError> {
    if config.is_none() && binaries.is_none() {
        return Ok(None);
    }
    let directory = binaries.unwrap_or(Path::new(""));
    if let Err(error) = std::fs::metadata(directory) {
        let shown = directory.display();
        return Err(refused(
            Origin::Flag(BINARIES_FLAG),
            match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("plugin binary directory {shown} did not exist")
                }
                _ => format!("error inspecting binary directory {shown}: {error}"),
            },
        ));
    }
    let Some(config) = config else {
        let empty = "credential provider config path is empty";
        return Err(refused(Origin::Flag(CONFIG_FLAG), empty));
    };
    let mut read = CredentialProviders {
        providers: Vec::new(),
        hash: String::new(),
        binaries: directory.to_owned(),
    };
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for path in files(config)? {
        let bytes = std::fs::read(&path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        })?;
        // The length first: no two sets of files are one text.
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(&bytes);
        read.take(&path.into(), &bytes, tokens)?;
    }
    read.hash = format!("sha256:{}", crate::images::hex(&digest.finish()));
    Ok(Some(read))
}

fn refused(origin: Origin, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(Issues(vec![Issue::new(origin, message)]))
}

/// The file, or those of the directory in lexical order.
fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let file = entry.path();
        let ending = file.extension().and_then(|ending| ending.to_str());
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_directory && ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(refused(
            Origin::Flag(CONFIG_FLAG),
            format!(
                "no configuration files found in directory {:?}",
                path.display()
            ),
        )),
        false => Ok(files),
    }
}

impl CredentialProviders {
    /// Takes over the providers of the file at `path`, which holds `bytes`.
    fn take(&mut self, path: &Arc<Path>, bytes: &[u8], tokens: bool) -> Result<(), ConfigError> {
        let document = one_document(path, bytes, KIND)?;
        let at = |at: Position| Origin::File {
            path: Arc::clone(path),
            at,
        };
        let decoded = document
            .root
            .decode::<File>()
            .map_err(|error| refused(at(error.at), error.to_string()))?;
        let mut issues: Vec<Issue> = Vec::new();
        for unknown in &decoded.unknown {
            issues.push(Issue::new(at(unknown.at), unknown.to_string()));
        }
        for twice in &document.duplicates {
            let message = format!("{}: the key stands twice", twice.path);
            issues.push(Issue::new(at(twice.second), message));
        }
        let file = decoded.value;
        let version = file.api_version.strip_prefix(GROUP);
        let version = version.and_then(|rest| rest.strip_prefix('/'));
        let Some(version) = version.filter(|version| VERSIONS.contains(version)) else {
            let known = VERSIONS.map(|version| format!("\"{GROUP}/{version}\""));
            let found = &file.api_version;
            return Err(refused(
                at(document.root.nearest("apiVersion")),
                format!(
                    "apiVersion must be one of: {}; found {found:?}",
                    known.join(", ")
                ),
            ));
        };
        if file.kind != KIND {
            return Err(refused(
                at(document.root.nearest("kind")),
                format!("failed to decode {:?} (wrong Kind)", file.kind),
            ));
        }
        let mut place = |field: &str, message: String| {
            let message = format!("{field}: {message}");
            issues.push(Issue::new(at(document.root.nearest(field)), message));
        };
        if file.providers.is_empty() {
            place(
                "providers",
                "Required value: at least 1 item in plugins is required".to_owned(),
            );
        }
        for (index, written) in file.providers.into_iter().enumerate() {
            let field = format!("providers[{index}]");
            if self
                .providers
                .iter()
                .any(|other| other.name == written.name)
            {
                place(
                    &format!("{field}.name"),
                    format!(
                        "duplicate provider name {:?} found in configuration file(s)",
                        written.name
                    ),
                );
            }
            if version != WITH_TOKENS && written.token_attributes.is_some() {
                place(
                    &format!("{field}.tokenAttributes"),
                    "unknown field".to_owned(),
                );
            }
            rules::check(&written, tokens, |name, message| {
                place(&format!("{field}{name}"), message);
            });
            self.providers.push(written.into());
        }
        for (index, provider) in self.providers.iter().enumerate() {
            if let Some(missing) = self.without_program(provider) {
                issues.push(Issue::new(
                    at(provider_position(&document, index, &provider.name)),
                    missing,
                ));
            }
        }
        match issues.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Invalid(Issues(issues))),
        }
    }

    /// What is said where the program of a provider cannot be run.
    fn without_program(&self, provider: &CredentialProvider) -> Option<String> {
        let program = self.program(provider);
        let shown = program.display();
        match std::fs::metadata(&program) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => None,
            Ok(_) => Some(format!(
                "error inspecting binary executable {shown}: exec: {:?}: permission denied",
                program.display()
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Some(format!("plugin binary executable {shown} did not exist"))
            }
            Err(error) => Some(format!(
                "error inspecting binary executable {shown}: {error}"
            )),
        }
    }

    /// The path of the program of a provider.
    #[must_use]
    pub fn program(&self, provider: &CredentialProvider) -> PathBuf {
        self.binaries.join(&provider.name)
    }
}

/// Where a provider's name is written, if it is in this document.
fn provider_position(document: &Document, index: usize, name: &str) -> Position {
    let providers = document
        .root
        .get("providers")
        .and_then(|list| list.as_sequence());
    let named = providers.into_iter().flatten();
    let mut named = named.filter_map(|provider| provider.get("name"));
    let found = named.find(|node| node.as_str() == Some(name));
    found.map_or_else(
        || document.root.nearest(&format!("providers[{index}].name")),
        |node| node.at,
    )
}

impl From<Written> for CredentialProvider {
    /// Of what keeps the rules.
    fn from(written: Written) -> Self {
        let cache = written.default_cache_duration.as_deref();
        let cache = cache.and_then(|text| GoDuration::parse(text).ok());
        let env = written.env.into_iter();
        Self {
            name: written.name,
            api_version: written.api_version,
            match_images: written.match_images,
            default_cache: cache.unwrap_or_default().positive(),
            args: written.args,
            env: env
                .map(|variable| (variable.name, variable.value))
                .collect(),
            token: written.token_attributes.map(|token| TokenAttributes {
                audience: token.service_account_token_audience,
                cached_by_token: token.cache_type == rules::CACHED_BY_TOKEN,
                required: token.require_service_account.unwrap_or(false),
                required_annotations: token.required_service_account_annotation_keys,
                optional_annotations: token.optional_service_account_annotation_keys,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
