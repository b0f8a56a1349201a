//! What a volume has and takes, by its driver.

use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::csi::volume_usage::Unit;

use super::call::Calls;
use super::volume::CsiVolume;
use super::{Csi, block, names};
use crate::pod::PodUid;
use crate::poddir::VOLUMES;

/// What there is of something, and what is taken and left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// All there is.
    pub capacity: u64,
    /// What is taken.
    pub used: u64,
    /// What is left.
    pub available: u64,
}

/// What a volume has and takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes; none where its driver does not say.
    pub bytes: Option<Amount>,
    /// Inodes.
    pub inodes: Option<Amount>,
}

impl Csi {
    /// What the pod's volume has and takes; none where its driver does not tell.
    pub async fn usage(&self, uid: &PodUid, volume: &CsiVolume) -> Option<Usage> {
        let driver = self.drivers.get(&volume.driver)?;
        if !driver.can(Ability::GetVolumeStats) {
            return None;
        }
        let path = match volume.block {
            true => block::published(&self.root, &volume.spec_name, uid),
            false => (self.dirs.path(uid).join(VOLUMES).join(names::PLUGIN_DIR))
                .join(&volume.spec_name)
                .join(names::MOUNT),
        };
        let (mut calls, path) = (Calls::to(&driver.endpoint), path.display().to_string());
        let answer = match calls.stats(&volume.handle, &path).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(driver = volume.driver, volume = volume.handle, %error, "no word of what a volume takes");
                return None;
            }
        };
        let mut usage = Usage::default();
        for one in &answer.usage {
            let count = |number: i64| number.max(0).unsigned_abs();
            let amount = Amount {
                capacity: count(one.total),
                used: count(one.used),
                available: count(one.available),
            };
            match one.unit() {
                Unit::Bytes => usage.bytes = Some(amount),
                Unit::Inodes => usage.inodes = Some(amount),
                Unit::Unknown => {}
            }
        }
        Some(usage)
    }
}
