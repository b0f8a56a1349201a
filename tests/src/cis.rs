//! The node part of the CIS Kubernetes benchmark (1.12, sections 4.1 and 4.2), as scanners look: modes and owners of files
//! at fixed paths, the flags in the process list, and the configuration by the paths of its fields.
//!
//! What is asked runs on the node as shell text, whichever way the caller gets it there, so that the same audit serves a
//! chroot and a virtual machine.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Where scanners look for the unit, first match first.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
    "/etc/systemd/system/kubelet.service",
    "/lib/systemd/system/kubelet.service",
];
/// Where the configuration is.
const CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// Where a kubeconfig would be.
const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
/// Where kube-proxy's would be.
const PROXY_KUBECONFIG: &str = "/etc/kubernetes/proxy.conf";
/// Where the authority of clients would be.
const CLIENT_CA: &str = "/etc/kubernetes/pki/ca.crt";
/// What item 4.2.12 takes.
const STRONG_CIPHERS: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
];

/// What came of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As the benchmark wants it.
    Pass,
    /// About something that this node does not have; what that is.
    NotApplicable(&'static str),
    /// Not as the benchmark wants it: what was found.
    Fail(String),
}

/// One item of the benchmark.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number, as `4.2.1`.
    pub id: &'static str,
    /// What came of it.
    pub finding: Finding,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            Finding::Pass => write!(f, "{} pass", self.id),
            Finding::NotApplicable(why) => write!(f, "{} not applicable: {why}", self.id),
            Finding::Fail(found) => write!(f, "{} FAIL: {found}", self.id),
        }
    }
}

/// What the node shows.
struct Node<'r> {
    run: &'r mut dyn FnMut(&str) -> Result<String>,
    flags: Vec<String>,
    config: Value,
    /// Whether nothing listens on 10250.
    closed: bool,
}

/// Every item of sections 4.1 and 4.2, asked of a node by `run`, which runs shell text there and returns what it prints.
///
/// # Errors
/// When `run` fails, no process is called `kubelet`, or its configuration cannot be read.
pub fn audit(run: &mut dyn FnMut(&str) -> Result<String>) -> Result<Vec<Item>> {
    // `ps -fC kubelet` is what scanners run: by the name of the process, with its words.
    let processes = run("ps -ww -o args= -C kubelet")?;
    let line = processes.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "no process is called kubelet");
    let flags = line.split_whitespace().map(str::to_owned).collect();
    let text = run(&format!("cat {CONFIG}"))?;
    let document = static_pods::tree::parse(text.as_bytes())
        .into_iter()
        .next()
        .with_context(|| format!("{CONFIG} is empty"))?;
    let document = document.map_err(|error| anyhow::anyhow!("{CONFIG}: {error}"))?;
    // Local addresses end in the port, in hexadecimal; 0A is LISTEN.
    let listening = run("cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\" { print $2 }'")?;
    let port = format!(":{:04X}", 10250);
    let mut node = Node {
        run,
        flags,
        config: document.root.to_json(),
        closed: !listening.lines().any(|local| local.ends_with(&port)),
    };
    node.items()
}

impl Node<'_> {
    fn items(&mut self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut say = |id, finding| items.push(Item { id, finding });
        let unit = self.first_of(&UNITS)?;
        say("4.1.1", self.mode(&unit, 0o600)?);
        say("4.1.2", self.owner(&unit)?);
        let none = "there is no kube-proxy";
        say(
            "4.1.3",
            self.if_there(PROXY_KUBECONFIG, none, |n, p| n.mode(p, 0o600))?,
        );
        say("4.1.4", self.if_there(PROXY_KUBECONFIG, none, Self::owner)?);
        let none = "without an API server there is no kubeconfig";
        say(
            "4.1.5",
            self.if_there(KUBECONFIG, none, |n, p| n.mode(p, 0o600))?,
        );
        say("4.1.6", self.if_there(KUBECONFIG, none, Self::owner)?);
        let none = "10250 is closed, there are no clients to authenticate";
        let authority = self
            .set("client-ca-file", "authentication.x509.clientCAFile")
            .unwrap_or_else(|| CLIENT_CA.to_owned());
        say(
            "4.1.7",
            self.if_there(&authority, none, |n, p| n.mode(p, 0o644))?,
        );
        say("4.1.8", self.if_there(&authority, none, Self::owner)?);
        say("4.1.9", self.mode(CONFIG, 0o600)?);
        say("4.1.10", self.owner(CONFIG)?);

        let anonymous = self.set("anonymous-auth", "authentication.anonymous.enabled");
        say("4.2.1", wants(anonymous, |v| v == "false", false));
        let mode = self.set("authorization-mode", "authorization.mode");
        say("4.2.2", wants(mode, |v| !v.contains("AlwaysAllow"), false));
        say(
            "4.2.3",
            self.server(&["client-ca-file"], &["authentication.x509.clientCAFile"]),
        );
        let read_only = self.set("read-only-port", "readOnlyPort");
        say("4.2.4", wants(read_only, |v| v == "0", true));
        let idle = self.set(
            "streaming-connection-idle-timeout",
            "streamingConnectionIdleTimeout",
        );
        say("4.2.5", wants(idle, |v| v != "0", true));
        let chains = self.set("make-iptables-util-chains", "makeIPTablesUtilChains");
        say("4.2.6", wants(chains, |v| v == "true", true));
        let name = self.flag("hostname-override");
        say("4.2.7", wants(name, |_| false, true));
        let events = self.set("event-qps", "eventRecordQPS");
        let number = |v: &str| v.parse::<i64>().is_ok_and(|n| n >= 0);
        say("4.2.8", wants(events, number, true));
        say(
            "4.2.9",
            self.server(
                &["tls-cert-file", "tls-private-key-file"],
                &["tlsCertFile", "tlsPrivateKeyFile"],
            ),
        );
        let rotate = self.set("rotate-certificates", "rotateCertificates");
        say("4.2.10", wants(rotate, |v| v == "true", true));
        let gate = self.at("featureGates.RotateKubeletServerCertificate");
        let by_flag = self
            .flags
            .iter()
            .find(|f| f.contains("RotateKubeletServerCertificate=false"));
        say(
            "4.2.11",
            wants(by_flag.cloned().or(gate), |v| v == "true", true),
        );
        let ciphers = self.set("tls-cipher-suites", "tlsCipherSuites");
        let strong = |v: &str| v.split(',').all(|c| STRONG_CIPHERS.contains(&c));
        say("4.2.12", wants(ciphers, strong, false));
        let limit = self.set("pod-max-pids", "podPidsLimit");
        say(
            "4.2.13",
            wants(limit, |v| v.parse::<i64>().is_ok_and(|n| n > 0), false),
        );
        let seccomp = self.set("seccomp-default", "seccompDefault");
        say("4.2.14", wants(seccomp, |v| v == "true", false));
        Ok(items)
    }

    /// The first of these paths that exists; the last where none does.
    fn first_of(&mut self, paths: &[&str]) -> Result<String> {
        for path in paths {
            if self.exists(path)? {
                return Ok((*path).to_owned());
            }
        }
        Ok(paths.last().copied().unwrap_or_default().to_owned())
    }

    fn exists(&mut self, path: &str) -> Result<bool> {
        Ok((self.run)(&format!("test -e {path} && echo yes || echo no"))?.trim() == "yes")
    }

    /// An item about the file `path`, where it exists.
    fn if_there(
        &mut self,
        path: &str,
        otherwise: &'static str,
        look: impl FnOnce(&mut Self, &str) -> Result<Finding>,
    ) -> Result<Finding> {
        match self.exists(path)? {
            true => look(self, path),
            false => Ok(Finding::NotApplicable(otherwise)),
        }
    }

    /// Whether no bit beyond `most` is set.
    fn mode(&mut self, path: &str, most: u32) -> Result<Finding> {
        let said = (self.run)(&format!("stat -L -c %a {path}"))?;
        let mode = u32::from_str_radix(said.trim(), 8)
            .with_context(|| format!("mode of {path}: {said}"))?;
        Ok(match mode & !most {
            0 => Finding::Pass,
            _ => Finding::Fail(format!("{path} has mode {mode:o}")),
        })
    }

    fn owner(&mut self, path: &str) -> Result<Finding> {
        let said = (self.run)(&format!("stat -L -c %U:%G {path}"))?;
        Ok(match said.trim() {
            "root:root" => Finding::Pass,
            other => Finding::Fail(format!("{path} is of {other}")),
        })
    }

    /// Settings of the server on 10250: all are there, or nothing listens.
    fn server(&self, flags: &[&str], fields: &[&str]) -> Finding {
        let mut both = flags.iter().zip(fields);
        if both.all(|(flag, field)| self.set(flag, field).is_some()) {
            Finding::Pass
        } else if self.closed && self.at("enableServer").as_deref() == Some("false") {
            Finding::NotApplicable("10250 is closed")
        } else {
            Finding::Fail(format!("{fields:?} are not set, and 10250 may be open"))
        }
    }

    /// What the flag says, which overrides the file, else the field.
    fn set(&self, flag: &str, field: &str) -> Option<String> {
        self.flag(flag).or_else(|| self.at(field))
    }

    fn flag(&self, name: &str) -> Option<String> {
        let start = format!("--{name}");
        let mut words = self.flags.iter();
        while let Some(word) = words.next() {
            match word.strip_prefix(&start) {
                Some("") => return Some(words.next().cloned().unwrap_or_default()),
                Some(rest) if rest.starts_with('=') => return Some(rest[1..].to_owned()),
                _ => {}
            }
        }
        None
    }

    /// The text of a field, the items of a list joined by commas.
    fn at(&self, field: &str) -> Option<String> {
        let value = field
            .split('.')
            .try_fold(&self.config, |value, key| value.get(key))?;
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Array(items) => {
                let texts: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                Some(texts.join(","))
            }
            other => Some(other.to_string()),
        }
    }
}

/// Whether a setting is as it should be; `unset` says whether it may be left out.
fn wants(found: Option<String>, right: impl Fn(&str) -> bool, unset: bool) -> Finding {
    match found {
        Some(value) if right(&value) => Finding::Pass,
        Some(value) => Finding::Fail(format!("it is {value}")),
        None if unset => Finding::Pass,
        None => Finding::Fail("it is not set".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "enableServer: false\nreadOnlyPort: 0\nauthentication: {anonymous: {enabled: false}}\nauthorization: {mode: Webhook}\ntlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\npodPidsLimit: 100\nseccompDefault: true\n";

    /// The items that fail on a node with this configuration, these words, and this file mode.
    fn failures(config: &str, words: &str, mode: &str, listening: &str) -> Vec<&'static str> {
        let mut run = |script: &str| {
            Ok(match script {
                _ if script.starts_with("ps ") => format!("{words}\n"),
                _ if script.starts_with("cat /proc/net") => format!("{listening}\n"),
                _ if script.starts_with("cat ") => config.to_owned(),
                _ if script.starts_with("stat -L -c %a") => format!("{mode}\n"),
                _ if script.starts_with("stat ") => "root:root\n".to_owned(),
                _ if script.contains("kubelet.service") => "yes\n".to_owned(),
                _ => "no\n".to_owned(),
            })
        };
        let items = audit(&mut run).unwrap();
        assert_eq!(items.len(), 24, "every item once");
        let failed = items
            .iter()
            .filter(|item| matches!(item.finding, Finding::Fail(_)));
        failed.map(|item| item.id).collect()
    }

    #[test]
    fn a_good_node_passes_and_every_fault_is_found() {
        let words = "/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml";
        let here = "0100007F:2808";
        assert_eq!(failures(GOOD, words, "600", here), Vec::<&str>::new());
        assert_eq!(failures(GOOD, words, "640", here), ["4.1.1", "4.1.9"]);
        assert_eq!(
            failures("x: 1\n", words, "400", here),
            [
                "4.2.1", "4.2.2", "4.2.3", "4.2.9", "4.2.12", "4.2.13", "4.2.14"
            ]
        );
        assert_eq!(
            failures(GOOD, words, "600", "00000000:280A"),
            ["4.2.3", "4.2.9"]
        );
        let flags = "kubelet --anonymous-auth=true --read-only-port 10255 --hostname-override=x --feature-gates=RotateKubeletServerCertificate=false";
        assert_eq!(
            failures(GOOD, flags, "600", here),
            ["4.2.1", "4.2.4", "4.2.7", "4.2.11"]
        );
        let weak = GOOD.replace("AES_128_GCM_SHA256", "AES_128_CBC_SHA");
        let weak = format!(
            "{weak}eventRecordQPS: -1\nrotateCertificates: false\nmakeIPTablesUtilChains: false\nstreamingConnectionIdleTimeout: \"0\"\n"
        );
        assert_eq!(
            failures(&weak, words, "600", here),
            ["4.2.5", "4.2.6", "4.2.8", "4.2.10", "4.2.12"]
        );
    }
}
