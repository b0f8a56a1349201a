//! Where volumes lie on the node, by handle.

use super::data::{self, VolumeData};
use super::error::CsiError;
use super::in_use::User;
use super::{Csi, names};
use crate::dir::Dir;
use crate::mounts;
use crate::pod::PodUid;
use crate::poddir::VOLUMES;

/// Mode of directories: nobody but root and its group looks into other people's volumes.
pub(super) const PRIVATE: u32 = 0o750;

impl Csi {
    /// The directory of a pod's volume, with `vol_data.json` and `mount` in it; made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn ensure_volume(&self, uid: &PodUid, spec_name: &str) -> Result<Dir, CsiError> {
        let pod = self.dirs.ensure(uid)?;
        let volumes = pod.dir().ensure_child(VOLUMES, PRIVATE)?;
        let all = volumes.ensure_child(names::PLUGIN_DIR, PRIVATE)?;
        Ok(all.ensure_child(spec_name, PRIVATE)?)
    }

    /// The directory of all volumes of a pod that drivers have mounted; none where there is none.
    pub(super) fn volumes_of(&self, uid: &PodUid) -> Result<Option<Dir>, CsiError> {
        let Some(pod) = self.dirs.get(uid)? else {
            return Ok(None);
        };
        match pod.dir().child(VOLUMES)? {
            Some(volumes) => Ok(volumes.child(names::PLUGIN_DIR)?),
            None => Ok(None),
        }
    }

    /// The directory of a staged volume, with `vol_data.json` and `globalmount` in it; made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn ensure_staging(&self, driver: &str, handle: &str) -> Result<Dir, CsiError> {
        let mut dir = Dir::open(&self.root)?;
        let hash = names::staging_name(handle);
        for name in names::STAGED.into_iter().chain([driver, &hash]) {
            dir = dir.ensure_child(name, PRIVATE)?;
        }
        Ok(dir)
    }

    /// The directory of all that is staged; none where nothing ever was.
    pub(super) fn staged(&self) -> Result<Option<Dir>, CsiError> {
        let mut dir = Dir::open(&self.root)?;
        for name in names::STAGED {
            match dir.child(name)? {
                Some(child) => dir = child,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// All staged volumes, with their directories. What cannot be read is passed over, and named in the log.
    pub(super) fn all_staged(&self) -> Vec<(Dir, VolumeData)> {
        let mut found = Vec::new();
        let mut look = || -> Result<(), CsiError> {
            let Some(all) = self.staged()? else {
                return Ok(());
            };
            for driver in all.subdirectories()? {
                let Some(volumes) = all.child(&driver)? else {
                    continue;
                };
                for hash in volumes.subdirectories()? {
                    let Some(volume) = volumes.child(&hash)? else {
                        continue;
                    };
                    match data::read(&volume) {
                        Ok(Some(data)) if data.driver == driver => found.push((volume, data)),
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "a staged volume cannot be read"),
                    }
                }
            }
            Ok(())
        };
        if let Err(error) = look() {
            let error = crate::errors::error_chain(&error);
            tracing::warn!(error, "cannot tell which volumes are staged");
        }
        found
    }

    /// What all pods on the node have of drivers' volumes.
    ///
    /// # Errors
    /// When that cannot be told: then nothing may be given back.
    pub(super) fn all_published(&self) -> Result<Vec<(PodUid, VolumeData)>, CsiError> {
        let mut found = Vec::new();
        for uid in self.dirs.list()? {
            let Some(volumes) = self.volumes_of(&uid)? else {
                continue;
            };
            for name in volumes.subdirectories()? {
                let volume = volumes.child(&name)?;
                if let Some(data) = volume.map(|dir| data::read(&dir)).transpose()?.flatten() {
                    found.push((uid.clone(), data));
                }
            }
        }
        Ok(found)
    }

    /// Whether a pod besides `but` uses the volume.
    ///
    /// # Errors
    /// As [`Csi::all_published`].
    pub(super) fn is_used(
        &self,
        driver: &str,
        handle: &str,
        but: Option<&PodUid>,
    ) -> Result<bool, CsiError> {
        let all = self.all_published()?;
        Ok(all
            .iter()
            .any(|(uid, data)| data.is_of(driver, handle) && Some(uid) != but))
    }

    /// Reads from the disk which attachable volumes are in use.
    pub(super) fn find_in_use(&self) {
        let unique = |data: &VolumeData| names::unique(&data.driver, &data.handle);
        let staged = self.all_staged();
        let devices = self.all_devices();
        let devices = devices.iter().map(|(_, data)| data);
        for data in staged.iter().map(|(_, data)| data).chain(devices) {
            self.in_use.begin(&unique(data), User::Node);
        }
        for (uid, data) in self.all_published().unwrap_or_default() {
            if data.lifecycle == Some(super::Lifecycle::Persistent) && !data.attachment.is_empty() {
                self.in_use.begin(&unique(&data), User::Pod(uid));
            }
        }
    }
}

/// Whether something is mounted at the name in `dir`.
///
/// # Errors
/// When nobody can tell.
pub(super) fn is_mounted(dir: &Dir, name: &str) -> Result<bool, CsiError> {
    // The table has no links in its paths.
    let path = match dir.path().canonicalize() {
        Ok(path) => path.join(name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(CsiError::Mounts(error)),
    };
    let mounts = mounts::read().map_err(CsiError::Mounts)?;
    Ok(mounts.iter().any(|mount| mount.mount_point == path))
}
