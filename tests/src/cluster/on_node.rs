//! A real control plane beside a private node, in its network namespace, and `kubectl` as its user: what the API server
//! asks of the node's API goes to the node's address, as in a cluster.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::control_plane::{ControlPlane, Place, within};
use super::{ASSETS_VARIABLE, Authority, YEAR, directory, kubeconfig, node_kubeconfig, private};
use crate::agent::{Agent, NODE_NAME};
use crate::containerd::{NODE_IP, Node};
use crate::wait::eventually;

/// The user that the API server is for nodes, as kubeadm has it.
pub const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// How long one `kubectl` may take, and a line of one that goes on.
const LIMIT: Duration = Duration::from_secs(90);

/// The directory with `kube-apiserver`, `etcd` and `kubectl`, if `KUBEBUILDER_ASSETS` names one; otherwise standard error
/// says that `what` was left out.
#[must_use]
pub fn kubectl_assets(what: &str) -> Option<PathBuf> {
    let Some(assets) = std::env::var_os(ASSETS_VARIABLE).filter(|value| !value.is_empty()) else {
        eprintln!("skipped: {what}: {ASSETS_VARIABLE} is not set");
        return None;
    };
    let assets = PathBuf::from(assets);
    for program in ["kube-apiserver", "etcd", "kubectl"] {
        if !assets.join(program).is_file() {
            eprintln!(
                "skipped: {what}: there is no {program} in {}",
                assets.display()
            );
            return None;
        }
    }
    Some(assets)
}

/// How a `kubectl` ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none when it was killed.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Its standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// A `kubectl` that runs; it is killed when it is dropped.
pub struct KubectlProcess {
    child: Child,
    lines: Receiver<String>,
}

impl KubectlProcess {
    /// Gives it a line to read.
    ///
    /// # Errors
    /// When it has gone.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no standard input")?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .context("write to kubectl")
    }

    /// The next line of its standard output, up to one of which `wanted` makes something.
    ///
    /// # Errors
    /// When it ends, or does not say it in time; with the lines it has said.
    pub fn until<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                bail!("kubectl said only {said:?}");
            };
            if let Some(found) = wanted(&line) {
                return Ok(found);
            }
            said.push(line);
        }
    }
}

impl Drop for KubectlProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The control plane and its user.
pub struct NodeCluster {
    control_plane: ControlPlane,
    authority: Authority,
    netns: PathBuf,
    kubectl: PathBuf,
    admin: PathBuf,
    directory: tempfile::TempDir,
}

impl NodeCluster {
    /// Starts one beside `node`, with what controllers would make for pods of the namespace `default`. The API server has
    /// no rights on nodes yet ([`NodeCluster::allow_api_server`]).
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(assets: &Path, node: &Node) -> Result<Self> {
        let authority = Authority::new()?;
        let directory = directory()?;
        let pair = authority.server(&["127.0.0.1", "localhost"])?;
        let client = authority.client(API_SERVER, "", YEAR)?;
        let place = Place::Beside {
            netns: node.netns(),
            client: &client,
        };
        let control_plane =
            ControlPlane::start(assets, directory.path(), &authority, &pair, place)?;
        let admin = authority.client("admin", "system:masters", YEAR)?;
        let user = json!({
            "client-certificate": written(directory.path(), "admin.crt", &admin.certificate())?,
            "client-key": written(directory.path(), "admin.key", &admin.key())?,
        });
        let config = kubeconfig(control_plane.address(), &authority, &user).to_string();
        let cluster = Self {
            admin: written(directory.path(), "admin.conf", &config)?,
            netns: node.netns().to_owned(),
            kubectl: assets.join("kubectl"),
            control_plane,
            authority,
            directory,
        };
        let ready = async || cluster.out(&["get", "--raw", "/readyz"]).map(drop);
        cluster.control_plane.ready_when(ready).await?;
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": "default" },
        });
        let made = async || cluster.create(&account);
        eventually("there is a namespace for pods", LIMIT, made).await?;
        Ok(cluster)
    }

    /// The agent of `node` as a member, with a serving certificate of the cluster's and whoever asks it asked for by the
    /// API server.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn join<'n>(&self, node: &Node, agent: Agent<'n>) -> Result<Agent<'n>> {
        let server = self.control_plane.address();
        let kubeconfig = node_kubeconfig(server, &self.authority, NODE_NAME, &node.path(""))?;
        let serving = self.authority.server(&[NODE_NAME, NODE_IP])?;
        let file = |name: &str, text: &str| written(&node.path(""), name, text);
        let authority = file("client-ca.crt", &self.authority.certificate())?;
        agent.configure(
            "tlsCertFile",
            json!(file("serving.crt", &serving.certificate())?),
        )?;
        agent.configure(
            "tlsPrivateKeyFile",
            json!(file("serving.key", &serving.key())?),
        )?;
        let authentication = json!({
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": authority },
        });
        agent.configure("authentication", authentication)?;
        let webhook = json!({ "cacheAuthorizedTTL": "1s", "cacheUnauthorizedTTL": "1s" });
        let authorization = json!({ "mode": "Webhook", "webhook": webhook });
        agent.configure("authorization", authorization)?;
        Ok(agent.with_flag(format!("--kubeconfig={}", kubeconfig.display())))
    }

    /// Gives the API server every right on nodes' APIs, as kubeadm does.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn allow_api_server(&self) -> Result<()> {
        self.create(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "kubeadm:apiserver-kubelet-client" },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "system:kubelet-api-admin",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": API_SERVER,
            }],
        }))
    }

    /// Gives a user leave for these verbs on these subresources of nodes.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn allow(&self, user: &str, verbs: &[&str], subresources: &[&str]) -> Result<()> {
        let resources = subresources.iter().map(|name| format!("nodes/{name}"));
        let group = "rbac.authorization.k8s.io";
        self.create(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
            "metadata": { "name": user },
            "rules": [{
                "apiGroups": [""], "verbs": verbs, "resources": resources.collect::<Vec<_>>(),
            }],
        }))?;
        self.create(&json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding",
            "metadata": { "name": user },
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": user },
            "subjects": [{ "apiGroup": group, "kind": "User", "name": user }],
        }))
    }

    /// Asks the node itself by curl(1), as the client with the certificate of `user` or as nobody, and gives the status
    /// code and the body of the answer.
    ///
    /// # Errors
    /// When the node's certificate is not the cluster's, or nothing answers.
    pub fn curl(&self, user: Option<&str>, method: &str, path: &str) -> Result<(u16, String)> {
        let mut command = self.command(Path::new("curl"));
        command.args(["--silent", "--show-error", "--max-time", "60", "-X", method]);
        command.args(["-w", "\n%{http_code}", "--cacert"]);
        let authority = self.authority.certificate();
        command.arg(written(self.directory.path(), "nodes-ca.crt", &authority)?);
        if let Some(user) = user {
            let pair = self.authority.client(user, "", YEAR)?;
            let file = |end: &str, text: &str| {
                written(self.directory.path(), &format!("{user}.{end}"), text)
            };
            command.arg("--cert").arg(file("crt", &pair.certificate())?);
            command.arg("--key").arg(file("key", &pair.key())?);
        }
        command.arg(format!("https://{NODE_IP}:10250{path}"));
        let ran = self.finish(&mut command, b"")?;
        ensure!(ran.code == Some(0), "curl {path}: {}", ran.err);
        let text = ran.text();
        let (body, code) = text.rsplit_once('\n').context("no status code")?;
        Ok((code.parse()?, body.to_owned()))
    }

    /// Where the API server listens, in the node's network namespace.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.control_plane.address()
    }

    /// The authority of all certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A file of the cluster's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn create(&self, object: &Value) -> Result<()> {
        let ran = self.with_input(&["create", "-f", "-"], object.to_string().as_bytes())?;
        ensure!(ran.code == Some(0), "create {object}: {}", ran.err);
        Ok(())
    }

    /// An object, by `kubectl get -o json`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let out = self.out(&[&["get", "-o", "json"], what].concat())?;
        serde_json::from_str(&out).context("read what kubectl says")
    }

    /// What `kubectl` says, which has to succeed.
    ///
    /// # Errors
    /// When it does not, with its standard error.
    pub fn out(&self, args: &[&str]) -> Result<String> {
        let ran = self.run(args)?;
        ensure!(
            ran.code == Some(0),
            "kubectl {}: {:?} {}",
            args.join(" "),
            ran.code,
            ran.err
        );
        Ok(ran.text())
    }

    /// Runs `kubectl` to its end, without input.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        self.with_input(args, b"")
    }

    /// Runs `kubectl` to its end, with standard input.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn with_input(&self, args: &[&str], input: &[u8]) -> Result<Ran> {
        let mut command = self.command(Path::new("timeout"));
        command.arg(LIMIT.as_secs().to_string()).arg(&self.kubectl);
        self.finish(command.args(self.arguments(args)), input)
    }

    /// Runs `kubectl` to its end, with a terminal.
    ///
    /// # Errors
    /// When it cannot be run; script(1) makes the terminal.
    pub fn on_terminal(&self, args: &[&str]) -> Result<Ran> {
        let words = self.arguments(args);
        let words = std::iter::once(self.kubectl.display().to_string()).chain(words);
        let quoted: Vec<String> = words.map(|word| format!("'{word}'")).collect();
        let mut command = self.command(Path::new("timeout"));
        command.arg(LIMIT.as_secs().to_string());
        command.args(["script", "-qec", &quoted.join(" "), "/dev/null"]);
        self.finish(&mut command, b"")
    }

    /// Starts a `kubectl` that goes on by itself.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(&self, args: &[&str]) -> Result<KubectlProcess> {
        let mut command = self.command(&self.kubectl);
        command.args(self.arguments(args));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("run kubectl")?;
        let out = child.stdout.take().context("no standard output")?;
        let (sender, lines) = channel();
        // Ends with its output.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(KubectlProcess { child, lines })
    }

    fn arguments(&self, args: &[&str]) -> Vec<String> {
        let own = format!("--kubeconfig={}", self.admin.display());
        let given = args.iter().map(|&arg| arg.to_owned());
        std::iter::once(own).chain(given).collect()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = within(Some(&self.netns), program);
        command
            .env("HOME", self.directory.path())
            .env("KUBECACHEDIR", self.directory.path().join("cache"));
        command
    }

    fn finish(&self, command: &mut Command, input: &[u8]) -> Result<Ran> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let output = std::thread::scope(|scope| {
            // One that wants no input closes it.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().context("wait for kubectl")
        })?;
        Ok(Ran {
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn written(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = directory.join(name);
    private(&file, text).map(|()| file)
}
