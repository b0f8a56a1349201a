//! Registry credentials of the node: docker's configuration files, and which entry fits which image.
//!
//! Source: the Kubernetes documentation, "Images", "Interpretation of config.json".

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::credential::{Credential, CredentialOwner};

/// Key under which docker keeps the credentials of its own registry.
const DEFAULT_REGISTRY: &str = "index.docker.io";
/// Bytes of a configuration file; a larger one is none.
const MAX_FILE: u64 = 10 << 20;
/// `auth` is written with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A docker configuration that cannot be read. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialFileError {
    /// Not the JSON it should be.
    #[error("it is not a docker configuration")]
    Format,
    /// An entry's `auth` is not base64 of `user:password`.
    #[error("the auth field of an entry is not base64 of <user>:<password>")]
    Auth,
    /// Larger than 10 MiB.
    #[error("it is larger than 10 MiB")]
    TooLarge,
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    auth: String,
}

impl Entry {
    fn credential(self) -> Result<Credential, CredentialFileError> {
        if self.auth.is_empty() {
            return Ok(Credential {
                username: self.username,
                password: self.password,
                email: self.email,
                owner: CredentialOwner::Node,
            });
        }
        let text: String = self
            .auth
            .chars()
            .filter(|c| !matches!(c, '\r' | '\n'))
            .collect();
        let bytes = BASE64.decode(text).map_err(|_| CredentialFileError::Auth)?;
        let text = String::from_utf8(bytes).map_err(|_| CredentialFileError::Auth)?;
        let (username, password) = text.split_once(':').ok_or(CredentialFileError::Auth)?;
        Ok(Credential {
            username: username.to_owned(),
            password: password.to_owned(),
            email: self.email,
            owner: CredentialOwner::Node,
        })
    }
}

/// Credentials by registry, and which of them an image is pulled with.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// By `host[:port][/path]`. Iterated backwards: of two that match, the longer path comes first.
    entries: BTreeMap<String, Vec<Credential>>,
}

impl Keyring {
    /// The entries of a `config.json` (`kubernetes.io/dockerconfigjson`): a map under `auths`.
    ///
    /// # Errors
    /// When it is not of that form, or one entry is not.
    pub fn from_config_json(json: &[u8]) -> Result<Self, CredentialFileError> {
        let config: ConfigJson =
            serde_json::from_slice(json).map_err(|_| CredentialFileError::Format)?;
        Self::from_entries(config.auths.unwrap_or_default())
    }

    /// The entries of a `.dockercfg` (`kubernetes.io/dockercfg`): the map by itself.
    ///
    /// # Errors
    /// When it is not of that form, or one entry is not.
    pub fn from_dockercfg(json: &[u8]) -> Result<Self, CredentialFileError> {
        let entries: BTreeMap<String, Entry> =
            serde_json::from_slice(json).map_err(|_| CredentialFileError::Format)?;
        Self::from_entries(entries)
    }

    /// The same, owned by `owner`.
    #[must_use]
    pub(super) fn owned_by(mut self, owner: &CredentialOwner) -> Self {
        for credential in self.entries.values_mut().flatten() {
            credential.owner = owner.clone();
        }
        self
    }

    /// Adds user and password of a place, `host[:port][/path]` with or without a scheme. What is no place is passed over.
    pub(super) fn add(&mut self, location: &str, credential: Credential) {
        if let Some(key) = key_of(location) {
            self.entries.entry(key).or_default().push(credential);
        }
    }

    /// Takes over the entries of `other`, behind those of the same place that are here already.
    pub(super) fn extend(&mut self, other: Self) {
        for (key, credentials) in other.entries {
            self.entries.entry(key).or_default().extend(credentials);
        }
    }

    fn from_entries(entries: BTreeMap<String, Entry>) -> Result<Self, CredentialFileError> {
        let mut keyring = Self::default();
        for (location, entry) in entries {
            keyring.add(&location, entry.credential()?);
        }
        Ok(keyring)
    }

    /// The credentials to try for `repository` (registry and path in full, no tag), in this order. None: pull without.
    #[must_use]
    pub fn lookup(&self, repository: &str) -> Vec<Credential> {
        let matching: Vec<_> = self
            .entries
            .iter()
            .rev()
            .filter(|(key, _)| covers(key, repository))
            .flat_map(|(_, credentials)| credentials.iter().cloned())
            .collect();
        if matching.is_empty() && is_of_default_registry(repository) {
            return self
                .entries
                .get(DEFAULT_REGISTRY)
                .cloned()
                .unwrap_or_default();
        }
        matching
    }
}

/// `host[:port][/path]` of an entry, which may be a URL and may name the registry's API version.
fn key_of(location: &str) -> Option<String> {
    let bare = location
        .strip_prefix("https://")
        .or_else(|| location.strip_prefix("http://"))
        .unwrap_or(location);
    let bare = bare.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = split_host(bare);
    // User information is no part of a host.
    let host = host.rsplit('@').next().unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return None;
    }
    let path = match path.get(..4) {
        Some("/v1/" | "/v2/") => &path[3..],
        _ => path,
    };
    let path = if path == "/" { "" } else { path };
    Some(format!("{host}{path}"))
}

/// Host with its port, and the path from its slash on.
fn split_host(location: &str) -> (&str, &str) {
    location.split_at(location.find('/').unwrap_or(location.len()))
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// Whether `pattern`, as a credential provider's configuration has it, covers a repository.
pub(super) fn matches(pattern: &str, repository: &str) -> bool {
    covers(pattern, repository)
}

/// Whether an entry covers a repository: the same port, as many labels each of which matches, a path that is a prefix.
fn covers(key: &str, repository: &str) -> bool {
    let (key_host, key_path) = split_host(key);
    let (host, path) = split_host(repository);
    let (key_name, key_port) = split_port(key_host);
    let (name, port) = split_port(host);
    let labels = || (key_name.split('.'), name.split('.'));
    let (key_labels, name_labels) = labels();
    key_port == port && path.starts_with(key_path) && key_labels.count() == name_labels.count() && {
        let (key_labels, mut name_labels) = labels();
        key_labels.into_iter().all(|pattern| {
            name_labels
                .next()
                .is_some_and(|label| glob(pattern.as_bytes(), label.as_bytes()))
        })
    }
}

/// `*` for any run of characters. (A `?` would begin the query of the entry's URL, and never gets here.)
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        // Labels have at most 63 characters, so that trying every split stays cheap for the patterns there are.
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

fn is_of_default_registry(repository: &str) -> bool {
    match repository.split_once('/') {
        Some(("", _)) => false,
        Some((first, _)) => {
            first == "docker.io" || first == DEFAULT_REGISTRY || !first.contains(['.', ':'])
        }
        None => !repository.is_empty(),
    }
}

/// Where the node's own credentials may lie: the first file that can be read is the one.
#[derive(Clone, Debug, Default)]
pub struct NodeCredentials {
    config_json: Vec<PathBuf>,
    dockercfg: Vec<PathBuf>,
}

impl NodeCredentials {
    /// `config.json` in the agent's root directory, the working directory, `~/.docker` and `/.docker`; after those
    /// `.dockercfg` in the root directory, the working directory, the home directory and `/`.
    #[must_use]
    pub fn search(root: &Path, working_dir: &Path, home: Option<&Path>) -> Self {
        let home = home.into_iter();
        let slash = Path::new("/");
        let in_each =
            |file: &str, dirs: Vec<PathBuf>| dirs.iter().map(|dir| dir.join(file)).collect();
        let mut docker_dirs = vec![root.to_owned(), working_dir.to_owned()];
        docker_dirs.extend(home.clone().map(|home| home.join(".docker")));
        docker_dirs.push(slash.join(".docker"));
        let mut dirs = vec![root.to_owned(), working_dir.to_owned()];
        dirs.extend(home.map(Path::to_owned));
        dirs.push(slash.to_owned());
        Self {
            config_json: in_each("config.json", docker_dirs),
            dockercfg: in_each(".dockercfg", dirs),
        }
    }

    /// Reads them, anew at each pull: a file that changed counts at once. A file that cannot be used is passed over,
    /// and said so in the log; without any the keyring is empty.
    pub async fn keyring(&self) -> Keyring {
        type Parse = fn(&[u8]) -> Result<Keyring, CredentialFileError>;
        let json: Parse = Keyring::from_config_json;
        let cfg: Parse = Keyring::from_dockercfg;
        let files = self.config_json.iter().map(|path| (path, json));
        for (path, parse) in files.chain(self.dockercfg.iter().map(|path| (path, cfg))) {
            match read(path)
                .await
                .and_then(|bytes| bytes.map(|bytes| parse(&bytes)).transpose())
            {
                Ok(Some(keyring)) => return keyring,
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    path = %path.display(),
                    error = &error as &dyn std::error::Error,
                    "registry credentials passed over"
                ),
            }
        }
        Keyring::default()
    }
}

async fn read(path: &Path) -> Result<Option<Vec<u8>>, CredentialFileError> {
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CredentialFileError::Read(error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).await;
    let length = read.map_err(CredentialFileError::Read)?;
    if length as u64 > MAX_FILE {
        return Err(CredentialFileError::TooLarge);
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(auths: &[&str]) -> Keyring {
        let auths: serde_json::Map<_, _> = auths
            .iter()
            .map(|location| {
                (
                    (*location).to_owned(),
                    serde_json::json!({"username": location, "password": "p"}),
                )
            })
            .collect();
        let json = serde_json::json!({ "auths": auths }).to_string();
        Keyring::from_config_json(json.as_bytes()).unwrap()
    }

    fn users(keyring: &Keyring, repository: &str) -> Vec<String> {
        keyring
            .lookup(repository)
            .into_iter()
            .map(|c| c.username)
            .collect()
    }

    #[test]
    fn an_entry_covers_hosts_by_label_ports_exactly_and_paths_by_prefix() {
        for (entry, repository, covered) in [
            ("r.io", "r.io/a/b", true),
            ("https://r.io", "r.io/a", true),
            ("https://r.io/v2/", "r.io/a", true),
            ("r.io/a", "r.io/a/b", true),
            ("r.io/a", "r.io/ab", true),
            ("r.io/a/b/c", "r.io/a/b", false),
            ("*.r.io", "x.r.io/a", true),
            ("*.r.io", "r.io/a", false),
            ("*.r.io", "x.y.r.io/a", false),
            ("pre*x.r.io", "prefix.r.io/a", true),
            ("r.io", "r.io:5000/a", false),
            ("r.io:5000", "r.io:5000/a", true),
            ("[fd00::1]:5000", "[fd00::1]:5000/a", true),
            ("other.io", "r.io/a", false),
            (
                "https://index.docker.io/v1/",
                "docker.io/library/nginx",
                true,
            ),
            ("index.docker.io", "docker.io/me/app", true),
            ("docker.io", "docker.io/me/app", true),
            ("index.docker.io", "r.io/app", false),
        ] {
            let found = users(&keyring(&[entry]), repository);
            assert_eq!(found == [entry], covered, "{entry} {repository}");
        }
    }

    #[test]
    fn the_longest_path_is_tried_first() {
        let keyring = keyring(&["r.io", "r.io/a", "r.io/a/b", "*.io"]);
        assert_eq!(
            users(&keyring, "r.io/a/b"),
            ["r.io/a/b", "r.io/a", "r.io", "*.io"]
        );
    }

    #[test]
    fn auth_is_base64_with_or_without_padding() {
        for auth in ["dXNlcjpwYTpzcw==", "dXNlcjpwYTpzcw", "dXNlcjpw\\nYTpzcw=="] {
            let json = format!(r#"{{"r.io": {{"auth": "{auth}", "username": "not this"}}}}"#);
            let found = Keyring::from_dockercfg(json.as_bytes())
                .unwrap()
                .lookup("r.io/a");
            assert_eq!(found[0].username, "user");
            assert_eq!(found[0].password, "pa:ss");
            assert_eq!(format!("{found:?}"), "[Credential { .. }]");
        }
        for (json, error) in [
            (
                r#"{"r.io": {"auth": "dXNlcg=="}}"#,
                "the auth field of an entry is not base64 of <user>:<password>",
            ),
            (
                r#"{"r.io": {"auth": "?"}}"#,
                "the auth field of an entry is not base64 of <user>:<password>",
            ),
            ("[]", "it is not a docker configuration"),
        ] {
            assert_eq!(
                Keyring::from_dockercfg(json.as_bytes())
                    .unwrap_err()
                    .to_string(),
                error
            );
        }
    }

    #[tokio::test]
    async fn the_first_usable_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (root, work, home) = (
            dir.path().join("root"),
            dir.path().join("work"),
            dir.path().join("home"),
        );
        for path in [&root, &work, &home.join(".docker")] {
            std::fs::create_dir_all(path).unwrap();
        }
        let credentials = NodeCredentials::search(&root, &work, Some(&home));
        let users = async || users(&credentials.keyring().await, "r.io/a");
        assert!(users().await.is_empty());
        let entry =
            |user: &str| format!(r#"{{"r.io": {{"username": "{user}", "password": "p"}}}}"#);
        std::fs::write(work.join(".dockercfg"), entry("old")).unwrap();
        assert_eq!(users().await, ["old"]);
        let auths = format!(r#"{{"auths": {}}}"#, entry("home"));
        std::fs::write(home.join(".docker/config.json"), auths).unwrap();
        assert_eq!(users().await, ["home"]);
        std::fs::write(root.join("config.json"), "no json").unwrap();
        assert_eq!(users().await, ["home"]);
        std::fs::write(root.join("config.json"), "{}").unwrap();
        assert!(users().await.is_empty());
    }
}
