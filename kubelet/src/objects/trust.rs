//! Whom the programs of a pod may believe: the certificates of ClusterTrustBundles, one of them or all of a signer's.
//!
//! Source: the Kubernetes document "Certificates and Certificate Signing Requests", "Cluster trust bundles"; KEP-3257.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::core::Selector;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_stream::StreamExt as _;

use super::cell::Cell;
use super::connections::Connections;
use super::data::{Bytes, Found};
use super::slim::ClusterTrustBundle;
use crate::api::watch_objects;

/// Characters of a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// Which trust bundles a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustWish {
    /// The one of this name.
    Named(Box<str>),
    /// Those of a signer.
    OfSigner {
        /// The signer's name.
        signer: Box<str>,
        /// Which of them, as a query of the API has it; empty: all. Without one, none.
        labels: Option<Box<str>>,
    },
}

impl TrustWish {
    /// What `source` asks for; none where it says neither name nor signer, or a selector that is none.
    #[must_use]
    pub fn of(source: &ClusterTrustBundleProjection) -> Option<Self> {
        if let Some(name) = &source.name {
            return Some(Self::Named(name.as_str().into()));
        }
        let labels = match source.label_selector.clone() {
            None => None,
            Some(selector) => Some(Selector::try_from(selector).ok()?.to_string().into()),
        };
        Some(Self::OfSigner {
            signer: source.signer_name.as_deref()?.into(),
            labels,
        })
    }

    /// What upstream says where there is none.
    pub(super) fn missing(&self) -> String {
        match self {
            Self::Named(name) => format!(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
            ),
            Self::OfSigner { .. } => {
                "combination of signerName and labelSelector matched zero ClusterTrustBundles"
                    .to_owned()
            }
        }
    }

    /// What is listed and watched; none where nothing can match.
    fn watched(&self) -> Option<watcher::Config> {
        let all = watcher::Config::default();
        match self {
            Self::Named(name) => Some(all.fields(&format!("metadata.name={name}"))),
            Self::OfSigner { signer, labels } => {
                let own = all.fields(&format!("spec.signerName={signer}"));
                Some(own.labels(labels.as_deref()?))
            }
        }
    }
}

/// Keeps `cell` as the API server has it, without end: all certificates, each once, as PEM.
pub(super) async fn watch_bundles(
    connections: impl Future<Output = Arc<Connections>>,
    wish: TrustWish,
    cell: Arc<Cell<Bytes>>,
) {
    let Some(watched) = wish.watched() else {
        return cell.set(Found::Missing);
    };
    let place = connections.await.place();
    let api: Api<ClusterTrustBundle> = Api::all(place.client());
    let mut events = watch_objects(api, watched);
    let mut bundles: BTreeMap<String, ClusterTrustBundle> = BTreeMap::new();
    let mut listed = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(bundle) => {
                listed.insert(bundle.name_any(), bundle);
                continue;
            }
            Event::InitDone => bundles = std::mem::take(&mut listed),
            Event::Apply(bundle) => {
                bundles.insert(bundle.name_any(), bundle);
            }
            Event::Delete(bundle) => {
                bundles.remove(&bundle.name_any());
            }
        }
        cell.set(match bundles.is_empty() {
            true => Found::Missing,
            false => Found::There(anchors(bundles.values())),
        });
    }
}

/// The certificates of `bundles`, each once.
fn anchors<'a>(bundles: impl Iterator<Item = &'a ClusterTrustBundle>) -> Bytes {
    let mut certificates: Vec<_> = bundles
        .flat_map(|bundle| certificates(&bundle.spec.trust_bundle))
        .collect();
    certificates.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    pem(certificates.iter()).into_bytes().into()
}

/// The certificates in `text`; what is between them is left out, and so is what is none.
fn certificates(text: &str) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok)
}

/// The certificates in `text`, and nothing else.
pub(super) fn only_certificates(text: &str) -> String {
    let certificates: Vec<_> = certificates(text).collect();
    pem(certificates.iter())
}

fn pem<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut encoded = STANDARD.encode(certificate);
        while !encoded.is_empty() {
            let rest = encoded.split_off(PEM_LINE.min(encoded.len()));
            // Writing to a String does not fail.
            let _ = writeln!(text, "{encoded}");
            encoded = rest;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bundle(text: &str) -> ClusterTrustBundle {
        let object = json!({"metadata": {"name": "b"}, "spec": {"trustBundle": text}});
        serde_json::from_value(object).unwrap()
    }

    fn block(bytes: &[u8]) -> String {
        pem([CertificateDer::from(bytes.to_vec())].iter())
    }

    #[test]
    fn certificates_are_there_once_whatever_is_between_them() {
        let (a, b) = (block(&[1; 100]), block(&[2; 3]));
        let first = bundle(&format!("a comment\n{b}\n\nanother\n{a}"));
        let second = bundle(&a);
        let found = anchors([first, second].iter());
        assert_eq!(
            String::from_utf8(found.to_vec()).unwrap(),
            format!("{a}{b}")
        );
        assert!(a.lines().all(|line| line.len() <= 64), "{a}");
        assert_eq!(
            only_certificates(&format!("x\n{a}y\n{b}")),
            format!("{a}{b}")
        );
    }

    #[test]
    fn a_wish_is_by_name_or_by_signer_and_labels() {
        let wish = |source| TrustWish::of(&serde_json::from_value(source).unwrap());
        let named = wish(json!({"name": "roots", "path": "p"})).unwrap();
        assert_eq!(named, TrustWish::Named("roots".into()));
        let fields = |wish: &TrustWish| {
            wish.watched()
                .map(|watched| (watched.field_selector, watched.label_selector))
        };
        assert_eq!(
            fields(&named),
            Some((Some("metadata.name=roots".to_owned()), None))
        );
        let none = wish(json!({"signerName": "e.com/s", "path": "p"})).unwrap();
        assert_eq!(fields(&none), None, "no selector matches nothing");
        let all = json!({"signerName": "e.com/s", "path": "p", "labelSelector": {}});
        let signer = Some("spec.signerName=e.com/s".to_owned());
        assert_eq!(
            fields(&wish(all).unwrap()),
            Some((signer.clone(), Some(String::new())))
        );
        let some = json!({"signerName": "e.com/s", "path": "p", "labelSelector": {
            "matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "In", "values": ["2", "3"]}],
        }});
        let (_, labels) = fields(&wish(some).unwrap()).unwrap();
        let labels = labels.unwrap();
        assert!(
            labels.contains("a=1") && labels.contains("b in (2,3)"),
            "{labels}"
        );
        assert_eq!(wish(json!({"path": "p"})), None);
    }
}
