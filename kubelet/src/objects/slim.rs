//! ConfigMaps, Secrets and Services with no more than the agent uses of them.
//!
//! Reading one never fails over a value that is not as it should be: the client writes an answer that it cannot read
//! to its log, and an answer may hold secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is kept of the metadata of an object, in the form that the client asks for.
fn slim_metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Slim {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
    }
    let slim = Slim::deserialize(from)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        ..ObjectMeta::default()
    })
}

macro_rules! resource {
    ($type:ty, $kind:literal, $plural:literal) => {
        resource!($type, $kind, $plural, "", "v1", NamespaceResourceScope);
    };
    ($type:ty, $kind:literal, $plural:literal, $group:literal, $version:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($kind, " { .. }"))
            }
        }
    };
}

/// A ConfigMap of the API (`v1`). Its Debug shows nothing.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigMap {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    pub(super) data: Option<BTreeMap<Box<str>, Box<str>>>,
    pub(super) binary_data: Option<BTreeMap<Box<str>, Base64>>,
    pub(super) immutable: Option<bool>,
}

resource!(ConfigMap, "ConfigMap", "configmaps");

/// A Secret of the API (`v1`). Its Debug shows nothing.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Secret {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    pub(super) data: Option<BTreeMap<Box<str>, Base64>>,
    pub(super) immutable: Option<bool>,
    #[serde(rename = "type")]
    pub(super) kind: Option<Box<str>>,
}

resource!(Secret, "Secret", "secrets");

impl Secret {
    pub(super) fn uid(&self) -> Option<Box<str>> {
        self.metadata.uid.as_deref().map(Into::into)
    }
}

/// What a secret of the API holds, by key; nothing where `json` is none.
pub(crate) fn base64_values(json: &str) -> BTreeMap<Box<str>, Box<[u8]>> {
    let secret: Secret = serde_json::from_str(json).unwrap_or_default();
    let data = secret.data.into_iter().flatten();
    data.map(|(key, value)| (key, value.0)).collect()
}

/// A Service of the API (`v1`): where it is reached, and nothing else.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    #[serde(deserialize_with = "slim_metadata")]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: ServiceSpec,
}

resource!(Service, "Service", "services");

/// A ClusterTrustBundle of the API (`certificates.k8s.io/v1beta1`).
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterTrustBundle {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    pub(super) spec: TrustBundleSpec,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TrustBundleSpec {
    pub(super) signer_name: Box<str>,
    pub(super) trust_bundle: Box<str>,
}

resource!(
    ClusterTrustBundle,
    "ClusterTrustBundle",
    "clustertrustbundles",
    "certificates.k8s.io",
    "v1beta1",
    ClusterResourceScope
);

/// A PodCertificateRequest of the API (`certificates.k8s.io/v1beta1`): what came of it.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodCertificateRequest {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    pub(super) status: PodCertificateStatus,
}

impl PodCertificateRequest {
    /// Its name, which the API server chooses.
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodCertificateStatus {
    pub(super) conditions: Vec<CertificateCondition>,
    pub(super) certificate_chain: Box<str>,
    pub(super) begin_refresh_at: Option<jiff::Timestamp>,
    pub(super) not_after: Option<jiff::Timestamp>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CertificateCondition {
    #[serde(rename = "type")]
    pub(super) kind: Box<str>,
    pub(super) reason: Box<str>,
    pub(super) message: Box<str>,
}

resource!(
    PodCertificateRequest,
    "PodCertificateRequest",
    "podcertificaterequests",
    "certificates.k8s.io",
    "v1beta1",
    NamespaceResourceScope
);

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    pub(super) ports: Option<Vec<ServicePort>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServicePort {
    pub(super) name: Option<String>,
    pub(super) port: i32,
    pub(super) protocol: Option<String>,
}

/// Bytes that are base64 in JSON. What is no base64, which no API server sends, reads as nothing.
#[derive(Clone, Default)]
pub(super) struct Base64(pub(super) Box<[u8]>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Option::<Cow<'_, str>>::deserialize(from)?.unwrap_or_default();
        Ok(Self(STANDARD.decode(&*text).unwrap_or_default().into()))
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_metadata_only_what_names_the_object_is_kept() {
        let json = r#"{"metadata": {"name": "n", "namespace": "ns", "uid": "u", "resourceVersion": "7",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}], "labels": {"a": "b"}},
            "data": {"k": "v"}, "binaryData": {"b": "AAE="}, "immutable": true}"#;
        let map: ConfigMap = serde_json::from_str(json).unwrap();
        let expected = ObjectMeta {
            name: Some("n".to_owned()),
            namespace: Some("ns".to_owned()),
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        assert_eq!(map.metadata, expected);
        assert_eq!(&*map.data.unwrap()["k"], "v");
        assert_eq!(*map.binary_data.unwrap()["b"].0, [0, 1]);
        assert_eq!(map.immutable, Some(true));
    }

    #[test]
    fn a_secret_is_read_whatever_its_values_are_and_shows_none() {
        let json = r#"{"metadata": {"name": "n"}, "type": "Opaque", "data": {"a": "aHVzaA==", "b": "%", "c": null}}"#;
        let secret: Secret = serde_json::from_str(json).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
        let data = secret.data.unwrap();
        assert_eq!(&*data["a"].0, b"hush");
        assert!(data["b"].0.is_empty() && data["c"].0.is_empty());
    }
}
