//! The volumes of pods: one file for each kind.
//!
//! Owns: `pods/<uid>/volumes`, `pods/<uid>/plugins` and `pods/<uid>/volume-subpaths`, and the mounts below them.
//! Besides, below the root directory's `plugins`, file systems and devices of local volumes, for as long as pods have them.
//! Inputs: the pod's spec; for volumes whose files the agent writes, their [`Contents`]; for those of claims, what stands
//! behind them ([`ClaimedVolumes`]). Outputs: where on the node each volume lies, for the containers' mounts and devices.
//! Tasks: none; functions block on disks and mounts, the `_in_background` ones away from the task's thread: each teardown,
//! each container's subPaths, and the set-up of each pod with volumes that may hang, on a thread of their own.
//! `keyed`, `downward_api` and `projected` say (purely) which files a volume has; `written` makes the volume, and
//! `atomic_writer` the files, all at once. `persistent` goes by what is behind a claim: `local`, `nfs`, `block`; `programs`
//! runs mount(8) and its like, with a limit. `sub_path` mounts parts of volumes for single containers.
//! Deliberately not here: getting objects of the API server (`objects` does), mounting into containers (the runtime does), enforcing an emptyDir's size on disk
//! (eviction does). Kinds without a file here are refused by name, never left out of the pod.

mod atomic_writer;
mod bind;
mod block;
mod contents;
mod device;
mod downward_api;
mod empty_dir;
mod env_files;
mod error;
mod host_path;
mod huge_pages;
mod keyed;
mod local;
mod nfs;
mod ownership;
mod payload;
mod persistent;
mod present;
mod programs;
mod progress;
mod projected;
mod sub_path;
mod teardown;
mod tokens;
mod written;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, NFSVolumeSource, Volume};
use tokio::sync::Mutex;

use crate::claims::ClaimedVolumes;
use crate::errors::error_chain;
use crate::metrics::kubelet;
use crate::pod::{self, Pod, PodUid};
use crate::poddir::{PodDir, PodDirs};
use crate::quotas::Quotas;

use contents::Written;
pub use contents::{Contents, Inputs};
use device::Devices;
pub use empty_dir::tmpfs_noswap;
pub use env_files::env_files;
pub use error::{Retry, SetUpError, VolumeError};
pub(crate) use ownership::{ChangePolicy, apply_by as give_to_group};
pub(crate) use present::{plugin, present};
pub(crate) use progress::Progress;
pub use sub_path::{SubPath, SubPathError, SubPathRequest, SubPaths};
pub(crate) use tokens::tokens_in_volumes;

/// Where a volume lies on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostVolume {
    /// The directory or file to mount, or the device.
    pub path: PathBuf,
    /// Whether the kind of volume, or the pod's claim, allows no writing, whatever the mount says.
    pub read_only: bool,
    /// It is a block device, for `volumeDevices`, and nothing to mount.
    pub device: bool,
    /// The group that whoever uses it has to be in.
    pub gid: Option<i64>,
}

/// A pod's volumes by name.
pub type MountedVolumes = BTreeMap<String, HostVolume>;

/// What volumes are set up with, besides the pod's spec.
#[derive(Debug, Default)]
pub struct Given {
    /// What is written into those whose files the agent writes.
    pub contents: Contents,
    /// What stands behind those of claims.
    pub claimed: ClaimedVolumes,
}

/// Settings of this room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumesConfig {
    /// What mounts network file systems, given `mount` and its arguments; none for mount(8) itself.
    pub mounter: Option<PathBuf>,
    /// What all pods together may use of the node's memory, bytes: the upper bound of an in-memory emptyDir.
    pub allocatable_memory_bytes: u64,
}

/// Bytes of the stack of a thread that may hang; only what is used of it takes memory.
const THREAD_STACK: usize = 256 << 10;

/// The volumes of all pods.
#[derive(Debug)]
pub struct Volumes {
    dirs: PodDirs,
    config: VolumesConfig,
    devices: Devices,
    quotas: Option<Quotas>,
}

impl Volumes {
    /// Volumes below the pods' directories in `dirs`.
    #[must_use]
    pub fn new(dirs: PodDirs, config: VolumesConfig) -> Self {
        Self {
            devices: Devices::new(dirs.root()),
            dirs,
            config,
            quotas: None,
        }
    }

    /// The same with volumes that the kernel counts.
    #[must_use]
    pub fn with_quotas(self, quotas: Option<Quotas>) -> Self {
        Self { quotas, ..self }
    }

    /// What counts volumes, where the kernel does.
    pub(crate) fn quotas(&self) -> Option<&Quotas> {
        self.quotas.as_ref()
    }

    /// Sets up every volume of `pod` and says where each lies. Idempotent: what is set up already is left as it is,
    /// so it may be called at each sync and after a restart of the agent. One of a claim that is not `given` is left
    /// out: no container uses it, or it is, like others of storage drivers, for `csi` to set up.
    ///
    /// # Errors
    /// One for each volume that could not be set up; the others are.
    pub fn set_up(
        &self,
        pod: &Pod,
        uid: &PodUid,
        given: Given,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        self.set_up_while(pod, uid, given, &|| true)
    }

    /// [`Volumes::set_up`], given up once nobody waits for it any more.
    fn set_up_while(
        &self,
        pod: &Pod,
        uid: &PodUid,
        mut given: Given,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        let dir = self.dirs.ensure(uid).map_err(|error| vec![error.into()])?;
        let work = persistent::Work {
            pod,
            uid,
            dir: &dir,
            pods: self.dirs.all(),
            root: self.dirs.root(),
            devices: &self.devices,
            mounter: self.config.mounter.as_deref(),
            is_awaited,
        };
        let mut mounted = MountedVolumes::new();
        let mut failed = Vec::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let kind = kind(volume);
            let claimed = given.claimed.get(&volume.name);
            let began = tokio::time::Instant::now();
            let done = match kind {
                Kind::EmptyDir => {
                    let quotas = self.quotas.as_ref();
                    empty_dir::set_up(&dir, pod, volume, &self.config, quotas).map(at)
                }
                Kind::HostPath(source) => host_path::check(source).map(at),
                Kind::Written(kind) => {
                    let written = self.write(&dir, pod, volume, kind, &mut given.contents);
                    written.map(|path| HostVolume {
                        path,
                        read_only: true,
                        ..HostVolume::default()
                    })
                }
                Kind::Nfs(source) => {
                    let read_only = source.read_only.unwrap_or(false);
                    let done = nfs::set_up(&work, &volume.name, source, read_only, Vec::new());
                    done.map(|path| HostVolume {
                        path,
                        read_only,
                        ..HostVolume::default()
                    })
                }
                Kind::Claim => match claimed {
                    Some(claimed) => persistent::set_up(&work, claimed),
                    None => continue,
                },
                // The runtime mounts it, and is told of it with each container.
                Kind::Image => continue,
                // `csi` sets it up.
                Kind::Driver => continue,
                Kind::Other => Err(SetUpError::NoPlugin),
            };
            if let Some(plugin) = claimed.map_or_else(|| plugin(volume), persistent::plugin) {
                let status = if done.is_ok() {
                    "success"
                } else {
                    "fail-unknown"
                };
                let of = ["false", "volume_mount", status, &plugin];
                kubelet().storage_duration.observe(&of, began.elapsed());
            }
            match done {
                Ok(place) => drop(mounted.insert(volume.name.clone(), place)),
                Err(cause) => {
                    let name = claimed.map_or(&volume.name, |c| &c.volume.metadata.name);
                    failed.push(VolumeError::set_up(name, cause));
                }
            }
        }
        if failed.is_empty() {
            Ok(mounted)
        } else {
            Err(failed)
        }
    }

    /// Gives those volumes of `pod` whose files the agent writes their `contents`; what is the same is left as it is.
    ///
    /// # Errors
    /// One for each volume that could not be written; it keeps what it had.
    pub fn refresh(
        &self,
        pod: &Pod,
        uid: &PodUid,
        mut contents: Contents,
    ) -> Result<(), Vec<VolumeError>> {
        let dir = self.dirs.ensure(uid).map_err(|error| vec![error.into()])?;
        let mut failed = Vec::new();
        for volume in pod::spec(pod).volumes.iter().flatten() {
            if let Kind::Written(kind) = kind(volume)
                && let Err(cause) = self.write(&dir, pod, volume, kind, &mut contents)
            {
                failed.push(VolumeError::set_up(&volume.name, cause));
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed),
        }
    }

    fn write(
        &self,
        dir: &PodDir,
        pod: &Pod,
        volume: &Volume,
        kind: Written,
        contents: &mut Contents,
    ) -> Result<PathBuf, SetUpError> {
        let payload = contents.take(&volume.name)?;
        let made_at = contents.made_at();
        written::set_up(dir, pod, volume, kind, &payload, &self.config, made_at)
    }

    /// Unmounts and removes every volume of the pod `uid`, whatever its spec was. Data of the administrator's own
    /// (hostPath) is not below the pod's directory and never touched. Idempotent; after an error it resumes.
    ///
    /// # Errors
    /// When something cannot be unmounted or removed.
    pub fn tear_down(&self, uid: &PodUid) -> Result<(), VolumeError> {
        match self.dirs.get(uid)? {
            Some(dir) => {
                if let Some(quotas) = &self.quotas {
                    quotas.release(dir.path());
                }
                teardown::tear_down(&dir, uid, self.dirs.root(), &self.devices)
            }
            None => Ok(()),
        }
    }

    /// [`Volumes::set_up`] away from the task's thread, and on one of its own where it may hang; `turn` is dropped once it is
    /// done, whoever waits for that. Programs that mount are ended once nobody does.
    ///
    /// # Errors
    /// As [`Volumes::set_up`].
    pub async fn set_up_in_background(
        self: Arc<Self>,
        pod: Arc<Pod>,
        uid: PodUid,
        given: Given,
        turn: impl Send + 'static,
    ) -> Result<MountedVolumes, Vec<VolumeError>> {
        let of = uid.clone();
        let interrupted = |source| Err(vec![VolumeError::Interrupted { uid, source }]);
        let mut volumes = pod::spec(&pod).volumes.iter().flatten();
        if volumes.any(persistent::may_hang) {
            let done = on_own_thread("set-up", move |is_awaited| {
                let done = self.set_up_while(&pod, &of, given, is_awaited);
                drop(turn);
                done
            });
            return done.await.unwrap_or_else(interrupted);
        }
        let done = tokio::task::spawn_blocking(move || {
            let done = self.set_up(&pod, &of, given);
            drop(turn);
            done
        });
        let done = done.await;
        done.unwrap_or_else(|panic| interrupted(io::Error::other(panic)))
    }

    /// [`Volumes::refresh`] away from the task's thread; `turn` is dropped once it is done, whoever waits for that.
    ///
    /// # Errors
    /// As [`Volumes::refresh`].
    pub async fn refresh_in_background(
        self: Arc<Self>,
        pod: Arc<Pod>,
        uid: PodUid,
        contents: Contents,
        turn: impl Send + 'static,
    ) -> Result<(), Vec<VolumeError>> {
        let of = uid.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = self.refresh(&pod, &of, contents);
            drop(turn);
            done
        });
        done.await.unwrap_or_else(|panic| {
            let source = io::Error::other(panic);
            Err(vec![VolumeError::Interrupted { uid, source }])
        })
    }

    /// [`Volumes::tear_down`] on a thread of its own: an unmount may hang for as long as what it leads to is away, and must
    /// not take the thread that another pod's files wait for.
    ///
    /// # Errors
    /// As [`Volumes::tear_down`].
    pub async fn tear_down_in_background(self: Arc<Self>, uid: PodUid) -> Result<(), VolumeError> {
        let of = uid.clone();
        let done = on_own_thread("tear-down", move |_| self.tear_down(&of)).await;
        done.unwrap_or_else(|source| Err(VolumeError::Interrupted { uid, source }))
    }

    /// Unmounts the subPaths of all containers of the pod `uid`, on a thread of its own; the volumes stay.
    ///
    /// # Errors
    /// When something cannot be unmounted or removed.
    pub async fn unbind_sub_paths(self: Arc<Self>, uid: PodUid) -> Result<(), VolumeError> {
        let of = uid.clone();
        let done = on_own_thread("sub-paths", move |_| match self.dirs.get(&of)? {
            Some(dir) => sub_path::tear_down(&dir),
            None => Ok(()),
        });
        let done = done.await;
        done.unwrap_or_else(|source| Err(VolumeError::Interrupted { uid, source }))
    }

    /// Mounts what `request` asks for, and says where. Idempotent: what is mounted already and still is the same file
    /// stays. Blocks for as long as the volumes' file systems; `turn` is asked for before the first mount is made, and
    /// mounts nothing where it gives none.
    ///
    /// # Errors
    /// The first subPath that cannot be had; others may be mounted.
    pub fn bind_sub_paths<Turn>(
        &self,
        request: &SubPathRequest,
        turn: impl FnOnce() -> Option<Turn>,
    ) -> Result<SubPaths, SubPathError> {
        let pod = match self.dirs.get(&request.uid) {
            Ok(Some(pod)) => pod,
            Ok(None) => return Err(request.failed("the pod has no directory")),
            Err(error) => return Err(request.failed(&error_chain(&error))),
        };
        let found = request.find(&pod)?;
        match turn() {
            Some(_turn) => request.bind(&pod, &found),
            None => Err(request.failed("the pod ends")),
        }
    }

    /// [`Volumes::bind_sub_paths`] on a thread of its own, for the reason that tearing down has. `writing` is held while
    /// mounts are made, and none is made any more once nobody waits for the answer.
    ///
    /// # Errors
    /// As [`Volumes::bind_sub_paths`].
    pub async fn bind_sub_paths_in_background(
        self: Arc<Self>,
        request: SubPathRequest,
        writing: Arc<Mutex<()>>,
    ) -> Result<SubPaths, SubPathError> {
        let request = Arc::new(request);
        let of = request.clone();
        let done = on_own_thread("sub-path", move |is_awaited| {
            self.bind_sub_paths(&of, || {
                let turn = writing.blocking_lock_owned();
                is_awaited().then_some(turn)
            })
        });
        let done = done.await;
        done.unwrap_or_else(|error| Err(request.failed(&error.to_string())))
    }
}

/// Does `work` on a thread of its own: a file system may hang for as long as what it leads to is away, and must not take
/// a thread that others wait for. `work` is told how to ask whether anybody still waits for it.
pub(crate) async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> io::Result<T> {
    let (told, done) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(THREAD_STACK)
        .spawn(move || {
            // For what tells of work that takes long.
            let _within = runtime.enter();
            let answer = work(&|| !told.is_closed());
            // Whoever asked may have gone meanwhile, and asks again.
            drop(told.send(answer));
        })?;
    // A thread that says nothing has panicked.
    done.await.map_err(|_| io::Error::other("it panicked"))
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    EmptyDir,
    HostPath(&'a HostPathVolumeSource),
    Nfs(&'a NFSVolumeSource),
    Written(Written),
    /// Whatever stands behind a claim.
    Claim,
    Image,
    /// A storage driver's.
    Driver,
    Other,
}

/// A volume that may be written to.
fn at(path: PathBuf) -> HostVolume {
    HostVolume {
        path,
        ..HostVolume::default()
    }
}

fn kind(volume: &Volume) -> Kind<'_> {
    if let Some(source) = &volume.host_path {
        return Kind::HostPath(source);
    }
    if let Some(source) = &volume.nfs {
        return Kind::Nfs(source);
    }
    if let Some(written) = Written::of(volume) {
        return Kind::Written(written);
    }
    if volume.image.is_some() {
        return Kind::Image;
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return Kind::Claim;
    }
    if volume.csi.is_some() {
        return Kind::Driver;
    }
    // A volume without any source is an emptyDir: the API's default.
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    match volume.empty_dir.is_some() || *volume == bare {
        true => Kind::EmptyDir,
        false => Kind::Other,
    }
}

#[cfg(test)]
mod tests;
