//! What the subcommands take: the one definition that the parser, the help, the completions and the manual page are made
//! of.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{GoDuration, SOCKET_NAME};

/// Upstream's default of `--root-dir`.
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
/// kubectl's, where no context says otherwise.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// The kubelet and its subcommands.
#[derive(Debug, Parser)]
#[command(
    name = "kubelet",
    about = "The node agent of Kubernetes; its subcommands ask the agent that runs on this machine",
    after_help = "Without a subcommand it is the agent: 'kubelet --help' lists its flags.\n\n\
        Exit status: 0 when the agent has answered, 1 when it has not, 64 when the command line is wrong.",
    disable_help_subcommand = true,
    subcommand_required = true
)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Connect to the first process of a container that runs
    Attach(AttachArguments),
    /// Print the shell's completions of these subcommands
    Completion(CompletionArguments),
    /// Copy files and directories into a container or out of it, by the tar that it has
    Cp(CopyArguments),
    /// Show one pod in detail, with its events
    #[command(subcommand)]
    Describe(Described),
    /// Show what manifests would change if they lay in the manifest directory
    Diff(DiffArguments),
    /// Show what has happened on this node, what happened last at the end
    Events(EventsArguments),
    /// Run a command in a container
    Exec(ExecArguments),
    /// List the pods of this node
    #[command(subcommand)]
    Get(Listed),
    /// Make this machine a node of a cluster, with a token or a discovery file
    Join(super::join::JoinArguments),
    /// Take back what join has done; pods of manifests run on
    Leave(super::join::LeaveArguments),
    /// Print what a container has written
    Logs(LogsArguments),
    /// Print a manual page as roff; without a name, the names of those there are
    #[command(hide = true)]
    Manual(ManualArguments),
    /// Forward ports of this machine to ports of a pod, until it is interrupted
    PortForward(ForwardArguments),
    /// Show on one screen how this node is, and why whatever does not run does not
    Status(StatusArguments),
    /// Show what pods, or the node, use of processor and memory at this moment
    #[command(subcommand)]
    Top(Used),
    /// Judge manifests, and KubeletConfiguration files, as this kubelet would, without running anything
    Validate(crate::validate::Arguments),
}

/// Which agent is asked.
#[derive(Args, Clone, Debug)]
pub(super) struct Place {
    /// The root directory of the agent to ask
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    root_dir: PathBuf,
    /// The agent's socket, when its configuration has it elsewhere than agent.sock in the root directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Place {
    pub(super) fn socket(&self) -> PathBuf {
        match &self.socket {
            Some(socket) => socket.clone(),
            None => self.root_dir.join(SOCKET_NAME),
        }
    }
}

/// Which namespaces.
#[derive(Args, Clone, Debug)]
pub(super) struct Scope {
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
    /// Only of this namespace
    #[arg(short, long, value_name = "NAME", value_parser = a_name, default_value = DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
}

impl Scope {
    /// The one namespace; none for all.
    pub(super) fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(&self.namespace)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Listed {
    /// The pods of this node, static ones and those of the API server
    #[command(visible_aliases = ["pod", "po"])]
    Pods(GetArguments),
}

#[derive(Args, Debug)]
pub(super) struct GetArguments {
    /// Only these pods, by the name in the manifest or with the node's name behind it
    #[arg(value_name = "NAME", value_parser = a_name)]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Besides columns: wide, with more of them; name; yaml or json, for the whole objects
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// Without the line of headings
    #[arg(long)]
    pub(super) no_headers: bool,
    /// Then go on, with a line for each change, until interrupted
    #[arg(short, long)]
    pub(super) watch: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Wide,
    Name,
    Yaml,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Described {
    /// One pod, or those whose names begin so
    #[command(visible_aliases = ["pods", "po"])]
    Pod(DescribeArguments),
}

#[derive(Args, Debug)]
pub(super) struct DescribeArguments {
    /// The pod, by the name in the manifest or with the node's name behind it; without one, all
    #[arg(value_name = "NAME", value_parser = a_name)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) scope: Scope,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 when nothing would change, 1 when something would, 2 when that cannot be told."
)]
pub(super) struct DiffArguments {
    /// Manifests, or - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    pub(super) place: Place,
}

/// Which events.
#[derive(Args, Debug)]
#[command(
    after_help = "An agent keeps the last thousand events, none from before it started. A repeated event counts up: \"5s (x3 over 2m)\"."
)]
pub(super) struct EventsArguments {
    /// Only of this namespace
    #[arg(short, long, value_name = "NAME", value_parser = a_name)]
    pub(super) namespace: Option<String>,
    /// Of all namespaces, which is what is shown when none is named
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(super) all_namespaces: bool,
    /// text, or json for a v1 EventList
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(super) output: EventsFormat,
    /// Only of the pod with this name, as it is in the manifest or with the node's name behind it
    #[arg(long, value_name = "NAME", value_parser = a_name)]
    pub(super) pod: Option<String>,
    /// Then go on, with a line for each event as it happens, until interrupted
    #[arg(short, long)]
    pub(super) watch: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EventsFormat {
    Text,
    Json,
}

/// Whose log, and what of it.
#[derive(Args, Debug)]
#[command(
    after_help = "Rotated files of the log are read too, as far as they are kept (containerLogMaxFiles)."
)]
pub(super) struct LogsArguments {
    /// The pod, by the name in the manifest or with the node's name behind it
    #[arg(value_name = "POD", value_parser = a_pod)]
    pub(super) pod: String,
    /// The container; without one, that of the annotation kubectl.kubernetes.io/default-container, or the first
    #[arg(value_name = "CONTAINER", conflicts_with_all = ["container", "all_containers"], value_parser = a_name)]
    pub(super) positional: Option<String>,
    /// The container; without one, that of the annotation kubectl.kubernetes.io/default-container, or the first
    #[arg(short, long, value_name = "NAME", value_parser = a_name)]
    pub(super) container: Option<String>,
    /// Of all containers of the pod
    #[arg(long, conflicts_with = "container")]
    pub(super) all_containers: bool,
    /// Go on until the container ends
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Of the instance before the one that runs
    #[arg(short, long)]
    pub(super) previous: bool,
    /// Only so many lines from the end; -1 for all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub(super) tail: i64,
    /// Only what is newer than a duration such as 5s, 2m or 3h
    #[arg(long, value_name = "DURATION", value_parser = seconds, conflicts_with = "since_time")]
    pub(super) since: Option<u64>,
    /// Only what was written then (RFC 3339) or later
    #[arg(long, value_name = "TIME")]
    pub(super) since_time: Option<jiff::Timestamp>,
    /// The time at which it was written before each line
    #[arg(long)]
    pub(super) timestamps: bool,
    /// Only so many bytes; 0 for all
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(super) limit_bytes: u64,
    /// The pod's and the container's name before each line
    #[arg(long)]
    pub(super) prefix: bool,
    /// Only of this namespace
    #[arg(short, long, value_name = "NAME", value_parser = a_name, default_value = DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Debug, Subcommand)]
pub(super) enum Used {
    /// What the node uses
    #[command(visible_aliases = ["nodes", "no"])]
    Node(TopNodeArguments),
    /// What the pods of this node use
    #[command(visible_aliases = ["pod", "po"])]
    Pods(TopPodsArguments),
}

#[derive(Args, Debug)]
#[command(after_help = MEASURED)]
pub(super) struct TopNodeArguments {
    /// Without the line of headings
    #[arg(long)]
    pub(super) no_headers: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

/// Of both kinds of `top`.
const MEASURED: &str = "It is measured for a second. Memory is the working set, what counts against limits: with the page cache \
    that is in use.";

#[derive(Args, Debug)]
#[command(after_help = MEASURED)]
pub(super) struct TopPodsArguments {
    /// Only this pod, by the name in the manifest or with the node's name behind it
    #[arg(value_name = "NAME", value_parser = a_name)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// A line a container
    #[arg(long)]
    pub(super) containers: bool,
    /// Without the line of headings
    #[arg(long)]
    pub(super) no_headers: bool,
    /// What uses most comes first
    #[arg(long, value_name = "BY")]
    pub(super) sort_by: Option<SortBy>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SortBy {
    Cpu,
    Memory,
}

#[derive(Args, Debug)]
pub(super) struct CompletionArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(super) shell: clap_complete::Shell,
}

/// Which container, and how this process's own streams are connected to it.
#[derive(Args, Debug)]
pub(super) struct Container {
    /// The pod, by the name in the manifest or with the node's name behind it
    #[arg(value_name = "POD", value_parser = a_pod)]
    pub(super) pod: String,
    /// The container; without it that of the annotation kubectl.kubernetes.io/default-container, or the first
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// Of this namespace
    #[arg(short, long, value_name = "NAME", value_parser = a_name, default_value = DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
    /// Only what the container says: no remarks
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Pass standard input to the container
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Standard input is a terminal, and is to be the container's; not without -i
    #[arg(short = 't', long)]
    pub(super) tty: bool,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: that of the command; 1 when it could not be run, 64 when the command line is wrong."
)]
pub(super) struct ExecArguments {
    #[command(flatten)]
    pub(super) to: Container,
    /// The command and its arguments, behind --; no shell looks at them
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub(super) command: Vec<String>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
#[command(after_help = "On a terminal, Ctrl-P Ctrl-Q lets go of the container, which runs on.")]
pub(super) struct AttachArguments {
    #[command(flatten)]
    pub(super) to: Container,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
pub(super) struct ForwardArguments {
    /// The pod, by the name in the manifest or with the node's name behind it
    #[arg(value_name = "POD", value_parser = a_pod)]
    pub(super) pod: String,
    /// Ports, of this machine and of the pod; 80 is 80:80, :80 is any port that is free. The pod's may be the name of one
    /// of a container
    #[arg(value_name = "[LOCAL:]REMOTE", required = true)]
    pub(super) ports: Vec<String>,
    /// Where to listen, separated by commas: addresses, or localhost for 127.0.0.1 and ::1
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "localhost"
    )]
    pub(super) address: Vec<String>,
    /// Of this namespace
    #[arg(short, long, value_name = "NAME", value_parser = a_name, default_value = DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
#[command(
    after_help = "One of the two is PATH, the other POD:PATH or NAMESPACE/POD:PATH. A directory that is copied out of a \
        container becomes DESTINATION, or what is in it goes into DESTINATION where that is there; a file, and whatever is \
        copied into a container, goes into a directory that is there by its own name.\n\n\
        The container needs tar. Out of a container come files and directories alone: links are skipped, and so is whatever \
        would lie outside of the destination. A local path with a colon begins with ./ or /."
)]
pub(super) struct CopyArguments {
    /// What is copied
    #[arg(value_name = "SOURCE")]
    pub(super) source: String,
    /// Where to
    #[arg(value_name = "DESTINATION")]
    pub(super) destination: String,
    /// The container; without it that of the annotation kubectl.kubernetes.io/default-container, or the first
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// The pod's, where its name does not say it
    #[arg(short, long, value_name = "NAME", value_parser = a_name, default_value = DEFAULT_NAMESPACE)]
    pub(super) namespace: String,
    /// In the container, files belong to whoever tar is there, with the modes that it gives to new ones
    #[arg(long)]
    pub(super) no_preserve: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Args, Debug)]
pub(super) struct ManualArguments {
    #[arg(value_name = "COMMAND")]
    pub(super) command: Option<String>,
}

/// A pod, with or without its type.
fn a_pod(value: &str) -> Result<String, String> {
    let mut types = ["pod/", "pods/", "po/"].iter();
    a_name(
        types
            .find_map(|kind| value.strip_prefix(kind))
            .unwrap_or(value),
    )
}

/// What a namespace or a pod can be called.
fn a_name(value: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match !value.is_empty() && value.chars().all(fits) {
        true => Ok(value.to_owned()),
        false => Err("names are of lower case letters, digits, '-' and '.'".to_owned()),
    }
}

/// A duration as Go writes it, in seconds, whole ones at least.
fn seconds(value: &str) -> Result<u64, String> {
    let duration = GoDuration::parse(value).map_err(|error| error.to_string())?;
    let duration = duration.positive();
    match duration.is_zero() {
        true => Err("it must be longer than nothing".to_owned()),
        false => Ok(duration.as_secs() + u64::from(duration.subsec_nanos() > 0)),
    }
}
