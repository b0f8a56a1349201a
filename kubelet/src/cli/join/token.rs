//! Bootstrap tokens, and the hashes by which a cluster's authority is known.

use secrecy::{ExposeSecret as _, SecretString};

use super::failure::Failure;

/// A bootstrap token; its secret is not shown.
#[derive(Clone, Debug)]
pub(super) struct Token {
    id: String,
    whole: SecretString,
}

/// Letters of the part before the dot, and behind it (`[a-z0-9]{6}\.[a-z0-9]{16}`, k8s.io/cluster-bootstrap).
const ID: usize = 6;
const SECRET: usize = 16;

impl Token {
    /// Reads what was given with `flag`.
    ///
    /// # Errors
    /// When it has another form; the error does not show it.
    pub(super) fn parse(flag: &str, text: &SecretString) -> Result<Self, Failure> {
        let word = |part: &str, length| {
            let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.len() == length && part.bytes().all(fits)
        };
        match text.expose_secret().split_once('.') {
            Some((id, secret)) if word(id, ID) && word(secret, SECRET) => Ok(Self {
                id: id.to_owned(),
                whole: text.clone(),
            }),
            _ => Err(Failure::Usage(format!(
                "the bootstrap token of {flag} is not of the form \"[a-z0-9]{{6}}.[a-z0-9]{{16}}\""
            ))),
        }
    }

    /// What may be shown.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The part behind the dot.
    pub(super) fn secret(&self) -> &str {
        &self.whole.expose_secret()[ID + 1..]
    }

    /// As it goes into an `Authorization` header.
    pub(super) fn whole(&self) -> &SecretString {
        &self.whole
    }
}

/// Digests of public keys of authorities (`sha256:` and 64 hexadecimal digits each, RFC 7469's SPKI).
#[derive(Clone, Debug, Default)]
pub(super) struct Pins(Vec<String>);

impl Pins {
    /// Reads the values of `--discovery-token-ca-cert-hash`.
    ///
    /// # Errors
    /// When one is no such digest.
    pub(super) fn parse(values: &[String]) -> Result<Self, Failure> {
        let pins = values.iter().map(|value| {
            let (kind, hex) = value.split_once(':').unwrap_or_default();
            let fits = hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit());
            match kind.eq_ignore_ascii_case("sha256") && fits {
                true => Ok(format!("sha256:{}", hex.to_ascii_lowercase())),
                false => Err(Failure::Usage(format!(
                    "invalid --discovery-token-ca-cert-hash {value:?}: it must be \"sha256:\" and 64 hexadecimal digits"
                ))),
            }
        });
        Ok(Self(pins.collect::<Result<_, _>>()?))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the digest of a key is among them.
    pub(super) fn has(&self, digest: &str) -> bool {
        self.0.iter().any(|pin| pin == digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_the_form_or_refused_without_being_shown() {
        let parse = |text: &str| Token::parse("--token", &SecretString::from(text.to_owned()));
        let token = parse("abcdef.0123456789abcdef").unwrap();
        assert_eq!(token.id(), "abcdef");
        assert_eq!(token.secret(), "0123456789abcdef");
        assert!(!format!("{token:?}").contains("0123456789"));
        for wrong in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "abcdef.0123456789abcdefg",
            "ABCDEF.0123456789abcdef",
            "abcde.0123456789abcdef",
            "abcdef:0123456789abcdef",
            "abcdéf.0123456789abcdef",
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 64, "{wrong}");
            assert_eq!(
                error.to_string(),
                "the bootstrap token of --token is not of the form \"[a-z0-9]{6}.[a-z0-9]{16}\""
            );
        }
    }

    #[test]
    fn a_pin_is_a_digest_in_any_case() {
        let hex = "AB".repeat(32);
        let pins = Pins::parse(&[format!("SHA256:{hex}")]).unwrap();
        assert!(pins.has(&format!("sha256:{}", "ab".repeat(32))));
        assert!(!pins.has("sha256:00"));
        for wrong in [
            "",
            "ab",
            "sha256:ab",
            &format!("sha512:{hex}"),
            &format!("sha256:{hex}0"),
        ] {
            assert!(Pins::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
