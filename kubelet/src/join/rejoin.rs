//! What is said to whoever looks after a node whose client certificate has expired: what, since when, and the way back.

use std::path::PathBuf;

use super::JoinError;
use super::certificate::{self, Validity};
use crate::api::{Endpoint, Identity};

/// How a node joins its cluster anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejoin {
    /// Where its certificate is.
    file: String,
    /// The API server, `HOST:PORT`.
    server: String,
    /// The pin of the cluster's authority; none where the kubeconfig has no authority that can be read.
    pin: Option<String>,
    /// The node's name, where that is not the host's.
    name: Option<String>,
}

impl Rejoin {
    /// To the cluster of `endpoint`, as the node `name`. The certificate is `current`, or where the kubeconfig has it.
    pub(super) fn of(endpoint: &Endpoint, name: &str, current: Option<PathBuf>) -> Self {
        let url = &endpoint.config.cluster_url;
        let port = url.port_u16().unwrap_or(443);
        let authority = endpoint.authority.as_ref();
        let authority = authority.and_then(|pem| pem.read().ok());
        // As a node is called that is given no name.
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy().trim().to_lowercase();
        let file = match (current, &endpoint.identity) {
            (Some(path), _) => path.display().to_string(),
            (None, Identity::Certificate { certificate, .. }) => format!("{certificate:?}"),
            (None, Identity::None) => endpoint.path.display().to_string(),
        };
        Self {
            file,
            server: format!("{}:{port}", url.host().unwrap_or_default()),
            pin: authority.and_then(|pem| certificate::pin(&pem).ok()),
            name: (host != name).then(|| name.to_owned()),
        }
    }

    /// That the certificate has expired, at which moment, and what to do.
    pub(super) fn error(&self, validity: Validity) -> JoinError {
        JoinError::Expired {
            file: self.file.clone(),
            at: validity.not_after,
            server: self.server.clone(),
            command: self.command(),
        }
    }

    /// The command that mends it.
    fn command(&self) -> String {
        let pin = self.pin.as_deref().unwrap_or("sha256:HASH");
        let mut command = format!(
            "kubelet join {} --token TOKEN --discovery-token-ca-cert-hash {pin}",
            self.server
        );
        if let Some(name) = &self.name {
            command.push_str(&format!(" --node-name {name}"));
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_file_the_moment_and_the_command() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let rejoin = Rejoin {
            file: "/var/lib/kubelet/pki/kubelet-client-current.pem".to_owned(),
            server: "10.0.0.1:6443".to_owned(),
            pin: Some("sha256:12".to_owned()),
            name: Some("edge-7".to_owned()),
        };
        let validity = Validity {
            not_before: at("2025-01-01T00:00:00Z"),
            not_after: at("2026-01-01T00:00:00Z"),
        };
        let text = rejoin.error(validity).to_string();
        for part in [
            "/var/lib/kubelet/pki/kubelet-client-current.pem expired at 2026-01-01T00:00:00Z",
            "kubelet join 10.0.0.1:6443 --token TOKEN --discovery-token-ca-cert-hash sha256:12 --node-name edge-7",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
