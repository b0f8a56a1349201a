//! How a file is closed: with the key that systemd gives the agent, where it gives one, else in clear with a checksum.
//!
//! ```text
//! kubelet-api-pods 1 clear <checksum, 16 hex digits>\n<content>
//! kubelet-api-pods 1 aes-256-gcm\n<nonce, 12 bytes><content, encrypted><tag, 16 bytes>
//! ```
//! The file's name goes into the checksum and, with the first line, into what the tag covers: one file cannot be put in
//! another's place.

use std::io;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use static_pods::fnv::Fnv64;

/// The name of the credential (systemd.exec(5), `LoadCredential=`, `LoadCredentialEncrypted=`) with the key.
pub const CREDENTIAL: &str = "kubelet.checkpoint-key";
/// The least that a key has, bytes: as many as AES-256 takes.
const LEAST_KEY: usize = 32;
/// More of a key is not read, bytes: systemd's own limit of a credential.
const MOST_KEY: usize = 1 << 20;
/// What keys of this file are derived for, so that the same credential serves nothing else by accident (RFC 5869, info).
const PURPOSE: &[u8] = b"kubelet api-pods 1";

const MAGIC: &str = "kubelet-api-pods ";
const VERSION: &str = "1";
const CLEAR: &str = "clear ";
const SEALED: &str = "aes-256-gcm";

/// Why a key is of no use. Retry once the credential is another.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the credential {}", path.display())]
    Unreadable {
        /// Where systemd has put it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is too short to be a secret.
    #[error("the credential {} has {bytes} bytes, and needs {LEAST_KEY}", path.display())]
    Short {
        /// Where systemd has put it.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The library does not take it.
    #[error("no key can be made of the credential")]
    Derive,
}

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It does not begin as it should; cut off, for one.
    #[error("it does not have the form of a checkpoint")]
    Form,
    /// Its content is not what was written.
    #[error("its checksum does not match")]
    Checksum,
    /// It was changed, or closed with another key.
    #[error("it was changed, or closed with another key")]
    Tag,
    /// It was closed with a key, and there is none.
    #[error("it is encrypted, and the agent was given no key")]
    NoKey,
}

/// What files are closed with.
pub(super) enum Seal {
    Clear,
    Key(Box<LessSafeKey>),
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clear => "Seal::Clear",
            Self::Key(_) => "Seal::Key(..)",
        })
    }
}

/// What was in a file, and whether it was closed as files are now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) content: Vec<u8>,
    /// False for one in clear while there is a key.
    pub(super) current: bool,
}

impl Seal {
    /// With the key among the credentials in `directory`, if there is one.
    ///
    /// # Errors
    /// When there is one that is of no use: what is secret is not to be written in clear by mistake.
    pub(super) fn of_credentials(directory: Option<&Path>) -> Result<Self, KeyError> {
        let Some(path) = directory.map(|directory| directory.join(CREDENTIAL)) else {
            return Ok(Self::Clear);
        };
        match read(&path) {
            Ok(bytes) if bytes.len() < LEAST_KEY => Err(KeyError::Short {
                bytes: bytes.len(),
                path,
            }),
            Ok(bytes) => Self::of_key(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Clear),
            Err(source) => Err(KeyError::Unreadable { path, source }),
        }
    }

    /// With a key made of `secret`.
    pub(super) fn of_key(secret: &[u8]) -> Result<Self, KeyError> {
        let derived = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let info = [PURPOSE];
        let key = derived.expand(&info, &AES_256_GCM);
        let key = key.map_err(|_| KeyError::Derive)?;
        let key = LessSafeKey::new(UnboundKey::from(key));
        Ok(Self::Key(Box::new(key)))
    }

    /// Whether files are encrypted.
    pub(super) fn has_key(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// The bytes of a file called `name` with this content; none when there is no randomness to be had.
    pub(super) fn close(&self, name: &str, content: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Clear => {
                let sum = checksum(name, content);
                let mut file = format!("{MAGIC}{VERSION} {CLEAR}{sum}\n").into_bytes();
                file.extend_from_slice(content);
                Some(file)
            }
            Self::Key(key) => {
                let mut file = format!("{MAGIC}{VERSION} {SEALED}\n").into_bytes();
                let covered = covered(&file, name);
                let mut nonce = [0; NONCE_LEN];
                // At random: far fewer files are ever written with one key than the 2^32 that this is good for (NIST SP
                // 800-38D, section 8.3).
                SystemRandom::new().fill(&mut nonce).ok()?;
                file.extend_from_slice(&nonce);
                let mut text = content.to_vec();
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(nonce, Aad::from(covered), &mut text)
                    .ok()?;
                file.append(&mut text);
                Some(file)
            }
        }
    }

    /// What is in the `bytes` of the file called `name`.
    pub(super) fn open(&self, name: &str, bytes: &[u8]) -> Result<Opened, Fault> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(end.ok_or(Fault::Form)? + 1);
        let form = std::str::from_utf8(head).ok();
        let form = form.and_then(|head| {
            let rest = head.strip_prefix(MAGIC)?.strip_prefix(VERSION)?;
            rest.strip_prefix(' ')?.strip_suffix('\n')
        });
        let form = form.ok_or(Fault::Form)?;
        if let Some(sum) = form.strip_prefix(CLEAR) {
            return match sum == checksum(name, body) {
                true => Ok(Opened {
                    content: body.to_vec(),
                    current: !self.has_key(),
                }),
                false => Err(Fault::Checksum),
            };
        }
        if form != SEALED {
            return Err(Fault::Form);
        }
        let Self::Key(key) = self else {
            return Err(Fault::NoKey);
        };
        let (nonce, text) = body.split_at_checked(NONCE_LEN).ok_or(Fault::Form)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Fault::Form)?;
        let mut text = text.to_vec();
        let opened = key.open_in_place(nonce, Aad::from(covered(head, name)), &mut text);
        let length = opened.map_err(|_| Fault::Tag)?.len();
        text.truncate(length);
        Ok(Opened {
            content: text,
            current: true,
        })
    }
}

fn covered(head: &[u8], name: &str) -> Vec<u8> {
    [head, name.as_bytes()].concat()
}

fn checksum(name: &str, content: &[u8]) -> String {
    let mut hash = Fnv64::default();
    hash.write(name.as_bytes());
    hash.write(b"\n");
    hash.write(content);
    format!("{:016x}", hash.value())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MOST_KEY).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(byte: u8) -> Seal {
        Seal::of_key(&[byte; LEAST_KEY]).unwrap()
    }

    #[test]
    fn what_is_closed_opens_and_no_part_of_it_does() {
        for seal in [Seal::Clear, keyed(1)] {
            let file = seal.close("a", b"hush\nhush").unwrap();
            let opened = seal.open("a", &file).unwrap();
            assert_eq!(opened.content, b"hush\nhush");
            assert!(opened.current);
            for length in 0..file.len() {
                assert!(seal.open("a", &file[..length]).is_err(), "{length} bytes");
            }
            for at in 0..file.len() {
                let mut changed = file.clone();
                changed[at] ^= 1;
                assert!(seal.open("a", &changed).is_err(), "byte {at} changed");
            }
            assert!(seal.open("b", &file).is_err(), "in another's place");
        }
    }

    #[test]
    fn with_a_key_nothing_is_in_clear_and_no_two_files_are_alike() {
        let (text, seal) = (b"the very secret text", keyed(1));
        let file = seal.close("a", text).unwrap();
        assert!(
            !file
                .windows(4)
                .any(|part| text.windows(4).any(|t| t == part))
        );
        assert_ne!(file, seal.close("a", text).unwrap());
        assert_eq!(keyed(2).open("a", &file), Err(Fault::Tag));
        assert_eq!(Seal::Clear.open("a", &file), Err(Fault::NoKey));
        // What was written before there was a key is read once more.
        let clear = Seal::Clear.close("a", text).unwrap();
        assert!(!seal.open("a", &clear).unwrap().current);
    }

    #[test]
    fn a_credential_is_a_key_or_an_error_and_never_ignored() {
        assert!(!Seal::of_credentials(None).unwrap().has_key());
        let directory = tempfile::tempdir().unwrap();
        let of = || Seal::of_credentials(Some(directory.path()));
        assert!(!of().unwrap().has_key());
        let path = directory.path().join(CREDENTIAL);
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(of(), Err(KeyError::Short { bytes: 5, .. })));
        std::fs::write(&path, [7; LEAST_KEY]).unwrap();
        assert!(of().unwrap().has_key());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(of(), Err(KeyError::Unreadable { .. })));
    }
}
