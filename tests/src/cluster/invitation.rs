//! What a cluster has for machines that join it by a token: the token itself, cluster-info, the settings for nodes.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Cluster;
use super::client::path;
use crate::apiserver::{bootstrap_secret, cluster_info};

/// The digest by which a CA is pinned (`sha256:…`), by hand.
///
/// # Errors
/// When it is no certificate.
pub fn pin(certificate: &str) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())?;
    let parsed = pem.parse_x509()?;
    let digest = Sha256::digest(parsed.public_key().raw);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

impl Cluster {
    /// Makes the token, a signed cluster-info, and `settings` the `kubelet-config`.
    ///
    /// # Errors
    /// When the server refuses one of them.
    pub async fn invite(&self, token: &str, settings: &Value) -> Result<()> {
        self.put("secrets", "kube-system", &bootstrap_secret(token))
            .await?;
        self.inform(&[token], &self.authority.certificate()).await?;
        let map = json!({
            "metadata": { "name": "kubelet-config" },
            "data": { "kubelet": settings.to_string() },
        });
        self.put("configmaps", "kube-system", &map).await
    }

    /// Creates an object of any namespace.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn put(&self, plural: &str, namespace: &str, object: &Value) -> Result<()> {
        let all = path(plural, namespace, "");
        self.client().create(&all, object).await.map(drop)
    }

    /// Makes cluster-info anew, signed for `tokens`, with this CA.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn inform(&self, tokens: &[&str], authority: &str) -> Result<()> {
        let one = path("configmaps", "kube-public", "cluster-info");
        // It may not be there yet.
        let _ = self.client().delete(&one, None).await;
        let url = format!("https://{}", self.line.address());
        let info = cluster_info(&url, authority, tokens);
        self.put("configmaps", "kube-public", &info).await
    }

    /// The digest of this cluster's CA.
    ///
    /// # Errors
    /// Never, with an authority of ours.
    pub fn pin(&self) -> Result<String> {
        pin(&self.authority.certificate())
    }
}
