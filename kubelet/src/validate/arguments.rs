//! The arguments of `kubelet validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How the report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

const MORE: &str = "\
A FILE is a manifest, a directory of manifests (its sub-directories and dot-files are passed over), or - for standard
input. Each is read as it would be from the manifest directory: decoded, defaulted, checked against the rules of the
API, against what this version can run, and against the other files given: of two files with one pod the last path in
byte order counts. ConfigMaps and Secrets in them are taken, and pods may refer to such, as by staticPodObjects of
--agent-config: without it those of a node without --kubeconfig are. Which pods a node's objects served before it joined
its cluster, and serve on, only that node knows.

Exit status: 0 when nothing is wrong, 1 when something is, 64 when the command line is.";

/// What to judge.
#[derive(Args, Debug, PartialEq, Eq)]
#[command(after_help = MORE)]
pub struct Arguments {
    /// Judge this KubeletConfiguration; manifests given too are judged for a node that has it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Judge this AgentConfiguration; manifests given too are judged for a node that has it
    #[arg(long, value_name = "FILE")]
    pub(super) agent_config: Option<PathBuf>,
    /// Judge for a node of a cluster, whose agent is started with this flag; the file is not read
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Manifests, directories of them, or - for standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["config", "agent_config"])]
    pub(super) files: Vec<PathBuf>,
    /// The node whose pods they are (default: the host's name)
    #[arg(long, value_name = "NAME")]
    pub(super) node_name: Option<String>,
    /// One line a finding, or one JSON document
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: Output,
}
