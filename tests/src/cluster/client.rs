//! A client for tests: one request a connection, or many changes of one object, as a user with a certificate, JSON in and
//! out.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::{Body, to_bytes};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::codegen::http::{Request, header};

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// No answer of a test is larger.
const LARGEST: usize = 64 << 20;

const MERGE: &str = "application/merge-patch+json";

/// A connection, which ends when it is dropped.
struct Connection {
    sender: SendRequest<Body>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for an answer for as long as one may take.
async fn answered<T>(exchange: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(TIMEOUT, exchange).await;
    answer
        .context("no answer in time")
        .and_then(|answer| answer)
}

/// What the server says, unless it refuses.
fn accepted((code, text): (u16, Vec<u8>)) -> Result<Value> {
    let status = serde_json::from_slice(&text)
        .unwrap_or_else(|_| json!({ "message": String::from_utf8_lossy(&text) }));
    match code {
        ..300 => Ok(status),
        _ => Err(Refused { code, status }.into()),
    }
}

/// A client; see the module.
pub struct Client {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    token: Option<String>,
}

/// An answer that is a refusal.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status code.
    pub code: u16,
    /// The `Status` object, or what came in its place.
    pub status: Value,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.status["message"].as_str().unwrap_or_default();
        write!(f, "{}: {message}", self.code)
    }
}

impl std::error::Error for Refused {}

/// The code of a refusal; none for anything else.
#[must_use]
pub fn refusal(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.code)
}

/// The path of an object, or of all of a kind when `name` is empty; of all namespaces when `namespace` is.
#[must_use]
pub fn path(plural: &str, namespace: &str, name: &str) -> String {
    let group = match plural {
        "leases" => "/apis/coordination.k8s.io/v1",
        "runtimeclasses" => "/apis/node.k8s.io/v1",
        "certificatesigningrequests" => "/apis/certificates.k8s.io/v1",
        "clustertrustbundles" | "podcertificaterequests" => "/apis/certificates.k8s.io/v1beta1",
        "clusterroles" | "clusterrolebindings" => "/apis/rbac.authorization.k8s.io/v1",
        "csinodes" | "csidrivers" | "volumeattachments" => "/apis/storage.k8s.io/v1",
        _ => "/api/v1",
    };
    let namespace = if namespace.is_empty() {
        String::new()
    } else {
        format!("/namespaces/{namespace}")
    };
    let name = if name.is_empty() {
        String::new()
    } else {
        format!("/{name}")
    };
    format!("{group}{namespace}/{plural}{name}")
}

impl Client {
    pub(super) fn new(address: SocketAddr, tls: ClientConfig) -> Self {
        Self {
            address,
            name: ServerName::IpAddress(address.ip().into()),
            tls: TlsConnector::from(Arc::new(tls)),
            token: None,
        }
    }

    /// A client of a node's API, which is believed as `name`.
    ///
    /// # Errors
    /// When no server can have that name.
    pub fn of_node(address: SocketAddr, name: &str, tls: ClientConfig) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned()).context("a server's name")?;
        Ok(Self {
            name,
            ..Self::new(address, tls)
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same with a bearer token.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self
        }
    }

    /// What a watch has to say within some seconds: `type` and `object` of each event.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn watch(&self, path: &str, query: &str, seconds: u64) -> Result<Vec<Value>> {
        let path = format!("{path}?watch=true&timeoutSeconds={seconds}&{query}");
        let (code, text) = self
            .exchange("GET", &path, "application/json", None)
            .await?;
        let lines: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&text)
            .into_iter()
            .collect();
        let lines = lines.with_context(|| format!("events of {path}"))?;
        if code < 300 {
            return Ok(lines);
        }
        let status = lines.into_iter().next().unwrap_or_default();
        Err(Refused { code, status }.into())
    }

    /// One request, and the body of its answer.
    ///
    /// # Errors
    /// [`Refused`] with what the server says, or why there is no answer.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        let exchange = self.exchange(method, path, content_type, body);
        answered(exchange)
            .await
            .with_context(|| format!("{method} {path}"))
            .and_then(accepted)
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>)> {
        let mut connection = self.connect().await?;
        self.send(&mut connection, method, path, content_type, body)
            .await
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        let handshake = self.tls.connect(self.name.clone(), stream);
        let stream = handshake.await.context("TLS")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(connection).abort_handle();
        Ok(Connection { sender, task })
    }

    async fn send(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>)> {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "tests");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let sender = &mut connection.sender;
        sender.ready().await?;
        let answer = sender.send_request(request.body(body)?).await?;
        let code = answer.status().as_u16();
        let text = to_bytes(Body::new(answer.into_body()), LARGEST).await?;
        Ok((code, text.to_vec()))
    }

    /// An object, or a list.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, "application/json", None).await
    }

    /// Makes an object; `path` is that of all of its kind.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.request("POST", path, "application/json", Some(object))
            .await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.request("PUT", path, "application/json", Some(object))
            .await
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.request("PATCH", path, MERGE, Some(patch)).await
    }

    /// Changes an object by many merge patches, one after another and over one connection: a handshake takes several times as
    /// long as a change.
    ///
    /// # Errors
    /// As [`Client::request`]; the patches after that one are not sent.
    pub async fn merge_all(
        &self,
        path: &str,
        patches: impl IntoIterator<Item = Value>,
    ) -> Result<()> {
        let mut connection = self.connect().await?;
        for patch in patches {
            let sent = self.send(&mut connection, "PATCH", path, MERGE, Some(&patch));
            let done = answered(sent).await.and_then(accepted);
            done.with_context(|| format!("PATCH {path}"))?;
        }
        Ok(())
    }

    /// Changes an object by a strategic merge patch.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn strategic(&self, path: &str, patch: &Value) -> Result<Value> {
        let kind = "application/strategic-merge-patch+json";
        self.request("PATCH", path, kind, Some(patch)).await
    }

    /// Deletes an object, with this grace period when there is one.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn delete(&self, path: &str, grace: Option<i64>) -> Result<Value> {
        let mut options = json!({ "kind": "DeleteOptions", "apiVersion": "v1" });
        if let Some(seconds) = grace {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        self.request("DELETE", path, "application/json", Some(&options))
            .await
    }

    async fn read<K: DeserializeOwned>(&self, path: &str) -> Result<K> {
        let value = self.get(path).await?;
        serde_json::from_value(value).with_context(|| format!("read {path}"))
    }

    /// A pod.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        self.read(&path("pods", namespace, name)).await
    }

    /// A node.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn node(&self, name: &str) -> Result<Node> {
        self.read(&path("nodes", "", name)).await
    }

    /// The lease of a node.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn lease(&self, node: &str) -> Result<Lease> {
        self.read(&path("leases", "kube-node-lease", node)).await
    }

    /// The events of a namespace.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn events(&self, namespace: &str) -> Result<Vec<Event>> {
        let list = self.get(&path("events", namespace, "")).await?;
        serde_json::from_value(list["items"].clone()).context("read events")
    }
}
