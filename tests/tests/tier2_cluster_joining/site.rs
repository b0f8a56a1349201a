//! A machine that joins and leaves by the binary itself, and what it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::agent::NODE_NAME;
use tests::cluster::{CLIENT_SIGNER, Cluster};
use tests::in_process::FakeNode;
use tests::wait::eventually;

pub(super) const TOKEN: &str = "abcdef.0123456789abcdef";
/// How long anything may take that another process does, on a machine busy with builds.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A machine with a directory in place of /, and a cluster that it may join.
pub(super) struct Site<'n> {
    pub(super) node: &'n FakeNode,
    pub(super) cluster: Cluster,
    root: PathBuf,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) text: String,
}

/// A command that runs; it is killed when it is dropped.
pub(super) struct Running {
    pub(super) child: Child,
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
    pub(super) fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    pub(super) async fn ended(mut self) -> Result<Ended> {
        let output = self.output.clone();
        let said = || fs::read_to_string(&output).unwrap_or_default();
        let status = eventually("it ends", LIMIT, async || {
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
    pub(super) async fn new(node: &'n FakeNode) -> Result<Self> {
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

    pub(super) fn run(&self, arguments: &[String]) -> Result<Running> {
        let binary = tests::profile_dir()?.join("kubelet");
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
    pub(super) fn join(&self, token: &str, pin: &str, more: &[&str]) -> Result<Running> {
        let at = self.cluster.line.address().to_string();
        self.join_at(&at, token, pin, more)
    }

    pub(super) fn join_at(
        &self,
        at: &str,
        token: &str,
        pin: &str,
        more: &[&str],
    ) -> Result<Running> {
        let own = [
            "join",
            at,
            "--token",
            token,
            "--discovery-token-ca-cert-hash",
            pin,
            "--node-name",
            NODE_NAME,
            super::IGNORED,
        ];
        let arguments: Vec<String> = own
            .iter()
            .chain(more)
            .map(|&word| word.to_owned())
            .collect();
        self.run(&arguments)
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Files with what is in them, links with where they lead.
    pub(super) fn files(&self) -> Result<BTreeMap<PathBuf, String>> {
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
    pub(super) fn traces(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut files = self.files()?;
        let traces = ["/etc/", "/pki/", "config.yaml", ".env", "join.json"];
        files.retain(|path, _| {
            let path = path.display().to_string();
            traces.iter().any(|trace| path.contains(trace)) && !path.contains("/pods/")
        });
        Ok(files)
    }

    /// The agent in this process: of its own, or as the join has said.
    pub(super) fn start_agent(&self, joined: bool) -> Result<()> {
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

    pub(super) async fn request(&self) -> Result<Value> {
        eventually("a certificate request", LIMIT, async || {
            let mut undecided = self.cluster.undecided().await?;
            undecided.retain(|one| one["spec"]["signerName"] == CLIENT_SIGNER);
            undecided.pop().context("none")
        })
        .await
    }

    /// The container of the static pod that runs.
    pub(super) fn instance(&self) -> Result<String> {
        let running = self.node.running_now("s/main");
        ensure!(running.len() == 1, "{} instances", running.len());
        Ok(running[0].id.clone())
    }
}
