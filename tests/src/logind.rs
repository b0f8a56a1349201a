//! A logind that shuts nothing down, on a D-Bus of its own: what `shutdown/` speaks to, as far as it does.
//!
//! Owns: a `dbus-daemon` with a socket in the node's directory, and a connection on it that has logind's and systemd's
//! names. Locks are pipes, as logind's are: it sees when the last holder has closed one. It reads its longest delay from
//! its drop-in directory when it is sent SIGHUP through systemd, a moment later. The daemon ends with the [`FakeLogind`].

use std::fs;
use std::io::{PipeReader, pipe};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zbus::{Connection, connection, fdo, interface, zvariant};

use crate::in_process::{FakeNode, LIMIT};
use crate::wait::eventually;

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
/// From SIGHUP to the new configuration.
const RELOAD_TAKES: Duration = Duration::from_millis(150);

/// A lock as it was asked for: what, who, why, mode.
pub type Words = [String; 4];

/// See the module.
pub struct FakeLogind {
    directory: PathBuf,
    daemon: Option<Child>,
    connection: Option<Connection>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    longest_delay: Duration,
    preparing: bool,
    locks: Vec<(Words, PipeReader)>,
    drop_ins: PathBuf,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Manager(Arc<Mutex<State>>);

#[interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(
        &self,
        what: String,
        who: String,
        why: String,
        mode: String,
    ) -> fdo::Result<zvariant::OwnedFd> {
        let mut state = locked(&self.0);
        if state.preparing {
            let words = "The operation inhibition has been requested for is already running";
            return Err(fdo::Error::Failed(words.into()));
        }
        let (reader, writer) = pipe().map_err(|error| fdo::Error::Failed(error.to_string()))?;
        state.locks.push(([what, who, why, mode], reader));
        Ok(std::os::fd::OwnedFd::from(writer).into())
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn longest_delay(&self) -> u64 {
        u64::try_from(locked(&self.0).longest_delay.as_micros()).unwrap_or(u64::MAX)
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        locked(&self.0).preparing
    }
}

struct Systemd(Arc<Mutex<State>>);

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn kill_unit(&self, unit: &str, _who: &str, signal: i32) -> fdo::Result<()> {
        if (unit, signal) != ("systemd-logind.service", 1) {
            return Err(fdo::Error::InvalidArgs(format!("{unit} {signal}")));
        }
        let state = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RELOAD_TAKES).await;
            let mut state = locked(&state);
            if let Some(delay) = delay_of(&state.drop_ins) {
                state.longest_delay = delay;
            }
        });
        Ok(())
    }
}

/// `InhibitDelayMaxSec` of the drop-in that comes last.
fn delay_of(drop_ins: &Path) -> Option<Duration> {
    let mut files: Vec<PathBuf> = fs::read_dir(drop_ins)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    let setting = |path: &PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let seconds = lines.find_map(|line| line.strip_prefix("InhibitDelayMaxSec="))?;
        seconds.parse().ok().map(Duration::from_secs)
    };
    files.iter().rev().find_map(setting)
}

impl FakeLogind {
    /// Starts one for `node`, which waits for locks for `longest_delay` at most.
    ///
    /// # Errors
    /// When there is no dbus-daemon, or it does not start.
    pub async fn start(node: &FakeNode, longest_delay: Duration) -> Result<Self> {
        let state = State {
            longest_delay,
            drop_ins: node.path("logind.conf.d"),
            ..State::default()
        };
        let mut logind = Self {
            directory: node.path(""),
            daemon: None,
            connection: None,
            state: Arc::new(Mutex::new(state)),
        };
        logind.start_bus().await?;
        Ok(logind)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("bus")
    }

    async fn start_bus(&mut self) -> Result<()> {
        let config = self.directory.join("bus.conf");
        let socket = self.socket();
        fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
                 <busconfig><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
                 <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
                 <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>\n",
                socket.display()
            ),
        )?;
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog"])
            .stdin(Stdio::null())
            .spawn()
            .context("dbus-daemon, which tests/install.sh installs")?;
        self.daemon = Some(daemon);
        eventually("the bus listens", LIMIT, async || {
            UnixStream::connect(&socket)?;
            Ok(())
        })
        .await?;
        self.connect().await
    }

    async fn connect(&mut self) -> Result<()> {
        let address = format!("unix:path={}", self.socket().display());
        let connection = connection::Builder::address(address.as_str())?
            .serve_at(PATH, Manager(self.state.clone()))?
            .serve_at("/org/freedesktop/systemd1", Systemd(self.state.clone()))?
            .name(SERVICE)?
            .name("org.freedesktop.systemd1")?
            .build()
            .await
            .context("logind's connection to its bus")?;
        self.connection = Some(connection);
        Ok(())
    }

    fn end_bus(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It has ended if it cannot be killed.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// The daemon ends, and a new one listens in its place.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_bus(&mut self) -> Result<()> {
        self.end_bus();
        self.connection = None;
        fs::remove_file(self.socket())?;
        self.start_bus().await
    }

    /// logind ends, and a new one is there at once. It knows the locks, as the real one does.
    ///
    /// # Errors
    /// When the bus does not let it.
    pub async fn restart(&mut self) -> Result<()> {
        if let Some(connection) = self.connection.take() {
            connection.close().await?;
        }
        self.connect().await
    }

    /// Announces that the machine is about to shut down, or that it is not after all.
    ///
    /// # Errors
    /// When the bus is gone.
    pub async fn prepare_for_shutdown(&self, begins: bool) -> Result<()> {
        locked(&self.state).preparing = begins;
        let connection = self.connection.as_ref().context("no connection")?;
        let interface = "org.freedesktop.login1.Manager";
        connection
            .emit_signal(
                None::<&str>,
                PATH,
                interface,
                "PrepareForShutdown",
                &(begins,),
            )
            .await
            .context("PrepareForShutdown")
    }

    /// The machine comes up again: nobody holds a lock, and nothing is about to shut down.
    pub fn reboot(&self) {
        let mut state = locked(&self.state);
        state.preparing = false;
        state.locks.clear();
    }

    /// The locks that somebody holds.
    #[must_use]
    pub fn held(&self) -> Vec<Words> {
        let state = locked(&self.state);
        let held = state.locks.iter().filter(|(_, reader)| {
            let mut fds = [PollFd::new(reader, PollFlags::IN)];
            let polled = poll(&mut fds, Some(&Timespec::default()));
            polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
        });
        held.map(|(words, _)| words.clone()).collect()
    }

    /// How often a lock was taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        locked(&self.state).locks.len()
    }

    /// How long it waits for locks.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        locked(&self.state).longest_delay
    }

    /// How many are connected to the bus besides logind itself.
    ///
    /// # Errors
    /// When the bus is gone.
    pub async fn clients(&self) -> Result<usize> {
        let connection = self.connection.as_ref().context("no connection")?;
        let bus = "org.freedesktop.DBus";
        let call = connection.call_method(
            Some(bus),
            "/org/freedesktop/DBus",
            Some(bus),
            "ListNames",
            &(),
        );
        let answer = call.await?;
        let names: Vec<String> = answer.body().deserialize()?;
        let unique = names.iter().filter(|name| name.starts_with(':'));
        Ok(unique.count().saturating_sub(1))
    }

    /// Waits until exactly `count` locks are held.
    ///
    /// # Errors
    /// When it is not so in time.
    pub async fn holds(&self, count: usize) -> Result<()> {
        eventually(&format!("{count} locks are held"), LIMIT, async || {
            let held = self.held();
            ensure!(held.len() == count, "{held:?}");
            Ok(())
        })
        .await
    }
}

impl Drop for FakeLogind {
    fn drop(&mut self) {
        self.end_bus();
    }
}
