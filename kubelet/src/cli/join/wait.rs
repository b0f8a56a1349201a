//! Waiting for the agent: its certificate, and the node that is Ready.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::time::Instant;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::discovery::{is_valid, usable};
use super::failure::Failure;
use super::server::{Credentials, Server, Trust, Unanswered};

/// Between two looks, as kubeadm's.
const PAUSE: Duration = Duration::from_secs(1);
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";

/// A request for the node's certificate.
struct Request {
    name: String,
    refusal: Option<String>,
}

/// What is waited for.
pub(super) struct Wait {
    pub(super) node: String,
    pub(super) kubeconfig: PathBuf,
    /// Where requests are looked at, and as whom.
    pub(super) url: String,
    pub(super) trust: Trust,
    pub(super) credentials: Credentials,
    /// Requests that were there before the agent began.
    pub(super) known: BTreeSet<String>,
    pub(super) patience: Duration,
    /// The agent has ended.
    pub(super) ended: Arc<AtomicBool>,
}

impl Wait {
    /// The names of the requests for this node's certificate that are there now: none where they may not be listed.
    pub(super) async fn requests_before(server: &Server, node: &str) -> BTreeSet<String> {
        let all = requests(server, node).await.unwrap_or_default();
        all.into_iter().map(|request| request.name).collect()
    }

    /// Waits for the kubeconfig with the node's own certificate.
    ///
    /// # Errors
    /// When the request is denied, or there is no certificate in time.
    pub(super) async fn for_certificate(&self) -> Result<(), Failure> {
        let end = Instant::now() + self.patience;
        // One of this runtime's own: connections do not outlive theirs.
        let server = Server::new(&self.url, &self.trust, &self.credentials).await?;
        loop {
            if is_valid(&self.kubeconfig).await {
                return Ok(());
            }
            let waiting = match requests(&server, &self.node).await {
                Ok(all) => {
                    let new = |one: &Request| !self.known.contains(&one.name);
                    let mut new = all.into_iter().filter(new).collect::<Vec<_>>();
                    let refused = new.iter_mut().find_map(|one| {
                        let why = one.refusal.take()?;
                        let name = std::mem::take(&mut one.name);
                        Some(Failure::Denied { name, why })
                    });
                    if let Some(refused) = refused {
                        return Err(refused);
                    }
                    new.pop().map(|one| one.name)
                }
                Err(Unanswered::Never(failure)) => {
                    // A token may end right after it has served.
                    match is_valid(&self.kubeconfig).await {
                        true => return Ok(()),
                        false => return Err(failure),
                    }
                }
                Err(Unanswered::Status(_) | Unanswered::Later(_)) => None,
            };
            self.still_runs()?;
            if Instant::now() >= end {
                let seconds = self.patience.as_secs();
                return Err(match waiting {
                    Some(name) => Failure::NotApproved { name, seconds },
                    None => Failure::Silent(seconds),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the API server has the node as Ready.
    ///
    /// # Errors
    /// When it has not in time.
    pub(super) async fn for_ready(&self) -> Result<(), Failure> {
        let end = Instant::now() + self.patience;
        let mut server = None;
        loop {
            if server.is_none()
                && let Some((endpoint, _)) = usable(&self.kubeconfig).await
            {
                server = Server::at(endpoint).await.ok();
            }
            let why = match &server {
                None => "its kubeconfig cannot be used".to_owned(),
                Some(server) => match server.get(&format!("/api/v1/nodes/{}", self.node)).await {
                    Ok(node) => match ready(&node) {
                        Ok(()) => return Ok(()),
                        Err(why) => why,
                    },
                    Err(unanswered) => server.failure(unanswered).to_string(),
                },
            };
            self.still_runs()?;
            if Instant::now() >= end {
                let seconds = self.patience.as_secs();
                return Err(Failure::NotReady { seconds, why });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn still_runs(&self) -> Result<(), Failure> {
        match self.ended.load(Ordering::Relaxed) {
            true => Err(Failure::AgentEnded),
            false => Ok(()),
        }
    }
}

/// Whether a Node is Ready; if not, why.
pub(super) fn ready(node: &Value) -> Result<(), String> {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    match conditions.find(|condition| condition["type"] == "Ready") {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => Err(condition["message"]
            .as_str()
            .unwrap_or("no reason is given")
            .to_owned()),
        None => Err("it has not reported yet".to_owned()),
    }
}

async fn requests(server: &Server, node: &str) -> Result<Vec<Request>, Unanswered> {
    let list = server.get(REQUESTS).await?;
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|item| request(item, node)).collect())
}

/// A request for this node's client certificate.
fn request(item: &Value, node: &str) -> Option<Request> {
    if item["spec"]["signerName"] != SIGNER {
        return None;
    }
    let pem = STANDARD.decode(item["spec"]["request"].as_str()?).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &parsed.certification_request_info.subject;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name != format!("system:node:{node}") {
        return None;
    }
    let conditions = item["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let refused = conditions.find(|one| one["type"] == "Denied" || one["type"] == "Failed");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Request {
        name: text(&item["metadata"]["name"]),
        refusal: refused.map(|one| {
            let (kind, message) = (text(&one["type"]), text(&one["message"]));
            format!("{kind}: {}: {message}", text(&one["reason"]))
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_requests_of_this_node_count() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::CommonName, "system:node:a");
        params.distinguished_name = subject;
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut item = json!({"metadata": {"name": "csr-1"},
            "spec": {"signerName": SIGNER, "request": STANDARD.encode(pem)}});
        let own = request(&item, "a").unwrap();
        assert_eq!(own.name, "csr-1");
        assert!(own.refusal.is_none());
        assert!(request(&item, "b").is_none());
        item["status"] =
            json!({"conditions": [{"type": "Denied", "reason": "No", "message": "not this one"}]});
        let refusal = request(&item, "a").unwrap().refusal.unwrap();
        assert_eq!(refusal, "Denied: No: not this one");
        item["spec"]["signerName"] = json!("other");
        assert!(request(&item, "a").is_none());
    }

    #[test]
    fn a_node_is_ready_or_says_why_not() {
        let node = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status, "message": "no network"}]}});
        assert_eq!(ready(&node("True")), Ok(()));
        assert_eq!(ready(&node("False")), Err("no network".to_owned()));
        assert!(ready(&json!({})).is_err());
    }
}
