//! The images of a pod: those its containers are made of, and those that are mounted as volumes.

use std::collections::BTreeMap;
use std::time::Duration;

use cri_proto::{CriError, v1};
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::start::{ImageFailure, StartError};
use crate::events::About;
use crate::images::archives::SANDBOX_IMAGE_SUPPLIED;
use crate::images::{Claimant, ImageEvent, ImageReady, ImageRequest, PULLING, PullPolicy};
use crate::metrics::kubelet;
use crate::pod::{self, Pod};
use crate::runtime::convert::ImageVolumes;

/// How a runtime's error begins that could not mount an image (`cri-api`, `pkg/errors`).
const MOUNT_FAILED: &str = "ImageVolumeMountFailed";

/// An image that a container needs.
struct Wanted<'a> {
    reference: &'a str,
    policy: PullPolicy,
    /// Whose the events of pulls are.
    about: About<'a>,
    /// Whose it is that it came to nothing.
    container: About<'a>,
    /// What it is for, for whoever asks what the pod waits for.
    purpose: String,
}

impl Worker {
    /// The image that the container `spec` is made of.
    pub(super) async fn ensure_image(
        &self,
        pod: &Pod,
        spec: &Container,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<ImageReady, StartError> {
        let reference = spec.image.as_deref().unwrap_or_default();
        let wanted = Wanted {
            reference,
            policy: PullPolicy::of(spec.image_pull_policy.as_deref(), reference),
            about: About::container(pod, &spec.name),
            container: About::container(pod, &spec.name),
            purpose: format!("container {}", spec.name),
        };
        self.ensure(pod, wanted, sandbox).await
    }

    /// The images that the container `spec` mounts, as the runtime is to be told of them.
    pub(super) async fn ensure_image_volumes(
        &self,
        pod: &Pod,
        spec: &Container,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<ImageVolumes, StartError> {
        let mut ready = ImageVolumes::new();
        let mut failed = None;
        for volume in pod::spec(pod).volumes.iter().flatten() {
            let Some(source) = &volume.image else {
                continue;
            };
            let mut mounts = spec.volume_mounts.iter().flatten();
            if !mounts.any(|mount| mount.name == volume.name) {
                continue;
            }
            let reference = source.reference.as_deref().unwrap_or_default();
            let wanted = Wanted {
                reference,
                policy: PullPolicy::of(source.pull_policy.as_deref(), reference),
                about: About::pod(pod),
                container: About::container(pod, &spec.name),
                purpose: format!("volume {}", volume.name),
            };
            match self.ensure(pod, wanted, sandbox).await {
                Ok(image) => {
                    let told = v1::ImageSpec {
                        image: image.image_ref.to_string(),
                        user_specified_image: reference.to_owned(),
                        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
                        ..v1::ImageSpec::default()
                    };
                    ready.insert(volume.name.clone(), told);
                }
                // As upstream: the others are pulled meanwhile, and the container shows the last failure.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(ready),
            Some(error) => Err(error),
        }
    }

    /// Whether RunPodSandbox failed with `error` for want of an image, and there is one now.
    pub(super) async fn supply_sandbox_image(&self, pod: &Pod, error: &CriError) -> bool {
        let supplied = self.tools.archives.supply_sandbox_image(error.message());
        let Some(image) = supplied.await else {
            return false;
        };
        About::pod(pod).warning(
            SANDBOX_IMAGE_SUPPLIED,
            &format!(
                "The runtime has no sandbox image {image:?} and cannot pull it: the agent's own is in its place"
            ),
        );
        true
    }

    async fn ensure(
        &self,
        pod: &Pod,
        wanted: Wanted<'_>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<ImageReady, StartError> {
        let Wanted {
            reference,
            policy,
            about,
            container,
            purpose,
        } = wanted;
        let none = BTreeMap::new();
        let pull_secrets = self.pull_secrets(pod);
        let request = ImageRequest {
            pod: &self.uid,
            claimant: Claimant {
                namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
                name: pod.metadata.name.as_deref().unwrap_or_default(),
                service_account: pod::spec(pod)
                    .service_account_name
                    .as_deref()
                    .unwrap_or_default(),
            },
            image: reference,
            policy,
            annotations: pod.metadata.annotations.as_ref().unwrap_or(&none),
            sandbox: Some(sandbox),
            pull_secrets: &pull_secrets,
        };
        let record = |event: ImageEvent| {
            if event.reason == PULLING {
                self.say_at(&format!(
                    "pulls image {reference:?} for {purpose} (PullImage)"
                ));
            }
            if event.is_verdict() {
                container.warning(event.reason, &event.message);
            } else if event.warning {
                about.warning(event.reason, &event.message);
            } else {
                about.normal(event.reason, &event.message);
            }
        };
        let ready = self.tools.images.ensure(&request, &record).await;
        ready.map_err(|error| {
            let now = self.tools.clock.now().monotonic;
            // An image name that is none is looked at again only so that the hold has an end.
            let retry_at = now + error.retry_after().unwrap_or(Duration::from_secs(3600));
            StartError::Image(ImageFailure { error, retry_at })
        })
    }
}

/// Counts the images that a container mounts, by what came of its creation.
pub(super) fn count_mounts(spec: &Container, images: &ImageVolumes, made: Result<(), &str>) {
    let counts = kubelet();
    counts.image_volumes.requested.add(images.len());
    let failed = matches!(made, Err(message) if message.starts_with(MOUNT_FAILED));
    let mounts = spec.volume_mounts.iter().flatten();
    for _ in mounts.filter(|mount| images.contains_key(&mount.name)) {
        match failed {
            true => counts.image_volumes.failed.inc(),
            false => counts.image_volumes.mounted.inc(),
        }
    }
}
