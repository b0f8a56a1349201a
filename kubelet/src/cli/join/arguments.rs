//! The command line of `kubelet join`, in kubeadm's words where it has them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use super::discovery::Way;
use super::failure::Failure;
use super::preflight;
use super::token::{Pins, Token};
use crate::config::GoDuration;

/// kubeadm's timeout of discovery, and of the TLS bootstrap.
const TIMEOUT: &str = "5m0s";

/// How to join.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 when the node has joined and is Ready (without systemd and --foreground: when everything is \
        written), 2 when a preflight check failed, 10 to 24 for what else can go wrong (the manual has the table), 64 when \
        the command line is wrong. What fails leaves nothing behind, and can be run again."
)]
pub(in crate::cli) struct JoinArguments {
    /// The API server, as HOST:PORT; not with --discovery-file
    #[arg(value_name = "HOST:PORT")]
    pub(super) endpoint: Option<String>,
    /// Use this token for both discovery-token and tls-bootstrap-token when those values are not provided
    #[arg(long, value_parser = secret)]
    pub(super) token: Option<SecretString>,
    /// The token used to validate cluster information fetched from the API server
    #[arg(long, value_parser = secret, value_name = "TOKEN", conflicts_with = "discovery_file")]
    pub(super) discovery_token: Option<SecretString>,
    /// Validate that the root CA public key matches this hash (format: "<type>:<value>"); may be repeated
    #[arg(long, value_name = "HASH", value_delimiter = ',')]
    pub(super) discovery_token_ca_cert_hash: Vec<String>,
    /// Allow joining without --discovery-token-ca-cert-hash: whoever knows the token can then pass for the API server
    #[arg(long)]
    pub(super) discovery_token_unsafe_skip_ca_verification: bool,
    /// A kubeconfig, as a file or https:// URL, from which to load cluster information
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    pub(super) discovery_file: Option<String>,
    /// The token used to temporarily authenticate with the Kubernetes Control Plane while joining the node
    #[arg(long, value_parser = secret, value_name = "TOKEN")]
    pub(super) tls_bootstrap_token: Option<SecretString>,
    /// The node's name; the name of this host when it is not given
    #[arg(long, value_name = "NAME")]
    pub(super) node_name: Option<String>,
    /// The node's address, or two of them, one of each family
    #[arg(long, value_name = "IP")]
    pub(super) node_ip: Option<String>,
    /// The socket of the container runtime; found by itself where there is one
    #[arg(long, value_name = "SOCKET")]
    pub(super) cri_socket: Option<String>,
    /// Checks whose errors will be shown as warnings: 'Swap,Port-10250', or 'all'
    #[arg(long, value_name = "CHECKS", value_delimiter = ',')]
    pub(super) ignore_preflight_errors: Vec<String>,
    /// How long to wait for the API server, for the certificate, and for the node to be Ready, each
    #[arg(long, value_name = "TIME", default_value = TIMEOUT, value_parser = duration)]
    pub(super) timeout: Duration,
    /// Go on as the agent, instead of starting kubelet.service
    #[arg(long)]
    pub(in crate::cli) foreground: bool,
    /// Write below this directory instead of /, and touch no service
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(super) root: PathBuf,
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

/// What the command line asks for, checked before anything is asked or looked at.
pub(super) struct Asked {
    pub(super) way: Way,
    pub(super) bootstrap: Option<Token>,
}

/// Judges the command line.
///
/// # Errors
/// When it does not say which cluster, or contradicts itself.
pub(super) fn asked(arguments: &JoinArguments) -> Result<Asked, Failure> {
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
