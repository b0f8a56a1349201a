//! `kubelet validate`: what the agent would say of manifests and of its configuration file, without running anything.
//!
//! Owns: the subcommand's arguments, its report as text and as JSON, its exit status. Inputs: the files named, standard
//! input, the host's name and kernel release. Outputs: the report. Spawns nothing.
//!
//! A manifest is read as the watch reads it: decoded, defaulted, identified, checked against the API's rules, then
//! held against what this version can run, and against the other manifests given. ConfigMaps and Secrets in it are
//! judged as by the settings given.
//!
//! Deliberately not here: the rules themselves (`static-pods`, [`admission`](crate::admission),
//! [`config`](crate::config)), and whatever depends on a node at work: its resources, images, other pods, the runtime.

mod arguments;
mod configuration;
mod input;
mod manifests;
mod report;

use std::io::{self, Read, Write};

use static_pods::object::Objects;

use crate::config::{CommandLine, Config, ConfigError, Environment, UsageError, load};
pub use arguments::Arguments;
use arguments::Output;
pub(crate) use input::{STDIN, read as read_input};
use report::Report;

/// The word that asks for it.
pub const NAME: &str = "validate";

/// Whether anything is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is.
    Valid,
    /// Something is.
    Invalid,
}

impl Verdict {
    /// The exit status of the process: 0 or 1.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The node's name is of no use.
    #[error("the node has no usable name; give one with --node-name")]
    Node(#[source] ConfigError),
    /// The report cannot be written.
    #[error("cannot write the report")]
    Write(#[from] io::Error),
}

impl ValidateError {
    /// The exit status of the process: 64 for what the command line got wrong, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Node(_) => UsageError::EXIT_CODE,
            Self::Write(_) => 1,
        }
    }
}

/// Judges what `arguments` ask for.
///
/// # Errors
/// When the node's name is of no use, or `output` does not take the report. What is wrong with a file, be it that it
/// cannot be read, is in the report.
pub fn run(
    arguments: &Arguments,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<Verdict, ValidateError> {
    let report = judge(arguments, input)?;
    match arguments.output {
        Output::Text => report.write_text(output)?,
        Output::Json => report.write_json(output)?,
    }
    output.flush()?;
    Ok(match report.valid {
        true => Verdict::Valid,
        false => Verdict::Invalid,
    })
}

fn judge(arguments: &Arguments, input: &mut dyn Read) -> Result<Report, ValidateError> {
    let mut environment = Environment::of_host().map_err(ValidateError::Node)?;
    // The files may be meant for another machine: what only this one decides is no fault of theirs.
    environment.cgroup_v1 = false;
    if let Some(name) = &arguments.node_name {
        environment.hostname.clone_from(name);
    }
    let plain = load(&CommandLine::default(), &environment).map_err(ValidateError::Node)?;
    let mut config: Config = plain.config;
    let mut files = Vec::new();
    if let Some(path) = &arguments.config {
        let (file, read) = configuration::judge(path, &environment, input);
        files.push(file);
        // Manifests beside a good configuration are those of a node that has it.
        config = read.unwrap_or(config);
    }
    if let Some(path) = &arguments.agent_config {
        let (file, read) = configuration::judge_own(path, &environment, input);
        files.push(file);
        config.agent = read.unwrap_or_default();
    }
    let joined = arguments.kubeconfig.is_some();
    let objects = match config.agent.static_pod_objects.serve_new_pods(joined) {
        true => Objects::On,
        false => Objects::Off,
    };
    let node = manifests::Node {
        config: &config,
        objects,
    };
    files.extend(manifests::judge(&arguments.files, node, input));
    Ok(Report::new(files))
}
