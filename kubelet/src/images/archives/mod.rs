//! Images without a registry: archives in a directory of the node, and an image for sandboxes where there is none.
//!
//! Owns: what of the directory was imported, the built-in sandbox image.
//! Inputs: the directory (`imageArchives` in the file of `--agent-config`), what RunPodSandbox says when it has no image.
//! Outputs: images in containerd, pinned; word to whoever waits for one that there are new ones.
//! Tasks: [`run_archives`], one for the agent where a directory is configured: asleep until the directory or the runtime
//! changes.
//! Does not: remove an image when its archive goes, or talk to runtimes other than containerd, which have no such API.

mod layout;
mod parts;
mod pause;
mod sandbox;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_client::tonic::transport::Channel;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::errors::error_chain;
use crate::observe::RuntimeState;

use layout::LayoutError;
use sandbox::missing_sandbox_image;
use store::{Store, StoreError};

/// The reason of the event, and of the line in the log, that a sandbox image was supplied.
pub const SANDBOX_IMAGE_SUPPLIED: &str = "SandboxImageSupplied";

/// Names of archives end so.
const ENDINGS: [&str; 3] = [".tar", ".tar.gz", ".tgz"];
/// A file that is being written changes within this long.
const SETTLE: Duration = Duration::from_secs(1);
/// After a failure that is not the archive's own, and where the directory cannot be watched.
const AGAIN: Duration = Duration::from_secs(15);

/// Settings of this room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchivesConfig {
    /// `imageArchives`: where archives are looked for.
    pub directory: Option<PathBuf>,
    /// `builtInSandboxImage`: whether a sandbox image that is missing is supplied.
    pub built_in: bool,
    /// A directory of the agent's own on disk, for what is unpacked for the while.
    pub scratch: PathBuf,
}

/// Why an archive was not imported.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("reading it did not end as it should")]
    Lost,
}

impl ImportError {
    /// Whether the same archive may be imported when it is tried again.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_away,
            Self::Open(_) | Self::Layout(_) | Self::Lost => false,
        }
    }
}

/// What tells a version of a file from another: device, inode, bytes, time of the last change in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// Images that come from no registry.
#[derive(Debug)]
pub struct ImageArchives {
    store: Store,
    config: ArchivesConfig,
    imported: watch::Sender<u64>,
    /// The names of all that was imported or supplied.
    names: Mutex<BTreeSet<String>>,
}

impl ImageArchives {
    /// For the containerd behind `channel`.
    #[must_use]
    pub fn new(channel: Channel, config: ArchivesConfig) -> Self {
        Self {
            store: Store::new(channel),
            config,
            imported: watch::Sender::new(0),
            names: Mutex::default(),
        }
    }

    /// A count that goes up when there are new images.
    #[must_use]
    pub fn imported(&self) -> watch::Receiver<u64> {
        self.imported.subscribe()
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Nothing panics under this lock.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names, in full, of all images that are here because of an archive, or are the agent's own: they are to stay.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<String> {
        self.names().clone()
    }

    /// Supplies the sandbox image that `error` of RunPodSandbox says is missing; its name, where that was done. Idempotent.
    pub async fn supply_sandbox_image(&self, error: &str) -> Option<String> {
        let name = missing_sandbox_image(error).filter(|_| self.config.built_in)?;
        let image = sandbox::built_in(name)?;
        // All of it is in memory: nothing is read from this.
        let nothing = File::open("/dev/null").ok()?;
        if let Err(error) = self.store.put(&Arc::new(nothing), &image).await {
            tracing::warn!(
                image = name,
                error = error_chain(&error),
                "the built-in sandbox image was not taken"
            );
            return None;
        }
        self.names().extend(image.names);
        Some(name.to_owned())
    }

    async fn import(&self, path: &Path) -> Result<Vec<String>, ImportError> {
        let (from, scratch) = (path.to_owned(), self.config.scratch.clone());
        let read = tokio::task::spawn_blocking(move || {
            let archive = File::open(&from).map_err(ImportError::Open)?;
            let archive = layout::uncompressed(archive, &scratch).map_err(LayoutError::Read)?;
            let images = layout::images(&archive)?;
            Ok::<_, ImportError>((Arc::new(archive), images))
        });
        let (archive, images) = read.await.map_err(|_| ImportError::Lost)??;
        let mut imported = Vec::new();
        for image in images {
            let mut there = true;
            for name in &image.names {
                there &= self.store.has(name, &image.target).await?;
            }
            if !there {
                self.store.put(&archive, &image).await?;
                imported.extend(image.names.iter().cloned());
            }
            self.names().extend(image.names);
        }
        Ok(imported)
    }
}

/// Imports what is in the directory, and what comes into it, without end. `runtime`: a runtime that has come up anew may
/// have lost what it had.
pub async fn run_archives(
    archives: Arc<ImageArchives>,
    mut runtime: watch::Receiver<RuntimeState>,
) {
    let Some(directory) = archives.config.directory.clone() else {
        return std::future::pending().await;
    };
    let (changed, mut changes) = watch::channel(());
    let _watcher = watch_directory(&directory, changed);
    let mut done: BTreeMap<PathBuf, Stamp> = BTreeMap::new();
    // Since when each is as it is.
    let mut seen: BTreeMap<PathBuf, (Stamp, Instant)> = BTreeMap::new();
    loop {
        // The sender lives as long as the agent does.
        let up = runtime.wait_for(|state| matches!(state, RuntimeState::Up(_)));
        if up.await.is_err() {
            return std::future::pending().await;
        }
        changes.mark_unchanged();
        let now = Instant::now();
        let found = found_in(&directory);
        let found = found.into_iter().map(|(path, stamp)| {
            let before = seen.get(&path).filter(|(before, _)| *before == stamp);
            let since = before.map_or(now, |(_, since)| *since);
            (path, (stamp, since))
        });
        seen = found.collect();
        let mut wait: Option<Duration> = None;
        for (path, (stamp, since)) in &seen {
            if done.get(path) == Some(stamp) {
                continue;
            }
            // One that was just written may not be whole.
            let settled = SETTLE.saturating_sub(now.duration_since(*since));
            let again = if !settled.is_zero() {
                settled
            } else if import_and_say(&archives, path).await {
                done.insert(path.clone(), *stamp);
                continue;
            } else {
                AGAIN
            };
            wait = Some(wait.map_or(again, |wait| wait.min(again)));
        }
        done.retain(|path, _| seen.contains_key(path));
        let pause = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: all of them are states.
        tokio::select! {
            () = pause => {}
            changed = changes.changed() => if changed.is_err() {
                // Nobody tells of changes: it is looked at now and then.
                tokio::time::sleep(AGAIN).await;
            },
            changed = runtime.changed() => match changed {
                Ok(()) => done.clear(),
                Err(_) => return std::future::pending().await,
            },
        }
    }
}

/// Imports the archive at `path`; whether nothing more is to be done about it.
async fn import_and_say(archives: &ImageArchives, path: &Path) -> bool {
    match archives.import(path).await {
        Ok(images) if images.is_empty() => {
            tracing::debug!(path = %path.display(), "all images of the archive are there");
            true
        }
        Ok(images) => {
            let images = images.join(", ");
            tracing::info!(reason = "ImagesImported", path = %path.display(), images, "images imported");
            archives.imported.send_modify(|count| *count += 1);
            true
        }
        Err(error) => {
            let is_passing = error.is_passing();
            tracing::warn!(
                reason = "ImageArchiveRefused",
                path = %path.display(),
                error = error_chain(&error),
                "the archive of images was not imported"
            );
            !is_passing
        }
    }
}

/// The archives in `directory`.
fn found_in(directory: &Path) -> BTreeMap<PathBuf, Stamp> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "imageArchives cannot be read");
            return BTreeMap::new();
        }
    };
    let archives = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        if name.starts_with('.') || !ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            return None;
        }
        let found = fs::metadata(entry.path())
            .ok()
            .filter(fs::Metadata::is_file)?;
        let stamp = (
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
        );
        Some((entry.path(), stamp))
    });
    archives.collect()
}

/// Whether something is another than before, or may be: that a file or the directory is opened and read is told, too, and
/// whoever looks for changes does so.
fn is_change(event: &notify::Result<Event>) -> bool {
    let kind = event.as_ref().map(|event| event.kind);
    !matches!(kind, Ok(EventKind::Access(kind)) if kind != AccessKind::Close(AccessMode::Write))
}

/// Tells `changed` of each change in `directory`, which is made where it is missing; none where it cannot be watched.
fn watch_directory(
    directory: &Path,
    changed: watch::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    let begin = || {
        fs::create_dir_all(directory).map_err(notify::Error::io)?;
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                changed.send_replace(());
            }
        })?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok::<_, notify::Error>(watcher)
    };
    match begin() {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "imageArchives is not watched, and looked at each quarter of a minute");
            None
        }
    }
}

#[cfg(test)]
mod tests;
