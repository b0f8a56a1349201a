//! The registry's files, in the layout of distribution's file system driver (its `registry/storage/paths.go`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::images::Parts;

pub(super) struct Store(PathBuf);

impl Store {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.join("docker/registry/v2"))
    }

    pub(super) fn put(&self, repository: &str, tag: &str, image: &Parts) -> Result<()> {
        let repository = self.0.join("repositories").join(repository);
        let link = |below: &str, digest: &str| {
            write(
                &repository.join(below).join("link"),
                format!("sha256:{digest}").as_bytes(),
            )
        };
        for (digest, bytes) in &image.blobs {
            self.write_blob(digest, bytes)?;
            if *digest != image.manifest {
                link(&format!("_layers/sha256/{digest}"), digest)?;
            }
        }
        let digest = &image.manifest;
        link(&format!("_manifests/revisions/sha256/{digest}"), digest)?;
        link(
            &format!("_manifests/tags/{tag}/index/sha256/{digest}"),
            digest,
        )?;
        link(&format!("_manifests/tags/{tag}/current"), digest)
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let own = format!("{}/{digest}/data", &digest[..2]);
        self.0.join("blobs/sha256").join(own)
    }

    pub(super) fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        write(&self.blob(digest), bytes)
    }

    pub(super) fn spoil(&self, digest: &str) -> Result<Vec<u8>> {
        let right = fs::read(self.blob(digest)).with_context(|| format!("no blob {digest}"))?;
        let wrong: Vec<u8> = right.iter().map(|byte| !byte).collect();
        self.write_blob(digest, &wrong)?;
        Ok(right)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = || {
        fs::create_dir_all(path.parent().context("no directory")?)?;
        Ok::<_, anyhow::Error>(fs::write(path, bytes)?)
    };
    written().with_context(|| format!("write {}", path.display()))
}
