//! `kubelet exec` and `kubelet attach`.

use std::io;

use serde::Deserialize;

use super::carry::{Ended, Input, Output, Session};
use super::target;
use super::terminal::{self, Endings, Raw, Sizes};
use super::upgrade::{COMMANDS, escaped, upgrade};
use super::{StreamError, own, tell};
use crate::cli::arguments::{AttachArguments, ExecArguments};

/// The header that says what a stream is (`k8s.io/streaming`).
const KIND: &str = "streamtype";

/// What a command, or a first process, is connected to.
pub(super) struct Ends {
    pub(super) stdin: Option<Input>,
    pub(super) stdout: Output,
    /// None on a terminal.
    pub(super) stderr: Option<Output>,
}

impl Ends {
    /// This process's own.
    ///
    /// # Errors
    /// When one is closed.
    pub(super) fn own(stdin: bool, tty: bool) -> Result<Self, StreamError> {
        let stdin = stdin.then(|| own(io::stdin())).transpose()?;
        let stderr = (!tty).then(|| own(io::stderr())).transpose()?;
        Ok(Self {
            stdin: stdin.map(|file| Box::new(file) as Input),
            stdout: Box::new(own(io::stdout())?),
            stderr: stderr.map(|file| Box::new(file) as Output),
        })
    }

    fn query(&self, tty: bool) -> String {
        let mut query = "output=1".to_owned();
        for (wanted, word) in [
            (self.stdin.is_some(), "&input=1"),
            (self.stderr.is_some(), "&error=1"),
            (tty, "&tty=1"),
        ] {
            if wanted {
                query.push_str(word);
            }
        }
        query
    }
}

pub(super) async fn exec(arguments: &ExecArguments) -> Result<(), StreamError> {
    let (socket, to) = (arguments.place.socket(), &arguments.to);
    let pod = target::pod(&socket, &to.namespace, &to.pod)?;
    target::is_not_completed(&pod.pod, "exec into")?;
    let (container, _) = target::container(&pod, to.container.as_deref(), to.quiet)?;
    let tty = wants_terminal(to.stdin, to.tty, to.quiet);
    let ends = Ends::own(to.stdin, tty)?;
    let command = Command {
        socket: &socket,
        namespace: pod.namespace(),
        pod: pod.name(),
        container: &container,
        words: &arguments.command,
    };
    match tty {
        false => command.run(ends).await,
        true => {
            let connection = upgrade(&socket, &command.path(&ends, true), COMMANDS).await?;
            in_terminal(connection, ends, false).await.map(|_| ())
        }
    }
}

/// One command in a container.
pub(super) struct Command<'a> {
    pub(super) socket: &'a std::path::Path,
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
    pub(super) words: &'a [String],
}

impl Command<'_> {
    /// Runs it to its end, on no terminal.
    ///
    /// # Errors
    /// [`StreamError::Exit`] with another status than 0, and whatever comes before there is one.
    pub(super) async fn run(&self, ends: Ends) -> Result<(), StreamError> {
        let connection = upgrade(self.socket, &self.path(&ends, false), COMMANDS).await?;
        let ended = session(connection, ends).carry().await?;
        verdict(&ended.unwrap_or_default(), false)
    }

    fn path(&self, ends: &Ends, tty: bool) -> String {
        let words = self.words.iter();
        let words = words.map(|word| format!("&command={}", escaped(word)));
        format!(
            "/exec/{}/{}/{}?{}{}",
            self.namespace,
            self.pod,
            self.container,
            ends.query(tty),
            words.collect::<String>()
        )
    }
}

pub(super) async fn attach(arguments: &AttachArguments) -> Result<(), StreamError> {
    let (socket, to) = (arguments.place.socket(), &arguments.to);
    let pod = target::pod(&socket, &to.namespace, &to.pod)?;
    target::is_not_completed(&pod.pod, "attach")?;
    let (container, has_tty) = target::container(&pod, to.container.as_deref(), to.quiet)?;
    if to.tty && !has_tty && !to.quiet {
        tell(&format!(
            "error: Unable to use a TTY - container {container} did not allocate one"
        ));
    }
    let raw = wants_terminal(to.stdin, has_tty, to.quiet);
    if !to.quiet {
        tell(
            "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt.\n\
             If you don't see a command prompt, try pressing enter.",
        );
    }
    // Where its first process has a terminal there is no other stream than that.
    let ends = Ends::own(to.stdin, has_tty)?;
    let path = format!(
        "/attach/{}/{}/{container}?{}",
        pod.namespace(),
        pod.name(),
        ends.query(has_tty)
    );
    let connection = upgrade(&socket, &path, COMMANDS).await?;
    if !raw {
        let mut session = session(connection, ends);
        if has_tty {
            session.resize(&[(KIND, "resize")], sizes(false)?);
        }
        let ended = session.carry().await?;
        return verdict(&ended.unwrap_or_default(), true);
    }
    in_terminal(connection, ends, true).await?;
    let spec = pod.pod.spec.as_ref();
    let restarts = spec.and_then(|spec| spec.restart_policy.as_deref());
    if !to.quiet && restarts.is_none_or(|policy| policy == "Always") {
        tell(&format!(
            "Session ended, resume using 'kubelet attach {} -c {container} -i -t' command when the pod is running",
            to.pod
        ));
    }
    Ok(())
}

/// Whether the terminal is to be the other side's; as in kubectl, not without its input.
fn wants_terminal(stdin: bool, tty: bool, quiet: bool) -> bool {
    if !(stdin && tty) {
        return false;
    }
    let is_one = terminal::is_one();
    if !is_one && !quiet {
        tell("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    is_one
}

fn session(connection: tokio::net::UnixStream, ends: Ends) -> Session {
    let mut session = Session::new(connection, &[(KIND, "error")]);
    if let Some(stdin) = ends.stdin {
        session.read_from(&[(KIND, "stdin")], stdin);
    }
    session.write_to(&[(KIND, "stdout")], ends.stdout);
    if let Some(stderr) = ends.stderr {
        session.write_to(&[(KIND, "stderr")], stderr);
    }
    session
}

fn sizes(redraw: bool) -> Result<Sizes, StreamError> {
    Sizes::watch(redraw).map_err(no_terminal)
}

fn no_terminal(error: io::Error) -> StreamError {
    StreamError::Local("use the terminal".to_owned(), error)
}

/// Gives the terminal to the other side until it has ended, or is let go.
async fn in_terminal(
    connection: tokio::net::UnixStream,
    ends: Ends,
    attached: bool,
) -> Result<(), StreamError> {
    let mut session = session(connection, ends);
    session.resize(&[(KIND, "resize")], sizes(attached)?);
    if attached {
        session.detachable();
    }
    // First the signals, then the terminal: none comes in between that leaves it as it is.
    let mut endings = Endings::watch().map_err(no_terminal)?;
    let _raw = Raw::enter().map_err(no_terminal)?;
    // Cancel-safe: whichever comes first is the end.
    tokio::select! {
        ended = session.carry() => match ended? {
            Some(ended) => verdict(&ended, attached),
            None => Ok(()),
        },
        ending = endings.next() => Err(ending),
    }
}

/// `v1.Status`, as far as it says how a command ended.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    message: String,
    reason: String,
    details: Details,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// What the other side says at its end. One that goes without a word has not ended well; only whoever was merely attached
/// `may_be_silent`.
fn verdict(ended: &Ended, may_be_silent: bool) -> Result<(), StreamError> {
    if ended.error.is_empty() {
        return match may_be_silent || ended.told {
            true => Ok(()),
            false => Err(StreamError::Lost),
        };
    }
    let Ok(status) = serde_json::from_slice::<Status>(&ended.error) else {
        let words = String::from_utf8_lossy(&ended.error);
        return Err(StreamError::Cannot(words.trim().to_owned()));
    };
    if status.status == "Success" {
        return Ok(());
    }
    let exit = status.details.causes.iter();
    let mut exit = exit.filter(|cause| cause.reason == "ExitCode");
    let code = exit.next().and_then(|cause| cause.message.parse().ok());
    match code {
        Some(code) if status.reason == "NonZeroExitCode" => Err(StreamError::Exit(code)),
        _ => Err(StreamError::Cannot(status.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: &str) -> String {
        let ended = Ended {
            error: error.as_bytes().to_vec(),
            told: false,
        };
        match verdict(&ended, false) {
            Ok(()) => "0".to_owned(),
            Err(error) => format!("{} {error}", error.exit_code()),
        }
    }

    #[test]
    fn a_command_ends_as_the_runtime_says() {
        assert_eq!(
            said(r#"{"metadata":{},"status":"Success"}"#),
            "0",
            "success"
        );
        let failed = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(said(failed), "3 command terminated with exit code 3");
        let internal = r#"{"status":"Failure","message":"Internal error occurred: no such file","reason":"InternalError","details":{"causes":[{"message":"no such file"}]},"code":500}"#;
        assert_eq!(
            said(internal),
            "1 error: Internal error occurred: no such file"
        );
        assert_eq!(said("no JSON\n"), "1 error: no JSON");
    }

    #[test]
    fn whoever_goes_without_a_word_has_not_ended_well() {
        assert_eq!(said(""), "1 error: lost connection to pod");
        assert!(verdict(&Ended::default(), true).is_ok());
    }
}
