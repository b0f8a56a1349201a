//! What is written of pulls, in upstream's form, and what is made of it. Pure.
//!
//! Source: `ImagePullIntent` and `ImagePulledRecord` of `kubelet.config.k8s.io/v1beta1`; KEP-2535.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The group and version that are written.
const WRITTEN: &str = "kubelet.config.k8s.io/v1beta1";
/// Those that are read.
const READ: [&str; 2] = [WRITTEN, "kubelet.config.k8s.io/v1alpha1"];
const INTENT: &str = "ImagePullIntent";
const RECORD: &str = "ImagePulledRecord";
/// From so many secrets of one image on, one that is found to do is written down no more (upstream's number).
const MOST_LEARNED: usize = 100;

/// A file that is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no {0} of {WRITTEN}")]
pub(super) struct NoRecord(&'static str);

/// A secret that an image was pulled with. The hash is of the credentials in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::images) struct SecretUse {
    /// Empty for a Secret of a manifest, which has none.
    pub(in crate::images) uid: String,
    /// Its namespace.
    pub(in crate::images) namespace: String,
    /// Its name.
    pub(in crate::images) name: String,
    /// SHA-256 in hexadecimal.
    pub(in crate::images) credential_hash: String,
}

impl SecretUse {
    fn place(&self) -> (&str, &str, &str) {
        (&self.namespace, &self.name, &self.uid)
    }

    /// Whether it is this very object, whatever is in it. What has no UID may be another each time.
    fn is_same_object(&self, other: &Self) -> bool {
        !self.uid.is_empty() && self.place() == other.place()
    }
}

/// A service account with whose token a credential provider had the credentials of a pull.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountUse {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// By what right an image was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::images) enum PulledWith {
    /// With what every pod of the node may use, or with nothing.
    Anybodys,
    /// With a pod's secret.
    Secret(SecretUse),
    /// With a token of a pod's service account.
    Account(AccountUse),
    /// Nobody knows: the agent did not live to see the pull's end.
    Unknown,
}

/// By what rights the image of one repository was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Rights {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) kubernetes_secrets: Vec<SecretUse>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) kubernetes_service_accounts: Vec<AccountUse>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) node_pods_accessible: bool,
}

impl Rights {
    /// Takes over another right; whether that is news.
    fn learn(&mut self, with: &PulledWith) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        match with {
            PulledWith::Unknown => return false,
            PulledWith::Anybodys => {
                *self = Self {
                    node_pods_accessible: true,
                    ..Self::default()
                };
            }
            PulledWith::Secret(secret) => {
                let known = &mut self.kubernetes_secrets;
                if known.contains(secret) {
                    return false;
                }
                known.retain(|other| other.place() != secret.place());
                known.push(secret.clone());
                known.sort_by(|a, b| a.place().cmp(&b.place()));
            }
            PulledWith::Account(account) => {
                let known = &mut self.kubernetes_service_accounts;
                if known.contains(account) {
                    return false;
                }
                known.push(account.clone());
                known.sort_by(|a, b| {
                    (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid))
                });
            }
        }
        true
    }

    /// Whether a pod that brings these may use the image; and the secret that is to be written down beside those that did
    /// it so far.
    pub(super) fn admit<'o>(&self, offered: &'o [PulledWith]) -> Option<Option<&'o SecretUse>> {
        let secrets = offered.iter().filter_map(|with| match with {
            PulledWith::Secret(secret) => Some(secret),
            _ => None,
        });
        for secret in secrets {
            for known in &self.kubernetes_secrets {
                let hash = &known.credential_hash;
                let (same, here) = (
                    !hash.is_empty() && *hash == secret.credential_hash,
                    known.is_same_object(secret),
                );
                let few = self.kubernetes_secrets.len() < MOST_LEARNED;
                if same || (here && few) {
                    return Some(Some(secret).filter(|_| few && !(same && here)));
                }
            }
        }
        // As upstream, which asks for the tokens of one service account a pod.
        let account = offered.iter().find_map(|with| match with {
            PulledWith::Account(account) => Some(account),
            _ => None,
        });
        let known = &self.kubernetes_service_accounts;
        account
            .filter(|account| known.contains(account))
            .map(|_| None)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IntentFile {
    kind: String,
    api_version: String,
    #[serde(default)]
    image: String,
}

/// The file that says that `image` is being pulled.
pub(super) fn intent(image: &str) -> String {
    let file = IntentFile {
        kind: INTENT.to_owned(),
        api_version: WRITTEN.to_owned(),
        image: image.to_owned(),
    };
    written(&file)
}

/// The image that such a file is of.
pub(super) fn read_intent(bytes: &[u8]) -> Result<String, NoRecord> {
    let file: IntentFile = serde_json::from_slice(bytes).map_err(|_| NoRecord(INTENT))?;
    let right = file.kind == INTENT && READ.contains(&&*file.api_version);
    right.then_some(file.image).ok_or(NoRecord(INTENT))
}

/// What is known of an image that the agent has pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What the runtime calls it.
    pub(super) image_ref: String,
    updated: String,
    /// By the name that a container has for it, without tag and digest.
    rights: BTreeMap<String, Rights>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RecordFile {
    kind: String,
    api_version: String,
    #[serde(default)]
    last_updated_time: Option<String>,
    #[serde(default)]
    image_ref: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Rights>,
}

impl Record {
    pub(super) fn new(image_ref: &str) -> Self {
        Self {
            image_ref: image_ref.to_owned(),
            updated: String::new(),
            rights: BTreeMap::new(),
        }
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, NoRecord> {
        let file: RecordFile = serde_json::from_slice(bytes).map_err(|_| NoRecord(RECORD))?;
        if file.kind != RECORD || !READ.contains(&&*file.api_version) {
            return Err(NoRecord(RECORD));
        }
        Ok(Self {
            image_ref: file.image_ref,
            updated: file.last_updated_time.unwrap_or_default(),
            rights: file.credential_mapping,
        })
    }

    /// The file of it.
    pub(super) fn write(&self) -> String {
        written(&RecordFile {
            kind: RECORD.to_owned(),
            api_version: WRITTEN.to_owned(),
            last_updated_time: Some(self.updated.clone()).filter(|time| !time.is_empty()),
            image_ref: self.image_ref.clone(),
            credential_mapping: self.rights.clone(),
        })
    }

    /// The rights by which the image of this name was pulled.
    pub(super) fn rights(&self, name: &str) -> Option<&Rights> {
        self.rights.get(name)
    }

    /// Takes over that the image has been pulled by that name so, at `now`; whether that is news.
    pub(super) fn learn(&mut self, name: &str, with: &PulledWith, now: Timestamp) -> bool {
        let news = match with {
            // That it was pulled is what counts: whoever wants it is asked for credentials.
            PulledWith::Unknown => self.updated.is_empty(),
            with => self.rights.entry(name.to_owned()).or_default().learn(with),
        };
        if news {
            self.updated = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        }
        news
    }
}

/// As Go's encoder writes it: one line.
fn written(file: &impl Serialize) -> String {
    // Strings, maps of strings and a flag are always JSON.
    let mut text = serde_json::to_string(file).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, name: &str, hash: &str) -> PulledWith {
        PulledWith::Secret(SecretUse {
            uid: uid.to_owned(),
            namespace: "ns".to_owned(),
            name: name.to_owned(),
            credential_hash: hash.to_owned(),
        })
    }

    fn account(uid: &str) -> PulledWith {
        PulledWith::Account(AccountUse {
            uid: uid.to_owned(),
            namespace: "ns".to_owned(),
            name: "builder".to_owned(),
        })
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn files_are_upstreams_to_the_byte() {
        let text = "{\"kind\":\"ImagePullIntent\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"image\":\"docker.io/testing/test:latest\"}\n";
        assert_eq!(intent("docker.io/testing/test:latest"), text);
        let mut record = Record::new("sha256:1");
        assert!(record.learn("r.io/a", &secret("u", "s", "h"), at(0)));
        assert!(record.learn("r.io/a", &account("w"), at(1)));
        assert!(record.learn("busybox", &PulledWith::Anybodys, at(1_700_000_000)));
        let text = "{\"kind\":\"ImagePulledRecord\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"lastUpdatedTime\":\"2023-11-14T22:13:20Z\",\"imageRef\":\"sha256:1\",\"credentialMapping\":{\"busybox\":{\"nodePodsAccessible\":true},\"r.io/a\":{\"kubernetesSecrets\":[{\"uid\":\"u\",\"namespace\":\"ns\",\"name\":\"s\",\"credentialHash\":\"h\"}],\"kubernetesServiceAccounts\":[{\"uid\":\"w\",\"namespace\":\"ns\",\"name\":\"builder\"}]}}}\n";
        assert_eq!(record.write(), text);
        assert_eq!(Record::read(text.as_bytes()), Ok(record));
    }

    #[test]
    fn both_versions_are_read_and_nothing_else() {
        for (text, image) in [
            (
                r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1alpha1","image":"repo.repo/test/alphatest:v1"}"#,
                Ok("repo.repo/test/alphatest:v1"),
            ),
            (
                r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v2","image":"a"}"#,
                Err(NoRecord(INTENT)),
            ),
            (
                r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"a"}"#,
                Err(NoRecord(INTENT)),
            ),
            (
                r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"a","b":1}"#,
                Err(NoRecord(INTENT)),
            ),
            ("", Err(NoRecord(INTENT))),
        ] {
            let read = read_intent(text.as_bytes());
            assert_eq!(read.as_deref(), image.as_ref().copied(), "{text}");
        }
        for text in ["", "{}", "[1]", &intent("a")] {
            assert_eq!(Record::read(text.as_bytes()), Err(NoRecord(RECORD)));
        }
    }

    #[test]
    fn rights_are_kept_once_each_and_in_order() {
        let mut record = Record::new("r");
        let right = |record: &Record| record.rights("a").cloned().unwrap();
        assert!(record.learn("a", &secret("2", "t", "h"), at(1)));
        assert!(record.learn("a", &secret("1", "s", "h"), at(2)));
        assert!(!record.learn("a", &secret("1", "s", "h"), at(3)));
        assert!(record.learn("a", &secret("1", "s", "other"), at(4)));
        let names: Vec<_> = right(&record)
            .kubernetes_secrets
            .iter()
            .map(|s| format!("{}{}", s.name, s.credential_hash))
            .collect();
        assert_eq!(names, ["sother", "th"]);
        assert!(!record.learn("a", &PulledWith::Unknown, at(5)));
        assert!(record.learn("a", &PulledWith::Anybodys, at(6)));
        assert!(!record.learn("a", &secret("3", "s", "h"), at(7)));
        assert_eq!(record.updated, "1970-01-01T00:00:06Z");
        let everybodys = right(&record);
        assert!(everybodys.node_pods_accessible && everybodys.kubernetes_secrets.is_empty());
    }

    #[test]
    fn a_pod_is_admitted_by_the_same_credentials_or_the_same_object() {
        let mut record = Record::new("r");
        record.learn("a", &secret("1", "s", "h"), at(1));
        record.learn("a", &secret("", "local", "l"), at(1));
        record.learn("a", &account("7"), at(1));
        let rights = record.rights("a").unwrap();
        let admitted = |offered: PulledWith| {
            let offered = [PulledWith::Anybodys, offered];
            rights.admit(&offered).map(|learned| learned.is_some())
        };
        assert_eq!(admitted(secret("1", "s", "h")), Some(false));
        // The same user and password in another secret, and another password in the same secret: both are learned.
        assert_eq!(admitted(secret("2", "t", "h")), Some(true));
        assert_eq!(admitted(secret("1", "s", "changed")), Some(true));
        assert_eq!(admitted(secret("2", "s", "changed")), None);
        assert_eq!(admitted(secret("", "local", "l")), Some(true));
        assert_eq!(admitted(secret("", "local", "changed")), None);
        assert_eq!(admitted(account("7")), Some(false));
        assert_eq!(admitted(account("8")), None);
        assert_eq!(rights.admit(&[]), None);
    }
}
