//! Raw devices: staged for the node, then published to a pod as a device file, in upstream's places.
//!
//! ```text
//! plugins/kubernetes.io/csi/volumeDevices/staging/<volume>         where the driver stages it
//! plugins/kubernetes.io/csi/volumeDevices/publish/<volume>/<pod>   the device, made by the driver
//! plugins/kubernetes.io/csi/volumeDevices/<volume>/data            vol_data.json
//! pods/<pod>/volumeDevices/kubernetes.io~csi/<volume>              a link to the device: the pod uses it
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest};

use super::call::Calls;
use super::data::{self, VolumeData};
use super::drivers::Driver;
use super::error::{CsiError, Operation};
use super::in_use::User;
use super::object::DriverSpec;
use super::places::{PRIVATE, is_mounted};
use super::volume::{CsiVolume, pod_info};
use super::{Csi, Lifecycle, merged, names};
use crate::dir::Dir;
use crate::errors::error_chain;
use crate::pod::{Pod, PodUid};
use crate::poddir::VOLUME_DEVICES;

/// In a pod's directory, and in that of the plugin.
const DEVICES: &str = VOLUME_DEVICES;
const STAGING: &str = "staging";
const PUBLISH: &str = "publish";
const DATA: &str = "data";

/// Where the device of the volume `name` is published to the pod `uid`.
pub(super) fn published(root: &Path, name: &str, uid: &PodUid) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(names::STAGED);
    path.extend([DEVICES, PUBLISH, name, uid.as_str()]);
    path
}

impl Csi {
    /// The directory of all raw devices; made where it is missing.
    fn devices(&self) -> Result<Dir, CsiError> {
        let mut dir = Dir::open(&self.root)?;
        for name in names::STAGED.into_iter().chain([DEVICES]) {
            dir = dir.ensure_child(name, PRIVATE)?;
        }
        Ok(dir)
    }

    /// The directory of the links to a pod's devices; none where it has none.
    fn devices_of(&self, uid: &PodUid) -> Result<Option<Dir>, CsiError> {
        let Some(pod) = self.dirs.get(uid)? else {
            return Ok(None);
        };
        match pod.dir().child(DEVICES)? {
            Some(devices) => Ok(devices.child(names::PLUGIN_DIR)?),
            None => Ok(None),
        }
    }

    /// The names of the volumes whose devices the pod has.
    pub(super) fn device_names(&self, uid: &PodUid) -> Result<Vec<String>, CsiError> {
        match self.devices_of(uid)? {
            Some(links) => Ok(links.names()?),
            None => Ok(Vec::new()),
        }
    }

    /// Whether a pod uses the device of the volume `name`.
    fn is_device_used(&self, name: &str) -> Result<bool, CsiError> {
        for uid in self.dirs.list()? {
            if self.device_names(&uid)?.iter().any(|one| one == name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the pod's device is, if it is published already.
    pub(super) fn has_device(
        &self,
        uid: &PodUid,
        volume: &CsiVolume,
    ) -> Result<Option<PathBuf>, CsiError> {
        let name = &volume.spec_name;
        if !self.device_names(uid)?.contains(name) {
            return Ok(None);
        }
        let devices = self.devices()?;
        let noted = device_data(&devices, name)?;
        let known = noted.is_some_and(|data| {
            data.is_of(&volume.driver, &volume.handle) && self.is_of_this_boot(&data)
        });
        let all = devices.child(PUBLISH)?;
        let Some(published) = all.map(|all| all.child(name)).transpose()?.flatten() else {
            return Ok(None);
        };
        let there = known && is_mounted(&published, uid.as_str())?;
        Ok(there.then(|| published.path_of(uid.as_str())))
    }

    /// Stages and publishes a raw device, and says where it is.
    pub(super) async fn set_up_device(
        &self,
        pod: &Pod,
        uid: &PodUid,
        volume: &CsiVolume,
        driver: &Driver,
        spec: Option<&DriverSpec>,
    ) -> Result<PathBuf, (Operation, CsiError)> {
        let stage = |error| (Operation::MapDevice, error);
        let publish = |error| (Operation::MapPodDevice, error);
        let context = self
            .context(uid, volume, spec)
            .await
            .map_err(|error| (Operation::WaitForAttach, error))?;
        let name = &volume.spec_name;
        let devices = self.devices().map_err(stage)?;
        let published = devices
            .ensure_child(PUBLISH, PRIVATE)
            .and_then(|all| all.ensure_child(name, PRIVATE))
            .map_err(|error| publish(error.into()))?;
        let target = published.path_of(uid.as_str());
        let staged_at = {
            let key = (volume.driver.clone(), volume.handle.clone());
            let _turn = self.staging.lock(key).await;
            // From here on nobody unstages it.
            self.link_device(uid, name, &target).map_err(publish)?;
            if self.attaches(&volume.driver) {
                let unique = names::unique(&volume.driver, &volume.handle);
                self.in_use.begin(&unique, User::Node);
            }
            self.stage_device(&devices, volume, driver, &context)
                .await
                .map_err(stage)?
        };
        let message = self
            .device_message(pod, volume, driver, spec, context, &target, staged_at)
            .await
            .map_err(publish)?;
        let done = Calls::to(&driver.endpoint).publish(message).await;
        done.map_err(|error| publish(error.into()))?;
        Ok(target)
    }

    fn link_device(&self, uid: &PodUid, name: &str, target: &Path) -> Result<(), CsiError> {
        let pod = self.dirs.ensure(uid)?;
        let devices = pod.dir().ensure_child(DEVICES, PRIVATE)?;
        let links = devices.ensure_child(names::PLUGIN_DIR, PRIVATE)?;
        Ok(links.ensure_link(name, target)?)
    }

    /// Stages a device where it is not yet; to be called with the volume's lock.
    async fn stage_device(
        &self,
        devices: &Dir,
        volume: &CsiVolume,
        driver: &Driver,
        context: &BTreeMap<String, String>,
    ) -> Result<String, CsiError> {
        let own = devices.ensure_child(&volume.spec_name, PRIVATE)?;
        let home = own.ensure_child(DATA, PRIVATE)?;
        let before = data::read(&home)?;
        let mut note = VolumeData {
            spec_name: volume.spec_name.clone(),
            handle: volume.handle.clone(),
            driver: volume.driver.clone(),
            node: self.node.clone(),
            attachment: names::attachment(&volume.handle, &volume.driver, &self.node),
            lifecycle: Some(Lifecycle::Persistent),
            ..VolumeData::default()
        };
        let staging = devices.ensure_child(STAGING, PRIVATE)?;
        let target = staging.path_of(&volume.spec_name).display().to_string();
        let is_staged = volume.is_staged(driver);
        let known = before.is_some_and(|data| {
            data.is_of(&volume.driver, &volume.handle) && self.is_of_this_boot(&data)
        });
        if !known {
            data::write(&home, &note)?;
            if is_staged {
                if !is_mounted(&staging, &volume.spec_name)? {
                    drop(staging.ensure_child(&volume.spec_name, PRIVATE)?);
                }
                let secrets = self.secret("NodeStageSecretRef", volume.stage_secret.as_ref());
                let message = NodeStageVolumeRequest {
                    volume_id: volume.handle.clone(),
                    publish_context: context.clone(),
                    staging_target_path: target.clone(),
                    volume_capability: Some(volume.capability(driver, &[], None)),
                    secrets: secrets.await?,
                    volume_context: volume.attributes.clone(),
                };
                Calls::to(&driver.endpoint).stage(message).await?;
            }
            note.done.clone_from(&self.boot);
            data::write(&home, &note)?;
        }
        Ok(if is_staged { target } else { String::new() })
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    async fn device_message(
        &self,
        pod: &Pod,
        volume: &CsiVolume,
        driver: &Driver,
        spec: Option<&DriverSpec>,
        context: BTreeMap<String, String>,
        target: &Path,
        staged_at: String,
    ) -> Result<NodePublishVolumeRequest, CsiError> {
        let mut told = volume.attributes.clone();
        if spec.and_then(|spec| spec.pod_info_on_mount) == Some(true) {
            told = merged(told, pod_info(pod, volume.lifecycle));
        }
        let secrets = self.secret("NodePublishSecretRef", volume.publish_secret.as_ref());
        Ok(NodePublishVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: context,
            staging_target_path: staged_at,
            target_path: target.display().to_string(),
            volume_capability: Some(volume.capability(driver, &[], None)),
            readonly: volume.read_only,
            secrets: secrets.await?,
            volume_context: told,
        })
    }

    /// Has a pod's device unpublished, and unstaged where no other pod uses it.
    pub(super) async fn tear_down_device(&self, uid: &PodUid, name: &str) -> Result<(), CsiError> {
        let Some(links) = self.devices_of(uid)? else {
            return Ok(());
        };
        let devices = self.devices()?;
        let Some(data) = device_data(&devices, name)? else {
            // Nothing was ever asked of a driver.
            return Ok(links.remove_file(name)?);
        };
        let doing = "blockMapper.UnmapPodDevice failed to get CSI client";
        let driver = self.driver(&data.driver, doing)?;
        let all = devices.ensure_child(PUBLISH, PRIVATE)?;
        if let Some(published) = all.child(name)? {
            let target = published.path_of(uid.as_str()).display().to_string();
            let done = Calls::to(&driver.endpoint)
                .unpublish(&data.handle, &target)
                .await;
            done.map_err(|error| CsiError::TearDown {
                doing: "blockMapper.unpublishVolumeForBlock",
                error,
            })?;
            if is_mounted(&published, uid.as_str())? {
                return Err(CsiError::StillMounted(target));
            }
            // Drivers remove it; not all do.
            published.remove_file(uid.as_str())?;
        }
        let key = (data.driver.clone(), data.handle.clone());
        let _turn = self.staging.lock(key).await;
        links.remove_file(name)?;
        if !self.is_device_used(name)?
            && let Err(error) = self.unstage_device(&devices, name, &data, &driver).await
        {
            let error = error_chain(&error);
            tracing::warn!(
                volume = name,
                error,
                "a device stays staged; it is tried again"
            );
            self.left_staged.notify_one();
        }
        Ok(())
    }

    /// Removes the directory of the links to a pod's devices, where there are none left.
    pub(super) fn remove_device_links(&self, uid: &PodUid) -> Result<(), CsiError> {
        let Some(pod) = self.dirs.get(uid)? else {
            return Ok(());
        };
        if let Some(devices) = pod.dir().child(DEVICES)?
            && self.device_names(uid)?.is_empty()
        {
            devices.remove_empty(names::PLUGIN_DIR)?;
        }
        Ok(())
    }

    /// Has a device unstaged that nobody uses; to be called with the volume's lock.
    async fn unstage_device(
        &self,
        devices: &Dir,
        name: &str,
        data: &VolumeData,
        driver: &Driver,
    ) -> Result<(), CsiError> {
        if let Some(all) = devices.child(PUBLISH)? {
            all.remove_empty(name)?;
        }
        let staging = devices.ensure_child(STAGING, PRIVATE)?;
        let target = staging.path_of(name).display().to_string();
        if driver.can(Ability::StageUnstageVolume) {
            let done = Calls::to(&driver.endpoint)
                .unstage(&data.handle, &target)
                .await;
            done.map_err(|error| CsiError::TearDown {
                doing: "blockMapper.unstageVolumeForBlock",
                error,
            })?;
        }
        if is_mounted(&staging, name)? {
            return Err(CsiError::StillMounted(target));
        }
        staging.remove_empty(name)?;
        if let Some(own) = devices.child(name)? {
            if let Some(home) = own.child(DATA)? {
                data::remove(&home)?;
            }
            own.remove_empty(DATA)?;
        }
        devices.remove_empty(name)?;
        let unique = names::unique(&data.driver, &data.handle);
        self.in_use.end(&unique, &User::Node);
        Ok(())
    }

    /// All devices that are staged, or noted to be.
    pub(super) fn all_devices(&self) -> Vec<(String, VolumeData)> {
        let mut found = Vec::new();
        let mut look = || -> Result<(), CsiError> {
            let Some(all) = self
                .staged()?
                .map(|all| all.child(DEVICES))
                .transpose()?
                .flatten()
            else {
                return Ok(());
            };
            for name in all.subdirectories()? {
                if let Some(data) = device_data(&all, &name)? {
                    found.push((name, data));
                }
            }
            Ok(())
        };
        if let Err(error) = look() {
            let error = error_chain(&error);
            tracing::warn!(error, "cannot tell which devices are staged");
        }
        found
    }

    /// One look for devices that nobody uses; says whether one is left that its driver, which is there, did not take back.
    pub(super) async fn sweep_devices(&self) -> bool {
        let mut left = false;
        for (name, data) in self.all_devices() {
            let Some(driver) = self.drivers.get(&data.driver) else {
                continue;
            };
            let key = (data.driver.clone(), data.handle.clone());
            let _turn = self.staging.lock(key).await;
            let done = match (self.is_device_used(&name), self.devices()) {
                (Ok(true), _) => continue,
                (Ok(false), Ok(devices)) => {
                    self.unstage_device(&devices, &name, &data, &driver).await
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            if let Err(error) = done {
                let error = error_chain(&error);
                tracing::debug!(volume = name, error, "a device stays staged");
                left = true;
            }
        }
        left
    }
}

/// What is noted of the device of the volume `name`.
fn device_data(devices: &Dir, name: &str) -> Result<Option<VolumeData>, CsiError> {
    let Some(own) = devices.child(name)? else {
        return Ok(None);
    };
    match own.child(DATA)? {
        Some(home) => data::read(&home),
        None => Ok(None),
    }
}
