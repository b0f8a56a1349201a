//! Objects and services as bytes, for whoever keeps them beyond the agent's life. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::data::{Found, ObjectData};
use super::references::Kind;
use super::service_links::ServiceLink;
use super::slim::Base64;

/// A configMap or secret: its kind, namespace and name.
pub type ObjectKey = (Kind, Box<str>, Box<str>);

/// What is written of an object. `missing` is an answer, too: what is optional may be done without.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    kind: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
    #[serde(default)]
    missing: bool,
    #[serde(default)]
    immutable: bool,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    secret_type: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<Box<str>>,
    #[serde(default)]
    data: BTreeMap<Box<str>, Base64>,
    #[serde(default)]
    binary_data: BTreeMap<Box<str>, Base64>,
}

/// The bytes to keep of an object; none while nothing is known of it.
#[must_use]
pub fn encode(key: &ObjectKey, found: &Found<Arc<ObjectData>>) -> Option<Vec<u8>> {
    let (kind, namespace, name) = key.clone();
    let mut kept = Kept {
        kind: kind.as_str().into(),
        namespace,
        name,
        missing: true,
        immutable: false,
        secret_type: None,
        uid: None,
        data: BTreeMap::new(),
        binary_data: BTreeMap::new(),
    };
    match found {
        Found::Unknown(_) => return None,
        Found::Missing => {}
        Found::There(object) => {
            let base64 =
                |(key, value): (&str, &super::Bytes)| (key.into(), Base64((**value).into()));
            kept.missing = false;
            kept.immutable = object.is_immutable();
            kept.secret_type = object.secret_type().map(Into::into);
            kept.uid = object.uid().map(Into::into);
            kept.data = object.data().map(base64).collect();
            kept.binary_data = object.binary().map(base64).collect();
        }
    }
    serde_json::to_vec(&kept).ok()
}

/// The object that [`encode`] made `bytes` of; none where they are not of the object `key`.
#[must_use]
pub fn decode(key: &ObjectKey, bytes: &[u8]) -> Option<Found<Arc<ObjectData>>> {
    // What is wrong with it is not said: an error of serde's quotes the text, which may be a secret's.
    let kept: Kept = serde_json::from_slice(bytes).ok()?;
    let own = (key.0.as_str(), &*key.1, &*key.2);
    if own != (&*kept.kind, &*kept.namespace, &*kept.name) {
        return None;
    }
    Some(match kept.missing {
        true => Found::Missing,
        false => {
            let parts = (kept.data, kept.binary_data);
            let data = ObjectData::of_parts(parts, kept.secret_type, kept.immutable);
            Found::There(Arc::new(match kept.uid {
                Some(uid) => data.with_uid(&uid),
                None => data,
            }))
        }
    })
}

/// The services that containers of some namespaces find in their environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptServices {
    /// By namespace.
    pub(super) own: BTreeMap<Box<str>, Vec<ServiceLink>>,
    /// The one of the API server.
    pub(super) master: Option<ServiceLink>,
}

impl KeptServices {
    /// What a pod of `namespace` finds, with those of its namespace where `links` says so; none where nobody knows.
    pub(super) fn links(&self, namespace: &str, links: bool) -> Option<Vec<ServiceLink>> {
        let own = self.own.get(namespace)?;
        let mut found = match links {
            true => own.clone(),
            false => Vec::new(),
        };
        if let Some(master) = &self.master
            && !found.iter().any(|link| link.name == master.name)
        {
            found.push(master.clone());
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind) -> ObjectKey {
        (kind, "ns".into(), "n".into())
    }

    #[test]
    fn an_object_is_read_as_it_was_written_for_its_own_name_alone() {
        let key = key(Kind::Secret);
        let data = ObjectData::new([("a", &b"\x00\xff"[..]), ("b", &b""[..])])
            .with_binary([("c", &b"x"[..])])
            .with_type("Opaque")
            .with_uid("u");
        let found = Found::There(Arc::new(data));
        let bytes = encode(&key, &found).unwrap();
        assert_eq!(decode(&key, &bytes), Some(found));
        let others = [
            (Kind::ConfigMap, "ns".into(), "n".into()),
            (Kind::Secret, "other".into(), "n".into()),
            (Kind::Secret, "ns".into(), "m".into()),
        ];
        for other in others {
            assert_eq!(decode(&other, &bytes), None, "{other:?}");
        }
        assert_eq!(decode(&key, &bytes[1..]), None);
    }

    #[test]
    fn that_there_is_none_is_kept_and_that_nobody_knows_is_not() {
        let key = key(Kind::ConfigMap);
        let bytes = encode(&key, &Found::Missing).unwrap();
        assert_eq!(decode(&key, &bytes), Some(Found::Missing));
        assert_eq!(encode(&key, &Found::Unknown(None)), None);
    }

    #[test]
    fn services_are_those_of_the_namespace_and_the_api_servers() {
        let link = |name: &str| ServiceLink {
            name: name.into(),
            cluster_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
        };
        let kept = KeptServices {
            own: [("ns".into(), vec![link("db")])].into(),
            master: Some(link("kubernetes")),
        };
        let json = serde_json::to_vec(&kept).unwrap();
        let kept: KeptServices = serde_json::from_slice(&json).unwrap();
        let names = |namespace: &str, links: bool| {
            let found = kept.links(namespace, links)?;
            Some(
                found
                    .iter()
                    .map(|l| l.name.to_string())
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(names("ns", true).as_deref(), Some("db kubernetes"));
        assert_eq!(names("ns", false).as_deref(), Some("kubernetes"));
        assert_eq!(names("other", true), None);
    }
}
