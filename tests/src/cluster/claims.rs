//! Claims, and the volumes behind them.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Cluster, path};

impl Cluster {
    /// Makes a claim of 1 GiB and the volume `volume` that it is bound to, as a provisioner leaves both. `metadata` is the
    /// claim's; `spec` is what the volume's spec has besides: what it is, above all.
    ///
    /// # Errors
    /// When one cannot be made.
    pub async fn add_bound_claim(
        &self,
        metadata: &Value,
        volume: &str,
        spec: &Value,
    ) -> Result<()> {
        let client = self.client();
        let claim = json!({"metadata": metadata, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}, "volumeName": volume}});
        let claim = self.add_object("persistentvolumeclaims", &claim).await?;
        let name = claim["metadata"]["name"].as_str().context("no name")?;
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        let status = path("persistentvolumeclaims", "default", name);
        client.merge(&format!("{status}/status"), &bound).await?;
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": "default", "name": name, "uid": claim["metadata"]["uid"]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let volume = json!({"metadata": {"name": volume}, "spec": whole});
        let all = path("persistentvolumes", "", "");
        client.create(&all, &volume).await.map(drop)
    }
}
