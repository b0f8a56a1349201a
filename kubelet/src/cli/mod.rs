//! Subcommands that ask the running agent, over its unix socket.
//!
//! Owns: their arguments, the request, what is printed. Inputs: the socket. Outputs: standard output, an exit status.
//! Spawns nothing: one blocking exchange, in a process of its own.
//!
//! Deliberately not here: answering ([`server`](crate::server)), and `kubelet validate`, which asks nobody.

mod age;
mod events;
mod socket;

use std::io;
use std::path::PathBuf;

use crate::config::UsageError;

pub use events::NAME as EVENTS;

/// Why a subcommand has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments cannot be understood.
    #[error("{message}\nRun 'kubelet {command} --help' for usage.")]
    Usage {
        /// The subcommand.
        command: &'static str,
        /// What is wrong with them.
        message: String,
    },
    /// Nobody answers.
    #[error(
        "no agent answers at {}: is it running, and with this root directory (--root-dir)?",
        .0.display()
    )]
    Silent(PathBuf, #[source] io::Error),
    /// The agent says no.
    #[error("the agent answers: {0}")]
    Refused(String),
    /// What came is no answer.
    #[error("the agent's answer cannot be understood: {0}")]
    Garbled(String),
    /// The answer cannot be printed.
    #[error("cannot write")]
    Write(#[source] io::Error),
}

impl CliError {
    /// The exit status of the process: 64 for what the command line got wrong, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => UsageError::EXIT_CODE,
            _ => 1,
        }
    }
}

/// Does what `arguments`, those behind the subcommand's name, ask for.
///
/// # Errors
/// When the arguments make no sense, no agent answers, or `output` does not take the answer.
pub fn events(arguments: &[String], output: &mut dyn io::Write) -> Result<(), CliError> {
    events::run(arguments, output, crate::clock::system_wall())
}
