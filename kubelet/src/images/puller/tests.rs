mod access;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cri_proto::CriErrorKind;
use tokio::sync::Notify;

use super::*;
use crate::images::ImageUser;

/// A runtime with a set of images; pulls take as long as told, fail as told, and are counted.
#[derive(Default)]
struct FakeRuntime {
    state: Mutex<Fake>,
    looks: AtomicUsize,
    pulls: AtomicUsize,
    running: AtomicUsize,
    most_at_once: AtomicUsize,
    let_looks_end: Option<Notify>,
}

#[derive(Default)]
struct Fake {
    images: HashMap<String, v1::Image>,
    look_error: Option<CriError>,
    pull_errors: HashMap<String, CriError>,
    pull_time: Duration,
    accepts_user: Option<String>,
    /// Whether it takes only those whom it knows, as opposed to nobody, too.
    refuses_nobody: bool,
    users_tried: Vec<String>,
}

impl FakeRuntime {
    fn with(self, set: impl FnOnce(&mut Fake)) -> Self {
        set(&mut self.state.lock().unwrap());
        self
    }

    fn holding(image: &str) -> Self {
        Self::default().with(|fake| {
            fake.images.insert(image.to_owned(), held(image));
        })
    }
}

fn held(image: &str) -> v1::Image {
    v1::Image {
        id: format!("sha256:{image}"),
        size: 42,
        uid: Some(v1::Int64Value { value: 101 }),
        ..v1::Image::default()
    }
}

fn cri(kind: CriErrorKind, message: &str) -> CriError {
    CriError::new("PullImage", kind, message)
}

/// Counts a pull under way, however it ends.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ImageRuntime for Arc<FakeRuntime> {
    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>, CriError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        if let Some(end) = &self.let_looks_end {
            end.notified().await;
        }
        let fake = self.state.lock().unwrap();
        match &fake.look_error {
            Some(error) => Err(error.clone()),
            None => Ok(fake.images.get(&image.image).cloned()),
        }
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        _: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        self.pulls.fetch_add(1, Ordering::SeqCst);
        let at_once = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let _running = Running(&self.running);
        let time = self.state.lock().unwrap().pull_time;
        tokio::time::sleep(time).await;
        let mut fake = self.state.lock().unwrap();
        if let Some(auth) = auth {
            fake.users_tried.push(auth.username.clone());
            if fake.accepts_user.as_ref() != Some(&auth.username) {
                return Err(cri(
                    CriErrorKind::Other,
                    &format!("{} may not", auth.username),
                ));
            }
        } else if fake.refuses_nobody {
            return Err(cri(CriErrorKind::Other, "nobody may not"));
        }
        if let Some(error) = fake.pull_errors.get(&image.image) {
            return Err(error.clone());
        }
        fake.images.insert(image.image.clone(), held(&image.image));
        Ok(format!("sha256:{}", image.image))
    }
}

struct Bench {
    runtime: Arc<FakeRuntime>,
    puller: Arc<ImagePuller<Arc<FakeRuntime>>>,
    events: Mutex<Vec<String>>,
}

impl Bench {
    fn new(runtime: FakeRuntime) -> Self {
        Self::configured(runtime, PullConfig::default(), NodeCredentials::default())
    }

    fn configured(runtime: FakeRuntime, config: PullConfig, credentials: NodeCredentials) -> Self {
        let runtime = Arc::new(runtime);
        Self {
            puller: Arc::new(ImagePuller::new(Arc::clone(&runtime), &config, credentials)),
            runtime,
            events: Mutex::default(),
        }
    }

    async fn ensure(
        &self,
        pod: &str,
        image: &str,
        policy: PullPolicy,
    ) -> Result<ImageReady, ImageError> {
        let none = crate::images::Keyring::default();
        self.ensure_with(pod, image, policy, &none).await
    }

    async fn ensure_with(
        &self,
        pod: &str,
        image: &str,
        policy: PullPolicy,
        pull_secrets: &crate::images::Keyring,
    ) -> Result<ImageReady, ImageError> {
        let request = ImageRequest {
            pod: &PodUid::parse(pod).unwrap(),
            claimant: crate::images::Claimant::default(),
            image,
            policy,
            annotations: &BTreeMap::new(),
            sandbox: None,
            pull_secrets,
        };
        let record = |event: ImageEvent| {
            let kind = if event.warning { "Warning" } else { "Normal" };
            let line = format!("{kind} {} {}", event.reason, event.message);
            self.events.lock().unwrap().push(line);
        };
        self.puller.ensure(&request, &record).await
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    fn set(&self, set: impl FnOnce(&mut Fake)) {
        set(&mut self.runtime.state.lock().unwrap());
    }

    fn count(&self, counter: fn(&FakeRuntime) -> &AtomicUsize) -> usize {
        counter(&self.runtime).load(Ordering::SeqCst)
    }
}

use PullPolicy::{Always, IfNotPresent, Never};

#[tokio::test(start_paused = true)]
async fn a_present_image_is_used() {
    let bench = Bench::new(FakeRuntime::holding("nginx:1"));
    for policy in [IfNotPresent, Never] {
        let ready = bench.ensure("p", "nginx:1", policy).await.unwrap();
        assert_eq!(ready.image_ref.as_str(), "sha256:nginx:1");
        assert_eq!(ready.user, ImageUser::Uid(101));
        assert_eq!(
            bench.events(),
            ["Normal Pulled Container image \"nginx:1\" already present on machine"]
        );
    }
    assert_eq!(bench.count(|r| &r.pulls), 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_pulled_and_so_is_any_under_always() {
    let bench = Bench::new(
        FakeRuntime::default().with(|fake| fake.pull_time = Duration::from_millis(1250)),
    );
    for policy in [IfNotPresent, Always] {
        let ready = bench.ensure("p", "nginx", policy).await.unwrap();
        assert_eq!(
            (ready.image_ref.as_str(), ready.size_bytes),
            ("sha256:nginx:latest", 42)
        );
        assert_eq!(
            bench.events(),
            [
                "Normal Pulling Pulling image \"nginx\"",
                "Normal Pulled Successfully pulled image \"nginx\" in 1.25s (1.25s including waiting). Image size: 42 bytes.",
            ]
        );
    }
    assert_eq!(bench.count(|r| &r.pulls), 2);
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_upstreams_reason_message_and_events() {
    let bench = Bench::new(FakeRuntime::default());
    let fails = async |image: &str, policy, reason: &str, message: &str, events: &[&str]| {
        let error = bench.ensure("p", image, policy).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            (reason, message)
        );
        assert_eq!(bench.events(), events);
        error.retry_after()
    };
    let invalid = "Failed to apply default image tag \"N x\": couldn't parse image name \"N x\": invalid reference format: repository name (library/N x) must be lowercase";
    let event = format!("Warning InspectFailed {invalid}");
    let retry = fails(
        "N x",
        Always,
        "InvalidImageName",
        invalid,
        &[&event, "Warning Failed Error: InvalidImageName"],
    )
    .await;
    assert_eq!(retry, None);

    let never = "Container image \"a\" is not present with pull policy of Never";
    let event = format!("Warning ErrImageNeverPull {never}");
    fails(
        "a",
        Never,
        "ErrImageNeverPull",
        never,
        &[&event, "Warning Failed Error: ErrImageNeverPull"],
    )
    .await;

    for (image, kind, said, reason, message, shown) in [
        (
            "b",
            CriErrorKind::NotFound,
            "no such thing",
            "ErrImagePull",
            "rpc error: code = NotFound desc = no such thing",
            "rpc error: code = NotFound desc = no such thing",
        ),
        (
            "c",
            CriErrorKind::Other,
            "it broke",
            "ErrImagePull",
            "it broke",
            "it broke",
        ),
        (
            "d",
            CriErrorKind::Other,
            "RegistryUnavailable: no route",
            "RegistryUnavailable",
            "image pull failed for d because the registry is unavailable: no route",
            "RegistryUnavailable: no route",
        ),
        (
            "e",
            CriErrorKind::Other,
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            "image pull failed for e because the signature validation failed",
            "SignatureValidationFailed",
        ),
    ] {
        bench.set(|fake| {
            fake.pull_errors
                .insert(format!("{image}:latest"), cri(kind, said));
        });
        let pulling = format!("Normal Pulling Pulling image {image:?}");
        let failed = format!("Warning Failed Failed to pull image {image:?}: {shown}");
        let error = format!("Warning Failed Error: {reason}");
        let retry = fails(image, Always, reason, message, &[&pulling, &failed, &error]).await;
        assert_eq!(retry, Some(Duration::from_secs(1)));
        let message = format!("Back-off pulling image {image:?}: {reason}: {message}");
        let event = format!("Normal BackOff Back-off pulling image {image:?}");
        let retry = fails(
            image,
            Always,
            "ImagePullBackOff",
            &message,
            &[&event, "Warning Failed Error: ImagePullBackOff"],
        )
        .await;
        assert_eq!(retry, Some(Duration::from_secs(10)));
    }

    bench.set(|fake| fake.look_error = Some(cri(CriErrorKind::DeadlineExceeded, "too slow")));
    let inspect =
        "Failed to inspect image \"f\": rpc error: code = DeadlineExceeded desc = too slow";
    let event = format!("Warning InspectFailed {inspect}");
    fails(
        "f",
        IfNotPresent,
        "ImageInspectError",
        inspect,
        &[&event, "Warning Failed Error: ImageInspectError"],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_asked_for_anew_each_time() {
    let bench = Bench::new(FakeRuntime::default());
    assert!(bench.ensure("p", "x:1", Never).await.is_err());
    bench.set(|fake| {
        fake.images.insert("x:1".into(), held("x:1"));
    });
    assert!(bench.ensure("p", "x:1", Never).await.is_ok());
}

#[tokio::test]
async fn credentials_are_tried_until_one_pulls() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"auths": {"r.io": {"username": "u1", "password": "p"}, "r.io/team": {"username": "u2", "password": "p"}}}"#,
    )
    .unwrap();
    let credentials = || NodeCredentials::search(dir.path(), dir.path(), None);
    let bench = Bench::configured(
        FakeRuntime::default().with(|fake| fake.accepts_user = Some("u1".into())),
        PullConfig::default(),
        credentials(),
    );
    bench.ensure("p", "r.io/team/app", Always).await.unwrap();
    assert_eq!(
        bench.runtime.state.lock().unwrap().users_tried,
        ["u2", "u1"]
    );

    let bench = Bench::configured(FakeRuntime::default(), PullConfig::default(), credentials());
    let error = bench
        .ensure("p", "r.io/team/app", Always)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "[u2 may not, u1 may not]");
}
