//! What the controllers for certificate requests do, on order: the checks of kube-controller-manager, approval, signing.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::authority::Requested;
use super::client::path;
use super::{Cluster, YEAR};

/// The signer of what nodes are clients by.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of what nodes serve with.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

impl Cluster {
    /// The certificate requests that nobody has decided on.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn undecided(&self) -> Result<Vec<Value>> {
        let list = self
            .client()
            .get(&path("certificatesigningrequests", "", ""))
            .await?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        let undecided = |request: &Value| {
            let conditions = request["status"]["conditions"].as_array();
            conditions.is_none_or(Vec::is_empty)
        };
        Ok(all.into_iter().filter(undecided).collect())
    }

    /// Approves and signs a request for a year, if it is such as kube-controller-manager approves by itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn sign(&self, request: &Value) -> Result<()> {
        self.sign_for(request, YEAR).await
    }

    /// As [`Cluster::sign`], for so long.
    ///
    /// # Errors
    /// As [`Cluster::sign`].
    pub async fn sign_for(&self, request: &Value, life: Duration) -> Result<()> {
        let requested = check(request)?;
        let name = request["metadata"]["name"].as_str().context("a name")?;
        let place = path("certificatesigningrequests", "", name);
        let approved = self.decided(request, "Approved", "AutoApproved").await?;
        let certificate = self.authority.sign(requested, life)?;
        let mut signed = approved;
        signed["status"]["certificate"] = json!(STANDARD.encode(certificate));
        let status = format!("{place}/status");
        self.client().replace(&status, &signed).await.map(drop)
    }

    /// Denies a request.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn deny(&self, request: &Value) -> Result<()> {
        self.decided(request, "Denied", "Unwanted").await.map(drop)
    }

    async fn decided(&self, request: &Value, kind: &str, reason: &str) -> Result<Value> {
        let name = request["metadata"]["name"].as_str().context("a name")?;
        let place = path("certificatesigningrequests", "", name);
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut decided = self.client().get(&place).await?;
        decided["status"]["conditions"] = json!([{
            "type": kind, "status": "True", "reason": reason, "message": "decided by a test",
            "lastUpdateTime": now, "lastTransitionTime": now,
        }]);
        let approval = format!("{place}/approval");
        self.client().replace(&approval, &decided).await
    }
}

/// Whether it has the shape of a node's request: the subject, names, usages and no time of its own.
fn check(request: &Value) -> Result<Requested> {
    let spec = &request["spec"];
    let encoded = spec["request"].as_str().context("no request")?;
    let requested = Requested::read(&STANDARD.decode(encoded)?)?;
    ensure!(
        requested.organization == "system:nodes",
        "organization {:?}",
        requested.organization
    );
    ensure!(
        requested.name.starts_with("system:node:"),
        "common name {:?}",
        requested.name
    );
    let mut usages: Vec<&str> = spec["usages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|usage| *usage != "key encipherment")
        .collect();
    usages.sort_unstable();
    let auth = match spec["signerName"].as_str() {
        Some(CLIENT_SIGNER) => {
            ensure!(
                requested.names.is_empty(),
                "names of a client: {:?}",
                requested.names
            );
            "client auth"
        }
        Some(SERVING_SIGNER) => {
            ensure!(!requested.names.is_empty(), "no names of a server");
            let own = spec["username"].as_str();
            ensure!(own == Some(&requested.name), "asked for by {own:?}");
            "server auth"
        }
        other => bail!("signer {other:?}"),
    };
    let mut wanted = [auth, "digital signature"];
    wanted.sort_unstable();
    ensure!(usages == wanted, "usages {:?}", spec["usages"]);
    Ok(requested)
}
