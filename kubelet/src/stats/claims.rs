//! What the volumes of storage drivers have and take, as far as these tell. It is kept for a while: each is a call.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Stats;
use crate::csi::{CsiVolume, Usage};
use crate::events::About;
use crate::pod::{self, PodName, PodUid};

/// How long the drivers have to answer, all together; those that do not are left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// A volume of a driver that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUsage {
    /// The pod.
    pub uid: PodUid,
    /// The volume's name in the pod's spec.
    pub volume: String,
    /// The pod's namespace, which is the claim's too.
    pub namespace: Arc<str>,
    /// The claim's name; none of a volume that is the pod's own.
    pub claim: Option<String>,
    /// When its driver said so.
    pub at: Timestamp,
    /// What it has and takes.
    pub usage: Usage,
}

/// What was found, and when.
pub(super) type ClaimCache = tokio::sync::Mutex<Option<(Duration, Arc<[ClaimUsage]>)>>;

impl Stats {
    /// What the volumes of drivers have and take, asked anew where that was `volumeStatsAggPeriod` ago.
    pub async fn claims(&self) -> Arc<[ClaimUsage]> {
        let inputs = self.inputs();
        let Some(every) = inputs.volumes_every else {
            return Arc::default();
        };
        let mut known = self.claims.lock().await;
        let now = inputs.clock.monotonic();
        match &*known {
            Some((seen, found)) if now.saturating_sub(*seen) < every => return found.clone(),
            _ => {}
        }
        let found = self.ask_drivers().await;
        *known = Some((now, found.clone()));
        found
    }

    async fn ask_drivers(&self) -> Arc<[ClaimUsage]> {
        let inputs = self.inputs();
        let mut asked = JoinSet::new();
        for view in inputs.board.snapshot() {
            let Ok(uid) = PodUid::of(&view.pod) else {
                continue;
            };
            let namespace: Arc<str> = PodName::of(&view.pod).namespace.as_ref().into();
            let of_claims = inputs.claims.of_pod(&uid).into_iter();
            let of_claims = of_claims.filter_map(|claimed| {
                let volume = CsiVolume::of_claim(&claimed)?;
                Some((volume, Some(claimed.claim)))
            });
            let own = pod::spec(&view.pod).volumes.iter().flatten();
            let own = own.filter_map(|volume| CsiVolume::of_pod(volume, &view.pod, &uid));
            for (volume, claim) in of_claims.chain(own.map(|volume| (volume, None))) {
                let (csi, clock) = (inputs.csi.clone(), inputs.clock.clone());
                let (uid, namespace, pod) = (uid.clone(), namespace.clone(), view.pod.clone());
                asked.spawn(async move {
                    let usage = csi.usage(&uid, &volume).await?;
                    if let Some(condition) = &usage.condition
                        && condition.abnormal
                    {
                        About::pod(&pod).warning(
                            "VolumeConditionAbnormal",
                            &format!("Volume {}: {}", volume.name, condition.message),
                        );
                    }
                    Some(ClaimUsage {
                        uid,
                        volume: volume.name,
                        namespace,
                        claim,
                        at: clock.wall(),
                        usage,
                    })
                });
            }
        }
        let mut found = Vec::new();
        let all = async {
            while let Some(done) = asked.join_next().await {
                found.extend(done.ok().flatten());
            }
        };
        // What has not answered is given up with the set.
        let _ = tokio::time::timeout(PATIENCE, all).await;
        found.sort_by(|a: &ClaimUsage, b| (&a.uid, &a.volume).cmp(&(&b.uid, &b.volume)));
        found.into()
    }
}
