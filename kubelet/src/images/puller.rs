//! From a container's image to one the runtime holds.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cri_proto::{CriError, v1};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::backoff::PullBackoff;
use super::credentials::Keyring;
use super::event::{ImageEvent, PULLING, pulled};
use super::limit::PullLimit;
use super::presence::{Found, Presence};
use super::{
    Decision, ImageError, ImageName, ImageReady, ImageUser, NodeCredentials, PullPolicy, decide,
};
use crate::metrics::{kubelet, startups};
use crate::pod::PodUid;

/// When to look again at an image that is not there or could not be looked at: what upstream waits before it syncs a
/// failed pod again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// After a failed pull the container is looked at again this soon, and then shows that it waits (`ImagePullBackOff`), as
/// upstream's does from its next look on.
const SHOW_BACKOFF: Duration = Duration::from_secs(1);

/// The runtime's image service, as far as it is needed here. [`cri_proto::ImageClient`] is one; tests have another.
pub trait ImageRuntime: Send + Sync {
    /// The image, or none when the runtime does not hold it.
    fn image_status(
        &self,
        image: v1::ImageSpec,
    ) -> impl Future<Output = Result<Option<v1::Image>, CriError>> + Send;

    /// Pulls an image and returns what the runtime calls it. Dropping the future cancels the pull.
    fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> impl Future<Output = Result<String, CriError>> + Send;
}

impl ImageRuntime for cri_proto::ImageClient {
    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>, CriError> {
        self.image_status(image).await
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        self.pull_image(image, auth, sandbox).await
    }
}

/// How many pulls there may be, at once and in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullConfig {
    /// `serializeImagePulls`: one after another, whatever `max_parallel` says.
    pub serialize: bool,
    /// `maxParallelImagePulls`; without it as many as there are.
    pub max_parallel: Option<u32>,
    /// `registryPullQPS`: pulls begun a second; 0 is no limit.
    pub per_second: u32,
    /// `registryBurst`: pulls begun at once.
    pub burst: u32,
}

impl Default for PullConfig {
    /// The defaults of `KubeletConfiguration`.
    fn default() -> Self {
        Self {
            serialize: true,
            max_parallel: None,
            per_second: 5,
            burst: 10,
        }
    }
}

/// One container's need of an image.
#[derive(Clone, Copy, Debug)]
pub struct ImageRequest<'a> {
    /// The pod; back-off is by pod and image.
    pub pod: &'a PodUid,
    /// The image as the spec has it.
    pub image: &'a str,
    /// When to pull.
    pub policy: PullPolicy,
    /// The pod's annotations, which the runtime is told with the image.
    pub annotations: &'a BTreeMap<String, String>,
    /// The pod's sandbox, whose settings some runtimes pull by.
    pub sandbox: Option<&'a v1::PodSandboxConfig>,
    /// The credentials that the pod brings along; they are tried before the node's.
    pub pull_secrets: &'a Keyring,
}

impl ImageRequest<'_> {
    fn spec(&self, name: &ImageName) -> v1::ImageSpec {
        v1::ImageSpec {
            image: name.normalized().to_owned(),
            annotations: self.annotations.clone(),
            ..v1::ImageSpec::default()
        }
    }
}

/// Where events of one request go.
type Events<'a> = &'a (dyn Fn(ImageEvent) + Sync);

/// Gets images for containers. One a node; shared by all workers.
#[derive(Debug)]
pub struct ImagePuller<R> {
    runtime: R,
    credentials: NodeCredentials,
    /// One permit a pull under way; served in the order of asking. Without it there is no limit.
    queue: Option<Semaphore>,
    presence: Presence,
    state: Mutex<State>,
    started: Instant,
}

#[derive(Debug)]
struct State {
    backoff: PullBackoff,
    limit: PullLimit,
}

impl<R: ImageRuntime> ImagePuller<R> {
    /// A puller with nothing under way.
    #[must_use]
    pub fn new(runtime: R, config: &PullConfig, credentials: NodeCredentials) -> Self {
        let at_once = match config.serialize {
            true => Some(1),
            false => config.max_parallel.filter(|max| *max > 0),
        };
        Self {
            runtime,
            credentials,
            queue: at_once.map(|n| Semaphore::new(n as usize)),
            presence: Presence::default(),
            state: Mutex::new(State {
                backoff: PullBackoff::default(),
                limit: PullLimit::new(config.per_second, config.burst),
            }),
            started: Instant::now(),
        }
    }

    /// Sees to it that the runtime holds the image of `request`, and tells `events` what happens.
    ///
    /// A container whose image is present, and whose policy lets it use that, waits for nobody's pull. Pulls wait for
    /// each other as configured, first come first served.
    ///
    /// Cancel-safe: dropping the future leaves the queue, or cancels the pull itself; the runtime keeps the layers
    /// that are complete. Nothing is recorded of it, neither a failure nor a back-off.
    ///
    /// # Errors
    /// Why there is no image, and when asking again makes sense.
    pub async fn ensure(
        &self,
        request: &ImageRequest<'_>,
        events: Events<'_>,
    ) -> Result<ImageReady, ImageError> {
        let ready = self.look_or_pull(request, events).await;
        if let Err(error) = &ready {
            events(ImageEvent::verdict(error.reason()));
        }
        ready
    }

    /// Drops the back-off of a pod that is gone.
    pub fn forget(&self, pod: &PodUid) {
        self.state().backoff.forget(pod);
    }

    async fn look_or_pull(
        &self,
        request: &ImageRequest<'_>,
        events: Events<'_>,
    ) -> Result<ImageReady, ImageError> {
        let image = request.image;
        let name = ImageName::parse(image).map_err(|why| {
            let error = ImageError::InvalidName {
                image: image.to_owned(),
                why,
            };
            events(ImageEvent::warning("InspectFailed", error.to_string()));
            error
        })?;
        let found = match request.policy.looks_first() {
            true => self.look(request, &name, events).await?,
            false => None,
        };
        match (decide(request.policy, found.is_some()), found) {
            (Decision::Use, Some(found)) => {
                events(ImageEvent::normal(
                    "Pulled",
                    format!(
                        "Container image {image:?} already present on machine and can be accessed by the pod"
                    ),
                ));
                Ok(found.into())
            }
            (Decision::NeverPull, _) => {
                let error = ImageError::NeverPull {
                    image: image.to_owned(),
                    retry_after: LOOK_AGAIN,
                };
                events(ImageEvent::warning("ErrImageNeverPull", error.to_string()));
                Err(error)
            }
            (Decision::Use | Decision::Pull, _) => self.pull(request, &name, events).await,
        }
    }

    async fn look(
        &self,
        request: &ImageRequest<'_>,
        name: &ImageName,
        events: Events<'_>,
    ) -> Result<Option<Found>, ImageError> {
        let answer = self
            .presence
            .look(name.normalized(), || async {
                let image = self.runtime.image_status(request.spec(name)).await?;
                Ok(image.map(Found::from))
            })
            .await;
        answer.map_err(|failure| {
            let error = ImageError::Inspect {
                image: request.image.to_owned(),
                failure: failure.rpc_text(),
                retry_after: LOOK_AGAIN,
            };
            events(ImageEvent::warning("InspectFailed", error.to_string()));
            error
        })
    }

    async fn pull(
        &self,
        request: &ImageRequest<'_>,
        name: &ImageName,
        events: Events<'_>,
    ) -> Result<ImageReady, ImageError> {
        let image = request.image;
        self.begin(request, events)?;
        events(ImageEvent::normal(
            PULLING,
            format!("Pulling image {image:?}"),
        ));
        let asked = Instant::now();

        let (_turn, waited) = self.turn().await;
        let began = Instant::now();
        if waited && request.policy == PullPolicy::IfNotPresent {
            // Somebody before us in the queue may have pulled the very image.
            if let Some(found) = self.look(request, name, events).await? {
                startups().pulled(request.pod.as_str(), asked.elapsed());
                events(pulled(
                    image,
                    Duration::ZERO,
                    asked.elapsed(),
                    found.size_bytes,
                ));
                return Ok(found.into());
            }
        }
        let image_ref = self.call(request, name).await.map_err(|failure| {
            events(ImageEvent::warning(
                "Failed",
                format!("Failed to pull image {image:?}: {failure}"),
            ));
            self.failed(request, &failure)
        })?;
        self.presence.invalidate(name.normalized());
        let found = self.look(request, name, events).await?;
        let (took, in_all) = (began.elapsed(), asked.elapsed());
        let size_bytes = found.as_ref().map_or(0, |found| found.size_bytes);
        kubelet().image_pulled(size_bytes, in_all);
        startups().pulled(request.pod.as_str(), in_all);
        events(pulled(image, took, in_all, size_bytes));
        let now = self.now();
        self.state().backoff.sweep(now);
        Ok(ImageReady {
            image_ref: image_ref.into(),
            user: found.map(|found| found.user).unwrap_or_default(),
            size_bytes,
        })
    }

    /// Whether a pull may begin now, as far as earlier ones of this pod failed.
    fn begin(&self, request: &ImageRequest<'_>, events: Events<'_>) -> Result<(), ImageError> {
        let image = request.image;
        let now = self.now();
        let mut state = self.state();
        let waiting = state
            .backoff
            .waiting(request.pod, image, now)
            .map(|(left, previous)| (left, previous.map(str::to_owned)));
        let Some((retry_after, previous)) = waiting else {
            state.backoff.begin(request.pod, image);
            return Ok(());
        };
        drop(state);
        events(ImageEvent::normal(
            "BackOff",
            format!("Back-off pulling image {image:?}"),
        ));
        Err(ImageError::Backoff {
            image: image.to_owned(),
            previous,
            retry_after,
        })
    }

    /// Waits for this pull's turn; whether there was any waiting.
    async fn turn(&self) -> (Option<SemaphorePermit<'_>>, bool) {
        let Some(queue) = &self.queue else {
            return (None, false);
        };
        match queue.try_acquire() {
            Ok(turn) => (Some(turn), false),
            // The queue is never closed, so that an error cannot come; without a permit the pull would run unqueued.
            Err(_) => (queue.acquire().await.ok(), true),
        }
    }

    /// Pulls, with each of the node's credentials that fit until one succeeds. Fails with what upstream would say.
    async fn call(&self, request: &ImageRequest<'_>, name: &ImageName) -> Result<String, String> {
        let now = self.now();
        if !self.state().limit.try_take(now) {
            return Err("pull QPS exceeded".to_owned());
        }
        let of_pod = request.pull_secrets.lookup(name.repository());
        let of_node = self.credentials.keyring().await.lookup(name.repository());
        let mut auths: Vec<_> = of_pod
            .into_iter()
            .chain(of_node)
            .map(|credential| {
                Some(v1::AuthConfig {
                    username: credential.username,
                    password: credential.password,
                    ..v1::AuthConfig::default()
                })
            })
            .collect();
        if auths.is_empty() {
            auths.push(None);
        }
        let mut failures: Vec<String> = Vec::new();
        for auth in auths {
            let sandbox = request.sandbox.cloned();
            match self
                .runtime
                .pull_image(request.spec(name), auth, sandbox)
                .await
            {
                Ok(image_ref) => return Ok(image_ref),
                Err(error) => {
                    let failure = pull_failure(&error);
                    if !failures.contains(&failure) {
                        failures.push(failure);
                    }
                }
            }
        }
        match failures.as_slice() {
            [only] => Err(only.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }

    fn failed(&self, request: &ImageRequest<'_>, failure: &str) -> ImageError {
        let error = ImageError::of_pull(request.image, failure, Duration::ZERO);
        let previous = format!("{}: {error}", error.reason());
        let now = self.now();
        let retry_after = self
            .state()
            .backoff
            .failed(request.pod, request.image, previous, now);
        ImageError::of_pull(request.image, failure, retry_after.min(SHOW_BACKOFF))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; were it to, back-off and limit are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<v1::Image> for Found {
    fn from(image: v1::Image) -> Self {
        let user = match (image.uid, image.username) {
            (Some(uid), _) => ImageUser::Uid(uid.value),
            (None, name) if !name.is_empty() => ImageUser::Name(name),
            (None, _) => ImageUser::default(),
        };
        Self {
            id: image.id,
            user,
            size_bytes: image.size,
        }
    }
}

impl From<Found> for ImageReady {
    fn from(found: Found) -> Self {
        Self {
            image_ref: found.id.into(),
            user: found.user,
            size_bytes: found.size_bytes,
        }
    }
}

/// What the runtime said; without gRPC's words around it where it gave no code of its own.
fn pull_failure(error: &CriError) -> String {
    match error.is_code_unknown() {
        true => error.message().to_owned(),
        false => error.rpc_text(),
    }
}

#[cfg(test)]
mod tests;
