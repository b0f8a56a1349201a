//! Mounts the volumes of a pod: staged for the node, then published to the pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use cri_proto::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::call::Calls;
use super::data::{self, VolumeData};
use super::drivers::Driver;
use super::error::{CsiError, CsiFailure, Operation};
use super::in_use::User;
use super::object::{DriverSpec, check_mode, fs_group_policy};
use super::places::{PRIVATE, is_mounted};
use super::volume::{CsiVolume, pod_info};
use super::{Csi, Lifecycle, cluster, merged, names, selinux};
use crate::dir::Dir;
use crate::pod::{self, Pod, PodUid};
use crate::volumes::{
    ChangePolicy, HostVolume, MountedVolumes, Progress, give_to_group, on_own_thread,
};

/// What became of a pod's volumes of drivers.
#[derive(Debug, Default)]
pub struct CsiMounted {
    /// Where those that are set up lie, by their names in the spec.
    pub mounted: MountedVolumes,
    /// The others.
    pub failed: Vec<CsiFailure>,
}

/// What the lack of a driver is told with.
pub(super) const NO_CLIENT: &str = "mounter.SetUpAt failed to get CSI client";

/// A call that publishes, and what it is made of.
pub(super) struct Publish<'p> {
    pub(super) pod: &'p Pod,
    pub(super) uid: &'p PodUid,
    pub(super) volume: &'p CsiVolume,
    pub(super) driver: &'p Driver,
    pub(super) spec: Option<&'p DriverSpec>,
    /// What the controller has said of the attachment.
    pub(super) context: BTreeMap<String, String>,
    pub(super) staged_at: String,
    pub(super) target: String,
}

impl Csi {
    /// Sets up those `volumes` of `pod` that are not yet, side by side. Once begun it goes on, whoever waits: a teardown
    /// of the pod does not begin before every driver has answered, or has had its time.
    pub async fn set_up(&self, pod: Arc<Pod>, uid: PodUid, volumes: Vec<CsiVolume>) -> CsiMounted {
        if volumes.is_empty() {
            return CsiMounted::default();
        }
        let names: Vec<_> = volumes.iter().map(|v| v.spec_name.clone()).collect();
        let (mut told, done) = oneshot::channel();
        let csi = self.clone();
        tokio::spawn(async move {
            // Cancel-safe: a turn that is not taken goes to the next.
            let turn = tokio::select! {
                biased;
                () = told.closed() => return,
                turn = csi.pods.lock(uid.clone()) => turn,
            };
            let outcome = csi.set_up_all(pod, uid, volumes).await;
            drop(turn);
            // Whoever asked may have gone.
            drop(told.send(outcome));
        });
        done.await.unwrap_or_else(|_| {
            let failed = names.into_iter().map(|volume| CsiFailure {
                volume,
                operation: Operation::SetUp,
                error: CsiError::Interrupted,
            });
            CsiMounted {
                mounted: MountedVolumes::new(),
                failed: failed.collect(),
            }
        })
    }

    async fn set_up_all(&self, pod: Arc<Pod>, uid: PodUid, volumes: Vec<CsiVolume>) -> CsiMounted {
        let mut under_way = JoinSet::new();
        for volume in volumes {
            let (csi, pod, uid) = (self.clone(), pod.clone(), uid.clone());
            under_way.spawn(async move {
                let done = csi.set_up_one(&pod, &uid, &volume).await;
                (volume, done)
            });
        }
        let mut outcome = CsiMounted::default();
        while let Some(done) = under_way.join_next().await {
            // A panic is in the log; the volume is missing from what is mounted, and the pod does not start without it.
            let Ok((volume, done)) = done else {
                continue;
            };
            match done {
                Ok(path) => {
                    let at = HostVolume {
                        path,
                        read_only: volume.read_only,
                        device: volume.block,
                        gid: volume.gid,
                    };
                    outcome.mounted.insert(volume.name, at);
                }
                Err((operation, error)) => outcome.failed.push(CsiFailure {
                    volume: volume.spec_name,
                    operation,
                    error,
                }),
            }
        }
        outcome
    }

    async fn set_up_one(
        &self,
        pod: &Pod,
        uid: &PodUid,
        volume: &CsiVolume,
    ) -> Result<PathBuf, (Operation, CsiError)> {
        let set_up = |error| (Operation::SetUp, error);
        // What is there needs no driver, and nobody's word.
        if let Some(target) = self.is_there(uid, volume).map_err(set_up)? {
            return Ok(target);
        }
        let driver = self.driver(&volume.driver, NO_CLIENT).map_err(set_up)?;
        let spec = self.objects.get(&volume.driver).await.map_err(set_up)?;
        let spec = spec.as_deref();
        check_mode(&volume.driver, spec, volume.lifecycle)
            .map_err(|why| set_up(CsiError::Mode(why)))?;
        if volume.block {
            return self.set_up_device(pod, uid, volume, &driver, spec).await;
        }
        let policy = fs_group_policy(spec).map_err(|why| set_up(CsiError::FsGroupPolicy(why)))?;
        let dir = self.ensure_volume(uid, &volume.spec_name).map_err(set_up)?;
        let target = dir.path_of(names::MOUNT);
        let context = self
            .context(uid, volume, spec)
            .await
            .map_err(|error| (Operation::WaitForAttach, error))?;
        let (options, label) =
            selinux::mount_options(pod, volume, spec, self.file_context.as_deref());
        let volume = &CsiVolume {
            mount_options: options,
            ..volume.clone()
        };
        let mut note = VolumeData {
            selinux: label,
            spec_name: volume.spec_name.clone(),
            handle: volume.handle.clone(),
            driver: volume.driver.clone(),
            node: self.node.clone(),
            attachment: names::attachment(&volume.handle, &volume.driver, &self.node),
            lifecycle: Some(volume.lifecycle),
            ..VolumeData::default()
        };
        let is_staged = volume.is_staged(&driver);
        let staged_at = match is_staged {
            true => self
                .stage(&dir, volume, &driver, &note, &context, pod)
                .await
                .map_err(|error| (Operation::MountDevice, error))?,
            false => {
                data::write(&dir, &note).map_err(set_up)?;
                String::new()
            }
        };
        let publish = Publish {
            pod,
            uid,
            volume,
            driver: &driver,
            spec,
            context,
            staged_at: staged_at.clone(),
            target: target.display().to_string(),
        };
        let published = self.publish(publish).await;
        if let Err(error) = published {
            // Of one that is not staged nothing is left: the pod's end need not wait for its driver.
            let is_final = matches!(&error, CsiError::Call(error) if error.is_final())
                || !matches!(error, CsiError::Call(_));
            if is_final && !is_staged {
                forget(&dir).map_err(set_up)?;
            }
            return Err(set_up(error));
        }
        if !driver.can(Ability::VolumeMountGroup) && volume.is_given_to_group(policy) {
            self.give_to_group(&dir, pod, volume)
                .await
                .map_err(set_up)?;
        }
        let path = target.display().to_string();
        let expanded = self.expand(pod, volume, &driver, &staged_at, &path);
        expanded.await.map_err(|error| (Operation::Expand, error))?;
        note.done.clone_from(&self.boot);
        data::write(&dir, &note).map_err(set_up)?;
        Ok(target)
    }

    /// Where the volume lies, if it is published to the pod already.
    fn is_there(&self, uid: &PodUid, volume: &CsiVolume) -> Result<Option<PathBuf>, CsiError> {
        if volume.block {
            return self.has_device(uid, volume);
        }
        let Some(volumes) = self.volumes_of(uid)? else {
            return Ok(None);
        };
        let Some(dir) = volumes.child(&volume.spec_name)? else {
            return Ok(None);
        };
        let published = self.is_published(&dir, volume)?;
        Ok(published.then(|| dir.path_of(names::MOUNT)))
    }

    /// What the controller has said of a volume that it has to attach; nothing of another.
    pub(super) async fn context(
        &self,
        uid: &PodUid,
        volume: &CsiVolume,
        spec: Option<&DriverSpec>,
    ) -> Result<BTreeMap<String, String>, CsiError> {
        let attaches = volume.lifecycle == Lifecycle::Persistent
            && spec.and_then(|spec| spec.attach_required) != Some(false);
        match attaches {
            true => self.attached(volume, uid).await,
            false => Ok(BTreeMap::new()),
        }
    }

    /// Whether volumes of the driver called `name` are attached by a controller, as far as that is known.
    pub(super) fn attaches(&self, name: &str) -> bool {
        let spec = self.objects.now(name);
        spec.and_then(|spec| spec.attach_required) != Some(false)
    }

    /// Whether the driver has published it in this boot, and it is still mounted.
    pub(super) fn is_published(&self, dir: &Dir, volume: &CsiVolume) -> Result<bool, CsiError> {
        let Some(data) = data::read(dir)? else {
            return Ok(false);
        };
        let known = data.is_of(&volume.driver, &volume.handle);
        Ok(known && self.is_of_this_boot(&data) && is_mounted(dir, names::MOUNT)?)
    }

    pub(super) fn is_of_this_boot(&self, data: &VolumeData) -> bool {
        !data.done.is_empty() && data.done == self.boot
    }

    /// Stages the volume for the node, where it is not yet, and notes first that the pod uses it; says where it is staged.
    async fn stage(
        &self,
        dir: &Dir,
        volume: &CsiVolume,
        driver: &Driver,
        note: &VolumeData,
        context: &BTreeMap<String, String>,
        pod: &Pod,
    ) -> Result<String, CsiError> {
        let key = (volume.driver.clone(), volume.handle.clone());
        let _turn = self.staging.lock(key).await;
        // From here on nobody unstages it.
        data::write(dir, note)?;
        let unique = names::unique(&volume.driver, &volume.handle);
        if self.attaches(&volume.driver) {
            self.in_use.begin(&unique, User::Node);
        }
        let staging = self.ensure_staging(&volume.driver, &volume.handle)?;
        let target = staging.path_of(names::GLOBAL_MOUNT).display().to_string();
        if data::read(&staging)?.is_some_and(|data| self.is_of_this_boot(&data)) {
            return Ok(target);
        }
        if !is_mounted(&staging, names::GLOBAL_MOUNT)? {
            drop(staging.ensure_child(names::GLOBAL_MOUNT, PRIVATE)?);
        }
        let mut data = VolumeData {
            handle: volume.handle.clone(),
            driver: volume.driver.clone(),
            selinux: note.selinux.clone(),
            ..VolumeData::default()
        };
        data::write(&staging, &data)?;
        let secrets = self
            .secret("NodeStageSecretRef", volume.stage_secret.as_ref())
            .await?;
        let message = NodeStageVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: target.clone(),
            volume_capability: Some(volume.capability(
                driver,
                &volume.mount_options,
                fs_group_for(driver, pod),
            )),
            secrets,
            volume_context: volume.attributes.clone(),
        };
        if let Err(error) = Calls::to(&driver.endpoint).stage(message).await {
            if error.is_final() && !is_mounted(&staging, names::GLOBAL_MOUNT)? {
                staging.remove_empty(names::GLOBAL_MOUNT)?;
                data::remove(&staging)?;
                forget(dir)?;
                self.in_use.end(&unique, &User::Node);
            }
            return Err(error.into());
        }
        data.done.clone_from(&self.boot);
        data::write(&staging, &data)?;
        Ok(target)
    }

    pub(super) async fn publish(&self, of: Publish<'_>) -> Result<(), CsiError> {
        let volume = of.volume;
        let mut secrets = self
            .secret("NodePublishSecretRef", volume.publish_secret.as_ref())
            .await?;
        let mut told = volume.attributes.clone();
        let wants = |flag: fn(&DriverSpec) -> Option<bool>| of.spec.and_then(flag) == Some(true);
        if wants(|spec| spec.pod_info_on_mount) {
            told = merged(told, pod_info(of.pod, volume.lifecycle));
        }
        let requests = of.spec.and_then(|spec| spec.token_requests.as_deref());
        let tokens = self.tokens(of.pod, of.uid, requests.unwrap_or_default());
        if let Some(tokens) = tokens.await? {
            let tokens = [(cluster::TOKENS.to_owned(), tokens)];
            match wants(|spec| spec.service_account_token_in_secrets) {
                true => secrets = merged(secrets, tokens),
                false => told = merged(told, tokens),
            }
        }
        let message = NodePublishVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: of.context,
            staging_target_path: of.staged_at,
            target_path: of.target,
            volume_capability: Some(volume.capability(
                of.driver,
                &volume.mount_options,
                fs_group_for(of.driver, of.pod),
            )),
            readonly: volume.read_only,
            secrets,
            volume_context: told,
        };
        Ok(Calls::to(&of.driver.endpoint).publish(message).await?)
    }

    /// Gives the files of a published volume to the pod's group, on a thread of its own: it may lead to something that hangs.
    async fn give_to_group(
        &self,
        dir: &Dir,
        pod: &Pod,
        volume: &CsiVolume,
    ) -> Result<(), CsiError> {
        let Some(group) = fs_group(pod) else {
            return Ok(());
        };
        let Some(mounted) = dir.child_or_mount(names::MOUNT)? else {
            return Ok(());
        };
        let (policy, read_only) = (ChangePolicy::of(pod), volume.read_only);
        let progress = Progress::of(pod, mounted.path());
        let done = on_own_thread("fs-group", move |_| {
            give_to_group(policy, &mounted, group, read_only, progress)
        });
        let done = done.await.map_err(|_| CsiError::Interrupted)?;
        done.map_err(|source| CsiError::FsGroup {
            volume: volume.handle.clone(),
            source: Box::new(source),
        })
    }
}

/// The pod's group.
fn fs_group(pod: &Pod) -> Option<i64> {
    pod::spec(pod).security_context.as_ref()?.fs_group
}

/// The same, for a driver that sees to it itself.
fn fs_group_for(driver: &Driver, pod: &Pod) -> Option<i64> {
    fs_group(pod).filter(|_| driver.can(Ability::VolumeMountGroup))
}

/// Nothing is known of the volume any more, where nothing of it is mounted.
fn forget(dir: &Dir) -> Result<(), CsiError> {
    if !is_mounted(dir, names::MOUNT)? {
        dir.remove_empty(names::MOUNT)?;
        data::remove(dir)?;
    }
    Ok(())
}
