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

/// What a volume has and takes. What its driver does not say is 0, as upstream has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: Amount,
    /// Inodes.
    pub inodes: Amount,
    /// How it is; none where nobody says.
    pub condition: Option<Condition>,
}

/// How a volume is, by its driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// It is not as it should be.
    pub abnormal: bool,
    /// What is wrong.
    pub message: String,
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
        if self.asks_condition && driver.can(Ability::VolumeCondition) {
            let said = answer.volume_condition.unwrap_or_default();
            usage.condition = Some(Condition {
                abnormal: said.abnormal,
                message: said.message,
            });
        } else if answer.usage.is_empty() {
            return None;
        }
        for one in &answer.usage {
            let count = |number: i64| number.max(0).unsigned_abs();
            let amount = Amount {
                capacity: count(one.total),
                used: count(one.used),
                available: count(one.available),
            };
            match one.unit() {
                Unit::Bytes => usage.bytes = amount,
                Unit::Inodes => usage.inodes = amount,
                Unit::Unknown => {}
            }
        }
        Some(usage)
    }
}
