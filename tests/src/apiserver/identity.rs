//! Who asks: by client certificate, by token, or nobody.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::answer::Refusal;
use super::resource::position;
use super::selector::text;
use super::store::Store;

/// A user of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:node:n`, `system:serviceaccount:namespace:name` …
    pub name: String,
    /// Without `system:authenticated`.
    pub groups: Vec<String>,
}

/// A token that was given out by this server.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) user: User,
    pub(super) audiences: Vec<String>,
    pub(super) expires: Timestamp,
    pub(super) extra: Value,
    /// Namespace, name and UID of the pod that it is bound to.
    pub(super) pod: Option<(String, String, String)>,
}

impl User {
    /// A user with groups.
    #[must_use]
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
        }
    }

    pub(super) fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    pub(super) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that it is, when it is one.
    pub(super) fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        self.is_in("system:nodes").then_some(name)
    }

    /// As `TokenReview` has it.
    pub(super) fn info(&self) -> Value {
        json!({ "username": self.name, "groups": self.groups })
    }
}

/// Who showed a certificate that was verified.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Common name and organizations.
    pub(super) user: User,
    /// The certificate's serial number, hexadecimal.
    pub(super) serial: String,
    /// Until when it counts: a connection may last longer.
    pub(super) not_after: Timestamp,
}

/// What a certificate that was verified says.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    Some(Shown {
        user: User::new(name, &groups),
        serial: certificate.raw_serial_as_string(),
        not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
    })
}

/// The user of a token, for one of these audiences (of the server itself when there are none).
pub(super) fn of_token(
    token: &str,
    issued: &HashMap<String, Token>,
    fixed: &HashMap<String, User>,
    store: &Store,
) -> Result<(User, Vec<String>, Value), Refusal> {
    if let Some(user) = fixed.get(token) {
        return Ok((user.clone(), vec![super::AUDIENCE.to_owned()], Value::Null));
    }
    if let Some(issued) = issued.get(token) {
        let pods = position("", "pods").unwrap_or_default();
        let bound = issued.pod.as_ref().is_none_or(|(namespace, name, uid)| {
            let pod = store.get(&(pods, namespace.clone(), name.clone()));
            pod.is_some_and(|pod| text(pod, "metadata.uid") == uid)
        });
        if bound && Timestamp::now() < issued.expires {
            return Ok((
                issued.user.clone(),
                issued.audiences.clone(),
                issued.extra.clone(),
            ));
        }
    }
    bootstrap(token, store).ok_or_else(Refusal::unauthorized)
}

/// A bootstrap token, by its secret in `kube-system`.
fn bootstrap(token: &str, store: &Store) -> Option<(User, Vec<String>, Value)> {
    let (id, secret) = token.split_once('.')?;
    let secrets = position("", "secrets")?;
    let name = format!("bootstrap-token-{id}");
    let object = store.get(&(secrets, "kube-system".to_owned(), name))?;
    let data = |key: &str| super::secret_text(object, key);
    let fits = data("token-id").as_deref() == Some(id)
        && data("token-secret").as_deref() == Some(secret)
        && data("usage-bootstrap-authentication").as_deref() == Some("true");
    let expired = data("expiration")
        .and_then(|at| at.parse::<Timestamp>().ok())
        .is_some_and(|at| at <= Timestamp::now());
    if !fits || expired {
        return None;
    }
    let mut user = User::new(&format!("system:bootstrap:{id}"), &["system:bootstrappers"]);
    let extra = data("auth-extra-groups").unwrap_or_default();
    let extra = extra.split(',').filter(|group| !group.is_empty());
    user.groups.extend(extra.map(str::to_owned));
    Some((user, vec![super::AUDIENCE.to_owned()], Value::Null))
}
