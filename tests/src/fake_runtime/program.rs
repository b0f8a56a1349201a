//! What the process of a container does, in place of a process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Exit code of a process that SIGTERM ended: 128 and the signal's number.
pub const EXIT_SIGTERM: i32 = 143;
/// Exit code of a process that SIGKILL ended.
pub const EXIT_SIGKILL: i32 = 137;

/// The process of one container instance. The plain one runs for ever and ends at once on its stop signal.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// When it ends of itself, counted from its start, and with which code.
    pub(super) end: Option<(Duration, i32)>,
    pub(super) on_stop: OnStop,
    pub(super) start_error: Option<String>,
    pub(super) writes: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum OnStop {
    Ends { after: Duration, code: i32 },
    Ignores,
}

impl Default for OnStop {
    fn default() -> Self {
        Self::Ends {
            after: Duration::ZERO,
            code: EXIT_SIGTERM,
        }
    }
}

impl Program {
    /// Runs until it is stopped.
    #[must_use]
    pub fn forever() -> Self {
        Self::default()
    }

    /// Ends with `code`, `after` its start.
    #[must_use]
    pub fn exits(code: i32, after: Duration) -> Self {
        Self {
            end: Some((after, code)),
            ..Self::default()
        }
    }

    /// Cannot be started: the binary is missing, say. `message` is what runc says.
    #[must_use]
    pub fn fails_to_start(message: &str) -> Self {
        Self {
            start_error: Some(message.into()),
            ..Self::default()
        }
    }

    /// Takes no notice of its stop signal.
    #[must_use]
    pub fn ignoring_stop(self) -> Self {
        Self {
            on_stop: OnStop::Ignores,
            ..self
        }
    }

    /// Ends with `code`, `after` its stop signal.
    #[must_use]
    pub fn stopping_with(self, code: i32, after: Duration) -> Self {
        Self {
            on_stop: OnStop::Ends { after, code },
            ..self
        }
    }

    /// Writes `content` to the mounted file `container_path` as it ends, such as `/dev/termination-log`.
    #[must_use]
    pub fn writing(mut self, container_path: &str, content: &str) -> Self {
        self.writes.push((container_path.into(), content.into()));
        self
    }
}

/// What a command that is run in a container does.
#[derive(Clone, Debug, Default)]
pub struct ExecAnswer {
    /// Its exit code.
    pub exit_code: i32,
    /// What it prints.
    pub stdout: String,
    /// What it prints as errors.
    pub stderr: String,
    /// How long it runs.
    pub takes: Duration,
}

impl ExecAnswer {
    /// Ends at once with `code`.
    #[must_use]
    pub fn code(code: i32) -> Self {
        Self {
            exit_code: code,
            ..Self::default()
        }
    }
}

type Answering = dyn Fn(&[String]) -> ExecAnswer + Send + Sync;

/// Answers the commands run in a container.
#[derive(Clone)]
pub(super) struct ExecScript(pub(super) Arc<Answering>);

impl fmt::Debug for ExecScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecScript")
    }
}

/// Whether `pattern` names `subject`: all of it, or its end from a slash on. `web` and `pod/web` both name
/// `default/pod/web`.
pub(super) fn names(pattern: &str, subject: &str) -> bool {
    subject
        .strip_suffix(pattern)
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_pattern_is_the_end_of_a_subject() {
        for pattern in ["web", "pod/web", "default/pod/web"] {
            assert!(names(pattern, "default/pod/web"), "{pattern}");
        }
        for pattern in ["eb", "od/web", "default", "default/pod", "x/web"] {
            assert!(!names(pattern, "default/pod/web"), "{pattern}");
        }
    }
}
