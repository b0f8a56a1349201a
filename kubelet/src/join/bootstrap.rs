//! The first certificate, by a bootstrap kubeconfig.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use rcgen::KeyPair;

use super::JoinError;
use super::certificate::{self, Names, new_key};
use super::request::{Purpose, certificate_for};
use super::store::{Store, StoreError, write_private};
use crate::api::{Endpoint, Pem};
use crate::clock::Clock;

/// Where the key is until its certificate is there: an agent that starts anew goes on with it.
const KEY: &str = "kubelet-client.key.tmp";

/// What a bootstrap ends with.
pub(super) struct Wanted<'a> {
    /// The node's name.
    pub(super) node: &'a str,
    /// `--cert-dir`.
    pub(super) directory: &'a Path,
    /// Where the kubeconfig goes.
    pub(super) kubeconfig: &'a Path,
}

impl Wanted<'_> {
    /// Has a certificate signed by way of `client`, keeps it, and writes the kubeconfig that refers to it.
    pub(super) async fn get(
        &self,
        client: &Client,
        kubeconfig: &str,
        clock: &Clock,
    ) -> Result<(), JoinError> {
        let kept = self.directory.join(KEY);
        let key = self.key(&kept)?;
        let request = certificate::request(self.node, &Names::default(), &key)?;
        let certificate = certificate_for(client, Purpose::Client, &request, |_| {}).await?;
        let store = Store::of_clients(self.directory);
        store.update(&certificate, key.serialize_pem().as_bytes(), clock.wall())?;
        if let Some(directory) = self.kubeconfig.parent() {
            std::fs::create_dir_all(directory).map_err(StoreError::new("make", directory))?;
        }
        write_private(self.kubeconfig, kubeconfig.as_bytes())?;
        tracing::info!(
            kubeconfig = %self.kubeconfig.display(),
            "the node has its client certificate"
        );
        std::fs::remove_file(&kept).map_err(StoreError::new("remove", &kept))?;
        Ok(())
    }

    /// The key of an attempt before, or a new one.
    fn key(&self, kept: &Path) -> Result<KeyPair, JoinError> {
        if let Ok(text) = std::fs::read_to_string(kept)
            && let Ok(key) = KeyPair::from_pem(&text)
        {
            return Ok(key);
        }
        let key = new_key()?;
        std::fs::create_dir_all(self.directory).map_err(StoreError::new("make", self.directory))?;
        write_private(kept, key.serialize_pem().as_bytes())?;
        Ok(key)
    }
}

/// The kubeconfig of a node whose pair is `current`, at the server of the bootstrap kubeconfig. Names are upstream's.
pub(super) fn kubeconfig(endpoint: &Endpoint, current: &Path) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let server = endpoint.config.cluster_url.to_string();
    let mut cluster = String::new();
    match &endpoint.authority {
        Some(Pem::Data(_, text)) => {
            let _ = writeln!(
                cluster,
                "    certificate-authority-data: {}",
                STANDARD.encode(text)
            );
        }
        Some(Pem::File(path)) => {
            let path = quoted(&path.display().to_string());
            let _ = writeln!(cluster, "    certificate-authority: {path}");
        }
        None => {}
    }
    if endpoint.config.accept_invalid_certs {
        cluster.push_str("    insecure-skip-tls-verify: true\n");
    }
    let _ = writeln!(
        cluster,
        "    server: {}",
        quoted(server.trim_end_matches('/'))
    );
    if let Some(name) = &endpoint.config.tls_server_name {
        let _ = writeln!(cluster, "    tls-server-name: {}", quoted(name));
    }
    let pair = quoted(&absolute(current).display().to_string());
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n{cluster}  name: default-cluster\n\
         contexts:\n- context:\n    cluster: default-cluster\n    namespace: default\n    user: default-auth\n  name: default-context\n\
         current-context: default-context\nkind: Config\npreferences: {{}}\n\
         users:\n- name: default-auth\n  user:\n    client-certificate: {pair}\n    client-key: {pair}\n"
    )
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
