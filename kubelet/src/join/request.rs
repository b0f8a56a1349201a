//! A CertificateSigningRequest: made, and waited for.
//!
//! The signers look at the exact shape of it: subject, names, usages, and no time of its own
//! (<https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers>).

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::Request;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::json;
use tokio_stream::StreamExt as _;

use crate::api;

/// Where requests are.
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How long one request is waited for (upstream's `certificateWaitTimeout`).
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The node at the API server.
    Client,
    /// The node's API.
    Serving,
}

impl Purpose {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// Those of a key that is no RSA key, which would have `key encipherment` besides.
    fn usages(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["digital signature", "client auth"],
            Self::Serving => ["digital signature", "server auth"],
        }
    }
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Client => "client certificate",
            Self::Serving => "serving certificate",
        })
    }
}

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It could not be made.
    #[error("cannot ask for a {purpose}")]
    Made {
        /// What for.
        purpose: Purpose,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nobody approved it in time.
    #[error(
        "the certificate signing request {0} was not approved and signed within 15 minutes: see `kubectl describe csr {0}`"
    )]
    Late(String),
    /// It was denied, or the signer failed.
    #[error("the certificate signing request {name} is {kind}: {reason}: {message}")]
    Refused {
        /// Its name.
        name: String,
        /// `Denied` or `Failed`.
        kind: String,
        /// Why.
        reason: String,
        /// The same in a sentence.
        message: String,
    },
    /// It was deleted meanwhile.
    #[error("the certificate signing request {0} was deleted")]
    Deleted(String),
    /// What was signed is no text.
    #[error("the certificate of the signing request {0} cannot be read")]
    Unreadable(String),
}

/// As far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SigningRequest {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    certificate: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
}

impl kube::Resource for SigningRequest {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CertificateSigningRequest".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "certificates.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "certificatesigningrequests".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Has `request` (PEM) signed by way of `client`: the certificate, as PEM. `asked` hears the name of the object.
///
/// # Errors
/// When the request cannot be made, is refused, or nobody approves it within 15 minutes.
pub(super) async fn certificate_for(
    client: &Client,
    purpose: Purpose,
    request: &str,
    asked: impl FnOnce(&str),
) -> Result<Vec<u8>, RequestError> {
    let made = |source: kube::Error| RequestError::Made {
        purpose,
        source: Box::new(source),
    };
    let object = make(client, purpose, request).await.map_err(made)?;
    let name = object.metadata.name.unwrap_or_default();
    tracing::info!(
        request = name,
        "a {purpose} is asked for, and waits for its approval"
    );
    asked(&name);
    let waiting = approved(client, &name, object.metadata.uid.as_deref());
    let late = |_| RequestError::Late(name.clone());
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .map_err(late)?
}

async fn make(
    client: &Client,
    purpose: Purpose,
    request: &str,
) -> Result<SigningRequest, kube::Error> {
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": STANDARD.encode(request),
            "signerName": purpose.signer(),
            "usages": purpose.usages(),
        },
    });
    let body = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
    let request = Request::new(REQUESTS).create(&PostParams::default(), body);
    client
        .request(request.map_err(kube::Error::BuildRequest)?)
        .await
}

/// Waits for a certificate.
async fn approved(client: &Client, name: &str, uid: Option<&str>) -> Result<Vec<u8>, RequestError> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = api::watch_objects(Api::<SigningRequest>::all(client.clone()), config);
    let mut seen = false;
    while let Some(event) = events.next().await {
        match event {
            Event::InitApply(object) | Event::Apply(object)
                if uid.is_none() || object.metadata.uid.as_deref() == uid =>
            {
                seen = true;
                if let Some(certificate) = judged(name, &object.status)? {
                    return Ok(certificate);
                }
            }
            Event::Init => seen = false,
            Event::Delete(_) => return Err(RequestError::Deleted(name.to_owned())),
            // A cache may not have it yet: the watch will.
            Event::InitDone if !seen => tracing::debug!(name, "the request is not listed yet"),
            _ => {}
        }
    }
    Err(RequestError::Deleted(name.to_owned()))
}

/// The certificate; none while nobody has decided or signed.
fn judged(name: &str, status: &Status) -> Result<Option<Vec<u8>>, RequestError> {
    let refused = |condition: &&Condition| matches!(condition.kind.as_str(), "Denied" | "Failed");
    if let Some(condition) = status.conditions.iter().find(refused) {
        return Err(RequestError::Refused {
            name: name.to_owned(),
            kind: condition.kind.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        });
    }
    let approved = status.conditions.iter().any(|one| one.kind == "Approved");
    let certificate = status.certificate.as_ref();
    match certificate.filter(|text| approved && !text.is_empty()) {
        Some(text) => match STANDARD.decode(text) {
            Ok(certificate) => Ok(Some(certificate)),
            Err(_) => Err(RequestError::Unreadable(name.to_owned())),
        },
        None => Ok(None),
    }
}
