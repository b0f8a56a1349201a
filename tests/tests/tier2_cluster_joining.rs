//! `kubelet join` and `kubelet leave`, the binary itself, against the double of the API server; every way to fail with its
//! exit status, and nothing left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::agent::NODE_NAME;
use tests::apiserver::{bootstrap_secret, cluster_info};
use tests::cluster::{Authority, CLIENT_SIGNER, Cluster, bound_pod, path};
use tests::in_process::{FakeNode, with_node};
use tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const TOKEN: &str = "abcdef.0123456789abcdef";
/// How long anything may take that another process does, on a machine busy with builds.
const LIMIT: Duration = Duration::from_secs(120);
const STATIC: &str = "# YAML\n{apiVersion: v1, kind: Pod, metadata: {name: s}, \
    spec: {containers: [{name: main, image: 'busybox:1'}]}}";

/// A machine with a directory in place of /, and a cluster that it may join.
struct Site<'n> {
    node: &'n FakeNode,
    cluster: Cluster,
    root: PathBuf,
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    text: String,
}

/// A command that runs; it is killed when it is dropped.
struct Running {
    child: Child,
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
    fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    async fn ended(mut self) -> Result<Ended> {
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

/// The digest by which a CA is pinned, by hand.
fn pin(certificate: &str) -> Result<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())?;
    let parsed = pem.parse_x509()?;
    let digest = Sha256::digest(parsed.public_key().raw);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

impl<'n> Site<'n> {
    async fn new(node: &'n FakeNode) -> Result<Self> {
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
        let site = Self {
            node,
            cluster,
            root,
        };
        site.create("secrets", "kube-system", &bootstrap_secret(TOKEN))
            .await?;
        site.inform(&[TOKEN], &site.cluster.authority.certificate())
            .await?;
        let fields = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "enableServer": false, "healthzPort": 0, "rotateCertificates": true, "maxPods": 33,
            "clusterDNS": ["10.96.0.10"], "staticPodPath": "/etc/kubernetes/manifests",
            "shutdownGracePeriod": "0s",
        });
        let map = json!({ "metadata": { "name": "kubelet-config" }, "data": { "kubelet": fields.to_string() } });
        site.create("configmaps", "kube-system", &map).await?;
        Ok(site)
    }

    async fn create(&self, plural: &str, namespace: &str, object: &Value) -> Result<()> {
        let all = path(plural, namespace, "");
        self.cluster.client().create(&all, object).await.map(drop)
    }

    /// Makes cluster-info anew, signed for `tokens`, with this CA.
    async fn inform(&self, tokens: &[&str], authority: &str) -> Result<()> {
        let one = path("configmaps", "kube-public", "cluster-info");
        // It may not be there yet.
        let _ = self.cluster.client().delete(&one, None).await;
        let url = format!("https://{}", self.cluster.line.address());
        let info = cluster_info(&url, authority, tokens);
        self.create("configmaps", "kube-public", &info).await
    }

    fn run(&self, arguments: &[String]) -> Result<Running> {
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
    fn join(&self, token: &str, pin: &str, more: &[&str]) -> Result<Running> {
        let at = self.cluster.line.address().to_string();
        self.join_at(&at, token, pin, more)
    }

    fn join_at(&self, at: &str, token: &str, pin: &str, more: &[&str]) -> Result<Running> {
        let own = [
            "join",
            at,
            "--token",
            token,
            "--discovery-token-ca-cert-hash",
            pin,
            "--node-name",
            NODE_NAME,
            // The machine that runs tests may have all of that.
            "--ignore-preflight-errors=Port-10250,Swap,FileContent--proc-sys-net-ipv4-ip_forward",
        ];
        let arguments: Vec<String> = own
            .iter()
            .chain(more)
            .map(|&word| word.to_owned())
            .collect();
        self.run(&arguments)
    }

    fn pin(&self) -> Result<String> {
        pin(&self.cluster.authority.certificate())
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// Files with what is in them, links with where they lead.
    fn files(&self) -> Result<BTreeMap<PathBuf, String>> {
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
    fn traces(&self) -> Result<BTreeMap<PathBuf, String>> {
        let mut files = self.files()?;
        let traces = ["/etc/", "/pki/", "config.yaml", ".env", "join.json"];
        files.retain(|path, _| {
            let path = path.display().to_string();
            traces.iter().any(|trace| path.contains(trace)) && !path.contains("/pods/")
        });
        Ok(files)
    }

    /// The agent in this process: of its own, or as the join has said.
    fn start_agent(&self, joined: bool) -> Result<()> {
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

    async fn request(&self) -> Result<Value> {
        eventually("a certificate request", LIMIT, async || {
            let mut undecided = self.cluster.undecided().await?;
            undecided.retain(|one| one["spec"]["signerName"] == CLIENT_SIGNER);
            undecided.pop().context("none")
        })
        .await
    }

    /// The container of the static pod that runs.
    fn instance(&self) -> Result<String> {
        let running = self.node.running_now("s/main");
        ensure!(running.len() == 1, "{} instances", running.len());
        Ok(running[0].id.clone())
    }
}

fn mode(file: &Path) -> Result<u32> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.permissions().mode() & 0o7777)
}

#[test]
fn a_node_of_its_own_joins_runs_a_pod_and_leaves_and_its_static_pod_runs_on() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        node.put("s.yaml", STATIC)?;
        site.start_agent(false)?;
        node.ready("s").await?;
        let instance = site.instance()?;
        node.kill_agent()?;
        let before = site.traces()?;

        let joined = site.join(TOKEN, &site.pin()?, &[])?.ended().await?;
        ensure!(joined.code == Some(0), "{joined:?}");
        ensure!(
            joined.text.contains("kubelet --bootstrap-kubeconfig="),
            "{joined:?}"
        );
        ensure!(!joined.text.contains("0123456789abcdef"), "{joined:?}");
        let ca = fs::read_to_string(site.path("etc/kubernetes/pki/ca.crt"))?;
        ensure!(ca == site.cluster.authority.certificate(), "{ca}");
        let bootstrap = site.path("etc/kubernetes/bootstrap-kubelet.conf");
        ensure!(mode(&bootstrap)? == 0o600, "{:o}", mode(&bootstrap)?);
        ensure!(mode(&site.path("var/lib/kubelet/join.json"))? == 0o600);
        let config = fs::read_to_string(site.path("var/lib/kubelet/config.yaml"))?;
        let manifests = node.path("manifests").display().to_string();
        for own in [
            "10.96.0.10",
            "maxPods: 33",
            &manifests,
            node.runtime.endpoint(),
        ] {
            ensure!(config.contains(own), "no {own} in\n{config}");
        }

        site.start_agent(true)?;
        site.cluster.sign(&site.request().await?).await?;
        site.cluster.node_condition("Ready", "True").await?;
        node.ready("s").await?;
        ensure!(
            site.instance()? == instance,
            "the static pod was started anew"
        );
        site.cluster.add(&bound_pod("a")).await?;
        let pod = site.cluster.ready("a").await?;
        site.cluster.delete_pod("a", None).await?;
        site.cluster.gone(node, &pod).await?;
        node.kill_agent()?;

        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0), "{left:?}");
        ensure!(left.text.contains("kubectl delete node"), "{left:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        site.start_agent(false)?;
        node.ready("s").await?;
        ensure!(
            site.instance()? == instance,
            "the static pod was started anew"
        );
        let again = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(
            again.code == Some(1) && again.text.contains("has not joined"),
            "{again:?}"
        );
        Ok(())
    });
}

#[test]
fn in_the_foreground_a_denied_request_is_undone_and_a_second_join_succeeds() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        let running = site.join(TOKEN, &site.pin()?, &["--foreground", "--timeout=100s"])?;
        site.cluster.deny(&site.request().await?).await?;
        let denied = running.ended().await?;
        ensure!(denied.code == Some(21), "{denied:?}");
        ensure!(
            denied.text.contains("was denied: Denied: Unwanted"),
            "{denied:?}"
        );
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());

        let running = site.join(TOKEN, &site.pin()?, &["--foreground", "--timeout=100s"])?;
        // The agent that was denied may have asked once more before it ended.
        eventually("the node joins", LIMIT, async || {
            for request in site.cluster.undecided().await? {
                site.cluster.sign(&request).await?;
            }
            let said = running.text();
            ensure!(said.contains("This node has joined the cluster"), "{said}");
            Ok(())
        })
        .await?;
        ensure!(!site.path("etc/kubernetes/bootstrap-kubelet.conf").exists());
        site.cluster.node_condition("Ready", "True").await?;
        kill(
            Pid::from_raw(i32::try_from(running.child.id())?),
            Signal::SIGTERM,
        )?;
        let ended = running.ended().await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(site.path("etc/kubernetes/kubelet.conf").exists());

        let again = site.join(TOKEN, &site.pin()?, &[])?.ended().await?;
        ensure!(again.code == Some(2), "{again:?}");
        ensure!(
            again
                .text
                .contains("[ERROR FileAvailable--etc-kubernetes-kubelet.conf]"),
            "{again:?}"
        );
        let left = site.run(&["leave".to_owned()])?.ended().await?;
        ensure!(left.code == Some(0), "{left:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        Ok(())
    });
}

#[test]
fn a_request_that_nobody_approves_is_named_and_everything_undone() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.traces()?;
        // Long enough for the agent to ask on a busy machine.
        let running = site.join(TOKEN, &site.pin()?, &["--foreground", "--timeout=30s"])?;
        let name = site.request().await?["metadata"]["name"].clone();
        let ended = running.ended().await?;
        ensure!(ended.code == Some(22), "{ended:?}");
        let remedy = format!(
            "kubectl certificate approve {}",
            name.as_str().unwrap_or_default()
        );
        ensure!(ended.text.contains(&remedy), "{ended:?}");
        ensure!(site.traces()? == before, "{:#?}", site.traces()?.keys());
        Ok(())
    });
}

#[test]
fn what_cannot_be_believed_or_reached_is_refused_each_in_its_own_words() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let (pin, before) = (site.pin()?, site.files()?);
        let refused = async |running: Running, code: i32, words: &str| {
            let ended = running.ended().await?;
            ensure!(ended.code == Some(code), "{code} expected: {ended:?}");
            ensure!(ended.text.contains(words), "{words:?} expected: {ended:?}");
            ensure!(site.files()? == before, "{:#?}", site.files()?.keys());
            anyhow::Ok(())
        };
        let soon = ["--timeout=3s"];
        refused(site.join("abc.def", &pin, &[])?, 64, "is not of the form").await?;
        refused(
            site.join(TOKEN, "sha256:12", &[])?,
            64,
            "64 hexadecimal digits",
        )
        .await?;
        let wrong = format!("sha256:{}", "0".repeat(64));
        refused(site.join(TOKEN, &wrong, &[])?, 16, &pin).await?;
        let secret = "abcdef.fedcba9876543210";
        refused(
            site.join(secret, &pin, &[])?,
            15,
            "failed to verify the JWS signature",
        )
        .await?;
        let unknown = "ghijkl.0123456789abcdef";
        refused(
            site.join(unknown, &pin, &soon)?,
            14,
            "invalid for this cluster or it has expired",
        )
        .await?;
        let nowhere = site.join_at("127.0.0.1:1", TOKEN, &pin, &soon)?;
        refused(nowhere, 10, "cannot be reached").await?;

        site.inform(&[], &site.cluster.authority.certificate())
            .await?;
        refused(
            site.join(TOKEN, &pin, &soon)?,
            13,
            "is not signed for any token",
        )
        .await?;
        let other = Authority::new()?.certificate();
        site.inform(&[TOKEN], &other).await?;
        let of_other = self::pin(&other)?;
        refused(
            site.join(TOKEN, &of_other, &[])?,
            17,
            "cannot be verified with the CA",
        )
        .await?;
        site.inform(&[TOKEN], &site.cluster.authority.certificate())
            .await?;

        let mut expired = bootstrap_secret("expire.0123456789abcdef");
        expired["stringData"]["expiration"] = json!("2020-01-01T00:00:00Z");
        site.create("secrets", "kube-system", &expired).await?;
        let bootstrap = ["--tls-bootstrap-token=expire.0123456789abcdef"];
        refused(
            site.join(TOKEN, &pin, &bootstrap)?,
            19,
            "the token has expired",
        )
        .await?;

        let other = json!({ "metadata": { "name": NODE_NAME } });
        site.create("nodes", "", &other).await?;
        let status = json!({ "status": {
            "nodeInfo": { "machineID": "another", "systemUUID": "another" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        let place = format!("{}/status", path("nodes", "", NODE_NAME));
        site.cluster.client().merge(&place, &status).await?;
        refused(
            site.join(TOKEN, &pin, &[])?,
            20,
            "already exists in the cluster",
        )
        .await
    });
}

#[test]
fn a_server_whose_certificate_is_of_another_time_is_a_matter_of_clocks() {
    with_node(async |node| {
        let site = Site::new(node).await?;
        let before = site.files()?;
        let pair = site.cluster.authority.server_later(&["127.0.0.1"])?;
        let mut tls = site.cluster.authority.server_tls(&pair)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authority = site.cluster.authority.certificate();
        let info = cluster_info("https://127.0.0.1:1", &authority, &[TOKEN]).to_string();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?.to_string();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut head = [0; 4096];
                // One request comes in one piece, and one answer goes.
                let _ = stream.read(&mut head).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nDate: Wed, 01 Jan 2098 00:00:00 GMT\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{info}",
                    info.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let ended = site.join_at(&at, TOKEN, &site.pin()?, &[])?.ended().await?;
        serving.abort();
        ensure!(ended.code == Some(18), "{ended:?}");
        ensure!(
            ended
                .text
                .contains("the API server's clock says 2098-01-01T00:00:0"),
            "{ended:?}"
        );
        ensure!(site.files()? == before, "{:#?}", site.files()?.keys());
        Ok(())
    });
}
