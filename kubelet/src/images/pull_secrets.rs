//! The registry credentials that a pod brings along in secrets (the Kubernetes document "Images", "Specifying
//! imagePullSecrets on a Pod").

use super::credential::CredentialOwner;
use super::credentials::Keyring;
use crate::objects::{Kind, ObjectData, PodSnapshot};

/// Types of secrets with credentials, and the key that holds them.
const CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const DOCKERCFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// The credentials in the secrets called `names`, and those of them that cannot be had. Secrets of other types are passed
/// over, as are those that cannot be read, which is said in the log.
#[must_use]
pub fn credentials_in_secrets<'n>(
    objects: &PodSnapshot,
    names: &[&'n str],
) -> (Keyring, Vec<&'n str>) {
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    for name in names {
        match objects.get(Kind::Secret, name) {
            Ok(secret) => match of_secret(&secret) {
                Some(Ok(found)) => {
                    let owner = CredentialOwner::Secret {
                        uid: secret.uid().map(str::to_owned),
                        namespace: objects.namespace().to_owned(),
                        name: (*name).to_owned(),
                    };
                    keyring.extend(found.owned_by(&owner));
                }
                Some(Err(error)) => {
                    tracing::warn!(secret = name, error, "registry credentials passed over");
                }
                None => {}
            },
            Err(error) => {
                tracing::info!(secret = name, %error, "no pull secret, the pull may not succeed");
                missing.push(*name);
            }
        }
    }
    (keyring, missing)
}

fn of_secret(secret: &ObjectData) -> Option<Result<Keyring, String>> {
    let value = |key: &str| secret.get(key).filter(|value| !value.is_empty());
    let (keyring, value) = match secret.secret_type()? {
        kind if kind == CONFIG_JSON.0 => {
            let value = value(CONFIG_JSON.1)?;
            (Keyring::from_config_json(value), value)
        }
        kind if kind == DOCKERCFG.0 => {
            let value = value(DOCKERCFG.1)?;
            (Keyring::from_dockercfg(value), value)
        }
        _ => return None,
    };
    Some(keyring.map_err(|error| format!("{error} ({} bytes)", value.len())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::Found;

    #[test]
    fn credentials_come_from_secrets_of_both_types_and_no_others() {
        let secret = |kind: &str, key: &str, value: &str| {
            let data = ObjectData::new([(key, value.as_bytes())])
                .with_type(kind)
                .with_uid(kind);
            Found::There(Arc::new(data))
        };
        let entry = r#"{"r.io": {"username": "USER", "password": "hush"}}"#;
        let of = |user: &str| entry.replace("USER", user);
        let json = format!(r#"{{"auths": {}}}"#, of("json"));
        let objects = PodSnapshot::of_cluster("ns")
            .with(
                Kind::Secret,
                "a",
                secret(CONFIG_JSON.0, CONFIG_JSON.1, &json),
            )
            .with(
                Kind::Secret,
                "b",
                secret(DOCKERCFG.0, DOCKERCFG.1, &of("cfg")),
            )
            .with(
                Kind::Secret,
                "c",
                secret("Opaque", DOCKERCFG.1, &of("opaque")),
            )
            .with(
                Kind::Secret,
                "d",
                secret(CONFIG_JSON.0, CONFIG_JSON.1, "no JSON"),
            )
            .with(Kind::Secret, "e", Found::Missing);
        let (keyring, missing) = credentials_in_secrets(&objects, &["a", "b", "c", "d", "e", "f"]);
        let found = keyring.lookup("r.io/x");
        let users: Vec<_> = found.iter().map(|c| c.username.as_str()).collect();
        assert_eq!(users, ["json", "cfg"]);
        let owner = CredentialOwner::Secret {
            uid: Some(DOCKERCFG.0.to_owned()),
            namespace: "ns".to_owned(),
            name: "b".to_owned(),
        };
        assert_eq!(found[1].owner, owner);
        assert_eq!(missing, ["e", "f"]);
    }
}
