//! A credential provider's process: one question on its standard input, one answer on its standard output.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::account::Account;
use super::exchange::{self, Answer};
use crate::config::CredentialProvider;
use crate::metrics::kubelet;

/// How long an answer may take (upstream's number).
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer; a longer one is none.
const MOST_SAID: usize = 1 << 20;
/// Bytes of what it complains of that are kept for the log.
const MOST_COMPLAINED: usize = 4 << 10;

/// Why a program gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It could not be run, or did not end well, or in time.
    #[error(
        "failed to get credential from external registry credential provider: error execing credential provider plugin {name} for image {image}: {why}: {complaint}"
    )]
    Run {
        /// The provider.
        name: String,
        /// The image that it was asked for.
        image: String,
        /// What went wrong.
        why: String,
        /// The beginning of its standard error.
        complaint: String,
    },
    /// What it said is no answer.
    #[error("failed to get credential from external registry credential provider: {0}")]
    Answer(String),
}

/// How the program is run.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    path: PathBuf,
    api_version: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

/// What a process has said and complained of, and how it ended.
struct Ended {
    said: Vec<u8>,
    complaint: String,
    status: io::Result<ExitStatus>,
}

/// The process and all that it began, killed when it is dropped.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.take() {
            // What has ended needs no more.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Program {
    pub(super) fn new(path: PathBuf, config: &CredentialProvider) -> Self {
        Self {
            name: config.name.clone(),
            path,
            api_version: config.api_version.clone(),
            args: config.args.clone(),
            env: config.env.clone(),
        }
    }

    /// Asks it for credentials for `image`, as `account` where that is given.
    pub(super) async fn ask(
        &self,
        image: &str,
        account: Option<&Account>,
    ) -> Result<Answer, ProviderError> {
        let question = exchange::question(&self.api_version, image, account);
        let began = Instant::now();
        let ended = timeout(PATIENCE, self.run(&question)).await;
        let counts = kubelet();
        counts
            .provider_duration
            .observe(&[&self.name], began.elapsed());
        let failed = |why: String, complaint: String| {
            counts.provider_errors.inc(&[&self.name]);
            ProviderError::Run {
                name: self.name.clone(),
                image: image.to_owned(),
                why,
                complaint,
            }
        };
        let ended = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => return Err(failed(error.to_string(), String::new())),
            Err(_) => {
                let late = "context deadline exceeded".to_owned();
                return Err(failed(late, String::new()));
            }
        };
        match ended.status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                let why = match status.code() {
                    Some(code) => format!("exit status {code}"),
                    None => status.to_string(),
                };
                return Err(failed(why, ended.complaint));
            }
            Err(error) => return Err(failed(error.to_string(), ended.complaint)),
        }
        exchange::answer(&self.api_version, &ended.said).map_err(ProviderError::Answer)
    }

    /// Runs it to its end. Cancel-safe: dropping the future kills it and all that it began.
    async fn run(&self, question: &[u8]) -> io::Result<Ended> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut group = Group { child, leader };
        let (Some(mut input), Some(output), Some(errors)) = pipes else {
            return Err(io::Error::other("no pipes"));
        };
        let write = async {
            // One that answers without reading is welcome to.
            let _ = input.write_all(question).await;
            drop(input);
        };
        let read = async {
            let (said, complaint) =
                tokio::join!(read(output, MOST_SAID), read(errors, MOST_COMPLAINED));
            (said, complaint)
        };
        let ((), (said, complaint)) = tokio::join!(write, read);
        let status = group.child.wait().await;
        let said = said?;
        if said.len() > MOST_SAID {
            return Err(io::Error::other(format!(
                "its answer has more than {MOST_SAID} bytes"
            )));
        }
        let mut complaint = complaint.unwrap_or_default();
        complaint.truncate(MOST_COMPLAINED);
        Ok(Ended {
            said,
            complaint: String::from_utf8_lossy(&complaint).trim_end().to_owned(),
            status,
        })
    }
}

/// Reads all of it, and keeps no more than a byte above `most`: whoever writes is not held up.
async fn read(mut from: impl AsyncRead + Unpin, most: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(kept);
        }
        let room = (most + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
}
