//! A real kube-apiserver with an etcd of its own, on ports of 127.0.0.1 and with files in one directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::authority::{Authority, Pair};
use super::client::Client;
use super::private;
use crate::apiserver::Request;
use crate::wait::{Never, eventually};

/// How long both may take to be ready, on a machine busy with a build.
const READY: Duration = Duration::from_secs(180);

/// The processes; they are killed when it is dropped.
pub(super) struct ControlPlane {
    etcd: Process,
    apiserver: Process,
    address: SocketAddr,
    audit: PathBuf,
}

struct Process {
    child: Mutex<Child>,
    log: PathBuf,
}

/// Where the processes run.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// In the machine's own network.
    Machine,
    /// In the network namespace of a node that the API server asks by its address, as the client with this certificate.
    Beside {
        /// The namespace's file.
        netns: &'a Path,
        /// The API server's certificate for nodes.
        client: &'a Pair,
    },
}

impl ControlPlane {
    pub(super) fn start(
        assets: &Path,
        directory: &Path,
        authority: &Authority,
        pair: &Pair,
        place: Place<'_>,
    ) -> Result<Self> {
        let netns = match place {
            Place::Machine => None,
            Place::Beside { netns, .. } => Some(netns),
        };
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            private(&path, text).map(|()| path.display().to_string())
        };
        let ca = file("ca.crt", &authority.certificate())?;
        let certificate = file("apiserver.crt", &pair.certificate())?;
        let key = file("apiserver.key", &pair.key())?;
        let accounts = authority.server(&["sa"])?;
        let signing = file("sa.key", &accounts.key())?;
        let verifying = file("sa.crt", &accounts.certificate())?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                { "level": "Metadata", "resources": [
                    { "group": "", "resources": ["secrets", "serviceaccounts/token"] },
                    { "group": "authentication.k8s.io" },
                ] },
                { "level": "Request" },
            ],
        });
        let policy = file("audit-policy.json", &policy.to_string())?;
        let audit = directory.join("audit.log");
        let (store, secure) = (free_port()?, free_port()?);
        let etcd = Process::start(
            &assets.join("etcd"),
            netns,
            directory,
            &[
                format!("--data-dir={}", directory.join("etcd").display()),
                format!("--listen-client-urls=http://127.0.0.1:{store}"),
                format!("--advertise-client-urls=http://127.0.0.1:{store}"),
                "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        let mut arguments = vec![
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", directory.display()),
            format!("--tls-cert-file={certificate}"),
            format!("--tls-private-key-file={key}"),
            format!("--client-ca-file={ca}"),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={verifying}"),
            format!("--service-account-signing-key-file={signing}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--enable-bootstrap-token-auth=true".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--audit-policy-file={policy}"),
            format!("--audit-log-path={}", audit.display()),
            "--audit-log-mode=blocking".to_owned(),
        ];
        if let Place::Beside { client, .. } = place {
            let certificate = file("kubelet-client.crt", &client.certificate())?;
            let key = file("kubelet-client.key", &client.key())?;
            arguments.extend([
                format!("--kubelet-client-certificate={certificate}"),
                format!("--kubelet-client-key={key}"),
                format!("--kubelet-certificate-authority={ca}"),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ]);
        }
        let program = assets.join("kube-apiserver");
        let apiserver = Process::start(&program, netns, directory, &arguments)?;
        Ok(Self {
            etcd,
            apiserver,
            address: SocketAddr::from(([127, 0, 0, 1], secure)),
            audit,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&self, client: &Client) -> Result<()> {
        self.ready_when(async || client.get("/readyz").await.map(drop))
            .await
    }

    /// Waits until `ask` says so.
    pub(super) async fn ready_when(&self, ask: impl AsyncFn() -> Result<()>) -> Result<()> {
        eventually("the API server is ready", READY, async || {
            for process in [&self.etcd, &self.apiserver] {
                process.check()?;
            }
            ask().await
        })
        .await
    }

    /// The audit log, each request once and as it stood last.
    pub(super) fn requests(&self) -> Result<Vec<Request>> {
        let text = fs::read_to_string(&self.audit).context("read the audit log")?;
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut requests = Vec::new();
        // The last line may be half written.
        for event in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            let text = |pointer: &str| {
                let found = event.pointer(pointer).and_then(Value::as_str);
                found.unwrap_or_default().to_owned()
            };
            let user = text("/user/username");
            if user == "system:apiserver" {
                continue;
            }
            let uri = text("/requestURI");
            let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
            let code = event
                .pointer("/responseStatus/code")
                .and_then(Value::as_u64);
            let request = Request {
                verb: text("/verb"),
                path: path.to_owned(),
                query: query.to_owned(),
                user,
                agent: text("/userAgent"),
                serial: String::new(),
                at: text("/requestReceivedTimestamp")
                    .parse::<Timestamp>()
                    .context("a time of the audit log")?,
                body: event.get("requestObject").cloned().unwrap_or(Value::Null),
                code: code.and_then(|code| u16::try_from(code).ok()),
            };
            match places.get(&text("/auditID")) {
                Some(&place) => requests[place] = request,
                None => {
                    places.insert(text("/auditID"), requests.len());
                    requests.push(request);
                }
            }
        }
        requests.sort_by_key(|request| request.at);
        Ok(requests)
    }
}

impl Process {
    fn start(
        program: &Path,
        netns: Option<&Path>,
        directory: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = within(netns, program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self {
            child: Mutex::new(child),
            log,
        })
    }

    fn check(&self) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            return Err(Never(format!("{}: {status}\n{last}", self.log.display())).into());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A program in a network namespace; the process that is spawned is the program itself.
pub(super) fn within(netns: Option<&Path>, program: &Path) -> Command {
    let mut command = match netns {
        None => Command::new(program),
        Some(netns) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.display()));
            command.arg("--").arg(program);
            command
        }
    };
    // Whatever proxy the machine goes out by, knows nothing of these addresses.
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    command
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
    let port = listener.local_addr()?.port();
    ensure!(port != 0, "no port");
    Ok(port)
}
