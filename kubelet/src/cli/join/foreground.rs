//! `kubelet join --foreground`: this process goes on as the agent, and a thread beside it waits for the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::SignalKind;

use super::failure::Failure;
use super::journal::Journal;
use super::{Begun, JOINED, JoinArguments, block_on, fail, joined, prepare, say, undo};

/// The thread reads objects of the API, for which code without optimisation needs a deep stack.
const STACK_BYTES: usize = 8 << 20;
/// Between two orders to end.
const AGAIN: Duration = Duration::from_millis(200);

/// A join that failed, and what is to be undone of it.
struct Undone {
    failure: Failure,
    journal: Option<Journal>,
}

/// A join that goes on as the agent.
pub struct Foreground {
    arguments: Vec<String>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Box<Undone>>>,
}

/// Everything up to the agent; the exit status where it does not come to that.
pub(in crate::cli) fn begin(arguments: &JoinArguments) -> Result<Foreground, u8> {
    let begun = block_on(async {
        // From here on SIGTERM ends nothing before the agent hears it.
        let heard = tokio::signal::unix::signal(SignalKind::terminate());
        let _heard = heard.map_err(|error| Failure::Other(format!("no signals: {error}")))?;
        prepare(arguments).await
    });
    let begun = begun.and_then(|begun| begun);
    let begun = begun.map_err(|failure| fail("join", &failure))?;
    say("[kubelet-start] Going on as the kubelet");
    say("[kubelet-start] Waiting for the kubelet to perform the TLS Bootstrap");
    let (ended, agent) = (begun.wait.ended.clone(), begun.arguments.clone());
    let thread = std::thread::Builder::new()
        .name("join".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || watch(begun));
    match thread {
        Ok(thread) => Ok(Foreground {
            arguments: agent,
            ended,
            thread,
        }),
        // The record is there: the next join takes back what was written.
        Err(error) => Err(fail("join", &Failure::Other(format!("no thread: {error}")))),
    }
}

fn watch(begun: Begun) -> Result<(), Box<Undone>> {
    let Begun {
        layout,
        journal,
        wait,
        ..
    } = begun;
    if let Err(failure) = block_on(wait.for_certificate()).and_then(|done| done) {
        // The agent must not write what is about to be undone. It may not listen yet.
        while !wait.ended.load(Ordering::Relaxed) {
            let _ = kill(Pid::this(), Signal::SIGTERM);
            std::thread::sleep(AGAIN);
        }
        let journal = Some(journal);
        return Err(Box::new(Undone { failure, journal }));
    }
    joined(&layout, journal).map_err(|failure| {
        Box::new(Undone {
            failure,
            journal: None,
        })
    })?;
    match block_on(wait.for_ready()).and_then(|done| done) {
        Ok(()) => say(JOINED),
        // The agent goes on: what the node lacks may come.
        Err(Failure::AgentEnded) => {}
        Err(failure) => {
            fail("join", &failure);
        }
    }
    Ok(())
}

impl Foreground {
    /// The agent's command line, without its name.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// The agent has ended. When the node had not joined by then, everything is undone; the exit status for that.
    #[must_use]
    pub fn end(self) -> Option<u8> {
        self.ended.store(true, Ordering::Relaxed);
        let undone = match self.thread.join() {
            Ok(Ok(())) => return None,
            Ok(Err(undone)) => *undone,
            Err(_) => Undone {
                failure: Failure::Other("the wait for the node ended".to_owned()),
                journal: None,
            },
        };
        let code = fail("join", &undone.failure);
        if let Some(journal) = undone.journal {
            undo(journal);
        }
        Some(code)
    }
}
