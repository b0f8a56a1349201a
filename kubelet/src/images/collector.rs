//! Removes images that nobody uses: now and again, down to a part of the disk or beyond an age, and when evictions need
//! room.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::{Container, Image, ImageFsInfoResponse, ImageSpec};
use cri_proto::{CriError, ImageClient, RuntimeClient};
use tokio::sync::{Mutex, watch};

use super::archives::ImageArchives;
use super::event::go_duration;
use super::garbage::{self, Held, Records, Unused};
use super::name::ImageName;
use super::pulled::PullRecords;
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::events::About;
use crate::metrics;
use crate::pod::{self, Pod, PodUid};
use crate::sources::Desired;
use crate::stats::{FileSystem, Stats};
use crate::status::StatusBoard;

/// How often the disk is looked at (upstream's `ImageGCPeriod`).
const EVERY: Duration = Duration::from_secs(300);
/// As many bytes as there may be (upstream's words for it are those of a signed number).
const ALL: u64 = i64::MAX.unsigned_abs();
/// When a runtime that does not say which images it has is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// When images go.
#[derive(Clone, Copy, Debug)]
pub struct ImagePolicy {
    /// `imageGCHighThresholdPercent`: from which on.
    pub high: u8,
    /// `imageGCLowThresholdPercent`: down to which.
    pub low: u8,
    /// `imageMinimumGCAge`: younger ones stay.
    pub minimum_age: Duration,
    /// `imageMaximumGCAge`: what nothing has used for longer goes, however empty the disk is.
    pub maximum_age: Option<Duration>,
}

impl ImagePolicy {
    /// Whether anything is to be removed now and again.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.high < 100 || self.maximum_age.is_some()
    }
}

/// What the collector works with.
pub struct CollectorInputs {
    /// When images go.
    pub policy: ImagePolicy,
    /// The node's name.
    pub node: String,
    /// Holds the images.
    pub images: ImageClient,
    /// Holds the containers.
    pub runtime: RuntimeClient,
    /// Knows the image of sandboxes.
    pub stats: Arc<Stats>,
    /// The pods of all sources.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// Which of them have ended.
    pub board: StatusBoard,
    /// Images that no registry could give again.
    pub archives: Arc<ImageArchives>,
    /// Who has pulled them.
    pub pulls: Option<Arc<PullRecords>>,
    /// Monotonic time.
    pub clock: Clock,
}

/// Removes images. Shared by reference.
pub struct ImageCollector {
    inputs: CollectorInputs,
    began: Duration,
    /// One removal at a time.
    records: Mutex<Records>,
}

/// Why images could not be removed, or not enough of them.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The runtime did not say what it holds.
    #[error("cannot tell which images are used")]
    Runtime(#[from] CriError),
    /// Not all sources have said which pods there are to be.
    #[error("not every source of pods has been heard")]
    Sources,
    /// The disk is none. (Words are upstream's, here and below.)
    #[error("invalid capacity 0 on image filesystem")]
    Capacity,
    /// What the runtime calls its directory of images is nothing that one could look at.
    #[error("Failed to get the info of the filesystem with mountpoint: {mountpoint}")]
    Mountpoint {
        /// That directory.
        mountpoint: String,
    },
    /// Some could not be removed.
    #[error(
        "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {errors}"
    )]
    Removal {
        /// Bytes that were to go; all there are is upstream's `MaxInt64`.
        wanted: u64,
        /// Bytes that went.
        freed: u64,
        /// What was said of each.
        errors: String,
    },
    /// Some of those that nothing has used for too long could not be removed.
    #[error(
        "wanted to free images older than {}, encountered errors in image deletion: {errors}",
        go_duration(*age)
    )]
    Old {
        /// `imageMaximumGCAge`.
        age: Duration,
        /// What was said of each.
        errors: String,
    },
    /// All are in use, or something else has filled the disk.
    #[error(
        "Insufficient free disk space on the node's image filesystem ({taken}% of {capacity} used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    )]
    Full {
        /// Percent.
        taken: u8,
        /// With its unit.
        capacity: String,
        /// Bytes.
        freed: u64,
    },
}

impl ImageCollector {
    /// A collector that has seen nothing yet: images count as found when it first sees them, as upstream's.
    #[must_use]
    pub fn new(inputs: CollectorInputs) -> Arc<Self> {
        let began = inputs.clock.monotonic();
        Arc::new(Self {
            inputs,
            began,
            records: Mutex::default(),
        })
    }

    /// Where the runtime has its images.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn file_systems(&self) -> Result<ImageFsInfoResponse, CriError> {
        self.inputs.images.image_fs_info().await
    }

    /// Whether an agent that died has left pulls of which nobody knows what became.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let pulls = self.inputs.pulls.as_deref();
        pulls.is_some_and(PullRecords::is_unsettled)
    }

    /// Settles what an agent that died has left, and looks each five minutes, for as long as the agent lives: where no
    /// images are to go by themselves, so that `evictions` know how old they are, if there are any.
    pub async fn run(self: Arc<Self>, evictions: bool) {
        while self.is_unsettled() {
            if let (Ok(held), Some(pulls)) = (
                self.inputs.images.list_images(None).await,
                &self.inputs.pulls,
            ) {
                pulls.settle(&held);
                break;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        if !self.inputs.policy.is_on() && !evictions {
            return std::future::pending().await;
        }
        // Nothing is removed before, and five minutes are long to wait for another look.
        let mut desired = self.inputs.desired.clone();
        if desired.wait_for(|desired| desired.ready).await.is_err() {
            // The sources end with the agent.
            return std::future::pending().await;
        }
        let mut failed = false;
        loop {
            let done = match self.inputs.policy.is_on() {
                true => self.collect().await,
                false => self.follow().await,
            };
            if let Err(error) = &done {
                let text = error_chain(error);
                // The first one may only mean that the runtime is not up yet.
                match failed && self.inputs.policy.is_on() {
                    true => self.about().warning("ImageGCFailed", &text),
                    false => tracing::info!(error = text, "images were not collected"),
                }
            }
            failed = done.is_err();
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Notes which images there are and which of them are used.
    async fn follow(&self) -> Result<(), CollectError> {
        let mut records = self.records.lock().await;
        self.look(&mut records).await.map(drop)
    }

    fn about(&self) -> About<'_> {
        About::node(&self.inputs.node)
    }

    /// One round: what is too old goes; then what is unused, while too much of the disk is taken.
    async fn collect(&self) -> Result<(), CollectError> {
        let policy = self.inputs.policy;
        let mut records = self.records.lock().await;
        let (now, mut unused, wanted) = self.look(&mut records).await?;
        // Before that, nobody knows how long an image has not been used.
        let age = policy
            .maximum_age
            .filter(|age| now.saturating_sub(self.began) > *age);
        if let Some(age) = age {
            let (old, rest): (Vec<_>, Vec<_>) = unused
                .into_iter()
                .partition(|one| one.is_forgotten(age, now));
            let removed = self.remove(&mut records, old, ALL, "age", &wanted).await;
            if let Err(errors) = removed.errors() {
                return Err(CollectError::Old { age, errors });
            }
            unused = rest;
        }
        let (capacity, available) = self.disk().await?;
        let (taken, excess) = garbage::excess(capacity, available, policy.low);
        if taken < policy.high || policy.high >= 100 {
            return Ok(());
        }
        tracing::info!(
            taken,
            bytes = excess,
            "the disk of images is too full; unused ones go"
        );
        unused.retain(|one| one.is_older_than(policy.minimum_age, now));
        let removed = self.remove(&mut records, unused, excess, "space", &wanted);
        let freed = removed.await.of(excess)?;
        if freed < excess {
            let full = CollectError::Full {
                taken,
                capacity: garbage::size(capacity),
                freed,
            };
            self.about()
                .warning("FreeDiskSpaceFailed", &full.to_string());
            return Err(full);
        }
        Ok(())
    }

    /// Removes all images that nothing uses, but for those that are new. Tells how many bytes they had.
    ///
    /// # Errors
    /// When the runtime does not say what is used, or some could not be removed.
    pub async fn remove_unused(&self) -> Result<u64, CollectError> {
        let mut records = self.records.lock().await;
        let (now, mut unused, wanted) = self.look(&mut records).await?;
        let age = self.inputs.policy.minimum_age;
        unused.retain(|one| one.is_older_than(age, now));
        let removed = self.remove(&mut records, unused, ALL, "space", &wanted);
        removed.await.of(ALL)
    }

    /// Capacity of the disk of images, and what is left of it.
    async fn disk(&self) -> Result<(u64, u64), CollectError> {
        let info = self.file_systems().await?;
        let first = info.image_filesystems.first();
        let found = match first.and_then(|usage| usage.fs_id.as_ref()) {
            Some(id) => {
                let mountpoint = id.mountpoint.clone();
                let found = FileSystem::of(mountpoint.as_ref());
                Some(found.ok_or(CollectError::Mountpoint { mountpoint })?)
            }
            None => None,
        };
        match found {
            Some(found) if found.capacity > 0 => Ok((found.capacity, found.available)),
            _ => {
                let error = CollectError::Capacity;
                self.about()
                    .warning("InvalidDiskCapacity", &error.to_string());
                Err(error)
            }
        }
    }

    /// What there is that nothing uses, and the names that went by.
    async fn look(
        &self,
        records: &mut Records,
    ) -> Result<(Duration, Vec<Unused>, BTreeSet<String>), CollectError> {
        let wanted = self.wanted().ok_or(CollectError::Sources)?;
        let pulls = self.inputs.pulls.as_deref();
        pulls.inspect(|pulls| pulls.mark());
        let images = self.inputs.images.list_images(None).await?;
        pulls.inspect(|pulls| pulls.prune(images.iter().map(|image| &*image.id)));
        let containers = self.inputs.runtime.list_containers(None).await?;
        let mut used: BTreeSet<String> = BTreeSet::new();
        for container in &containers {
            for name in names_of(container) {
                used.extend(ids_of(&images, name));
            }
        }
        let sandbox = self.inputs.stats.sandbox_image().await;
        let sandbox = Some(sandbox.to_string()).filter(|name| !name.is_empty());
        // Older runtimes do not say that an image is pinned.
        let archived = self.inputs.archives.kept();
        for name in wanted.iter().chain(&sandbox).chain(&archived) {
            let own = ids_of(&images, name);
            if !own.is_empty() {
                used.extend(own);
                continue;
            }
            // Which registry a short name means is the runtime's to say.
            let spec = ImageSpec {
                image: name.clone(),
                ..ImageSpec::default()
            };
            let found = self.inputs.images.image_status(spec).await?;
            used.extend(found.map(|image| image.id));
        }
        let held = images.into_iter().map(|image| Held {
            id: image.id,
            size: image.size,
            pinned: image.pinned,
        });
        let held: Vec<Held> = held.collect();
        let now = self.inputs.clock.monotonic();
        records.follow(&held, &used, now);
        Ok((now, records.unused(&used), wanted))
    }

    /// The images of all pods that should run, by the names that the runtime is asked for; none before every source has
    /// been heard.
    fn wanted(&self) -> Option<BTreeSet<String>> {
        let desired = self.inputs.desired.borrow().clone();
        if !desired.ready {
            return None;
        }
        let runs = |(uid, pod): &(&PodUid, &Arc<Pod>)| {
            let view = self.inputs.board.get(uid);
            let ended = view.is_some_and(|view| view.status.phase.is_terminal());
            pod::is_static(pod) || !ended
        };
        let live = desired.pods.iter().filter(runs);
        Some(live.flat_map(|(_, pod)| images_of(pod)).collect())
    }

    /// Removes `unused` in order until `bytes` are free.
    async fn remove(
        &self,
        records: &mut Records,
        unused: Vec<Unused>,
        bytes: u64,
        reason: &'static str,
        known: &BTreeSet<String>,
    ) -> Removed {
        let mut removed = Removed::default();
        for image in unused {
            if removed.freed >= bytes {
                break;
            }
            // A pod that has come meanwhile may want this very image: what nothing uses is found anew the next time.
            let all_known = |names: BTreeSet<String>| names.is_subset(known);
            if !self.wanted().is_some_and(all_known) {
                break;
            }
            tracing::info!(
                image = image.id,
                bytes = image.size,
                reason,
                "removing an image that nobody uses"
            );
            let spec = ImageSpec {
                image: image.id.clone(),
                ..ImageSpec::default()
            };
            match self.inputs.images.remove_image(spec).await {
                Ok(()) => {
                    records.remove(&image.id);
                    let pulls = self.inputs.pulls.as_deref();
                    pulls.inspect(|pulls| pulls.forget(&image.id));
                    metrics::kubelet().images_collected.inc(&[reason]);
                    removed.freed = removed.freed.saturating_add(image.size);
                }
                Err(error) => removed.errors.push(error_chain(&error)),
            }
        }
        removed
    }
}

/// What became of images that were to go.
#[derive(Debug, Default)]
struct Removed {
    /// Bytes of those that went.
    freed: u64,
    /// What was said of the others.
    errors: Vec<String>,
}

impl Removed {
    /// The errors in one text, as upstream writes several.
    fn errors(mut self) -> Result<u64, String> {
        match self.errors.len() {
            0 => Ok(self.freed),
            1 => Err(self.errors.remove(0)),
            _ => Err(format!("[{}]", self.errors.join(", "))),
        }
    }

    /// The bytes that went of so many that were to.
    fn of(self, wanted: u64) -> Result<u64, CollectError> {
        let freed = self.freed;
        self.errors().map_err(|errors| CollectError::Removal {
            wanted,
            freed,
            errors,
        })
    }
}

/// All names that the runtime may have for the image of a container.
fn names_of(container: &Container) -> Vec<&str> {
    let spec = container.image.as_ref();
    let of_spec = spec.map(|spec| [spec.image.as_str(), spec.user_specified_image.as_str()]);
    let own = [container.image_ref.as_str(), container.image_id.as_str()];
    let all = own.into_iter().chain(of_spec.into_iter().flatten());
    all.filter(|name| !name.is_empty()).collect()
}

/// The images that the runtime calls so.
fn ids_of(images: &[Image], name: &str) -> Vec<String> {
    let is_called = |image: &&Image| {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        image.id == name || names.any(|own| own == name)
    };
    let own = images.iter().filter(is_called);
    own.map(|image| image.id.clone()).collect()
}

/// The images of the pod's containers and volumes.
fn images_of(pod: &Pod) -> Vec<String> {
    let spec = pod::spec(pod);
    let containers = pod::containers(pod).filter_map(|(_, container)| container.image.clone());
    let late = pod::ephemeral_containers(pod).filter_map(|container| container.image);
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone());
    let named = containers.chain(late).chain(volumes);
    // What is no name is no image that there could be.
    let parsed = named.filter_map(|name| ImageName::parse(&name).ok());
    parsed.map(|name| name.normalized().to_owned()).collect()
}
