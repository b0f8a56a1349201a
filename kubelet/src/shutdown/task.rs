//! Watches logind: takes the lock, begins a shutdown, and calls it off.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::drain::{Drain, Pause};
use super::logind::{Logind, LogindError, Signal};
use super::{Leaving, LogindHost, NodeState, Remaining, ShutdownLink, Windows, dropin};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::events::About;

/// Reason of the node's events, as upstream has it.
const EVENT: &str = "Shutdown";
/// logind reads its configuration some time after it was told to: how often it is asked, twice as long apart each time.
const RELOAD_LOOKS: u32 = 5;
const RELOAD_FIRST: Duration = Duration::from_millis(100);

/// What a shutdown of the node goes by.
#[derive(Clone, Debug)]
pub struct ShutdownPlan {
    /// Who ends when.
    pub windows: Windows,
    /// Who announces it.
    pub logind: LogindHost,
    /// The agent's root directory.
    pub root: PathBuf,
    /// The node's name, for events.
    pub node: String,
}

/// The watch on logind.
pub struct NodeShutdown {
    plan: ShutdownPlan,
    clock: Clock,
    state: watch::Sender<NodeState>,
    remaining: watch::Receiver<Remaining>,
    /// As far as logind waits for them.
    windows: Windows,
    /// Held while the node is up.
    lock: Option<OwnedFd>,
    /// The shutdown under way, one at most.
    drain: JoinSet<()>,
    /// What was last said to be wrong.
    said: Option<String>,
}

impl NodeShutdown {
    /// A watch that has not begun, and what the registry goes by.
    #[must_use]
    pub fn new(plan: ShutdownPlan, clock: Clock) -> (Self, ShutdownLink) {
        let (state, seen) = watch::channel(NodeState::Unknown);
        let (told, remaining) = watch::channel(Remaining::default());
        let link = ShutdownLink {
            state: seen,
            remaining: told,
            _idle: None,
        };
        let room = Self {
            windows: plan.windows.clone(),
            plan,
            clock,
            state,
            remaining,
            lock: None,
            drain: JoinSet::new(),
            said: None,
        };
        (room, link)
    }

    /// Watches for as long as the agent lives. A connection that fails or ends is made again after a pause; a lock that
    /// is held stays so meanwhile, and so does a shutdown that has begun.
    pub async fn run(mut self) -> Infallible {
        let mut pause = Pause::new();
        loop {
            let Err(error) = self.watch(&mut pause).await;
            // Who cannot be asked announces nothing: pods begin.
            self.state.send_if_modified(|state| {
                let unknown = *state == NodeState::Unknown;
                if unknown {
                    *state = NodeState::Up;
                }
                unknown
            });
            let next = pause.next();
            self.say(&error, next);
            tokio::time::sleep(next).await;
        }
    }

    /// Until the connection ends.
    async fn watch(&mut self, pause: &mut Pause) -> Result<Infallible, LogindError> {
        let logind = Logind::connect(&self.plan.logind.bus).await?;
        // First, so that nothing is missed of what happens while the rest is looked at.
        let mut signals = logind.listen().await?;
        self.take_up(&logind).await?;
        *pause = Pause::new();
        self.said = None;
        loop {
            match signals.next().await? {
                Signal::PrepareForShutdown(true) => self.begin(),
                Signal::PrepareForShutdown(false) => self.hold(&logind).await?,
                Signal::Began => {
                    tracing::info!("logind has begun anew");
                    self.take_up(&logind).await?;
                }
                Signal::Went => tracing::warn!("logind has gone; a shutdown may not be noticed"),
            }
        }
    }

    /// Makes sure that logind waits, and long enough; or follows it, if it is past that.
    async fn take_up(&mut self, logind: &Logind) -> Result<(), LogindError> {
        if logind.prepares_for_shutdown().await? {
            self.begin();
            return Ok(());
        }
        self.hold(logind).await
    }

    /// The machine does not shut down: takes the lock for when it does.
    async fn hold(&mut self, logind: &Logind) -> Result<(), LogindError> {
        self.up().await;
        let delay = self.ensure_delay(logind).await?;
        self.windows = self.plan.windows.within(delay);
        match logind.inhibit().await {
            Ok(lock) => {
                // The one before is closed only now.
                self.lock = Some(lock);
                let total = self.windows.total();
                tracing::info!("a shutdown of the node waits for its pods, {total:?} at most");
                Ok(())
            }
            // Too late for a lock: it is refused once the shutdown has begun.
            Err(_) if logind.prepares_for_shutdown().await? => {
                self.begin();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// How long logind waits; as long as is needed, if that can be had.
    async fn ensure_delay(&self, logind: &Logind) -> Result<Duration, LogindError> {
        let needed = self.plan.windows.total();
        let mut delay = logind.longest_delay().await?;
        if delay >= needed {
            return Ok(delay);
        }
        let file = match dropin::write(&self.plan.logind.drop_ins, needed) {
            Ok(file) => file,
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(
                    error,
                    "logind waits for {delay:?} only; pods have less time to end than is configured. \
                     Set InhibitDelayMaxSec={} in logind.conf",
                    needed.as_secs()
                );
                return Ok(delay);
            }
        };
        logind.reload().await?;
        let mut pause = RELOAD_FIRST;
        for _ in 0..RELOAD_LOOKS {
            tokio::time::sleep(pause).await;
            delay = logind.longest_delay().await?;
            if delay >= needed {
                tracing::info!(file = %file.display(), "logind waits for {delay:?} from now on");
                return Ok(delay);
            }
            pause *= 2;
        }
        tracing::warn!(
            file = %file.display(),
            "logind waits for {delay:?} only, whatever the file says: another one may overrule it. \
             Pods have less time to end than is configured"
        );
        Ok(delay)
    }

    /// The machine is about to shut down.
    fn begin(&mut self) {
        if matches!(*self.state.borrow(), NodeState::ShuttingDown(_)) {
            return;
        }
        let node = About::node(&self.plan.node);
        node.normal(EVENT, "Shutdown manager detected shutdown event");
        self.state.send_replace(NodeState::ShuttingDown(Leaving {
            windows: self.windows.clone(),
            begun: 0,
        }));
        let drain = Drain {
            windows: self.windows.clone(),
            state: self.state.clone(),
            remaining: self.remaining.clone(),
            clock: self.clock.clone(),
            root: self.plan.root.clone(),
            lock: self.lock.take(),
        };
        self.drain.spawn(drain.run());
    }

    /// The machine does not shut down: pods begin, those too that a shutdown has ended.
    async fn up(&mut self) {
        let before = self.state.borrow().clone();
        if before == NodeState::Up {
            return;
        }
        // First, so that it says nothing any more.
        self.drain.shutdown().await;
        self.state.send_replace(NodeState::Up);
        if matches!(before, NodeState::ShuttingDown(_)) {
            tracing::info!("the shutdown was called off; pods begin again");
            let node = About::node(&self.plan.node);
            node.normal(EVENT, "Shutdown manager detected shutdown cancellation");
        }
    }

    /// Says what is wrong, once for as long as it stays so.
    fn say(&mut self, error: &LogindError, next: Duration) {
        let error = error_chain(error);
        // D-Bus goes with the machine.
        let goes = matches!(*self.state.borrow(), NodeState::ShuttingDown(_));
        if goes || self.said.as_ref() == Some(&error) {
            tracing::debug!(error, "still cannot watch for shutdowns of the node");
            return;
        }
        tracing::warn!(
            error,
            "cannot watch for shutdowns of the node; trying again in {next:?}, and later"
        );
        self.said = Some(error);
    }
}
