//! `kubelet exec`, `attach`, `port-forward` and `cp`: what goes on in a container, for somebody at this machine.
//!
//! Owns: the exchange over the agent's socket once it is no HTTP any more, the terminal while it is somebody else's, the
//! files that are copied. Inputs: the socket, this process's own streams, local ports and files. Outputs: the same, and an
//! exit status: that of the command in the container.
//!
//! SPDY/3.1 is spoken ([`spdy`](crate::spdy)), which the agent carries to the runtime byte for byte. Everything runs on
//! this thread, but for reads and writes of files and terminals, which block threads of their own.

mod carry;
mod copy;
mod exec;
mod forward;
mod target;
mod terminal;
mod upgrade;

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;

use tokio::runtime::{Builder, Runtime};

use super::CliError;
use super::arguments::{AttachArguments, CopyArguments, ExecArguments, ForwardArguments};
use crate::errors::error_chain;

/// What ended a subcommand of these early. Texts are kubectl's where it has one.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("Error from server (NotFound): pods {0:?} not found")]
    NoPod(String),
    /// Something about the pod, its containers, or what is asked of them.
    #[error("error: {0}")]
    Cannot(String),
    /// The agent, or the runtime, does not begin the stream.
    #[error("error: unable to upgrade connection: {1}")]
    Refused(u16, String),
    #[error("error: {}", error_chain(.0))]
    Agent(#[from] CliError),
    #[error("error: lost connection to pod")]
    Lost,
    #[error("error: the connection to the agent broke")]
    Broken(#[source] io::Error),
    /// On this side.
    #[error("error: cannot {0}")]
    Local(String, #[source] io::Error),
    /// Whoever reads what is written has gone.
    #[error("error: nobody reads the output any more")]
    Unread,
    #[error("command terminated with exit code {0}")]
    Exit(u8),
    /// A signal asks for the end.
    #[error("ended by signal {0}")]
    Signal(u8),
}

impl StreamError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Exit(code) => *code,
            // As a shell says it.
            Self::Signal(signal) => 128_u8.saturating_add(*signal),
            Self::Unread => 0,
            _ => 1,
        }
    }
}

/// `kubelet exec`; the exit status.
pub(super) fn exec(arguments: &ExecArguments) -> u8 {
    finish(block_on(exec::exec(arguments)))
}

/// `kubelet attach`; the exit status.
pub(super) fn attach(arguments: &AttachArguments) -> u8 {
    finish(block_on(exec::attach(arguments)))
}

/// `kubelet port-forward`; the exit status.
pub(super) fn forward(arguments: &ForwardArguments) -> u8 {
    finish(block_on(forward::forward(arguments)))
}

/// `kubelet cp`; the exit status.
pub(super) fn copy(arguments: &CopyArguments) -> u8 {
    finish(block_on(copy::copy(arguments)))
}

fn finish(done: Result<(), StreamError>) -> u8 {
    let Err(error) = done else {
        return 0;
    };
    if !matches!(error, StreamError::Signal(_) | StreamError::Unread) {
        tell(&error_chain(&error));
    }
    error.exit_code()
}

/// Writes a line to standard error, at once: what a container writes there meanwhile comes before it or behind. Nobody is
/// left to tell when that fails.
fn tell(line: &str) {
    use io::Write as _;
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A runtime whose end waits for no thread: one may wait for what is never typed.
struct Here(Option<Runtime>);

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn block_on(work: impl Future<Output = Result<(), StreamError>>) -> Result<(), StreamError> {
    let built = Builder::new_current_thread().enable_all().build();
    let failed = |error| StreamError::Local("begin".to_owned(), error);
    let here = Here(Some(built.map_err(failed)?));
    match &here.0 {
        Some(runtime) => runtime.block_on(work),
        None => Ok(()),
    }
}

/// One of this process's own streams. Not by way of the standard library's, which cut into lines and have a lock.
fn own(stream: impl AsFd) -> Result<tokio::fs::File, StreamError> {
    let copy = stream.as_fd().try_clone_to_owned();
    let copy =
        copy.map_err(|error| StreamError::Local("use a standard stream".to_owned(), error))?;
    Ok(tokio::fs::File::from_std(File::from(copy)))
}
