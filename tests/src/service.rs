//! The agent's process as a service: a service manager and a journal that keep what they are told, and the binary on a
//! fake runtime.
//!
//! The process has a mount namespace of its own, in which /run and /var/log are empty but for the journal's socket, so
//! that nothing of the machine's is touched.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::in_process::{FakeNode, LIMIT};
use crate::wait::{Never, eventually};

/// Where the journal listens, below the directory that the agent has for `/run/systemd`.
const JOURNAL: &str = "run-systemd/journal/socket";
/// Bytes of a message.
const MOST_BYTES: usize = 1 << 20;

/// A socket that keeps all messages it gets. Its thread ends with the test.
#[derive(Clone)]
pub struct Listener {
    messages: Arc<Mutex<Vec<String>>>,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in place of one before.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn at(path: PathBuf) -> Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path).context("bind a fake service manager")?;
        let messages: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::downgrade(&messages);
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; MOST_BYTES];
            while let Some(kept) = kept.upgrade() {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    kept.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(message);
                }
            }
        });
        Ok(Self { messages, path })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// All messages so far.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        self.messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a message, behind the first `skip`, that `wanted` is true of; gives the number of messages up to it, and
    /// the message.
    ///
    /// # Errors
    /// When there is none within [`LIMIT`].
    pub async fn message(
        &self,
        what: &str,
        skip: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(usize, String)> {
        eventually(&format!("a message: {what}"), LIMIT, async || {
            let all = self.messages();
            let found = all.iter().enumerate().skip(skip).find(|(_, m)| wanted(m));
            let (at, message) = found.with_context(|| format!("there are {all:#?}"))?;
            Ok((at + 1, message.clone()))
        })
        .await
    }
}

/// The value of a field of a message of `NAME=value` lines.
#[must_use]
pub fn field<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    let mut lines = message.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// The agent's binary, run as systemd runs a service, on the fake runtime of a node.
pub struct ServedAgent<'n> {
    node: &'n FakeNode,
    /// What the service manager was told.
    pub manager: Listener,
    /// What the journal was handed.
    pub journal: Listener,
    process: Mutex<Child>,
}

/// How it is run.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Whether standard error is the journal's.
    pub journal: bool,
    /// `WATCHDOG_USEC`.
    pub watchdog_usec: Option<&'static str>,
    /// More flags.
    pub flags: Vec<String>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            journal: true,
            watchdog_usec: None,
            flags: Vec::new(),
        }
    }
}

impl<'n> ServedAgent<'n> {
    /// Starts it, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(node: &'n FakeNode, serving: &Serving) -> Result<Self> {
        let binary = crate::profile_dir()?.join("kubelet");
        ensure!(
            binary.is_file(),
            "no kubelet at {} (cargo build --workspace makes it)",
            binary.display()
        );
        fs::create_dir_all(node.path("run-systemd/journal"))?;
        let journal = Listener::at(node.path(JOURNAL))?;
        let manager = Listener::at(node.path("notify"))?;
        let stderr = File::create(node.path("stderr"))?;
        let stream = stderr.metadata()?;
        let script = "set -e; mount -t tmpfs tmpfs /var/log; mount -t tmpfs tmpfs /run; \
                      ln -s \"$1\" /run/systemd; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg("sh")
            .arg(node.path("run-systemd"))
            .arg(binary)
            .args(node.arguments()?)
            .args(&serving.flags)
            .env("NOTIFY_SOCKET", manager.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if serving.journal {
            command.env(
                "JOURNAL_STREAM",
                format!("{}:{}", stream.dev(), stream.ino()),
            );
        }
        if let Some(usec) = serving.watchdog_usec {
            command.env("WATCHDOG_USEC", usec);
        }
        let process = command.spawn().context("start the agent")?;
        Ok(Self {
            node,
            manager,
            journal,
            process: Mutex::new(process),
        })
    }

    /// Starts it, and waits until it says that it is ready; gives the number of messages up to that.
    ///
    /// # Errors
    /// When it does not within [`LIMIT`].
    pub async fn start(node: &'n FakeNode, serving: &Serving) -> Result<(Self, usize)> {
        let agent = Self::spawn(node, serving)?;
        let ready = |message: &str| field(message, "READY") == Some("1");
        let (seen, _) = agent.manager.message("READY=1", 0, ready).await?;
        Ok((agent, seen))
    }

    /// Waits for a status line that `wanted` is true of, behind the first `skip` messages; gives the number of messages up
    /// to it, and the line.
    ///
    /// # Errors
    /// When there is none within [`LIMIT`].
    pub async fn status(
        &self,
        what: &str,
        skip: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(usize, String)> {
        let (seen, message) = self
            .manager
            .message(what, skip, |m| field(m, "STATUS").is_some_and(&wanted))
            .await?;
        let line = field(&message, "STATUS").unwrap_or_default().to_owned();
        Ok((seen, line))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        kill(Pid::from_raw(i32::try_from(process.id())?), signal)
            .with_context(|| format!("send {signal} to the agent"))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it runs on for [`LIMIT`].
    pub async fn ended(&self) -> Result<ExitStatus> {
        eventually("the agent ends", LIMIT, async || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            process.try_wait()?.context("it runs")
        })
        .await
    }

    /// That it still runs.
    ///
    /// # Errors
    /// When it has ended; at once, as waiting is of no use.
    pub fn runs(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        match process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Never(format!("the agent ended: {status}")).into()),
        }
    }

    /// What it wrote to standard error.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn stderr(&self) -> Result<String> {
        fs::read_to_string(self.node.path("stderr")).context("read the agent's standard error")
    }
}

impl Drop for ServedAgent<'_> {
    fn drop(&mut self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }
}
