//! From a container's image to one the runtime holds.

mod access;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cri_proto::{CriError, v1};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::backoff::PullBackoff;
use super::credentials::Keyring;
use super::event::{ImageEvent, PULLING, pulled};
use super::limit::PullLimit;
use super::presence::{Found, Presence};
use super::pulled::{PullRecords, PulledWith};
use super::{
    Credential, Decision, ImageError, ImageName, ImageReady, NodeCredentials, Providers,
    PullPolicy, decide,
};
use crate::metrics::{kubelet, startups};
use crate::pod::PodUid;
use access::{Look, Wish};

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
    /// Who the pod is to whoever gives credentials.
    pub claimant: Claimant<'a>,
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

/// A pod, as credential providers know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claimant<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// Its service account; empty where it has none.
    pub service_account: &'a str,
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
    /// None where whoever runs here may use what is here.
    records: Option<Arc<PullRecords>>,
    /// Programs that know credentials; none where none are configured.
    providers: Option<Providers>,
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
            records: None,
            providers: None,
            queue: at_once.map(|n| Semaphore::new(n as usize)),
            presence: Presence::default(),
            state: Mutex::new(State {
                backoff: PullBackoff::default(),
                limit: PullLimit::new(config.per_second, config.burst),
            }),
            started: Instant::now(),
        }
    }

    /// The same, where pods are asked for credentials of what others' have pulled.
    #[must_use]
    pub fn with_records(mut self, records: Arc<PullRecords>) -> Self {
        self.records = Some(records);
        self
    }

    /// The same, with programs that know credentials.
    #[must_use]
    pub fn with_providers(mut self, providers: Providers) -> Self {
        self.providers = Some(providers);
        self
    }

    /// Who has pulled which image, where that is written down.
    #[must_use]
    pub fn records(&self) -> Option<&Arc<PullRecords>> {
        self.records.as_ref()
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
        let mut look = Look::default();
        let ready = self.look_or_pull(request, events, &mut look).await;
        look.count(request.policy);
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
        look: &mut Look,
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
        let wish = Wish::new(request, &name);
        let found = match request.policy.looks_first() {
            true => self.look(request, &name, events).await?,
            false => None,
        };
        look.present = request.policy.looks_first().then_some(found.is_some());
        match (decide(request.policy, found.is_some()), found) {
            (Decision::Use, Some(found)) => {
                let admitted = self.admits(&wish, &found).await;
                look.required = Some(!admitted);
                if admitted {
                    events(self.already_present(image));
                    return Ok(found.into());
                }
                // Whether it is here is nobody's affair who may not use it.
                match request.policy {
                    PullPolicy::Never => Err(never(image, events)),
                    _ => self.pull(&wish, events).await,
                }
            }
            (Decision::NeverPull, _) => Err(never(image, events)),
            (Decision::Use | Decision::Pull, _) => {
                look.required = Some(true);
                self.pull(&wish, events).await
            }
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

    async fn pull(&self, wish: &Wish<'_>, events: Events<'_>) -> Result<ImageReady, ImageError> {
        let (request, name) = (wish.request, wish.name);
        let image = request.image;
        self.begin(request, events)?;
        let intent = match &self.records {
            Some(records) => Some(records.begin(image).map_err(|error| ImageError::Pull {
                failure: format!(
                    "Failed to record image pull intent for container image {image:?}: {error}"
                ),
                retry_after: LOOK_AGAIN,
            })?),
            None => None,
        };
        events(ImageEvent::normal(
            PULLING,
            format!("Pulling image {image:?}"),
        ));
        let asked = Instant::now();

        let (_turn, waited) = self.turn().await;
        let began = Instant::now();
        if waited && request.policy == PullPolicy::IfNotPresent {
            // Somebody before us in the queue may have pulled the very image.
            if let Some(found) = self.look(request, name, events).await?
                && self.admits(wish, &found).await
            {
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
        let (image_ref, with) = self.call(wish).await.map_err(|failure| {
            events(ImageEvent::warning(
                "Failed",
                format!("Failed to pull image {image:?}: {failure}"),
            ));
            self.failed(request, &failure)
        })?;
        if let Some(intent) = intent {
            intent.succeeded(&image_ref, &with);
        }
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

    /// Pulls, with each of the credentials that fit until one succeeds, and tells by what right. Fails with what upstream
    /// would say.
    async fn call(&self, wish: &Wish<'_>) -> Result<(String, PulledWith), String> {
        let now = self.now();
        if !self.state().limit.try_take(now) {
            return Err("pull QPS exceeded".to_owned());
        }
        let request = wish.request;
        let credentials = self.credentials(wish).await;
        let mut attempts: Vec<Option<&Credential>> = credentials.iter().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut failures: Vec<String> = Vec::new();
        for credential in attempts {
            let auth = credential.map(|credential| v1::AuthConfig {
                username: credential.username.clone(),
                password: credential.password.clone(),
                ..v1::AuthConfig::default()
            });
            let sandbox = request.sandbox.cloned();
            match self
                .runtime
                .pull_image(request.spec(wish.name), auth, sandbox)
                .await
            {
                Ok(image_ref) => {
                    let with = credential.map_or(PulledWith::Anybodys, Credential::pulled_with);
                    return Ok((image_ref, with));
                }
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

/// The image may not be pulled, and is not there as far as this pod goes.
fn never(image: &str, events: Events<'_>) -> ImageError {
    let error = ImageError::NeverPull {
        image: image.to_owned(),
        retry_after: LOOK_AGAIN,
    };
    events(ImageEvent::warning("ErrImageNeverPull", error.to_string()));
    error
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
