//! `kubelet join` and `kubelet leave`: one command makes a machine a node of a cluster, another takes that back.
//!
//! Owns: which cluster is believed (`discovery`, `cluster_info`, `token`), what is looked at first (`preflight`), what is
//! written (`settings`, pure) and the record of it by which everything can be undone (`journal`), kubelet.service
//! (`service`), and what is waited for (`wait`). Inputs: the command line, an API server, this machine. Outputs: files below
//! /etc/kubernetes and /var/lib/kubelet, standard output in kubeadm's words, an exit status for each way to fail.
//! Tasks: with `--foreground` a thread beside the agent, which ends once the node is Ready.
//! Does not: make the certificate (the agent does, [`crate::join`]), touch pods, or make control planes.

mod arguments;
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
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;

use self::arguments::asked;
use self::discovery::{Discovered, Way, discover, is_valid, usable};
use self::failure::Failure;
use self::files::Files;
use self::journal::{Journal, Record, State};
use self::layout::Layout;
use self::preflight::{Checks, Ignored};
use self::server::{Server, Trust, Unanswered};
use self::wait::Wait;
use crate::config::Environment;
use crate::errors::error_chain;
use crate::process::RootLock;

pub(super) use self::arguments::JoinArguments;
pub use self::foreground::Foreground;
pub(super) use self::foreground::begin;
pub(super) use self::leave::{LeaveArguments, run as leave};

/// The cluster's settings for its nodes.
const KUBELET_CONFIG: &str = "/api/v1/namespaces/kube-system/configmaps/kubelet-config";

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
        joined(layout, journal)?;
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
        Err(_) => {
            let decides = |code| code < 500 && code != 429;
            discovery::persistently(server, &path, patience, decides).await?
        }
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
                 back what was written:\n\n  kubelet {}\n\nTo go on as that agent at once: kubelet join --foreground\n\
                 The token is in {}, for root alone: remove that file once the node has joined",
                self.arguments.join(" "),
                self.layout.bootstrap().display()
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
