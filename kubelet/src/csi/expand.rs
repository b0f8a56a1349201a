//! Has a driver make a volume as large as its PersistentVolume says, where its claim is said to have less.

use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::csi::{CapacityRange, NodeExpandVolumeRequest};
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::json;

use super::call::Calls;
use super::drivers::Driver;
use super::error::CsiError;
use super::volume::CsiVolume;
use super::{Csi, Lifecycle};
use crate::errors::error_chain;
use crate::events::About;
use crate::pod::{Pod, PodName};

impl CsiVolume {
    /// How large it is to become, bytes, and the claim that is to learn of it; none where it is.
    fn grows_to(&self) -> Option<(i64, &str)> {
        let claim = self.claim.as_ref()?;
        let (wanted, has) = (self.capacity?, claim.capacity?);
        let writable = self.lifecycle == Lifecycle::Persistent && !self.read_only;
        (writable && has < wanted).then_some((wanted, &claim.name))
    }
}

impl Csi {
    /// Has a volume grow that is published at `path`, where it is to. What its driver will not do, ever or while it is in
    /// use, is told, and the pod starts with the volume as it is.
    ///
    /// # Errors
    /// When the driver fails at it.
    pub(super) async fn expand(
        &self,
        pod: &Pod,
        volume: &CsiVolume,
        driver: &Driver,
        staged_at: &str,
        path: &str,
    ) -> Result<(), CsiError> {
        let Some((bytes, claim)) = volume.grows_to() else {
            return Ok(());
        };
        if !driver.can(Ability::ExpandVolume) {
            return Ok(());
        }
        let secrets = self
            .secret("NodeExpandSecretRef", volume.expand_secret.as_ref())
            .await?;
        let message = NodeExpandVolumeRequest {
            volume_id: volume.handle.clone(),
            volume_path: path.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            staging_target_path: staged_at.to_owned(),
            volume_capability: Some(volume.capability(driver, &volume.mount_options, None)),
            secrets,
        };
        match Calls::to(&driver.endpoint).expand(message).await {
            Ok(_) => {}
            Err(error) if error.is_infeasible() || error.is_in_use() => {
                let text = format!(
                    "NodeExpandVolume.NodeExpandVolume failed for volume {:?} : {error}",
                    volume.spec_name
                );
                About::pod(pod).warning("VolumeResizeFailed", &text);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let done = "MountVolume.NodeExpandVolume succeeded for volume";
        About::pod(pod).normal(
            "FileSystemResizeSuccessful",
            &format!("{done} {:?}", volume.spec_name),
        );
        // The volume is as it should be; that its claim says so may wait for the next time.
        if let Err(error) = self.tell_claim(pod, claim, bytes).await {
            let error = error_chain(&error);
            tracing::warn!(
                claim,
                error,
                "a claim is not told that its volume has grown"
            );
        }
        Ok(())
    }

    /// Writes into a claim's status that its volume has grown.
    async fn tell_claim(&self, pod: &Pod, claim: &str, bytes: i64) -> Result<(), kube::Error> {
        let Ok(client) = self.client() else {
            return Ok(());
        };
        let namespace = PodName::of(pod).namespace;
        let all = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        let size = crate::node::status::binary(bytes.max(0).unsigned_abs());
        let patch = json!({"status": {
            "capacity": {"storage": size},
            "conditions": [
                {"$patch": "delete", "type": "FileSystemResizePending"},
                {"$patch": "delete", "type": "Resizing"},
            ],
        }});
        let patch = Patch::Strategic(patch);
        let request =
            Request::new(all).patch_subresource("status", claim, &PatchParams::default(), &patch);
        let request = request.map_err(kube::Error::BuildRequest)?;
        client.request_text(request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::volume::ClaimName;

    #[test]
    fn a_volume_grows_to_what_it_should_be_and_never_shrinks() {
        let volume = |wanted, has| CsiVolume {
            capacity: wanted,
            claim: Some(ClaimName {
                name: "c".into(),
                capacity: has,
            }),
            ..CsiVolume::default()
        };
        assert_eq!(volume(Some(2), Some(1)).grows_to(), Some((2, "c")));
        for (wanted, has) in [
            (Some(2), Some(2)),
            (Some(1), Some(2)),
            (None, Some(1)),
            (Some(2), None),
        ] {
            assert_eq!(volume(wanted, has).grows_to(), None);
        }
        let read_only = CsiVolume {
            read_only: true,
            ..volume(Some(2), Some(1))
        };
        assert_eq!(read_only.grows_to(), None);
    }
}
