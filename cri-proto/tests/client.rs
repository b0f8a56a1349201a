//! The clients against a server in this process: deadlines, repair of the connection, errors, limits.
#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects by unwrapping it"
)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cri_proto::v1::image_service_server::{ImageService, ImageServiceServer};
use cri_proto::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri_proto::{ConnectOptions, Connection, CriErrorKind, v1};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// Method and `grpc-timeout` header of a call.
type Seen = (&'static str, Option<String>);
type Events = mpsc::Receiver<Result<v1::ContainerEventResponse, Status>>;

/// A server whose answer hangs on the container id, command or handler it is sent.
#[derive(Clone, Default)]
struct Script {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// What the next stream of events will carry; without it there is no such call.
    events: Arc<Mutex<Option<Events>>>,
}

impl Script {
    fn note<T>(&self, method: &'static str, request: &Request<T>) {
        let header = request.metadata().get("grpc-timeout");
        let text = header.map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().push((method, text));
    }

    fn timeouts(&self) -> Vec<(&'static str, Option<u64>)> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .map(|(method, header)| (*method, header.as_deref().map(seconds)))
            .collect()
    }
}

/// A `grpc-timeout` in whole seconds.
fn seconds(header: &str) -> u64 {
    let (number, unit) = header.split_at(header.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "H" => number * 3600,
        "M" => number * 60,
        "S" => number,
        "m" => number / 1000,
        "u" => number / 1_000_000,
        "n" => number / 1_000_000_000,
        other => panic!("unit {other}"),
    }
}

#[tonic::async_trait]
impl RuntimeService for Script {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        self.note("Version", &request);
        Ok(Response::new(v1::VersionResponse {
            runtime_name: "scripted".into(),
            ..Default::default()
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        self.note("RunPodSandbox", &request);
        let pod_sandbox_id = request.into_inner().runtime_handler;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        self.note("StartContainer", &request);
        match request.get_ref().container_id.as_str() {
            "hang" => std::future::pending().await,
            "missing" => Err(Status::not_found("container \"missing\": not found")),
            "reserved" => Err(Status::unknown(
                "failed to reserve container name \"c\": name \"c\" is reserved for \"abc\"",
            )),
            _ => Ok(Response::new(v1::StartContainerResponse {})),
        }
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        self.note("StopContainer", &request);
        let message = request.into_inner();
        if message.container_id == "missing" {
            return Err(Status::not_found("container \"missing\": not found"));
        }
        assert_eq!(message.timeout, 31, "30.5 s, rounded up");
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        self.note("ExecSync", &request);
        // Bytes of output as asked for by the command.
        let size = request.get_ref().cmd[0].parse().unwrap();
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: vec![b'x'; size],
            ..Default::default()
        }))
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Result<Response<BoxStream<v1::ContainerEventResponse>>, Status> {
        self.note("GetContainerEvents", &request);
        let Some(events) = self.events.lock().unwrap().take() else {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        };
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }
}

#[tonic::async_trait]
impl ImageService for Script {
    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        self.note("PullImage", &request);
        let image_ref = request.into_inner().image.unwrap().image;
        Ok(Response::new(v1::PullImageResponse { image_ref }))
    }

    async fn image_status(
        &self,
        _: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        Ok(Response::new(v1::ImageStatusResponse::default()))
    }
}

/// A server on a socket, until [`Running::stop`] cuts every connection.
struct Running {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(socket: &Path, script: &Script) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let serving = Server::builder()
            .add_service(RuntimeServiceServer::new(script.clone()))
            .add_service(ImageServiceServer::new(script.clone()));
        let (stop, stopped) = oneshot::channel();
        // A thread with a runtime of its own: when the runtime goes, so do the tasks that hold the connections, as when a
        // process is killed.
        let task = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    result = serving.serve_with_incoming(listener) => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// A server behind an in-memory pipe, for tests with paused time.
fn in_memory(script: &Script, options: ConnectOptions) -> Connection {
    let (sender, receiver) = mpsc::channel(1);
    let incoming = ReceiverStream::new(receiver);
    let serving = Server::builder()
        .add_service(RuntimeServiceServer::new(script.clone()))
        .add_service(ImageServiceServer::new(script.clone()));
    tokio::spawn(async move {
        serving
            .serve_with_incoming(tokio_stream::StreamExt::map(incoming, std::io::Result::Ok))
            .await
    });
    Connection::with_dialer("memory", options, move || {
        let sender = sender.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            sender.send(theirs).await.map_err(std::io::Error::other)?;
            Ok(ours)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_deadline() {
    let script = Script::default();
    let connection = in_memory(&script, ConnectOptions::default());
    let (runtime, images) = (connection.runtime(), connection.images());
    let spec = v1::ImageSpec {
        image: "busybox".into(),
        ..Default::default()
    };

    assert_eq!(runtime.version().await.unwrap().runtime_name, "scripted");
    let config = v1::PodSandboxConfig::default();
    let sandbox = runtime.run_pod_sandbox(config, "runc".into()).await;
    assert_eq!(sandbox.unwrap(), "runc");
    runtime.start_container("x").await.unwrap();
    let grace = Duration::from_millis(30_500);
    runtime.stop_container("x", grace).await.unwrap();
    let command = vec![String::from("3")];
    let timeout = Duration::from_secs(7);
    let output = runtime.exec_sync("x", command.clone(), timeout).await;
    assert_eq!(output.unwrap().stdout, b"xxx");
    let forever = Duration::ZERO;
    runtime.exec_sync("x", command, forever).await.unwrap();
    assert_eq!(
        images.pull_image(spec, None, None).await.unwrap(),
        "busybox"
    );

    assert_eq!(
        script.timeouts(),
        [
            ("Version", Some(120)),
            ("RunPodSandbox", Some(240)),
            ("StartContainer", Some(120)),
            ("StopContainer", Some(150)),
            ("ExecSync", Some(127)),
            ("ExecSync", None),
            ("PullImage", None),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_costs_the_deadline_and_no_more() {
    let script = Script::default();
    let runtime = in_memory(&script, ConnectOptions::default()).runtime();
    let began = tokio::time::Instant::now();
    let error = runtime.start_container("hang").await.unwrap_err();
    assert_eq!(error.kind(), &CriErrorKind::DeadlineExceeded);
    assert_eq!(
        error.to_string(),
        "StartContainer: context deadline exceeded"
    );
    assert!(error.outcome_unknown());
    let took = began.elapsed();
    let wanted = Duration::from_secs(120);
    assert!(
        took >= wanted && took < wanted + Duration::from_secs(1),
        "{took:?}"
    );
    // The connection is none the worse for it.
    runtime.version().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_without_end_is_a_deadline_too() {
    let script = Script::default();
    let runtime = in_memory(&script, ConnectOptions::default()).runtime();
    let command = vec![String::from("0")];
    runtime
        .exec_sync("x", command, Duration::MAX)
        .await
        .unwrap();
    assert_eq!(script.timeouts(), [("ExecSync", Some(365 * 24 * 3600))]);
}

#[tokio::test]
async fn what_the_runtime_says_keeps_its_meaning() {
    let script = Script::default();
    let connection = in_memory(&script, ConnectOptions::default());
    let runtime = connection.runtime();

    let error = runtime.start_container("missing").await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.method(), "StartContainer");
    assert_eq!(error.message(), "container \"missing\": not found");
    assert!(!error.outcome_unknown());

    let forced = Duration::ZERO;
    runtime.stop_container("missing", forced).await.unwrap();

    let error = runtime.start_container("reserved").await.unwrap_err();
    let holder = Some("abc".into());
    assert_eq!(error.kind(), &CriErrorKind::NameReserved { holder });

    let error = runtime.runtime_config().await.unwrap_err();
    assert!(error.is_unimplemented(), "{error}");

    // An answer that is no answer.
    let config = v1::PodSandboxConfig::default();
    let error = runtime
        .run_pod_sandbox(config, String::new())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "RunPodSandbox: the runtime's answer has no sandbox id"
    );
    let images = connection.images();
    let none = images.image_status(v1::ImageSpec::default()).await;
    assert_eq!(none.unwrap(), None);
}

#[tokio::test]
async fn answers_up_to_the_limit_are_taken() {
    const LIMIT: usize = 16 * 1024 * 1024;
    let script = Script::default();
    let runtime = in_memory(&script, ConnectOptions::default()).runtime();
    let forever = Duration::ZERO;
    // Beside the bytes themselves the message has a tag and a length of four bytes.
    let fits = LIMIT - 5;
    let output = runtime
        .exec_sync("x", vec![fits.to_string()], forever)
        .await;
    assert_eq!(output.unwrap().stdout.len(), fits);
    let above = (fits + 1).to_string();
    let error = runtime
        .exec_sync("x", vec![above], forever)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &CriErrorKind::ResourceExhausted, "{error}");
}

#[tokio::test]
async fn the_runtime_may_come_go_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let endpoint = format!("unix://{}", socket.display());
    let connection = Connection::connect(&endpoint, ConnectOptions::default()).unwrap();
    let runtime = connection.runtime();
    let script = Script::default();

    let error = runtime.version().await.unwrap_err();
    assert!(error.is_unavailable());
    assert!(!error.outcome_unknown(), "it was never sent");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("Version: cannot connect to {endpoint}: ")),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
    assert!(connection.next_attempt_in() > Duration::ZERO);

    let server = Running::start(&socket, &script);
    eventually_answers(&connection).await;
    assert_eq!(connection.next_attempt_in(), Duration::ZERO);

    // It goes in the middle of a call.
    let hanging = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.start_container("hang").await }
    });
    while !script
        .seen
        .lock()
        .unwrap()
        .iter()
        .any(|(m, _)| *m == "StartContainer")
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop().await;
    let error = hanging.await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.outcome_unknown(), "it was sent");
    let error = runtime.version().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");

    let server = Running::start(&socket, &script);
    eventually_answers(&connection).await;
    server.stop().await;
}

async fn eventually_answers(connection: &Connection) {
    let runtime = connection.runtime();
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, async {
        while runtime.version().await.is_err() {
            tokio::time::sleep(connection.next_attempt_in()).await;
        }
    })
    .await
    .expect("the connection repairs itself");
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_lie_ever_further_apart() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dials);
    let connection = Connection::with_dialer("nowhere", ConnectOptions::default(), move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Err::<tokio::io::DuplexStream, _>(std::io::ErrorKind::ConnectionRefused.into()) }
    });
    let runtime = connection.runtime();
    let mut pauses = Vec::new();
    for attempt in 1..=8 {
        // Many calls, one attempt.
        for _ in 0..5 {
            assert!(runtime.version().await.unwrap_err().is_unavailable());
        }
        assert_eq!(dials.load(Ordering::SeqCst), attempt);
        pauses.push(connection.next_attempt_in().as_millis());
        tokio::time::sleep(connection.next_attempt_in()).await;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3000, 3000, 3000]);
}

#[tokio::test]
async fn events_open_with_the_first_look() {
    let script = Script::default();
    let runtime = in_memory(&script, ConnectOptions::default()).runtime();

    let mut none = runtime.container_events();
    assert!(none.next().await.unwrap_err().is_unimplemented());
    assert_eq!(none.next().await.unwrap(), None, "it has ended");

    let (sender, receiver) = mpsc::channel(4);
    *script.events.lock().unwrap() = Some(receiver);
    let mut events = runtime.container_events();
    // Given up while waiting, and asked again: nothing is lost.
    let patience = Duration::from_millis(20);
    assert!(tokio::time::timeout(patience, events.next()).await.is_err());
    let event = v1::ContainerEventResponse {
        container_id: "c1".into(),
        ..Default::default()
    };
    sender.send(Ok(event.clone())).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(event));
    let gone = Status::new(Code::Unknown, "event channel closed");
    sender.send(Err(gone)).await.unwrap();
    let error = events.next().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "GetContainerEvents: event channel closed"
    );
    assert_eq!(events.next().await.unwrap(), None);
}
