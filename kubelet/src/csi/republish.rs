//! Publishes volumes again whose drivers want that (`requiresRepublish`): what they give pods, tokens above all, is renewed
//! so.

use std::sync::Arc;
use std::time::Duration;

use super::error::{CsiError, CsiFailure, Operation};
use super::set_up::Publish;
use super::volume::CsiVolume;
use super::{Csi, names, selinux};
use crate::api::random;
use crate::pod::{Pod, PodUid};

impl Csi {
    /// Whether the driver of one of `volumes` wants to be asked again, as far as that is known.
    #[must_use]
    pub fn wants_republish(&self, volumes: &[CsiVolume]) -> bool {
        volumes.iter().any(|volume| self.is_republished(volume))
    }

    fn is_republished(&self, volume: &CsiVolume) -> bool {
        let spec = self.objects.now(&volume.driver);
        !volume.block && spec.is_some_and(|spec| spec.requires_republish == Some(true))
    }

    /// Waits until it is time to ask again (upstream does with each sync of a pod: `syncFrequency`, and up to half as long
    /// again).
    pub async fn republish_pause(&self) {
        let pause: Duration = self.republish_every;
        tokio::time::sleep(pause.mul_f64(1.0 + random() / 2.0)).await;
    }

    /// The drivers of `volumes` are read of from now on, so that [`Csi::wants_republish`] knows.
    pub async fn learn_of(&self, volumes: &[CsiVolume]) {
        for volume in volumes {
            // What is not known yet is told by news.
            let _ = self.objects.get(&volume.driver).await;
        }
    }

    /// Publishes those of `volumes` again that are published and whose drivers want it. What a failure leaves is what
    /// was there. Once begun it goes on, whoever waits.
    pub async fn republish(
        &self,
        pod: Arc<Pod>,
        uid: PodUid,
        volumes: Vec<CsiVolume>,
    ) -> Vec<CsiFailure> {
        let turn = self.pods.lock(uid.clone()).await;
        let csi = self.clone();
        let work = tokio::spawn(async move {
            let failed = csi.republish_all(&pod, &uid, &volumes).await;
            drop(turn);
            failed
        });
        // A panic is in the log.
        work.await.unwrap_or_default()
    }

    async fn republish_all(
        &self,
        pod: &Pod,
        uid: &PodUid,
        volumes: &[CsiVolume],
    ) -> Vec<CsiFailure> {
        let mut failed = Vec::new();
        for volume in volumes.iter().filter(|volume| self.is_republished(volume)) {
            if let Err(error) = self.republish_one(pod, uid, volume).await {
                failed.push(CsiFailure {
                    volume: volume.spec_name.clone(),
                    operation: Operation::SetUp,
                    error,
                });
            }
        }
        failed
    }

    async fn republish_one(
        &self,
        pod: &Pod,
        uid: &PodUid,
        volume: &CsiVolume,
    ) -> Result<(), CsiError> {
        let Some(volumes) = self.volumes_of(uid)? else {
            return Ok(());
        };
        let Some(dir) = volumes.child(&volume.spec_name)? else {
            return Ok(());
        };
        if !self.is_published(&dir, volume)? {
            return Ok(());
        }
        let driver = self.driver(&volume.driver, super::set_up::NO_CLIENT)?;
        let spec = self.objects.get(&volume.driver).await?;
        let context = self.context(uid, volume, spec.as_deref()).await?;
        let staged_at = match volume.is_staged(&driver) {
            true => self
                .ensure_staging(&volume.driver, &volume.handle)?
                .path_of(names::GLOBAL_MOUNT)
                .display()
                .to_string(),
            false => String::new(),
        };
        let (mount_options, _) =
            selinux::mount_options(pod, volume, spec.as_deref(), self.file_context.as_deref());
        let volume = &CsiVolume {
            mount_options,
            ..volume.clone()
        };
        self.publish(Publish {
            pod,
            uid,
            volume,
            driver: &driver,
            spec: spec.as_deref(),
            context,
            staged_at,
            target: dir.path_of(names::MOUNT).display().to_string(),
        })
        .await
    }
}
