//! A runtime of a few answers, and pods to go with it, for the tests of handlers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use cri_proto::{CriError, v1};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::StreamRuntime;
use crate::pod::PodUid;
use crate::runtime::{ContainerId, SandboxId};
use crate::server::PodsView;

/// A runtime in which the container `c` of the pod `u1` runs as `id1`.
#[derive(Clone)]
pub(in crate::server) struct Fake {
    /// What streams are at.
    pub(in crate::server) address: String,
    /// What it says instead.
    pub(in crate::server) error: Option<CriError>,
    pub(in crate::server) log: String,
    pub(in crate::server) output: v1::ExecSyncResponse,
    /// True once the container has ended.
    pub(in crate::server) ended: watch::Sender<bool>,
    /// What it was asked.
    pub(in crate::server) asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(in crate::server) fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            error: None,
            log: String::new(),
            output: v1::ExecSyncResponse::default(),
            ended: watch::Sender::new(false),
            asked: Arc::default(),
        }
    }

    pub(in crate::server) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, question: String) -> Result<String, CriError> {
        self.asked.lock().unwrap().push(question);
        match &self.error {
            Some(error) => Err(error.clone()),
            None => Ok(self.address.clone()),
        }
    }
}

impl StreamRuntime for Fake {
    async fn running(&self, pod: &PodUid, name: &str) -> Result<Option<ContainerId>, CriError> {
        Ok((pod.as_str() == "u1" && name == "c").then(|| "id1".into()))
    }

    async fn sandbox(&self, pod: &PodUid) -> Result<Option<SandboxId>, CriError> {
        Ok((pod.as_str() == "u1").then(|| "sandbox1".into()))
    }

    async fn log_path(&self, container: &ContainerId) -> Result<String, CriError> {
        self.answer(format!("log {container}"))?;
        Ok(self.log.clone())
    }

    fn ended(&self, _: &PodUid, _: &ContainerId) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.subscribe();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    async fn exec(&self, message: v1::ExecRequest) -> Result<String, CriError> {
        self.answer(format!("{message:?}"))
    }

    async fn attach(&self, message: v1::AttachRequest) -> Result<String, CriError> {
        self.answer(format!("{message:?}"))
    }

    async fn port_forward(&self, message: v1::PortForwardRequest) -> Result<String, CriError> {
        self.answer(format!("{message:?}"))
    }

    async fn run(
        &self,
        container: &ContainerId,
        command: Vec<String>,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        self.answer(format!("{container} {command:?}"))?;
        Ok(self.output.clone())
    }

    async fn checkpoint(
        &self,
        container: &ContainerId,
        location: String,
        timeout: Duration,
    ) -> Result<(), CriError> {
        let question = format!("{container} to {location} in {timeout:?}");
        self.answer(question).map(drop)
    }
}

/// Pods with the status that they have.
pub(in crate::server) struct Pods(pub(in crate::server) Vec<Arc<Pod>>);

impl PodsView for Pods {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.0.clone()
    }

    fn status(&self, _: &Pod) -> Option<PodStatus> {
        None
    }
}

/// The pods `ns/web` (`u1`), with the containers `c`, which runs, and `d`, and `ns/idle` (`u2`) with a `c` that waits.
pub(in crate::server) fn pods() -> Arc<dyn PodsView> {
    let pod = |pod: serde_json::Value| Arc::new(serde_json::from_value::<Pod>(pod).unwrap());
    let running = |name: &str| {
        let id = format!("containerd://{name}-id");
        json!({
            "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": id, "state": {"running": {}},
        })
    };
    Arc::new(Pods(vec![
        pod(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1"},
            "spec": {"containers": [{"name": "c", "tty": true}, {"name": "d"}]},
            "status": {"containerStatuses": [running("c"), running("d")]},
        })),
        pod(json!({
            "metadata": {"name": "idle", "namespace": "ns", "uid": "u2"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating"}},
            }]},
        })),
    ]))
}

/// Serves `routes` as a [`crate::server::Server`] does.
pub(in crate::server) async fn serve(routes: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(routes.clone());
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    address
}

/// Sends one request with these headers, lines each, and takes what comes until the end of the head.
pub(in crate::server) async fn request(
    address: SocketAddr,
    line: &str,
    headers: &str,
) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: node\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    (stream, head)
}

/// The head of a message, in small letters.
pub(in crate::server) async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

/// One whole answer: its status line and headers, and the body as it comes.
pub(in crate::server) async fn ask(address: SocketAddr, line: &str) -> (String, String) {
    let (mut stream, head) = request(address, line, "Connection: close\r\n").await;
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    (head, body)
}
