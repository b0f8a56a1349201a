//! User and password at a registry, and whose they are.

use std::fmt;

use serde::Serialize;

use super::pulled::{AccountUse, PulledWith, SecretUse};
use super::sha256_hex;

/// User and password at a registry. Its Debug shows neither.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
    /// What old docker configurations have beside them. Nothing is sent of it.
    pub email: String,
    /// Whose they are.
    pub owner: CredentialOwner,
}

/// Whose credentials are.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CredentialOwner {
    /// The node's: every pod may use them.
    #[default]
    Node,
    /// A secret's.
    Secret {
        /// Its UID; none of a Secret in a manifest.
        uid: Option<String>,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A service account's, with whose token a credential provider had them.
    Account(AccountUse),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential { .. }")
    }
}

impl Credential {
    /// What is written of a pull with them.
    pub(super) fn pulled_with(&self) -> PulledWith {
        match &self.owner {
            CredentialOwner::Node => PulledWith::Anybodys,
            CredentialOwner::Secret {
                uid,
                namespace,
                name,
            } => PulledWith::Secret(SecretUse {
                uid: uid.clone().unwrap_or_default(),
                namespace: namespace.clone(),
                name: name.clone(),
                credential_hash: self.hash(),
            }),
            CredentialOwner::Account(account) => PulledWith::Account(account.clone()),
        }
    }

    /// SHA-256, in hexadecimal, of what Go's encoder makes of docker's `AuthConfig`: an agent of either kind knows the other's.
    fn hash(&self) -> String {
        #[derive(Serialize)]
        struct AuthConfig<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            username: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            password: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            email: &'a str,
        }
        let config = AuthConfig {
            username: &self.username,
            password: &self.password,
            email: &self.email,
        };
        // Three strings are always JSON.
        let mut text = serde_json::to_string(&config).unwrap_or_default();
        for (character, escaped) in [
            ('<', "\\u003c"),
            ('>', "\\u003e"),
            ('&', "\\u0026"),
            ('\u{2028}', "\\u2028"),
            ('\u{2029}', "\\u2029"),
        ] {
            if text.contains(character) {
                text = text.replace(character, escaped);
            }
        }
        sha256_hex(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_of_what_go_writes() {
        let credential = |username: &str, password: &str, email: &str| Credential {
            username: username.to_owned(),
            password: password.to_owned(),
            email: email.to_owned(),
            owner: CredentialOwner::Node,
        };
        for (credential, json) in [
            (
                credential("user", "pass", ""),
                r#"{"username":"user","password":"pass"}"#,
            ),
            (
                credential("", "<a&b>\"\u{2028}", "e"),
                r#"{"password":"\u003ca\u0026b\u003e\"\u2028","email":"e"}"#,
            ),
            (credential("", "", ""), "{}"),
        ] {
            assert_eq!(credential.hash(), sha256_hex(json.as_bytes()), "{json}");
        }
        // Of `{"username":"user","password":"pass"}`, by another program.
        assert_eq!(
            credential("user", "pass", "").hash(),
            "cb54b00fb550d4a17c448149caa29f38f4d5a44fb87c752e43db8160af3a032a"
        );
    }
}
