//! A registry of a private node: Debian's `docker-registry` on loopback, with TLS and passwords, and a way to it that breaks
//! on order.
//!
//! Owns: the registry's process and its files in the node's directory, a [`Line`] in the node's network namespace, what
//! containerd is told of two hosts that are the registry: [`HOST`] by the line, [`DIRECT`] round it. Outputs: images that
//! the tests put in, the credentials that it takes.
//! Tasks: a thread with a tokio runtime of its own for the line, so that a test which waits for a command holds up nobody.

mod store;

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::cluster::line::on_thread;
use crate::cluster::{Authority, Line};
use crate::containerd::Node;
use crate::images::Parts;
use crate::wait::eventually;
use store::Store;

/// The registry's host in the names of images, by the line.
pub const HOST: &str = "registry.test";
/// Its host round the line.
pub const DIRECT: &str = "direct.test";
/// Who may pull.
pub const USER: &str = "puller";
/// Their password.
pub const PASSWORD: &str = "opensesame";
/// [`PASSWORD`] as htpasswd has it (bcrypt, the only form that the registry takes).
const HASHED: &str = "$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi";

const PROGRAM: &str = "docker-registry";
/// Where it listens in the node's network namespace.
const ADDRESS: &str = "127.0.0.1:5000";
/// How long it may take to serve, on a machine busy with a build.
const START: Duration = Duration::from_secs(30);

/// A registry. See the module.
pub struct Registry<'n> {
    node: &'n Node,
    process: Mutex<Option<Child>>,
    store: Store,
    line: Line,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<'n> Registry<'n> {
    /// Starts one without images, and tells the node's containerd of it.
    ///
    /// # Errors
    /// When the program is missing (`tests/install.sh` installs it) or does not serve.
    pub async fn start(node: &'n Node) -> Result<Self> {
        let backend: SocketAddr = ADDRESS.parse()?;
        let lead = async move |line: &Line| {
            line.lead_to(backend);
            Ok(())
        };
        let (line, (), stop, thread) = on_thread(Some(node.netns()), lead)?;
        let directory = node.path("registry");
        fs::create_dir(&directory).context("the registry's directory")?;
        let registry = Self {
            node,
            process: Mutex::new(None),
            store: Store::new(&directory.join("storage")),
            line,
            stop: Some(stop),
            thread: Some(thread),
        };
        let authority = Authority::new()?;
        let pair = authority.server(&["127.0.0.1"])?;
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        let config = json!({
            "version": 0.1,
            "log": { "level": "info" },
            "storage": {
                "filesystem": { "rootdirectory": directory.join("storage") },
                "maintenance": { "uploadpurging": { "enabled": false } },
            },
            "http": {
                "addr": ADDRESS,
                "tls": {
                    "certificate": file("tls.crt", &pair.certificate())?,
                    "key": file("tls.key", &pair.key())?,
                },
            },
            "auth": { "htpasswd": {
                "realm": "test",
                "path": file("htpasswd", &format!("{USER}:{HASHED}\n"))?,
            } },
        });
        file("config.yml", &config.to_string())?;
        let ca = file("ca.crt", &authority.certificate())?;
        for (host, address) in [(HOST, registry.line.address()), (DIRECT, backend)] {
            let told = node.path("certs.d").join(host);
            fs::create_dir_all(&told).context("a directory of containerd's hosts")?;
            let text = format!(
                "server = \"https://{address}\"\n[host.\"https://{address}\"]\nca = \"{}\"\n",
                ca.display()
            );
            fs::write(told.join("hosts.toml"), text).context("write hosts.toml")?;
        }
        registry.serve().await?;
        Ok(registry)
    }

    /// Starts its process, which does not run.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub async fn serve(&self) -> Result<()> {
        let node = self.node;
        {
            let mut process = self.process();
            ensure!(process.is_none(), "the registry runs already");
            let child = node
                .command(PROGRAM)
                .arg("serve")
                .arg(node.path("registry/config.yml"))
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdin(Stdio::null())
                .stdout(node.log("registry.log")?)
                .stderr(node.log("registry.log")?)
                .spawn()
                .context("start docker-registry (package docker-registry)")?;
            *process = Some(child);
        }
        // Asked without TLS it says so, once it listens.
        let answers = async || node.http_get(ADDRESS, "/").map(drop);
        eventually("the registry serves", START, answers)
            .await
            .with_context(|| node.log_tail("registry.log"))
    }

    /// Kills its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.process().take().context("the registry does not run")?;
        child.kill().context("kill the registry")?;
        child.wait().context("wait for the registry").map(drop)
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to it as [`HOST`].
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Puts an image in, as `repository:tag`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn put(&self, repository: &str, tag: &str, image: &Parts) -> Result<()> {
        self.store.put(repository, tag, image)
    }

    /// Has it give other bytes for a digest, as many as there were; tells those that there were.
    ///
    /// # Errors
    /// When it has none of that digest.
    pub fn spoil(&self, digest: &str) -> Result<Vec<u8>> {
        self.store.spoil(digest)
    }

    /// Has it give these bytes for a digest.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn mend(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        self.store.write_blob(digest, bytes)
    }

    /// How often it was asked for something whose path has `word` in it.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn asked(&self, word: &str) -> Result<usize> {
        let log = fs::read_to_string(self.node.path("registry.log")).context("read its log")?;
        let requests = log
            .lines()
            .filter(|line| line.contains("\" HTTP/") || line.contains(" HTTP/1.1\""));
        Ok(requests.filter(|line| line.contains(word)).count())
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.node.log_tail("registry.log"));
        }
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics that a test would not have seen.
            let _ = thread.join();
        }
    }
}

/// A docker configuration with this password of [`USER`] at both hosts.
#[must_use]
pub fn docker_config(password: &str) -> Value {
    let entry = json!({ "auth": STANDARD.encode(format!("{USER}:{password}")) });
    json!({ "auths": { (HOST): entry, (DIRECT): entry } })
}

/// A Secret with the docker configuration of this password, as a manifest has it.
#[must_use]
pub fn pull_secret(name: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": "default" },
        "type": "kubernetes.io/dockerconfigjson",
        "data": { ".dockerconfigjson": STANDARD.encode(docker_config(password).to_string()) },
    })
}
