//! Gives the volumes of a pod back to their drivers, by what is on the disk; then what nobody uses any more of what is
//! staged.

use std::time::Duration;

use super::call::Calls;
use super::data::{self, VolumeData};
use super::drivers::Driver;
use super::error::CsiError;
use super::in_use::User;
use super::places::is_mounted;
use super::{Csi, Lifecycle, names};
use crate::api::Retry;
use crate::dir::Dir;
use crate::errors::error_chain;
use crate::pod::PodUid;
use cri_proto::csi::node_service_capability::rpc::Type as Ability;

/// Between attempts to give back a staged volume that nobody uses: the first pause, and the longest (upstream's).
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(122);

impl Csi {
    /// Has the drivers unpublish all volumes of the pod `uid`, and unstage those that no other pod uses. Waits until what is
    /// set up of the pod is. Idempotent; after an error it resumes. Once begun it goes on, whoever waits.
    ///
    /// # Errors
    /// The first volume that is not given back; the others are.
    pub async fn tear_down(&self, uid: &PodUid) -> Result<(), CsiError> {
        // What is being set up may not show yet.
        let turn = self.pods.lock(uid.clone()).await;
        if self.volumes_of(uid)?.is_none() && self.device_names(uid)?.is_empty() {
            self.in_use.end_all(&User::Pod(uid.clone()));
            return Ok(());
        }
        let (csi, uid) = (self.clone(), uid.clone());
        let work = tokio::spawn(async move {
            let outcome = csi.tear_down_all(&uid).await;
            if outcome.is_ok() {
                csi.in_use.end_all(&User::Pod(uid));
            }
            drop(turn);
            outcome
        });
        work.await.unwrap_or(Err(CsiError::Interrupted))
    }

    async fn tear_down_all(&self, uid: &PodUid) -> Result<(), CsiError> {
        let mut outcome = Ok(());
        for name in self.device_names(uid)? {
            let done = self.tear_down_device(uid, &name).await;
            if outcome.is_ok() {
                outcome = done;
            }
        }
        self.remove_device_links(uid)?;
        let Some(volumes) = self.volumes_of(uid)? else {
            return outcome;
        };
        for name in volumes.subdirectories()? {
            let Some(volume) = volumes.child(&name)? else {
                continue;
            };
            let done = match self.unpublish(uid, &volume).await {
                Ok(()) => volumes.remove_empty(&name).map_err(CsiError::from),
                Err(error) => Err(error),
            };
            if outcome.is_ok() {
                outcome = done;
            }
        }
        outcome
    }

    async fn unpublish(&self, uid: &PodUid, dir: &Dir) -> Result<(), CsiError> {
        let target = dir.path_of(names::MOUNT).display().to_string();
        let known = match data::read(dir) {
            // Nothing can be asked of a driver, and nothing has to be.
            Err(CsiError::Data { path, why }) if !is_mounted(dir, names::MOUNT)? => {
                tracing::warn!(
                    path,
                    why,
                    "a torn note of a volume that is not mounted is removed"
                );
                None
            }
            read => read?,
        };
        let Some(data) = known else {
            // It was never published, or no longer is.
            if is_mounted(dir, names::MOUNT)? {
                return Err(CsiError::Data {
                    path: dir.path_of(data::FILE).display().to_string(),
                    why: "there is none, and something is mounted beside it".to_owned(),
                });
            }
            dir.remove_empty(names::MOUNT)?;
            return data::remove(dir);
        };
        let doing = "Unmounter.TearDownAt failed to get CSI client";
        let driver = self.driver(&data.driver, doing)?;
        let unpublished = Calls::to(&driver.endpoint)
            .unpublish(&data.handle, &target)
            .await;
        unpublished.map_err(|error| CsiError::TearDown {
            doing: "Unmounter.TearDownAt",
            error,
        })?;
        // Drivers remove it; not all do.
        if is_mounted(dir, names::MOUNT)? {
            return Err(CsiError::StillMounted(target));
        }
        dir.remove_empty(names::MOUNT)?;
        let key = (data.driver.clone(), data.handle.clone());
        let _turn = self.staging.lock(key).await;
        let is_used = self.is_used(&data.driver, &data.handle, Some(uid))?;
        data::remove(dir)?;
        if !is_used && data.lifecycle != Some(Lifecycle::Ephemeral) {
            self.give_back(&data, &driver).await;
        }
        Ok(())
    }

    /// Has a volume unstaged that nobody uses. What fails is tried again by the sweeps: no pod waits for it. To be called
    /// with the volume's lock.
    async fn give_back(&self, data: &VolumeData, driver: &Driver) {
        match self.unstage(data, driver).await {
            Ok(()) => {
                let unique = names::unique(&data.driver, &data.handle);
                self.in_use.end(&unique, &User::Node);
            }
            Err(error) => {
                let (driver, volume) = (&data.driver, &data.handle);
                let error = error_chain(&error);
                tracing::warn!(
                    driver,
                    volume,
                    error,
                    "a volume stays staged; it is tried again"
                );
                self.left_staged.notify_one();
            }
        }
    }

    async fn unstage(&self, data: &VolumeData, driver: &Driver) -> Result<(), CsiError> {
        let Some(all) = self.staged()? else {
            return Ok(());
        };
        let Some(volumes) = all.child(&data.driver)? else {
            return Ok(());
        };
        let name = names::staging_name(&data.handle);
        let Some(staging) = volumes.child(&name)? else {
            return Ok(());
        };
        let target = staging.path_of(names::GLOBAL_MOUNT).display().to_string();
        if driver.can(Ability::StageUnstageVolume) && data::read(&staging)?.is_some() {
            let unstaged = Calls::to(&driver.endpoint)
                .unstage(&data.handle, &target)
                .await;
            unstaged.map_err(|error| CsiError::TearDown {
                doing: "attacher.UnmountDevice",
                error,
            })?;
        }
        if is_mounted(&staging, names::GLOBAL_MOUNT)? {
            return Err(CsiError::StillMounted(target));
        }
        staging.remove_empty(names::GLOBAL_MOUNT)?;
        data::remove(&staging)?;
        volumes.remove_empty(&name)?;
        Ok(())
    }

    /// Gives back what is staged and used by nobody: what an earlier life of the agent has left, and what could not be
    /// given back when its last pod ended. Looks whenever a driver comes, and again while something is left. Never ends.
    pub async fn run_sweeps(self) {
        let mut drivers = self.drivers.subscribe();
        let mut retry = Retry::new(RETRY_FIRST, RETRY_MOST);
        loop {
            drivers.mark_unchanged();
            let alarm = match self.sweep().await {
                true => Some(retry.delay()),
                false => {
                    retry.reset();
                    None
                }
            };
            let pause = async {
                match alarm {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a state, a permit, time.
            tokio::select! {
                Ok(()) = drivers.changed() => {}
                () = self.left_staged.notified(), if alarm.is_none() => {}
                () = pause => {}
            }
        }
    }

    /// One look; says whether something is left that its driver, which is there, did not take back.
    async fn sweep(&self) -> bool {
        let mut left = self.sweep_devices().await;
        for (_, data) in self.all_staged() {
            let Some(driver) = self.drivers.get(&data.driver) else {
                continue;
            };
            let key = (data.driver.clone(), data.handle.clone());
            let _turn = self.staging.lock(key).await;
            match self.is_used(&data.driver, &data.handle, None) {
                Ok(true) => {}
                Ok(false) => match self.unstage(&data, &driver).await {
                    Ok(()) => {
                        tracing::info!(
                            driver = data.driver,
                            volume = data.handle,
                            "a staged volume that nobody uses is given back"
                        );
                        let unique = names::unique(&data.driver, &data.handle);
                        self.in_use.end(&unique, &User::Node);
                    }
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::debug!(driver = data.driver, error, "a volume stays staged");
                        left = true;
                    }
                },
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot tell who uses a staged volume");
                    left = true;
                }
            }
        }
        left
    }
}
