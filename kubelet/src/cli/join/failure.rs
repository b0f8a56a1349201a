//! Why a join ends early: a message and an exit status each.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// What keeps a node out of a cluster. Display says what to do where that is known. docs/manual.md has the table of exit
/// statuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// Checks of this machine; a line each.
    #[error(
        "[preflight] Some fatal errors occurred:\n{0}[preflight] If you know what you are doing, you can make a check non-fatal with `--ignore-preflight-errors=...`"
    )]
    Preflight(String),
    /// Nobody answers there.
    #[error(
        "the API server {server} cannot be reached: {why}: is the address right, is there a route, does a firewall let it through?"
    )]
    Unreachable {
        /// `https://…`.
        server: String,
        /// What the network says.
        why: String,
    },
    /// It answers, and refuses.
    #[error("the API server {server} refuses: {why}")]
    Refused {
        /// `https://…`.
        server: String,
        /// Its words.
        why: String,
    },
    /// There is no cluster-info that could be used.
    #[error("this API server isn't set up for token bootstrapping: {0}")]
    NotSetUp(String),
    /// cluster-info without any signature.
    #[error(
        "the cluster-info ConfigMap is not signed for any token, so nothing says whom to trust: is the bootstrapsigner of the cluster's controller manager on, and may the token be used for signing (usage-bootstrap-signing)?"
    )]
    Unsigned,
    /// Signed, but not for this token.
    #[error(
        "token id {0:?} is invalid for this cluster or it has expired: `kubeadm token create --print-join-command` on the control-plane node makes a new one"
    )]
    UnknownToken(String),
    /// The signature is not by this token's secret.
    #[error(
        "failed to verify the JWS signature of cluster-info with the token {0:?}: either the secret behind the dot is wrong, or this is not the API server that it claims to be"
    )]
    Signature(String),
    /// None of the pins.
    #[error(
        "cluster CA found in the cluster-info ConfigMap is invalid: its public key {found} is none of those of --discovery-token-ca-cert-hash: either the hash is of another cluster, or this is not the API server that it claims to be"
    )]
    Pin {
        /// `sha256:…` of what was found.
        found: String,
    },
    /// The certificate of the API server is of another authority, or for another name.
    #[error(
        "the certificate that {server} shows cannot be verified with the CA of the cluster: {why}: is something between this machine and the API server, or was its certificate renewed by another CA?"
    )]
    Authority {
        /// `https://…`.
        server: String,
        /// rustls' words.
        why: String,
    },
    /// It is of the right authority, at another time.
    #[error(
        "the certificate of {server} is not valid at the time of this machine ({here}{there}): {why}: set the clock, or renew the API server's certificate where the clock is right"
    )]
    Clock {
        /// `https://…`.
        server: String,
        /// This machine's time.
        here: Timestamp,
        /// `; the API server says …`, where it does.
        there: String,
        /// rustls' words.
        why: String,
    },
    /// 401.
    #[error(
        "the API server does not take the credentials ({0}): the token has expired or may not be used for authentication: `kubeadm token create --print-join-command` on the control-plane node makes a new one"
    )]
    Unauthorized(String),
    /// A node of this name, Ready and not this machine.
    #[error(
        "a Node with name {0:?} and status \"Ready\" already exists in the cluster, and is another machine: delete the existing Node, or change the name of this one (--node-name)"
    )]
    NameTaken(String),
    /// The certificate request.
    #[error(
        "the certificate signing request {name} was denied: {why}: have whoever denied it approve the next one"
    )]
    Denied {
        /// Its name.
        name: String,
        /// Reason and message.
        why: String,
    },
    /// Nobody decided.
    #[error(
        "the certificate signing request {name} was not approved within {seconds} s: no approver runs in the cluster's controller manager, or it does not know this token's group; by hand: kubectl certificate approve {name}"
    )]
    NotApproved {
        /// Its name.
        name: String,
        /// How long.
        seconds: u64,
    },
    /// The agent made no request.
    #[error(
        "the kubelet has not asked for a certificate within {0} s: its log says why (journalctl -u kubelet)"
    )]
    Silent(u64),
    /// Joined, and not ready.
    #[error(
        "this node has joined the cluster, but is not Ready after {seconds} s: {why}. What was written stays"
    )]
    NotReady {
        /// How long.
        seconds: u64,
        /// The condition's message.
        why: String,
    },
    /// The agent in the foreground ended.
    #[error("the kubelet ended before the node had joined")]
    AgentEnded,
    /// The merged configuration; a line for each problem.
    #[error("this kubelet cannot run with the cluster's configuration:\n{0}")]
    Configuration(String),
    /// A file.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// `write` …
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// systemd.
    #[error("systemctl {call}: {why}")]
    Service {
        /// Its arguments.
        call: String,
        /// Its words.
        why: String,
    },
    /// Anything of this process.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// The exit status of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::AgentEnded | Self::File { .. } | Self::Service { .. } | Self::Other(_) => 1,
            // kubeadm's `PreFlightExitCode`.
            Self::Preflight(_) => 2,
            Self::Unreachable { .. } => 10,
            Self::Refused { .. } => 11,
            Self::NotSetUp(_) => 12,
            Self::Unsigned => 13,
            Self::UnknownToken(_) => 14,
            Self::Signature(_) => 15,
            Self::Pin { .. } => 16,
            Self::Authority { .. } => 17,
            Self::Clock { .. } => 18,
            Self::Unauthorized(_) => 19,
            Self::NameTaken(_) => 20,
            Self::Denied { .. } => 21,
            Self::NotApproved { .. } => 22,
            Self::Silent(_) => 23,
            Self::NotReady { .. } => 24,
            Self::Usage(_) => crate::config::UsageError::EXIT_CODE,
            Self::Configuration(_) => crate::config::ConfigError::EXIT_CODE,
        }
    }

    /// For `map_err` of what is done to the file `path`.
    pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
