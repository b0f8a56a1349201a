//! Which cluster this is, and who vouches for it: a token and pins, or a file.

use std::time::Duration;

use kube::config::Kubeconfig;
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::cluster_info::{self, Found};
use super::failure::Failure;
use super::server::{Credentials, Server, Trust, Unanswered};
use super::token::{Pins, Token};
use super::{say, warn};
use crate::api::{Endpoint, Identity};

/// Where clusters say who they are.
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// A new token's signature takes the controller manager a moment.
const SIGNED_WITHIN: Duration = Duration::from_secs(10);

/// How the cluster is found.
pub(super) enum Way {
    /// By a token at `host:port`.
    Token {
        endpoint: String,
        token: Token,
        /// None when nothing is pinned.
        pins: Pins,
    },
    /// By a kubeconfig: a path, or an https:// address.
    File(String),
}

/// A cluster that is believed, and who asks it.
pub(super) struct Discovered {
    pub(super) found: Found,
    pub(super) credentials: Credentials,
}

/// Finds the cluster; whoever is silent is asked again for `patience`.
///
/// # Errors
/// When it cannot be found or not be believed.
pub(super) async fn discover(
    way: &Way,
    bootstrap: Option<&Token>,
    patience: Duration,
) -> Result<Discovered, Failure> {
    let (found, own) = match way {
        Way::Token {
            endpoint,
            token,
            pins,
        } => (
            by_token(endpoint, token, pins, patience).await?,
            Credentials::None,
        ),
        Way::File(place) => by_file(place, patience).await?,
    };
    let credentials = match (bootstrap, own) {
        (Some(token), _) => Credentials::Token(token.whole().clone()),
        (None, Credentials::None) => {
            return Err(Failure::Usage(
                "the discovery file has no credentials: give --tls-bootstrap-token".to_owned(),
            ));
        }
        (None, own) => own,
    };
    Ok(Discovered { found, credentials })
}

async fn by_token(
    endpoint: &str,
    token: &Token,
    pins: &Pins,
    patience: Duration,
) -> Result<Found, Failure> {
    let url = format!("https://{endpoint}");
    say(&format!(
        "[discovery] Requesting the cluster-info ConfigMap from {url:?}"
    ));
    let anybody = Server::new(&url, &Trust::Anybody, &Credentials::None).await?;
    let map = self::cluster_info(&anybody, patience).await?;
    let text = match cluster_info::verified(&map, token) {
        Err(Failure::Unsigned | Failure::UnknownToken(_)) => {
            say(&format!(
                "[discovery] cluster-info has no signature for token id {:?}; a new token's comes within {} s",
                token.id(),
                SIGNED_WITHIN.as_secs()
            ));
            signed_later(&anybody, token, patience).await?
        }
        verified => verified?,
    };
    let found = cluster_info::cluster_of(&text)?;
    if pins.is_empty() {
        say(
            "[discovery] Cluster info signature and contents are valid; the cluster CA is not pinned, so whoever knows the token could have sent it",
        );
        return Ok(found);
    }
    cluster_info::check_pins(&found.authority, pins)?;
    let trust = Trust::Authority(found.authority.clone());
    let server = Server::new(&url, &trust, &Credentials::None).await?;
    let again = self::cluster_info(&server, patience).await;
    let again = match again {
        Err(Failure::Clock {
            server, here, why, ..
        }) => {
            let ahead = anybody.clock_difference().await;
            let there = ahead.map_or(String::new(), |ahead| {
                let there = here.as_second() + ahead;
                let there = jiff::Timestamp::from_second(there).unwrap_or(here);
                format!("; the API server's clock says {there}")
            });
            return Err(Failure::Clock {
                server,
                here,
                there,
                why,
            });
        }
        again => again?,
    };
    if again["data"]["kubeconfig"].as_str() != Some(&text) {
        return Err(Failure::NotSetUp(
            "the second kubeconfig from the cluster-info ConfigMap (using validated TLS) was different from the first"
                .to_owned(),
        ));
    }
    if let Some(ahead) = server.clock_difference().await {
        say(&format!(
            "[discovery] The API server's clock is {ahead} s ahead of this machine's: certificates may not be valid yet, or no more"
        ));
    }
    say(&format!(
        "[discovery] Cluster info signature and contents are valid and TLS certificate validates against pinned roots, will use API Server {:?}",
        found.server
    ));
    Ok(found)
}

async fn signed_later(
    server: &Server,
    token: &Token,
    patience: Duration,
) -> Result<String, Failure> {
    let end = tokio::time::Instant::now() + patience.min(SIGNED_WITHIN);
    loop {
        let next = tokio::time::Instant::now() + PAUSE;
        tokio::time::sleep_until(next.min(end)).await;
        let map = self::cluster_info(server, patience).await?;
        match cluster_info::verified(&map, token) {
            Err(Failure::Unsigned | Failure::UnknownToken(_))
                if tokio::time::Instant::now() < end => {}
            verified => return verified,
        }
    }
}

/// Asks until there is an answer, or an error of the API that `decides` by its code.
pub(super) async fn persistently(
    server: &Server,
    path: &str,
    patience: Duration,
    decides: impl Fn(u16) -> bool,
) -> Result<Value, Failure> {
    let end = tokio::time::Instant::now() + patience;
    let mut said = false;
    loop {
        let unanswered = match server.get(path).await {
            Ok(object) => return Ok(object),
            Err(unanswered) => unanswered,
        };
        let decided = match &unanswered {
            Unanswered::Status(status) => decides(status.code),
            Unanswered::Never(_) => true,
            Unanswered::Later(_) => false,
        };
        let failure = match &unanswered {
            Unanswered::Status(status) if status.code == 404 => {
                Failure::NotSetUp(format!("there is no {path}"))
            }
            _ => server.failure(unanswered),
        };
        if decided || tokio::time::Instant::now() + PAUSE >= end {
            return Err(failure);
        }
        if !std::mem::replace(&mut said, true) {
            say(&format!(
                "[discovery] {failure} Trying again for {} s",
                patience.as_secs()
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// cluster-info of a server that may still be on its way: as with kubeadm, no error of the API decides.
async fn cluster_info(server: &Server, patience: Duration) -> Result<Value, Failure> {
    persistently(server, CLUSTER_INFO, patience, |_| false).await
}

async fn by_file(place: &str, patience: Duration) -> Result<(Found, Credentials), Failure> {
    say(&format!("[discovery] Reading the cluster from {place:?}"));
    let kubeconfig = kubeconfig_at(place, patience).await?;
    let credentials = credentials(&kubeconfig)?;
    let mut found = cluster_info::cluster(&kubeconfig)?;
    let trust = match found.authority.is_empty() {
        true => Trust::Host,
        false => Trust::Authority(found.authority.clone()),
    };
    let server = Server::new(&found.server, &trust, &credentials).await?;
    match persistently(&server, CLUSTER_INFO, patience, |code| code == 403).await {
        Ok(map) => match cluster_info::trusted(&map) {
            Some(own) => {
                if own.server != found.server {
                    warn(&format!(
                        "\t[WARNING]: the file's API server {:?} is not the one of the cluster-info ConfigMap, {:?}: the file's is used",
                        found.server, own.server
                    ));
                }
                if found.authority.is_empty() {
                    found.authority = own.authority;
                }
            }
            None => {
                say("[discovery] The cluster-info ConfigMap has no kubeconfig; the file's is used")
            }
        },
        // Nobody has to be shown it: the certificate was verified all the same.
        Err(Failure::Refused { why, .. }) => say(&format!(
            "[discovery] The cluster-info ConfigMap cannot be read ({why}), but the server's certificate is valid: going on"
        )),
        Err(failure) => return Err(failure),
    }
    if found.authority.is_empty() {
        return Err(Failure::NotSetUp(format!(
            "neither {place:?} nor the cluster-info ConfigMap has a certificate authority"
        )));
    }
    Ok((found, credentials))
}

/// The kubeconfig of a file, or of an https:// address.
async fn kubeconfig_at(place: &str, patience: Duration) -> Result<Kubeconfig, Failure> {
    let unusable = |error: &dyn std::error::Error| {
        let why = crate::errors::error_chain(error);
        Failure::Usage(format!(
            "the discovery file {place:?} cannot be used: {why}"
        ))
    };
    let Some(address) = place.strip_prefix("https://") else {
        // Relative paths in it begin at its directory.
        return Kubeconfig::read_from(place).map_err(|error| unusable(&error));
    };
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let server = Server::new(&format!("https://{host}"), &Trust::Host, &Credentials::None).await?;
    let asked = tokio::time::timeout(patience, server.text(&format!("/{path}"))).await;
    let text = asked
        .unwrap_or_else(|_| Err(Unanswered::Later("no answer in time".to_owned())))
        .map_err(|unanswered| server.failure(unanswered))?;
    Kubeconfig::from_yaml(&text).map_err(|error| unusable(&error))
}

/// Whoever a kubeconfig says to be: a token or a certificate.
fn credentials(kubeconfig: &Kubeconfig) -> Result<Credentials, Failure> {
    let context = kubeconfig.current_context.as_deref().unwrap_or_default();
    let context = kubeconfig.contexts.iter().find(|one| one.name == context);
    let name = context.and_then(|one| one.context.as_ref()?.user.as_deref());
    let mut users = kubeconfig.auth_infos.iter();
    let user = users.find(|one| Some(one.name.as_str()) == name);
    let Some(user) = user.and_then(|one| one.auth_info.as_ref()) else {
        return Ok(Credentials::None);
    };
    if let Some(file) = user.token_file.as_deref().filter(|file| !file.is_empty()) {
        let token = std::fs::read_to_string(file).map_err(Failure::file("read", file.as_ref()))?;
        return Ok(Credentials::Token(token.trim().to_owned().into()));
    }
    if let Some(token) = &user.token
        && !token.expose_secret().is_empty()
    {
        return Ok(Credentials::Token(token.clone()));
    }
    let identity = crate::api::identity_of(user, std::path::Path::new("the discovery file"));
    match identity.map_err(|error| Failure::Usage(crate::errors::error_chain(&error)))? {
        Identity::Certificate { certificate, key } => {
            Ok(Credentials::Certificate(certificate, key))
        }
        Identity::None => Ok(Credentials::None),
    }
}

/// Whether a kubeconfig is of use: it can be read, and its certificate too; until when.
pub(super) async fn usable(
    kubeconfig: &std::path::Path,
) -> Option<(Endpoint, Option<jiff::Timestamp>)> {
    let endpoint = Endpoint::read(kubeconfig).await.ok()?;
    let Identity::Certificate { certificate, key } = &endpoint.identity else {
        return Some((endpoint, None));
    };
    key.read().ok()?;
    let until = crate::join::valid_until(&certificate.read().ok()?).ok()?;
    Some((endpoint, Some(until)))
}

/// Whether a kubeconfig can be used now.
pub(super) async fn is_valid(kubeconfig: &std::path::Path) -> bool {
    let until = usable(kubeconfig).await.map(|(_, until)| until);
    until.is_some_and(|until| until.is_none_or(|until| until > crate::clock::system_wall()))
}
