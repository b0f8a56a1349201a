//! What a join writes.

use secrecy::ExposeSecret as _;

use super::failure::Failure;
use super::journal::Journal;
use super::layout::Layout;
use super::server::Credentials;
use super::{cluster_info, say, service};
use crate::errors::error_chain;

/// What is written.
pub(super) struct Files<'a> {
    pub(super) layout: &'a Layout,
    pub(super) found: &'a cluster_info::Found,
    pub(super) credentials: &'a Credentials,
    pub(super) configuration: Option<&'a String>,
    pub(super) flags: Option<&'a Vec<String>>,
    pub(super) service: bool,
}

impl Files<'_> {
    pub(super) fn write(&self, journal: &mut Journal) -> Result<(), Failure> {
        let layout = self.layout;
        let bootstrap = bootstrap_kubeconfig(self.found, self.credentials)?;
        journal.write(&layout.authority(), &self.found.authority, 0o644)?;
        journal.write(&layout.bootstrap(), bootstrap.as_bytes(), 0o600)?;
        if let Some(configuration) = self.configuration {
            let path = layout.config();
            say(&format!(
                "[kubelet-start] Writing kubelet configuration to file {:?}",
                path.display().to_string()
            ));
            journal.write(&path, configuration.as_bytes(), 0o600)?;
        }
        if let Some(flags) = self.flags {
            let path = layout.flags();
            say(&format!(
                "[kubelet-start] Writing kubelet environment file with flags to file {:?}",
                path.display().to_string()
            ));
            let text = format!("KUBELET_KUBEADM_ARGS=\"{}\"\n", flags.join(" "));
            journal.write(&path, text.as_bytes(), 0o644)?;
        }
        if self.service
            && let Some(path) = service::drop_in()
        {
            journal.write(&path, service::DROP_IN_TEXT.as_bytes(), 0o644)?;
        }
        // The agent's.
        journal.expect_written(&layout.kubeconfig())
    }
}

/// As kubeadm names things in it.
fn bootstrap_kubeconfig(
    found: &cluster_info::Found,
    credentials: &Credentials,
) -> Result<String, Failure> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let pem = |pem: &crate::api::Pem| {
        let text = pem
            .read()
            .map_err(|error| Failure::Other(error_chain(&error)))?;
        Ok::<_, Failure>(STANDARD.encode(text))
    };
    let user = match credentials {
        Credentials::None => serde_json::json!({}),
        Credentials::Token(token) => serde_json::json!({"token": token.expose_secret()}),
        Credentials::Certificate(certificate, key) => serde_json::json!({
            "client-certificate-data": pem(certificate)?,
            "client-key-data": pem(key)?,
        }),
    };
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": {
            "server": found.server,
            "certificate-authority-data": STANDARD.encode(&found.authority),
        }}],
        "users": [{"name": "tls-bootstrap-token-user", "user": user}],
        "contexts": [{"name": "tls-bootstrap-token-user@kubernetes", "context": {
            "cluster": "kubernetes", "user": "tls-bootstrap-token-user",
        }}],
        "current-context": "tls-bootstrap-token-user@kubernetes",
    });
    serde_saphyr::to_string(&config).map_err(|error| Failure::Other(error.to_string()))
}
