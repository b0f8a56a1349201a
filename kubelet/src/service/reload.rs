//! What SIGHUP asks for: the configuration is read again, log levels are taken up, manifests and registry credentials
//! looked at; what else has changed is named.

use std::time::Duration;

use static_pods::watch::Rescan;
use tokio::signal::unix::Signal;

use super::Service;
use crate::config::{self, Change, CommandLine, ConfigError, Environment, Loaded, Values};
use crate::images::NodeCredentials;
use crate::logging::LogHandle;

/// How long a reload waits for the manifests. They may lie on a file system that hangs; the look goes on.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Reads the configuration again, as the agent's command line names it.
pub struct Reloader {
    line: CommandLine,
    environment: Environment,
    /// What runs; the levels of the log are no part of it.
    running: Values,
    log: LogHandle,
}

/// What came of reading the configuration again.
#[derive(Debug)]
enum Outcome {
    /// It counts, but for these fields.
    Taken(Vec<Change>),
    /// Nothing of it counts.
    Refused(ConfigError),
}

impl Reloader {
    /// Of an agent that runs with `values`.
    #[must_use]
    pub fn new(
        line: CommandLine,
        environment: Environment,
        values: Values,
        log: LogHandle,
    ) -> Self {
        Self {
            line,
            environment,
            running: values,
            log,
        }
    }

    /// The log whose levels are set.
    #[must_use]
    pub fn log(&self) -> LogHandle {
        self.log.clone()
    }

    /// The host's name and the working directory stay those of the start: what they decide wants a restart.
    fn reload(&self) -> Outcome {
        let Loaded {
            config,
            warnings,
            values,
        } = match config::load(&self.line, &self.environment) {
            Ok(loaded) => loaded,
            Err(error) => return Outcome::Refused(error),
        };
        self.log
            .set_levels(config.logging.verbosity, config.logging.modules);
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Outcome::Taken(self.running.wanting_restart(&values))
    }
}

/// SIGHUPs, and what answers them.
pub struct Reloads {
    /// The signals.
    pub hangups: Signal,
    /// Reads the configuration.
    pub reloader: Reloader,
}

/// Answers each SIGHUP, for as long as the agent lives.
pub async fn run_reloads(
    mut reloads: Reloads,
    service: Service,
    manifests: Option<Rescan>,
    credentials: NodeCredentials,
) {
    while reloads.hangups.recv().await.is_some() {
        service.reloading();
        let note = say(&reloads.reloader.reload());
        if let Some(manifests) = &manifests
            && tokio::time::timeout(LOOK_LIMIT, manifests.look())
                .await
                .is_err()
        {
            tracing::warn!("the manifests are still being read after {LOOK_LIMIT:?}");
        }
        // Each pull reads them anew; what is wrong with them is said now rather than then.
        drop(credentials.keyring().await);
        service.reloaded(note);
    }
}

/// Says what came of it in the log; gives what is to be said in the status from now on.
fn say(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Taken(changes) if changes.is_empty() => {
            tracing::info!(
                reason = "ConfigurationReloaded",
                "read again: log levels, manifests, registry credentials"
            );
            None
        }
        Outcome::Taken(changes) => {
            let all: Vec<_> = changes.iter().map(ToString::to_string).collect();
            tracing::warn!(
                reason = "RestartNeeded",
                "these fields of the configuration have changed, and count only after a restart: {}",
                all.join("; ")
            );
            let fields: Vec<_> = changes.iter().map(|change| change.field).collect();
            Some(format!("wanting a restart: {}", fields.join(", ")))
        }
        Outcome::Refused(error) => {
            let why = error.lines().join("; ");
            tracing::error!(
                reason = "ConfigurationRefused",
                "the configuration was read again and is refused, nothing of it counts: {why}"
            );
            Some(format!(
                "running with an older configuration, that of the file is refused: {why}"
            ))
        }
    }
}
