//! What the volumes of claims have and take, as far as their drivers tell. It is kept for a while: each is a call.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::Stats;
use crate::csi::{CsiVolume, Usage};
use crate::pod::{PodName, PodUid};

/// How long the drivers have to answer, all together; those that do not are left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// A volume of a claim that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUsage {
    /// The pod.
    pub uid: PodUid,
    /// The volume's name in the pod's spec.
    pub volume: String,
    /// The claim's namespace, which is the pod's.
    pub namespace: Arc<str>,
    /// The claim's name.
    pub claim: String,
    /// When its driver said so.
    pub at: Timestamp,
    /// What it has and takes.
    pub usage: Usage,
}

/// What was found, and when.
pub(super) type ClaimCache = tokio::sync::Mutex<Option<(Duration, Arc<[ClaimUsage]>)>>;

impl Stats {
    /// What the volumes of claims have and take, asked anew where that was `volumeStatsAggPeriod` ago.
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
            for claimed in inputs.claims.of_pod(&uid) {
                let Some(volume) = CsiVolume::of_claim(&claimed) else {
                    continue;
                };
                let (csi, clock) = (inputs.csi.clone(), inputs.clock.clone());
                let (uid, namespace) = (uid.clone(), namespace.clone());
                asked.spawn(async move {
                    let usage = csi.usage(&uid, &volume).await?;
                    Some(ClaimUsage {
                        uid,
                        volume: volume.name,
                        namespace,
                        claim: claimed.claim,
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
