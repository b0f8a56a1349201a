//! What is looked at before anything is changed, under kubeadm's names for it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri_proto::{ConnectOptions, Connection};

use super::failure::Failure;
use super::layout::Layout;
use super::warn;
use crate::connections::resolve;
use crate::errors::error_chain;
use crate::process::RootLock;

/// How long the runtime may take to answer.
const RUNTIME: Duration = Duration::from_secs(10);
/// How long a look-up of this machine's name may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// The port of the node's API.
const PORT: u16 = 10250;
/// The name that stands for every check.
const ALL: &str = "all";

/// What is looked at.
pub(super) struct Checks<'a> {
    pub(super) layout: &'a Layout,
    pub(super) node: &'a str,
    pub(super) runtime: &'a str,
    /// `host:port` of the API server, where it is given.
    pub(super) endpoint: Option<&'a str>,
    /// The service is there, runs and will be started anew: what it holds is no obstacle.
    pub(super) own_agent_runs: bool,
    /// There is systemd, and no kubelet.service.
    pub(super) lacks_unit: bool,
    /// Files of an earlier join that is mended.
    pub(super) mends: bool,
}

/// Whose errors are only shown (`--ignore-preflight-errors`), in lower case as kubeadm compares them.
#[derive(Debug, Default)]
pub(super) struct Ignored(BTreeSet<String>);

impl Ignored {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_lowercase()).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(ALL) || self.0.contains(&name.to_lowercase())
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    warnings: Vec<String>,
    errors: Vec<String>,
}

impl Report {
    fn remark(&mut self, name: &str, text: &str) {
        self.warnings.push(format!("\t[WARNING {name}]: {text}\n"));
    }

    pub(super) fn error(&mut self, ignored: &Ignored, name: &str, text: &str) {
        match ignored.has(name) {
            true => self.remark(name, text),
            false => self.errors.push(format!("\t[ERROR {name}]: {text}\n")),
        }
    }

    /// Shows the warnings.
    ///
    /// # Errors
    /// When there are errors.
    pub(super) fn end(self) -> Result<(), Failure> {
        for warning in &self.warnings {
            warn(warning.trim_end());
        }
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Failure::Preflight(self.errors.concat())),
        }
    }
}

impl Checks<'_> {
    /// Looks at all of it. Changes nothing.
    pub(super) async fn run(&self, ignored: &Ignored) -> Report {
        let mut report = Report::default();
        self.files(&mut report, ignored);
        if let Err(why) = self.asks_runtime().await {
            let text = format!(
                "container runtime is not running at {}: {why}: start it, or name the socket of the one that runs (--cri-socket)",
                self.runtime
            );
            report.error(ignored, "CRI", &text);
        }
        self.name(&mut report, ignored).await;
        if self.lacks_unit {
            let text = "there is no kubelet.service: install the package, or systemd/install.sh of the archive; or go on as the agent with --foreground";
            report.error(ignored, "Service-Kubelet", text);
        }
        if !self.own_agent_runs {
            self.places(&mut report, ignored);
        }
        self.forwarding(&mut report, ignored);
        report
    }

    fn files(&self, report: &mut Report, ignored: &Ignored) {
        if self.mends {
            return;
        }
        let layout = self.layout;
        let remedy =
            "kubelet leave takes back what kubelet join wrote, kubeadm reset what kubeadm wrote";
        for path in [layout.kubeconfig(), layout.bootstrap(), layout.authority()] {
            if path.exists() {
                let text = format!("{} already exists: {remedy}", path.display());
                report.error(ignored, &available(&layout.unrooted(&path)), &text);
            }
        }
    }

    async fn asks_runtime(&self) -> Result<(), String> {
        let connection = Connection::connect(self.runtime, ConnectOptions::default());
        let connection = connection.map_err(|error| error_chain(&error))?;
        let runtime = connection.runtime();
        match tokio::time::timeout(RUNTIME, runtime.version()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error_chain(&error)),
            Err(_) => Err(format!("no answer within {} s", RUNTIME.as_secs())),
        }
    }

    async fn name(&self, report: &mut Report, ignored: &Ignored) {
        if !is_node_name(self.node) {
            let text = format!(
                "invalid node name {:?}: it must be of lower case letters, digits, '-' and '.', and begin and end with a letter or a digit: name it with --node-name",
                self.node
            );
            report.error(ignored, "Hostname", &text);
            return;
        }
        let found = tokio::time::timeout(LOOKUP, resolve(self.node, 0)).await;
        if !matches!(found, Ok(Ok(ref found)) if !found.is_empty()) {
            let text = format!("hostname {:?} could not be reached", self.node);
            report.remark("Hostname", &text);
        }
    }

    /// What another agent would hold.
    fn places(&self, report: &mut Report, ignored: &Ignored) {
        let name = format!("Port-{PORT}");
        // Whatever of it is taken, the agent takes all addresses.
        if let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)) {
            let text = format!("Port {PORT} is in use ({error}): ss -ltnp shows by whom");
            report.error(ignored, &name, &text);
        }
        let root = self.layout.kubelet();
        if let Err(error) = RootLock::check(&root) {
            let text = format!("{}: end that agent first", error_chain(&error));
            report.error(ignored, "RootDirectory", &text);
        }
    }

    fn forwarding(&self, report: &mut Report, ignored: &Ignored) {
        let host = self.endpoint.and_then(host_of);
        let path = match host.and_then(|host| host.parse().ok()) {
            Some(IpAddr::V4(_)) => "/proc/sys/net/ipv4/ip_forward",
            Some(IpAddr::V6(_)) => "/proc/sys/net/ipv6/conf/default/forwarding",
            None => return,
        };
        if !std::fs::read(path).is_ok_and(|text| text.first() == Some(&b'1')) {
            let name = format!("FileContent-{}", path.replace('/', "-"));
            let setting = path.trim_start_matches("/proc/sys/").replace('/', ".");
            let text = format!(
                "{path} contents are not set to 1: sysctl -w {setting}=1, and in /etc/sysctl.d for the next start"
            );
            report.error(ignored, &name, &text);
        }
    }
}

/// Whether this is root.
pub(super) fn is_root(ignored: &Ignored) -> Report {
    let mut report = Report::default();
    if !nix::unistd::Uid::effective().is_root() {
        let text = "user is not running as root: run it with sudo";
        report.error(ignored, "IsPrivilegedUser", text);
    }
    report
}

/// Swap on an agent that would not start with it.
pub(super) fn swap(report: &mut Report, ignored: &Ignored, fails: bool) {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let first = swaps.lines().nth(1).and_then(|line| line.split(' ').next());
    match (first, fails) {
        (Some(first), true) => {
            let text = format!(
                "swap is on ({first}), and failSwapOn is true: swapoff -a and take it out of /etc/fstab, or set failSwapOn: false"
            );
            report.error(ignored, "Swap", &text);
        }
        (Some(_), false) => report.remark(
            "Swap",
            "swap is supported for cgroup v2 only; what pods get of it memorySwap says",
        ),
        (None, _) => {}
    }
}

fn available(path: &Path) -> String {
    format!(
        "FileAvailable-{}",
        path.display().to_string().replace('/', "-")
    )
}

/// The host of `host:port`.
pub(super) fn host_of(endpoint: &str) -> Option<&str> {
    let (host, port) = endpoint.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(host) => Some(host),
        None => (!host.is_empty() && !host.contains([':', '/', '@'])).then_some(host),
    }
}

/// DNS-1123 subdomains, as names of nodes are.
fn is_node_name(name: &str) -> bool {
    let word = |label: &str| {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        edge(label.chars().next()) && edge(label.chars().last()) && label.chars().all(inner)
    };
    name.len() <= 253 && name.split('.').all(word)
}

/// The socket of the runtime: `configured`, or the one that is there.
///
/// # Errors
/// When there are several.
pub(super) fn runtime(configured: Option<&str>) -> Result<String, Failure> {
    if let Some(endpoint) = configured.filter(|text| !text.is_empty()) {
        // A bare path is one, too.
        return Ok(match endpoint.starts_with('/') {
            true => format!("unix://{endpoint}"),
            false => endpoint.to_owned(),
        });
    }
    let known = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"].map(PathBuf::from);
    let found: Vec<&PathBuf> = known.iter().filter(|path| path.exists()).collect();
    match found[..] {
        [] => Ok(format!("unix://{}", known[0].display())),
        [one] => Ok(format!("unix://{}", one.display())),
        _ => Err(Failure::Usage(
            "Found multiple CRI endpoints on the host. Please define which one do you wish to use by setting --cri-socket: unix:///run/containerd/containerd.sock, unix:///run/crio/crio.sock".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kubeadms() {
        assert_eq!(
            available("/etc/kubernetes/pki/ca.crt".as_ref()),
            "FileAvailable--etc-kubernetes-pki-ca.crt"
        );
    }

    #[test]
    fn what_is_ignored_is_shown_and_ends_nothing() {
        let ignored = Ignored::new(&["port-10250".to_owned()]);
        let mut report = Report::default();
        report.error(&ignored, "Port-10250", "taken");
        assert!(report.errors.is_empty());
        assert_eq!(report.warnings, ["\t[WARNING Port-10250]: taken\n"]);
        report.error(&ignored, "CRI", "away");
        let error = report.end().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("[ERROR CRI]: away"), "{error}");
        assert!(Ignored::new(&["all".to_owned()]).has("CRI"));
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        assert_eq!(host_of("10.0.0.1:6443"), Some("10.0.0.1"));
        assert_eq!(host_of("[fd00::1]:6443"), Some("fd00::1"));
        assert_eq!(host_of("api.example:6443"), Some("api.example"));
        for wrong in [
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            ":6443",
            "fd00::1:6443",
            "https://a:6443",
            "a:99999",
        ] {
            assert_eq!(host_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_node_name_is_a_subdomain() {
        assert!(is_node_name("a-1.example"));
        for wrong in ["", "A", "a_b", "-a", "a-", "a..b", &"a".repeat(254)] {
            assert!(!is_node_name(wrong), "{wrong}");
        }
    }
}
