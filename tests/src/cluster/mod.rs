//! A cluster for one test: the API server's double, or the real kube-apiserver and etcd.
//!
//! Owns: the server, the [`Line`] that agents reach it by, the [`Authority`] of all certificates, and a [`Client`] with
//! every right, which goes round the line. When `KUBEBUILDER_ASSETS` names a directory with `kube-apiserver` and `etcd`
//! in it, as for Go's envtest, the server is that; otherwise it is the double, and standard error says so. What only the
//! double can do, faults of single requests and expiry on order, a test asks for by [`Cluster::double`].
//!
//! Tasks: a thread with a tokio runtime of its own for the line and the double, so that a test which waits for a thread
//! holds up nobody's requests.
//!
//! Does not: run controllers. Certificate requests are approved and signed by the test ([`Cluster::sign`]).

mod authority;
mod bridge;
mod claims;
mod client;
mod control_plane;
mod invitation;
pub(crate) mod line;
mod on_node;
mod signer;
mod site;
mod waits;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Once, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use self::control_plane::{ControlPlane, Place};
use self::line::on_thread;
use crate::apiserver::{ApiServer, Request, bootstrap_secret};
use crate::in_process::{FakeNode, with_node};
use crate::wait::eventually;

pub use authority::{Authority, Pair, Requested, request_certificate};
pub use bridge::Bridge;
pub use client::{Client, Refused, path, refusal};
pub use invitation::pin;
pub use line::Line;
pub use on_node::{API_SERVER, KubectlProcess, NodeCluster, Ran, kubectl_assets};
pub use signer::{CLIENT_SIGNER, SERVING_SIGNER};
pub use site::{Ended, IGNORED, PATIENCE, Running, Site, TOKEN};
pub use waits::{LIMIT, bound_pod, is_ready};

/// Where the binaries of a real control plane are (the convention of Go's envtest).
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// How long certificates are valid that nobody wants otherwise.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the server may take for what it makes by itself when it starts.
const FOUNDED: Duration = Duration::from_secs(30);

/// Two real control planes at a time are too many for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
static SAID: Once = Once::new();
/// Held to write by who wants no other joined agent in the process.
static ALONE: RwLock<()> = RwLock::new(());

/// A cluster; see the module. Dropping it ends everything of it.
pub struct Cluster {
    /// The way by which agents reach the server.
    pub line: Line,
    /// The authority of all certificates.
    pub authority: Authority,
    client: Client,
    server: Server,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

enum Server {
    Double(ApiServer),
    Real(
        ControlPlane,
        #[expect(dead_code, reason = "held until the processes are gone")] MutexGuard<'static, ()>,
    ),
}

/// Runs `test` on a node that is joined to a cluster of its own and has no agent yet. All agents of a process record their
/// events into one place, and each tells all of them: who counts events runs [`with_cluster_alone`].
///
/// # Panics
/// When `test` fails; with the last requests, the end of the agent's log and the runtime's calls.
pub fn with_cluster(test: impl AsyncFnOnce(&Cluster, &FakeNode) -> Result<()>) {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    on_cluster(test);
}

/// As [`with_cluster`], while no other agent of a cluster runs in this process.
///
/// # Panics
/// As [`with_cluster`].
pub fn with_cluster_alone(test: impl AsyncFnOnce(&Cluster, &FakeNode) -> Result<()>) {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    on_cluster(test);
}

fn on_cluster(test: impl AsyncFnOnce(&Cluster, &FakeNode) -> Result<()>) {
    with_node(async |node| {
        let cluster = Cluster::start().await?;
        cluster.join(node)?;
        let done = test(&cluster, node).await;
        done.with_context(|| cluster.describe_requests())
    });
}

/// As [`with_cluster`], on the double alone: for what a real server does not do on order.
///
/// # Panics
/// As [`with_cluster`].
pub fn with_double(test: impl AsyncFnOnce(&Cluster, &ApiServer, &FakeNode) -> Result<()>) {
    let _beside_others = ALONE.read().unwrap_or_else(PoisonError::into_inner);
    with_node(async |node| {
        let cluster = Cluster::with_double().await?;
        cluster.join(node)?;
        let double = cluster.double().context("a double")?;
        let done = test(&cluster, double, node).await;
        done.with_context(|| cluster.describe_requests())
    });
}

impl Cluster {
    /// Starts one: real if `KUBEBUILDER_ASSETS` is set.
    ///
    /// # Errors
    /// When the server does not start.
    pub async fn start() -> Result<Self> {
        let assets = std::env::var_os(ASSETS_VARIABLE).filter(|value| !value.is_empty());
        match assets {
            Some(directory) => Self::with_real(Path::new(&directory)).await,
            None => {
                SAID.call_once(|| {
                    eprintln!(
                        "{ASSETS_VARIABLE} is not set: these tests ran against the API server's double only"
                    );
                });
                Self::with_double().await
            }
        }
    }

    /// Starts one with the double.
    ///
    /// # Errors
    /// When a port or a certificate cannot be had.
    pub async fn with_double() -> Result<Self> {
        let authority = Authority::new()?;
        let pair = authority.server(&SERVER_NAMES)?;
        let tls = authority.server_tls(&pair)?;
        let certificate = authority.certificate();
        let (line, server, stop, thread) = on_thread(None, async move |line: &Line| {
            let url = format!("https://{}", line.address());
            let server = ApiServer::start(url, certificate, tls).await?;
            line.lead_to(server.address());
            Ok(server)
        })?;
        let address = server.address();
        let cluster = Self {
            client: admin(&authority, address)?,
            line,
            authority,
            server: Server::Double(server),
            directory: directory()?,
            stop: Some(stop),
            thread: Some(thread),
        };
        cluster.found().await?;
        Ok(cluster)
    }

    /// Starts one with the kube-apiserver and the etcd of `assets`.
    ///
    /// # Errors
    /// When they do not start.
    pub async fn with_real(assets: &Path) -> Result<Self> {
        let guard = ONE_AT_A_TIME.lock().await;
        let authority = Authority::new()?;
        let directory = directory()?;
        let pair = authority.server(&SERVER_NAMES)?;
        let control_plane =
            ControlPlane::start(assets, directory.path(), &authority, &pair, Place::Machine)?;
        let address = control_plane.address();
        let (line, (), stop, thread) = on_thread(None, async move |line: &Line| {
            line.lead_to(address);
            Ok(())
        })?;
        let client = admin(&authority, address)?;
        control_plane.ready(&client).await?;
        let cluster = Self {
            client,
            line,
            authority,
            server: Server::Real(control_plane, guard),
            directory,
            stop: Some(stop),
            thread: Some(thread),
        };
        cluster.found().await?;
        cluster.bind_bootstrappers().await?;
        Ok(cluster)
    }

    /// What controllers would make, so that pods can be created.
    async fn found(&self) -> Result<()> {
        eventually("there are namespaces", FOUNDED, async || {
            for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                self.client.get(&path("namespaces", "", namespace)).await?;
            }
            Ok(())
        })
        .await?;
        for namespace in ["default", "kube-system"] {
            self.furnish(namespace).await?;
        }
        Ok(())
    }

    /// The service account and the configMap that controllers put into each namespace.
    async fn furnish(&self, namespace: &str) -> Result<()> {
        let account = json!({ "metadata": { "name": "default" } });
        let accounts = path("serviceaccounts", namespace, "");
        self.client.create(&accounts, &account).await?;
        let root = json!({
            "metadata": { "name": "kube-root-ca.crt" },
            "data": { "ca.crt": self.authority.certificate() },
        });
        let maps = path("configmaps", namespace, "");
        self.client.create(&maps, &root).await.map(drop)
    }

    /// Makes a namespace, with what controllers put into one.
    ///
    /// # Errors
    /// When there is one of this name.
    pub async fn add_namespace(&self, name: &str) -> Result<()> {
        let object = json!({ "metadata": { "name": name } });
        self.client
            .create(&path("namespaces", "", ""), &object)
            .await?;
        self.furnish(name).await
    }

    /// The role binding that kubeadm makes for joining nodes.
    async fn bind_bootstrappers(&self) -> Result<()> {
        let binding = json!({
            "metadata": { "name": "kubeadm:kubelet-bootstrap" },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "system:node-bootstrapper",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Group",
                "name": "system:bootstrappers",
            }],
        });
        let bindings = path("clusterrolebindings", "", "");
        self.client.create(&bindings, &binding).await.map(drop)
    }

    /// A client with every right, which the line's state does not touch.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client that is this user, of this group, by its certificate.
    ///
    /// # Errors
    /// When there can be no such certificate.
    pub fn client_as(&self, user: &str, group: &str) -> Result<Client> {
        let pair = self.authority.client(user, group, YEAR)?;
        let tls = self.authority.client_tls(Some(&pair))?;
        Ok(Client::new(self.client.address(), tls))
    }

    /// A client with a bearer token, and no certificate.
    ///
    /// # Errors
    /// When rustls does not want the authority.
    pub fn client_with(&self, token: &str) -> Result<Client> {
        let tls = self.authority.client_tls(None)?;
        Ok(Client::new(self.client.address(), tls).with_token(token))
    }

    /// The double, when it is one.
    #[must_use]
    pub fn double(&self) -> Option<&ApiServer> {
        match &self.server {
            Server::Double(server) => Some(server),
            Server::Real(..) => None,
        }
    }

    /// Every request so far but those of the server itself: the double's log, or the real one's audit log.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        match &self.server {
            Server::Double(server) => Ok(server.requests()),
            Server::Real(control_plane, _) => control_plane.requests(),
        }
    }

    fn describe_requests(&self) -> String {
        let requests = self.requests().unwrap_or_default();
        let last = requests[requests.len().saturating_sub(60)..].iter();
        let last = last.map(|request| {
            let code = request.code.map_or("-".to_owned(), |code| code.to_string());
            format!(
                "{} {code} {} {} {} {}",
                request.at, request.user, request.verb, request.path, request.query
            )
        });
        let last: Vec<String> = last.collect();
        format!(
            "of {} requests, the last:\n{}",
            requests.len(),
            last.join("\n")
        )
    }
}

/// Kubeconfigs.
impl Cluster {
    /// A kubeconfig by which agents reach the server, for a user as `users[].user` has it.
    #[must_use]
    pub fn kubeconfig(&self, user: &Value) -> Value {
        kubeconfig(self.line.address(), &self.authority, user)
    }

    /// Writes the kubeconfig of a node, with its certificate and key in one file beside it as upstream has them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn node_kubeconfig(&self, node: &str, directory: &Path) -> Result<PathBuf> {
        node_kubeconfig(self.line.address(), &self.authority, node, directory)
    }

    /// Makes a bootstrap token (`id.secret`, of 6 and 16 letters) and writes a kubeconfig with it.
    ///
    /// # Errors
    /// When the server does not take it, or the file cannot be written.
    pub async fn bootstrap_kubeconfig(&self, token: &str, directory: &Path) -> Result<PathBuf> {
        let secrets = path("secrets", "kube-system", "");
        self.client
            .create(&secrets, &bootstrap_secret(token))
            .await?;
        let file = directory.join("bootstrap-kubelet.conf");
        private(
            &file,
            &self.kubeconfig(&json!({ "token": token })).to_string(),
        )?;
        Ok(file)
    }

    /// Gives agents of this node a kubeconfig of a member.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn join(&self, node: &FakeNode) -> Result<()> {
        let file = self.node_kubeconfig(crate::agent::NODE_NAME, &node.path(""))?;
        node.set_flag("--kubeconfig", &file.display().to_string());
        // How full the machine's disk is, is no affair of these tests.
        let thresholds = json!({ "memory.available": "1Mi", "nodefs.available": "1Mi" });
        node.configure("evictionHard", thresholds);
        Ok(())
    }

    /// The directory of the server's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics that a test would not have seen.
            let _ = thread.join();
        }
    }
}

/// Names and addresses that the server's certificate is for.
const SERVER_NAMES: [&str; 5] = [
    "127.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
];

fn kubeconfig(server: SocketAddr, authority: &Authority, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default-cluster", "cluster": {
            "server": format!("https://{server}"),
            "certificate-authority-data": STANDARD.encode(authority.certificate()),
        } }],
        "users": [{ "name": "default-auth", "user": user }],
        "contexts": [{ "name": "default-context", "context": {
            "cluster": "default-cluster", "user": "default-auth",
        } }],
        "current-context": "default-context",
    })
}

fn node_kubeconfig(
    server: SocketAddr,
    authority: &Authority,
    node: &str,
    directory: &Path,
) -> Result<PathBuf> {
    let user = format!("system:node:{node}");
    let pair = authority.client(&user, "system:nodes", YEAR)?;
    let pem = directory.join("node.pem");
    private(&pem, &format!("{}{}", pair.certificate(), pair.key()))?;
    let user = json!({ "client-certificate": pem, "client-key": pem });
    let file = directory.join("kubelet.conf");
    private(&file, &kubeconfig(server, authority, &user).to_string())?;
    Ok(file)
}

fn directory() -> Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("cluster-").tempdir();
    made.context("a directory for the cluster")
}

/// Writes a file that nobody else reads.
fn private(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", file.display()))
}

fn admin(authority: &Authority, address: SocketAddr) -> Result<Client> {
    let pair = authority.client("admin", "system:masters", YEAR)?;
    Ok(Client::new(address, authority.client_tls(Some(&pair))?))
}
