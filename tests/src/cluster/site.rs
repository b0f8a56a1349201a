//! A machine that joins a cluster by `kubelet join`, the binary itself, below a directory in place of /.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Cluster;
use super::signer::CLIENT_SIGNER;
use crate::agent::NODE_NAME;
use crate::in_process::FakeNode;
use crate::wait::eventually;

/// The token that the cluster takes.
pub const TOKEN: &str = "abcdef.0123456789abcdef";
/// How long anything may take that another process does, on a machine busy with builds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The machine that runs tests may have all of that.
pub const IGNORED: &str =
    "--ignore-preflight-errors=Port-10250,Swap,FileContent--proc-sys-net-ipv4-ip_forward";

/// A machine with a directory in place of /, and a cluster that it may join.
pub struct Site<'n> {
    /// The machine.
    pub node: &'n FakeNode,
    /// The cluster, with the double of the API server.
    pub cluster: Cluster,
    /// In place of /.
    pub root: PathBuf,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none when it was killed.
    pub code: Option<i32>,
    /// Its output, standard error with it.
    pub text: String,
}

/// A command that runs; it is killed when it is dropped.
pub struct Running {
    /// The process.
    pub child: Child,
    output: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// What it has said so far.
    #[must_use]
    pub fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(mut self) -> Result<Ended> {
        let output = self.output.clone();
        let said = || fs::read_to_string(&output).unwrap_or_default();
        let status = eventually("it ends", PATIENCE, async || {
            let ended = self.child.try_wait()?;
            ended.with_context(|| format!("it runs, and says:\n{}", said()))
        })
        .await?;
        Ok(Ended {
            code: status.code(),
            text: said(),
        })
    }
}

impl<'n> Site<'n> {
    /// With a cluster that informs whoever has the token, and settings for its nodes.
    ///
    /// # Errors
    /// When something cannot be made.
    pub async fn new(node: &'n FakeNode) -> Result<Self> {
        let cluster = Cluster::with_double().await?;
        let root = node.path("root");
        fs::create_dir_all(root.join("var/lib/kubelet"))?;
        node.configure(
            "evictionHard",
            json!({ "memory.available": "1Mi", "nodefs.available": "1Mi" }),
        );
        // As a package leaves a node of its own: the settings of the fake node, at the place of the machine's.
        node.arguments()?;
        let own = root.join("var/lib/kubelet/config.yaml");
        fs::copy(node.path("kubelet.yaml"), &own)?;
        let settings = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "enableServer": false, "healthzPort": 0, "rotateCertificates": true, "maxPods": 33,
            "clusterDNS": ["10.96.0.10"], "staticPodPath": "/etc/kubernetes/manifests",
            "shutdownGracePeriod": "0s",
        });
        cluster.invite(TOKEN, &settings).await?;
        Ok(Self {
            node,
            cluster,
            root,
        })
    }

    /// The `kubelet` binary with `arguments`, on this machine.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, arguments: &[String]) -> Result<Running> {
        let binary = crate::profile_dir()?.join("kubelet");
        ensure!(
            binary.is_file(),
            "cargo build --workspace makes {}",
            binary.display()
        );
        let output = self.node.path("output");
        let file = fs::File::create(&output)?;
        let child = Command::new(binary)
            .args(arguments)
            .arg(format!("--root={}", self.root.display()))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Running { child, output })
    }

    /// `kubelet join` as far as every case has it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn join(&self, token: &str, pin: &str, more: &[&str]) -> Result<Running> {
        let at = self.cluster.line.address().to_string();
        self.join_at(&at, token, pin, more)
    }

    /// As [`Site::join`], to an API server elsewhere.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn join_at(&self, at: &str, token: &str, pin: &str, more: &[&str]) -> Result<Running> {
        let own = [
            "join",
            at,
            "--token",
            token,
            "--discovery-token-ca-cert-hash",
            pin,
            "--node-name",
            NODE_NAME,
            IGNORED,
        ];
        let arguments: Vec<String> = own
            .iter()
            .chain(more)
            .map(|&word| word.to_owned())
            .collect();
        self.run(&arguments)
    }

    /// A path below the root.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Files with what is in them, links with where they lead.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                let kind = fs::symlink_metadata(&path)?.file_type();
                if kind.is_dir() {
                    open.push(path);
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path)?;
                    files.insert(path, target.display().to_string());
                } else if kind.is_file() {
                    let text = fs::read(&path)?;
                    files.insert(path, String::from_utf8_lossy(&text).into_owned());
                }
            }
        }
        Ok(files)
    }

    /// What a join writes, and what an agent writes of a cluster.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn traces(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut files = self.files()?;
        let traces = ["/etc/", "/pki/", "config.yaml", ".env", "join.json"];
        files.retain(|path, _| {
            let path = path.display().to_string();
            traces.iter().any(|trace| path.contains(trace)) && !path.contains("/pods/")
        });
        Ok(files)
    }

    /// The agent in this process: of its own, or as the join has said.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_agent(&self, joined: bool) -> Result<()> {
        let set = |flag: &str, below: &str| {
            let path = self.path(below).display().to_string();
            self.node.set_flag(flag, &path);
        };
        set("--config", "var/lib/kubelet/config.yaml");
        set("--root-dir", "var/lib/kubelet");
        set("--cert-dir", "var/lib/kubelet/pki");
        match joined {
            true => {
                set("--kubeconfig", "etc/kubernetes/kubelet.conf");
                set(
                    "--bootstrap-kubeconfig",
                    "etc/kubernetes/bootstrap-kubelet.conf",
                );
            }
            false => {
                self.node.set_flag("--kubeconfig", "");
                self.node.set_flag("--bootstrap-kubeconfig", "");
            }
        }
        self.node.start_agent()
    }

    /// A request for the node's client certificate that nobody has decided on.
    ///
    /// # Errors
    /// When none comes.
    pub async fn request(&self) -> Result<Value> {
        eventually("a certificate request", PATIENCE, async || {
            let mut undecided = self.cluster.undecided().await?;
            undecided.retain(|one| one["spec"]["signerName"] == CLIENT_SIGNER);
            undecided.pop().context("none")
        })
        .await
    }

    /// The one instance that runs of a container (`default/s-node/main`).
    ///
    /// # Errors
    /// When there is none, or there are more.
    pub fn instance(&self, container: &str) -> Result<String> {
        let running = self.node.runtime.running(container);
        ensure!(
            running.len() == 1,
            "{} instances of {container}",
            running.len()
        );
        Ok(running[0].id.clone())
    }
}
