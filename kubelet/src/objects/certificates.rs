//! Certificates of pods: a key that is made here, and a signer's certificate for it, asked for by PodCertificateRequest and
//! again when the signer says so.
//!
//! Source: the Kubernetes document "Certificates and Certificate Signing Requests", "Pod Certificates"; KEP-4317.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCertificateProjection;
use kube::Api;
use kube::api::{GetParams, PostParams};
use kube::core::Request;
use kube::runtime::watcher::{self, Event};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_stream::StreamExt as _;

use super::cell::Cell;
use super::connections::Connections;
use super::data::{Bytes, Found};
use super::slim::PodCertificateRequest;
use super::trust::only_certificates;
use crate::api::{Retry, random, watch_objects};
use crate::clock::system_wall;
use crate::errors::error_chain;
use crate::events::About;
use crate::metrics::{Counted, Standing, kubelet};
use crate::pod::{self, Pod, PodName, PodUid};

/// Renewals are spread over this long, as upstream's; over a tenth of what is left, where that is less.
const JITTER: Duration = Duration::from_secs(5 * 60);
/// A renewal that takes longer is told.
const OVERDUE: Duration = Duration::from_secs(10 * 60);
/// Pauses between attempts that failed: the first, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(122);
/// What upstream says until there is one.
const NOT_ISSUED: &str = "credential bundle is not issued yet";

/// What tells one certificate of a pod from another, and what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateWish {
    /// The projected volume it is for.
    pub volume: Box<str>,
    /// Which of the volume's sources, from 0.
    pub source: usize,
    signer: Box<str>,
    key_type: Box<str>,
    max_expiration_seconds: Option<i32>,
    annotations: BTreeMap<String, String>,
}

impl CertificateWish {
    /// What `source` of the projected volume `volume`, the one with the number `index`, asks for.
    #[must_use]
    pub fn of(volume: &str, index: usize, source: &PodCertificateProjection) -> Self {
        Self {
            volume: volume.into(),
            source: index,
            signer: source.signer_name.as_str().into(),
            key_type: source.key_type.as_str().into(),
            max_expiration_seconds: source.max_expiration_seconds,
            annotations: source.user_annotations.clone().unwrap_or_default(),
        }
    }
}

/// A key and the certificates for it, each as PEM. Its Debug shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The private key.
    pub key: Bytes,
    /// The pod's own certificate, and those of its signers.
    pub chain: Bytes,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential { .. }")
    }
}

/// Whose certificate it is, and which one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CertificateKey {
    pod: PodName,
    uid: PodUid,
    service_account: Box<str>,
    node: Box<str>,
    wish: CertificateWish,
}

impl CertificateKey {
    /// The certificate that `pod` wishes for so.
    pub(super) fn of(pod: &Pod, uid: &PodUid, wish: &CertificateWish) -> Self {
        let spec = pod::spec(pod);
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        Self {
            pod: PodName::of(pod),
            uid: uid.clone(),
            service_account: text(&spec.service_account_name),
            node: text(&spec.node_name),
            wish: wish.clone(),
        }
    }
}

/// What the signer has granted.
struct Issued {
    credential: Credential,
    refresh_at: Timestamp,
    not_after: Timestamp,
}

/// What came of a request.
enum Verdict {
    Issued {
        chain: String,
        refresh_at: Timestamp,
        not_after: Timestamp,
    },
    /// For good.
    Refused {
        how: &'static str,
        reason: Box<str>,
        message: Box<str>,
    },
    /// Somebody has deleted it.
    Gone,
}

/// Keeps a good certificate in `cell`, until its signer refuses one; `pod` is told of that. Without end.
pub(super) async fn keep_certificate(
    connections: impl Future<Output = Arc<Connections>>,
    key: CertificateKey,
    pod: Arc<Pod>,
    cell: Arc<Cell<Credential>>,
) {
    let counted = kubelet().pod_certificates.enter(&key.wish.signer);
    let connections = connections.await;
    let mut issued = obtain(&connections, &key, &pod, &cell, &counted).await;
    while let Some(current) = issued {
        counted.stands(Standing::Issued {
            overdue_at: overdue_at(current.refresh_at).as_second(),
            not_after: current.not_after.as_second(),
        });
        cell.set(Found::There(current.credential));
        sleep_until(current.refresh_at).await;
        let left = left(current.not_after);
        tokio::time::sleep(JITTER.min(left / 10).mul_f64(random())).await;
        issued = tokio::select! {
            // Cancel-safe: the other has no end.
            issued = obtain(&connections, &key, &pod, &cell, &counted) => issued,
            never = tell_when_late(&pod, current.refresh_at, current.not_after) => match never {},
        };
    }
    // Refused for good: counted for as long as the pod wishes for it.
    std::future::pending().await
}

/// Asks for a certificate until there is one; none where the signer refuses it.
async fn obtain(
    connections: &Arc<Connections>,
    key: &CertificateKey,
    pod: &Pod,
    cell: &Cell<Credential>,
    counted: &Counted,
) -> Option<Issued> {
    let mut retry = Retry::new(RETRY_FIRST, RETRY_MOST);
    loop {
        match ask(&connections.main(), key).await {
            Err(error) => {
                tracing::warn!(pod = %key.pod, volume = &*key.wish.volume, error, "no certificate for the pod");
                if !matches!(cell.get(), Found::There(_)) {
                    cell.set(Found::Unknown(Some(NOT_ISSUED.into())));
                }
            }
            Ok((pair, request)) => match verdict(connections, key, &request).await {
                Verdict::Issued {
                    chain,
                    refresh_at,
                    not_after,
                } => {
                    return Some(Issued {
                        credential: Credential {
                            key: pair.serialize_pem().into_bytes().into(),
                            chain: chain.into_bytes().into(),
                        },
                        refresh_at,
                        not_after,
                    });
                }
                Verdict::Refused {
                    how,
                    reason,
                    message,
                } => {
                    let name = format!("{}/{request}", key.pod.namespace);
                    let (told, standing) = match how {
                        "Denied" => ("was denied", Standing::Denied),
                        _ => ("failed", Standing::Failed),
                    };
                    counted.stands(standing);
                    About::pod(pod).warning(
                        how,
                        &format!(
                            "PodCertificateRequest {name} {told}, reason={reason:?}, message={message:?}"
                        ),
                    );
                    let why = format!(
                        "PodCertificateRequest was permanently {}: reason={reason:?} message={message:?}",
                        how.to_lowercase()
                    );
                    cell.set(Found::Unknown(Some(why.into())));
                    return None;
                }
                Verdict::Gone => {}
            },
        }
        retry.pause().await;
    }
}

/// When a renewal that may begin at `refresh_at` takes too long.
fn overdue_at(refresh_at: Timestamp) -> Timestamp {
    refresh_at.checked_add(OVERDUE).unwrap_or(Timestamp::MAX)
}

/// Tells of a renewal that takes too long, and of a certificate whose time is over. Without end.
async fn tell_when_late(
    pod: &Pod,
    refresh_at: Timestamp,
    not_after: Timestamp,
) -> std::convert::Infallible {
    let mut events = [
        (
            overdue_at(refresh_at),
            "CertificateOverdueForRefresh",
            "PodCertificate refresh overdue",
        ),
        (not_after, "CertificateExpired", "PodCertificate expired"),
    ];
    events.sort_by_key(|(at, ..)| *at);
    for (at, reason, message) in events {
        sleep_until(at).await;
        About::pod(pod).warning(reason, message);
    }
    std::future::pending().await
}

async fn sleep_until(at: Timestamp) {
    tokio::time::sleep(left(at)).await;
}

/// How long it is until `at`; nothing where that has been.
fn left(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(system_wall())).unwrap_or_default()
}

/// Makes a key and asks for a certificate for it: the key, and the request's name. An error says why that cannot be.
async fn ask(client: &kube::Client, key: &CertificateKey) -> Result<(KeyPair, String), String> {
    let (pair, proof) = key_and_proof(&key.wish.key_type)?;
    let namespace = &key.pod.namespace;
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let account_uid = uid_of(client, &accounts, &key.service_account).await;
    let account_uid =
        account_uid.map_err(|error| format!("while fetching service account: {error}"))?;
    let node_uid = uid_of(client, "/api/v1/nodes", &key.node).await;
    let node_uid = node_uid.map_err(|error| format!("while getting node object: {error}"))?;
    let (pod, uid, wish) = (&*key.pod.name, key.uid.as_str(), &key.wish);
    let mut spec = json!({
        "signerName": wish.signer,
        "podName": pod,
        "podUID": uid,
        "serviceAccountName": key.service_account,
        "serviceAccountUID": account_uid,
        "nodeName": key.node,
        "nodeUID": node_uid,
        "stubPKCS10Request": STANDARD.encode(proof),
    });
    if let Some(seconds) = wish.max_expiration_seconds {
        spec["maxExpirationSeconds"] = json!(seconds);
    }
    if !wish.annotations.is_empty() {
        spec["unverifiedUserAnnotations"] = json!(wish.annotations);
    }
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "PodCertificateRequest",
        "metadata": {
            "generateName": "req-",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}],
        },
        "spec": spec,
    });
    let path =
        format!("/apis/certificates.k8s.io/v1beta1/namespaces/{namespace}/podcertificaterequests");
    let request = Request::new(path);
    let request = request.create(&PostParams::default(), body.to_string().into_bytes());
    let request = request.map_err(|error| error_chain(&error))?;
    let made = client.request_text(request).await;
    let made: PodCertificateRequest =
        read(made).map_err(|error| format!("while creating PodCertificateRequest: {error}"))?;
    Ok((pair, made.name().to_owned()))
}

async fn uid_of(client: &kube::Client, path: &str, name: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        uid: String,
    }
    let request = Request::new(path).get(name, &GetParams::default());
    let request = request.map_err(|error| error_chain(&error))?;
    let object: Object = read(client.request_text(request).await)?;
    Ok(object.metadata.uid)
}

/// What the API server has answered, or why there is no answer.
fn read<T: DeserializeOwned>(answer: Result<String, kube::Error>) -> Result<T, String> {
    let text = answer.map_err(|error| match error {
        kube::Error::Api(status) => status.message,
        other => error_chain(&other),
    })?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// A new key of the type `key_type`, and the signed request without a name by which it proves that it is ours (PKCS #10, DER).
fn key_and_proof(key_type: &str) -> Result<(KeyPair, Vec<u8>), String> {
    let algorithm: &SignatureAlgorithm = match key_type {
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        "ED25519" => &rcgen::PKCS_ED25519,
        "RSA3072" | "RSA4096" | "ECDSAP521" => {
            return Err(format!(
                "keys of type {key_type} are not made by this kubelet: use ECDSAP256, ECDSAP384 or ED25519"
            ));
        }
        other => return Err(format!("unknown key type {other:?}")),
    };
    let made = || {
        let pair = KeyPair::generate_for(algorithm)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let proof = params.serialize_request(&pair)?.der().to_vec();
        Ok::<_, rcgen::Error>((pair, proof))
    };
    made().map_err(|error| format!("while generating keypair: {error}"))
}

/// Waits for what comes of the request `name`.
async fn verdict(connections: &Arc<Connections>, key: &CertificateKey, name: &str) -> Verdict {
    let place = connections.place();
    let api: Api<PodCertificateRequest> = Api::namespaced(place.client(), &key.pod.namespace);
    // The node may see its own alone, and has to say so.
    let fields = format!("metadata.name={name},spec.nodeName={}", key.node);
    let mut events = watch_objects(api, watcher::Config::default().fields(&fields));
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Event::Init => listed = false,
            Event::InitApply(request) | Event::Apply(request) => {
                listed = true;
                if let Some(verdict) = of_status(request) {
                    return verdict;
                }
            }
            Event::InitDone if listed => {}
            Event::InitDone | Event::Delete(_) => return Verdict::Gone,
        }
    }
    Verdict::Gone
}

/// What the conditions of `request` say, where they say something final.
fn of_status(request: PodCertificateRequest) -> Option<Verdict> {
    let status = request.status;
    status.conditions.into_iter().find_map(|condition| {
        let refused = |how| Verdict::Refused {
            how,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        match &*condition.kind {
            "Denied" => Some(refused("Denied")),
            "Failed" => Some(refused("Failed")),
            "Issued" => Some(Verdict::Issued {
                chain: only_certificates(&status.certificate_chain),
                refresh_at: status.begin_refresh_at.unwrap_or(Timestamp::MAX),
                not_after: status.not_after.unwrap_or(Timestamp::MAX),
            }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer as _;

    use super::*;

    #[test]
    fn a_key_proves_that_it_is_ours_without_a_name() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let (pair, proof) = key_and_proof(key_type).unwrap();
            assert!(
                pair.serialize_pem()
                    .starts_with("-----BEGIN PRIVATE KEY-----")
            );
            let parsed =
                x509_parser::certification_request::X509CertificationRequest::from_der(&proof);
            let (_, request) = parsed.unwrap();
            let subject = &request.certification_request_info.subject;
            assert_eq!(subject.iter().count(), 0, "{subject}");
        }
        for (key_type, why) in [("RSA3072", "not made"), ("DSA", "unknown key type \"DSA\"")] {
            let refused = key_and_proof(key_type).err().unwrap();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn only_what_is_final_is_a_verdict() {
        let of = |status| {
            let object = json!({"metadata": {"name": "req-1"}, "status": status});
            of_status(serde_json::from_value(object).unwrap())
        };
        assert!(of(json!({})).is_none());
        assert!(of(json!({"conditions": [{"type": "Other"}]})).is_none());
        let denied = of(json!({"conditions": [{"type": "Denied", "reason": "R", "message": "m"}]}));
        assert!(matches!(
            denied,
            Some(Verdict::Refused { how: "Denied", .. })
        ));
        let issued = of(json!({
            "conditions": [{"type": "Issued", "status": "True"}],
            "certificateChain": "between\n",
            "beginRefreshAt": "2026-11-22T10:00:00Z",
            "notAfter": "2026-11-23T10:00:00Z",
        }));
        let Some(Verdict::Issued {
            chain, refresh_at, ..
        }) = issued
        else {
            panic!()
        };
        assert_eq!(
            (&*chain, refresh_at.to_string().as_str()),
            ("", "2026-11-22T10:00:00Z")
        );
    }
}
