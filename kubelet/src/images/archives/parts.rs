//! What an image consists of, and where its bytes are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A part of an image and what it is, as manifests have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// The media type.
    #[serde(default)]
    pub(super) media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    /// Bytes.
    pub(super) size: u64,
    #[serde(default, skip_serializing)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In the archive.
    At {
        /// From its beginning, bytes.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Made here.
    Bytes(Arc<[u8]>),
}

impl Source {
    /// Bytes.
    #[must_use]
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::At { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Reads from `offset` on into `into`; how many bytes.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub(super) fn read(&self, archive: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size().saturating_sub(offset);
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self {
            Self::At { offset: from, .. } => archive.read_at(&mut into[..most], from + offset),
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                into[..most].copy_from_slice(&bytes[from..from + most]);
                Ok(most)
            }
        }
    }
}

/// A blob that an image consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// What it is.
    pub(super) descriptor: Descriptor,
    /// Where it is.
    pub(super) source: Source,
    /// The digests of what it refers to, by containerd's labels for that.
    pub(super) refers_to: Vec<(String, String)>,
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArchivedImage {
    /// Its names, in full.
    pub(super) names: Vec<String>,
    /// Its manifest or index.
    pub(super) target: Descriptor,
    /// All of it, what refers to others last.
    pub(super) blobs: Vec<Blob>,
}

/// What `bytes` are as a part of an image.
pub(super) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: hex(&ring::digest::digest(&ring::digest::SHA256, bytes)),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
    }
}

/// A digest as manifests have it.
pub(super) fn hex(digest: &ring::digest::Digest) -> String {
    format!("sha256:{}", crate::images::hex(digest))
}
