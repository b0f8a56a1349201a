//! `kubelet join` and `kubelet leave`: one command makes a machine a node of a cluster, another takes that back.
//!
//! Owns: which cluster is believed (`discovery`, `cluster_info`, `token`), what is looked at first (`preflight`), what is
//! written (`settings`, pure) and the record of it by which everything can be undone (`journal`), kubelet.service
//! (`service`), and what is waited for (`wait`). Inputs: the command line, an API server, this machine. Outputs: files below
//! /etc/kubernetes and /var/lib/kubelet, standard output in kubeadm's words, an exit status for each way to fail.
//! Tasks: with `--foreground` a thread beside the agent, which ends once the node is Ready.
//! Does not: make the certificate (the agent does, [`crate::join`]), touch pods, or make control planes.

mod cluster_info;
mod discovery;
mod failure;
mod files;
mod foreground;
mod journal;
mod layout;
mod leave;
mod preflight;
mod server;
mod service;
mod settings;
mod token;
mod wait;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use serde_json::Value;

use self::discovery::{Discovered, Way, discover, is_valid, usable};
use self::failure::Failure;
use self::files::Files;
use self::journal::{Journal, Record, State};
use self::layout::Layout;
use self::preflight::{Checks, Ignored};
use self::server::{Server, Trust, Unanswered};
use self::token::{Pins, Token};
use self::wait::Wait;
use crate::config::{Environment, GoDuration};
use crate::errors::error_chain;
use crate::process::RootLock;

pub use self::foreground::Foreground;
pub(super) use self::foreground::begin;
pub(super) use self::leave::{LeaveArguments, run as leave};

/// kubeadm's timeout of discovery, and of the TLS bootstrap.
const TIMEOUT: &str = "5m0s";
/// The cluster's settings for its nodes.
const KUBELET_CONFIG: &str = "/api/v1/namespaces/kube-system/configmaps/kubelet-config";

/// How to join.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 when the node has joined and is Ready (without systemd and --foreground: when everything is \
        written), 2 when a preflight check failed, 10 to 24 for what else can go wrong (the manual has the table), 64 when \
        the command line is wrong. What fails leaves nothing behind, and can be run again."
)]
pub(super) struct JoinArguments {
    /// The API server, as HOST:PORT; not with --discovery-file
    #[arg(value_name = "HOST:PORT")]
    endpoint: Option<String>,
    /// Use this token for both discovery-token and tls-bootstrap-token when those values are not provided
    #[arg(long, value_parser = secret)]
    token: Option<SecretString>,
    /// The token used to validate cluster information fetched from the API server
    #[arg(long, value_parser = secret, value_name = "TOKEN", conflicts_with = "discovery_file")]
    discovery_token: Option<SecretString>,
    /// Validate that the root CA public key matches this hash (format: "<type>:<value>"); may be repeated
    #[arg(long, value_name = "HASH", value_delimiter = ',')]
    discovery_token_ca_cert_hash: Vec<String>,
    /// Allow joining without --discovery-token-ca-cert-hash: whoever knows the token can then pass for the API server
    #[arg(long)]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// A kubeconfig, as a file or https:// URL, from which to load cluster information
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    discovery_file: Option<String>,
    /// The token used to temporarily authenticate with the Kubernetes Control Plane while joining the node
    #[arg(long, value_parser = secret, value_name = "TOKEN")]
    tls_bootstrap_token: Option<SecretString>,
    /// The node's name; the name of this host when it is not given
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The node's address, or two of them, one of each family
    #[arg(long, value_name = "IP")]
    node_ip: Option<String>,
    /// The socket of the container runtime; found by itself where there is one
    #[arg(long, value_name = "SOCKET")]
    cri_socket: Option<String>,
    /// Checks whose errors will be shown as warnings: 'Swap,Port-10250', or 'all'
    #[arg(long, value_name = "CHECKS", value_delimiter = ',')]
    ignore_preflight_errors: Vec<String>,
    /// How long to wait for the API server, for the certificate, and for the node to be Ready, each
    #[arg(long, value_name = "TIME", default_value = TIMEOUT, value_parser = duration)]
    timeout: Duration,
    /// Go on as the agent, instead of starting kubelet.service
    #[arg(long)]
    pub(super) foreground: bool,
    /// Write below this directory instead of /, and touch no service
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.to_owned().into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = GoDuration::parse(text).map_err(|error| error.to_string())?;
    u64::try_from(parsed.0)
        .map(Duration::from_nanos)
        .map_err(|_| "it must not be negative".to_owned())
}

/// Says a line on standard output; when nobody reads it, the join goes on.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says a line on standard error.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Joins, but for `--foreground`. The exit status.
pub(super) fn run(arguments: &JoinArguments) -> u8 {
    let done = block_on(async {
        let begun = prepare(arguments).await?;
        begun.start_service().await
    });
    match done.and_then(|done| done) {
        Ok(()) => 0,
        Err(failure) => fail("join", &failure),
    }
}

fn fail(name: &str, failure: &Failure) -> u8 {
    warn(&format!("kubelet {name}: {}", error_chain(failure)));
    failure.exit_code()
}

/// Runs `future` on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::Other(format!("no threads: {error}")))?;
    let done = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(done)
}

/// What the command line asks for, checked before anything is asked or looked at.
struct Asked {
    way: Way,
    bootstrap: Option<Token>,
}

fn asked(arguments: &JoinArguments) -> Result<Asked, Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let token = |flag: &str, own: &Option<SecretString>| {
        let both = arguments.token.as_ref().map(|token| ("--token", token));
        let given = own.as_ref().map(|token| (flag, token)).or(both);
        given
            .map(|(flag, text)| Token::parse(flag, text))
            .transpose()
    };
    let bootstrap = token("--tls-bootstrap-token", &arguments.tls_bootstrap_token)?;
    let pins = Pins::parse(&arguments.discovery_token_ca_cert_hash)?;
    if let Some(file) = &arguments.discovery_file {
        return Ok(Asked {
            way: Way::File(file.clone()),
            bootstrap,
        });
    }
    let discovery = token("--discovery-token", &arguments.discovery_token)?;
    let (Some(token), Some(endpoint)) = (discovery, &arguments.endpoint) else {
        return usage(
            "say which cluster: kubelet join HOST:PORT --token TOKEN --discovery-token-ca-cert-hash HASH, or --discovery-file FILE; `kubeadm token create --print-join-command` on a control-plane node prints the first",
        );
    };
    if preflight::host_of(endpoint).is_none() {
        return Err(Failure::Usage(format!("{endpoint:?} is not HOST:PORT")));
    }
    if bootstrap.is_none() {
        return usage("give --tls-bootstrap-token, or --token for both");
    }
    match (
        pins.is_empty(),
        arguments.discovery_token_unsafe_skip_ca_verification,
    ) {
        (true, false) => usage(
            "give --discovery-token-ca-cert-hash, by which the cluster's CA is known; or --discovery-token-unsafe-skip-ca-verification, and then whoever knows the token can pass for the API server",
        ),
        (false, true) => usage(
            "--discovery-token-ca-cert-hash and --discovery-token-unsafe-skip-ca-verification exclude each other",
        ),
        _ => Ok(Asked {
            way: Way::Token {
                endpoint: endpoint.clone(),
                token,
                pins,
            },
            bootstrap,
        }),
    }
}

/// A join whose files are written, and which has to be started.
struct Begun {
    layout: Layout,
    journal: Journal,
    wait: Wait,
    arguments: Vec<String>,
}

async fn prepare(arguments: &JoinArguments) -> Result<Begun, Failure> {
    let asked = asked(arguments)?;
    let root =
        std::path::absolute(&arguments.root).map_err(Failure::file("find", &arguments.root))?;
    let layout = Layout { root };
    let environment =
        Environment::of_host().map_err(|error| Failure::Other(error_chain(&error)))?;
    let hostname = environment.hostname.trim().to_lowercase();
    let node = arguments.node_name.as_deref().unwrap_or(&hostname);
    let node = node.trim().to_lowercase();

    say("[preflight] Running pre-flight checks");
    if matches!(&asked.way, Way::Token { pins, .. } if pins.is_empty()) {
        warn(
            "\t[WARNING]: --discovery-token-unsafe-skip-ca-verification: the CA is taken from whoever knows the token; whoever has it can pass for the API server and run what they like on this node as root",
        );
    }
    let ignored = Ignored::new(&arguments.ignore_preflight_errors);
    // Who is not root cannot even look.
    preflight::is_root(&ignored).end()?;
    let systemd = layout.is_host() && service::systemd_runs() && !arguments.foreground;
    let service = systemd.then(service::now);
    let own_agent_runs = service.is_some_and(service::Before::was_active);
    let own = own_settings(&layout)?;
    let configured = own
        .as_ref()
        .and_then(|own| own["containerRuntimeEndpoint"].as_str());
    let runtime = preflight::runtime(arguments.cri_socket.as_deref().or(configured))?;
    let earlier = recover(&layout).await?;
    let mends = layout.kubeconfig().exists() && !is_valid(&layout.kubeconfig()).await;
    let checks = Checks {
        layout: &layout,
        node: &node,
        runtime: &runtime,
        endpoint: arguments.endpoint.as_deref(),
        own_agent_runs,
        lacks_unit: systemd && !service::is_installed(),
        mends,
    };
    checks.run(&ignored).await.end()?;
    if mends {
        say(&mending(&layout).await);
    }

    let bootstrap = asked.bootstrap.as_ref();
    let Discovered { found, credentials } =
        discover(&asked.way, bootstrap, arguments.timeout).await?;
    let trust = Trust::Authority(found.authority.clone());
    let server = Server::new(&found.server, &trust, &credentials).await?;
    name_is_free(&server, &node, arguments.timeout).await?;
    let cluster = cluster_settings(&server).await?;

    // A node that is mended keeps its configuration.
    let keeps = mends && layout.config().exists();
    let merged = match keeps {
        true => std::fs::read_to_string(layout.config())
            .map_err(Failure::file("read", &layout.config()))?,
        false => configuration(&layout, cluster.as_ref(), own.as_ref(), &runtime, arguments)?,
    };
    let mut report = preflight::Report::default();
    check_configuration(&layout, &merged, &environment, &mut report, &ignored)?;
    report.end()?;
    let own_ip = arguments.node_ip.as_deref();
    let flags = node_flags(&node, &hostname, own_ip);

    let known = Wait::requests_before(&server, &node).await;
    let record = Record::new(&node, &found.server, service);
    let mut journal = Journal::begin(&layout.record(), &layout.pki(), earlier, mends, record)?;
    let files = Files {
        layout: &layout,
        found: &found,
        credentials: &credentials,
        configuration: (!keeps).then_some(&merged),
        flags: (!mends || own_ip.is_some()).then_some(&flags),
        service: systemd,
    };
    if let Err(failure) = files.write(&mut journal) {
        undo(journal);
        return Err(failure);
    }
    let wait = Wait {
        node,
        kubeconfig: layout.kubeconfig(),
        url: found.server,
        trust,
        credentials,
        known,
        patience: arguments.timeout,
        ended: Arc::new(AtomicBool::new(false)),
    };
    let arguments = agent_arguments(&layout, &flags);
    Ok(Begun {
        layout,
        journal,
        wait,
        arguments,
    })
}

/// What an earlier join has left: the record of one that was done, nothing of one that was not.
async fn recover(layout: &Layout) -> Result<Option<Journal>, Failure> {
    let Some(journal) = Journal::read(&layout.record())? else {
        return Ok(None);
    };
    if journal.record.state == State::Joined {
        return Ok(Some(journal));
    }
    let kubeconfig = layout.kubeconfig();
    let got = journal.has_certificate() && usable(&kubeconfig).await.is_some();
    if got || is_valid(&kubeconfig).await {
        // The agent was started by hand, or the join was killed while it waited; its certificate may have expired since.
        journal.commit()?;
        return Journal::read(&layout.record());
    }
    if journal.record.service.is_none()
        && let Err(error) = RootLock::check(&layout.kubelet())
    {
        let why = error_chain(&error);
        return Err(Failure::Preflight(format!(
            "\t[ERROR RootDirectory]: {why}: end that agent first\n"
        )));
    }
    say("[preflight] Undoing an earlier join that was not finished");
    undo(journal);
    Journal::read(&layout.record())
}

async fn mending(layout: &Layout) -> String {
    let kubeconfig = layout.kubeconfig();
    let why = match usable(&kubeconfig).await {
        Some((_, Some(until))) => format!("its certificate was valid until {until}"),
        _ => "its certificate cannot be read".to_owned(),
    };
    format!(
        "[preflight] {} is of no use any more, {why}: the node gets a new one, and its pods run on",
        kubeconfig.display()
    )
}

/// The configuration that is there.
fn own_settings(layout: &Layout) -> Result<Option<Value>, Failure> {
    let path = layout.config();
    match std::fs::read(&path) {
        Ok(text) => crate::config::settings_of(&path, &text)
            .map(Some)
            .map_err(|error| Failure::Configuration(error.lines().join("\n"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::file("read", &path)(error)),
    }
}

/// Whether no other machine is a Ready node of this name.
async fn name_is_free(server: &Server, node: &str, patience: Duration) -> Result<(), Failure> {
    let path = format!("/api/v1/nodes/{node}");
    let other = match server.get(&path).await {
        Ok(other) => other,
        Err(Unanswered::Status(status)) if status.code == 404 => return Ok(()),
        Err(Unanswered::Status(status)) if status.code == 403 => {
            say(&format!(
                "[kubelet-start] Nodes may not be read with these credentials: nobody has looked whether {node:?} is another machine"
            ));
            return Ok(());
        }
        Err(Unanswered::Never(failure)) => return Err(failure),
        Err(_) => discovery::persistently(server, &path, patience).await?,
    };
    let here = crate::node::machine_info();
    let there = &other["status"]["nodeInfo"];
    let same = there["machineID"] == here.machine_id.as_str()
        && there["systemUUID"] == here.system_uuid.as_str();
    match wait::ready(&other) {
        Ok(()) if !same => Err(Failure::NameTaken(node.to_owned())),
        _ => Ok(()),
    }
}

/// What the cluster has for its nodes; none where that may not be read, or is not there.
async fn cluster_settings(server: &Server) -> Result<Option<Value>, Failure> {
    say(&format!(
        "[preflight] Reading configuration from the \"kubelet-config\" ConfigMap in namespace \"kube-system\" of {}",
        server.url()
    ));
    let map = match server.get(KUBELET_CONFIG).await {
        Ok(map) => map,
        Err(Unanswered::Status(status)) if matches!(status.code, 403 | 404) => {
            warn(&format!(
                "\t[WARNING]: the cluster's kubelet configuration cannot be read ({}): clusterDNS and clusterDomain have to be set in config.yaml by hand",
                status.message
            ));
            return Ok(None);
        }
        Err(unanswered) => return Err(server.failure(unanswered)),
    };
    let text = map["data"]["kubelet"].as_str().unwrap_or_default();
    let read = crate::config::settings_of("kubelet-config".as_ref(), text.as_bytes());
    read.map(Some)
        .map_err(|error| Failure::Configuration(error.lines().join("\n")))
}

fn configuration(
    layout: &Layout,
    cluster: Option<&Value>,
    own: Option<&Value>,
    runtime: &str,
    arguments: &JoinArguments,
) -> Result<String, Failure> {
    let manifests = layout.manifests().display().to_string();
    let authority = layout.authority().display().to_string();
    let machine = settings::Machine {
        own,
        runtime,
        runtime_was_asked_for: arguments.cri_socket.is_some(),
        manifests: &manifests,
        authority: &authority,
        resolved: Path::new(settings::RESOLVED).exists(),
    };
    let merged = settings::merged(cluster, &machine);
    let text = serde_saphyr::to_string(&merged);
    let text = text.map_err(|error| Failure::Other(error.to_string()))?;
    Ok(format!(
        "# Written by kubelet join: the cluster's kubelet-config, with what is about this machine from the file of before.\n{text}"
    ))
}

/// Whether the agent would start with it.
fn check_configuration(
    layout: &Layout,
    text: &str,
    environment: &Environment,
    report: &mut preflight::Report,
    ignored: &Ignored,
) -> Result<(), Failure> {
    let checked = crate::config::check_file(&layout.config(), text.as_bytes(), environment);
    if !checked.problems.is_empty() {
        let lines = checked.problems.iter().map(ToString::to_string);
        return Err(Failure::Configuration(lines.collect::<Vec<_>>().join("\n")));
    }
    let settings = crate::config::settings_of(&layout.config(), text.as_bytes());
    let settings = settings.unwrap_or_default();
    // Its default is true.
    let fails = settings["failSwapOn"] != Value::Bool(false);
    preflight::swap(report, ignored, fails);
    Ok(())
}

fn node_flags(node: &str, hostname: &str, ip: Option<&str>) -> Vec<String> {
    let mut flags = Vec::new();
    if node != hostname {
        flags.push(format!("--hostname-override={node}"));
    }
    flags.extend(ip.map(|ip| format!("--node-ip={ip}")));
    flags
}

/// The command line of the agent, without its name.
fn agent_arguments(layout: &Layout, flags: &[String]) -> Vec<String> {
    let mut arguments = vec![
        format!("--bootstrap-kubeconfig={}", layout.bootstrap().display()),
        format!("--kubeconfig={}", layout.kubeconfig().display()),
        format!("--config={}", layout.config().display()),
    ];
    if !layout.is_host() {
        arguments.push(format!("--root-dir={}", layout.kubelet().display()));
        arguments.push(format!("--cert-dir={}", layout.pki().display()));
    }
    arguments.extend(flags.iter().cloned());
    arguments
}

/// Takes back what was done, and says what could not be.
fn undo(journal: Journal) {
    let service = journal.record.service;
    let (failures, _) = journal.undo();
    for failure in &failures {
        warn(&format!("\t[WARNING]: {}", error_chain(failure)));
    }
    if failures.is_empty() {
        say("[kubelet-start] What was written is undone");
    }
    if let Some(Err(failure)) = service.map(service::restore) {
        warn(&format!("\t[WARNING]: {failure}"));
    }
}

impl Begun {
    async fn start_service(self) -> Result<(), Failure> {
        if self.journal.record.service.is_none() {
            say(&format!(
                "\nEverything is written. systemd does not run here: the node joins when this agent runs, and `kubelet leave` takes \
                 back what was written:\n\n  kubelet {}\n\nTo go on as that agent at once: kubelet join --foreground",
                self.arguments.join(" ")
            ));
            return Ok(());
        }
        say("[kubelet-start] Starting the kubelet");
        if let Err(failure) = service::start() {
            undo(self.journal);
            return Err(failure);
        }
        say("[kubelet-start] Waiting for the kubelet to perform the TLS Bootstrap");
        match self.wait.for_certificate().await {
            Ok(()) => joined(&self.layout, self.journal)?,
            Err(failure) => {
                // It must not write what is about to be undone.
                if let Err(failure) = service::stop() {
                    warn(&format!("\t[WARNING]: {failure}"));
                }
                undo(self.journal);
                return Err(failure);
            }
        }
        self.wait.for_ready().await?;
        say(JOINED);
        Ok(())
    }
}

/// kubeadm's words.
const JOINED: &str = "\nThis node has joined the cluster:\n\
    * Certificate signing request was sent to apiserver and a response was received.\n\
    * The Kubelet was informed of the new secure connection details.\n\n\
    Run 'kubectl get nodes' on the control-plane to see this node join the cluster.\n";

/// The certificate is there: the token goes, the record stays.
fn joined(layout: &Layout, journal: Journal) -> Result<(), Failure> {
    let path = layout.bootstrap();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file("remove", &path)(error));
        }
        _ => {}
    }
    journal.commit()
}
