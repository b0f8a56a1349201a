//! Programs of the node that mount and make file systems: run with a limit, and given up once nobody waits for them.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{self, PollFd, PollFlags, Timespec};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::time::Instant;

/// How long mounting may take: the NFS client of the kernel tries for two minutes.
pub(super) const MOUNTING: Duration = Duration::from_secs(150);
/// How long making or checking a file system may take.
pub(super) const FORMATTING: Duration = Duration::from_secs(1800);
/// How often it is asked whether anybody still waits.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// How long a program that was killed may take to be gone: one that the kernel holds for a server that is away may not go.
const TO_DIE: Duration = Duration::from_secs(2);
/// What is kept of a program's output, bytes.
const MOST_OUTPUT: usize = 4096;

/// A program that did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It says that it has failed. In upstream's words.
    #[error(
        "{verb} failed: {how}\n{gerund} command: {program}\n{gerund} arguments: {arguments}\nOutput: {output}\n"
    )]
    Failed {
        /// What it was to do.
        verb: &'static str,
        /// The same.
        gerund: &'static str,
        /// `exit status 32`.
        how: Box<str>,
        /// Its name.
        program: Box<str>,
        /// With what it was run.
        arguments: Box<str>,
        /// The end of what it wrote.
        output: Box<str>,
    },
    /// It took too long, and was killed.
    #[error("{program} {arguments} was not done after {limit:?}")]
    Late {
        /// Its name.
        program: String,
        /// With what it was run.
        arguments: String,
        /// How long it had.
        limit: Duration,
    },
    /// Nobody waits for it any more, and it was killed.
    #[error("{0} was given up")]
    GivenUp(String),
}

/// A program, and what to run it with.
pub(super) struct Program<'a> {
    name: Cow<'a, str>,
    arguments: Vec<String>,
    limit: Duration,
    words: (&'static str, &'static str),
}

/// What a program that has ended says.
pub(super) struct Ended {
    /// Its exit code; none where a signal ended it.
    pub(super) code: Option<i32>,
    how: String,
    /// What it wrote, to either output.
    pub(super) output: String,
}

impl<'a> Program<'a> {
    /// The program `name`, found as a shell would, with `arguments`.
    pub(super) fn new<A: Into<String>>(
        name: &'a str,
        arguments: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> Self {
        Self {
            name: name.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            limit,
            words: ("command", "Command"),
        }
    }

    /// mount(8): what has no options is mounted with the file system's own.
    pub(super) fn mount(fs_type: &str, options: &str, source: &str, target: &str) -> Self {
        let mut arguments = vec!["-t", fs_type];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend([source, target]);
        Self {
            words: ("mount", "Mounting"),
            ..Self::new("mount", arguments, MOUNTING)
        }
    }

    /// The same by way of `program`, where there is one: it is given the name of this one before its arguments.
    pub(super) fn by(mut self, program: Option<&Path>) -> Self {
        if let Some(program) = program {
            let name = program.to_string_lossy().into_owned();
            let this = std::mem::replace(&mut self.name, name.into());
            self.arguments.insert(0, this.into_owned());
        }
        self
    }

    /// Runs it to its end, and fails where it has.
    pub(super) fn succeed(self, is_awaited: &dyn Fn() -> bool) -> Result<Ended, ProgramError> {
        let ended = self.run(is_awaited)?;
        if ended.code == Some(0) {
            return Ok(ended);
        }
        let (verb, gerund) = self.words;
        Err(ProgramError::Failed {
            verb,
            gerund,
            how: ended.how.into(),
            program: self.name.to_string().into(),
            arguments: self.arguments.join(" ").into(),
            output: ended.output.into(),
        })
    }

    /// Runs it to its end, whatever that is.
    pub(super) fn run(&self, is_awaited: &dyn Fn() -> bool) -> Result<Ended, ProgramError> {
        let failed = |source: io::Error| ProgramError::Run {
            program: self.name.to_string(),
            source,
        };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let child = Command::new(&*self.name)
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer)
            .spawn()
            .map_err(failed)?;
        let mut child = Running(Some(child));
        fcntl_setfl(&reader, OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let mut output = Output {
            reader: Some(reader),
            last: Vec::new(),
        };
        let began = Instant::now();
        while !child.has_ended(&mut output).map_err(failed)? {
            if !is_awaited() {
                child.kill(&mut output);
                return Err(ProgramError::GivenUp(self.to_string()));
            }
            if began.elapsed() >= self.limit {
                child.kill(&mut output);
                return Err(ProgramError::Late {
                    program: self.name.to_string(),
                    arguments: self.arguments.join(" "),
                    limit: self.limit,
                });
            }
        }
        let status = child.wait().map_err(failed)?;
        output.take();
        Ok(Ended {
            code: status.code(),
            // As Go has it.
            how: match status.code() {
                Some(code) => format!("exit status {code}"),
                None => status.to_string(),
            },
            output: String::from_utf8_lossy(&output.last).trim_end().to_owned(),
        })
    }
}

impl fmt::Display for Program<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.arguments.join(" "))
    }
}

/// A child that is waited for by whoever drops it, if nobody has before: on a thread of its own, should it not go.
struct Running(Option<Child>);

impl Running {
    /// Waits for a moment, and says whether it has ended.
    fn has_ended(&mut self, output: &mut Output) -> io::Result<bool> {
        let Some(child) = &mut self.0 else {
            return Ok(true);
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // A child that nobody has waited for keeps its number.
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let mut watched = vec![PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        if let Some(reader) = &output.reader {
            watched.push(PollFd::from_borrowed_fd(reader.as_fd(), PollFlags::IN));
        }
        match event::poll(&mut watched, Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let says = |at: usize| watched.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (ended, wrote) = (says(0), says(1));
        if wrote {
            output.take();
        }
        Ok(ended)
    }

    fn kill(&mut self, output: &mut Output) {
        if let Some(child) = &mut self.0 {
            // It may have ended just now.
            let _ = child.kill();
        }
        let began = Instant::now();
        while began.elapsed() < TO_DIE {
            match self.has_ended(output) {
                Ok(false) => {}
                Ok(true) | Err(_) => break,
            }
        }
    }

    fn wait(mut self) -> io::Result<std::process::ExitStatus> {
        match self.0.take() {
            Some(mut child) => child.wait(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        let reaper = std::thread::Builder::new().stack_size(super::THREAD_STACK);
        let reaper = reaper.name("reaper".to_owned()).spawn(move || child.wait());
        if let Err(error) = reaper {
            tracing::warn!(%error, "a program that was killed is not waited for");
        }
    }
}

/// What a program writes: the last of it.
struct Output {
    /// None once everybody has closed the other end.
    reader: Option<PipeReader>,
    last: Vec<u8>,
}

impl Output {
    /// Takes what is there to read.
    fn take(&mut self) {
        let mut bytes = [0; 1024];
        // A program that never stops writing must not keep anybody here.
        for _ in 0..64 {
            let Some(reader) = &mut self.reader else {
                return;
            };
            match reader.read(&mut bytes) {
                Ok(0) => self.reader = None,
                Ok(count) => self.last.extend_from_slice(&bytes[..count]),
                Err(_) => return,
            }
            let more = self.last.len().saturating_sub(MOST_OUTPUT);
            self.last.drain(..more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Program<'_> {
        Program::new("sh", ["-c", script], limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_is_run_to_its_end() {
        let ended = shell("echo out; echo err >&2; exit 3", LONG).run(&|| true);
        let ended = ended.unwrap();
        assert_eq!(ended.code, Some(3));
        assert_eq!(ended.output, "out\nerr");
        assert!(shell("true", LONG).succeed(&|| true).is_ok());
        let mut mount = Program::mount("nfs", "ro,soft", "server:/x", "/dir");
        mount.name = "false".into();
        assert_eq!(
            mount.succeed(&|| true).map(drop).unwrap_err().to_string(),
            "mount failed: exit status 1\nMounting command: false\nMounting arguments: -t nfs -o ro,soft server:/x /dir\nOutput: \n"
        );
        let none = Program::new("no-such-program", [""], LONG);
        assert_eq!(
            none.run(&|| true).map(drop).unwrap_err().to_string(),
            "cannot run no-such-program"
        );
    }

    #[test]
    fn output_is_bounded() {
        let ended = shell("yes | head -c 300000; echo last", LONG).run(&|| true);
        let output = ended.unwrap().output;
        assert!(output.len() <= MOST_OUTPUT && output.ends_with("last"));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let began = Instant::now();
        let late = shell("exec sleep 60", Duration::from_secs(1)).run(&|| true);
        let late = late.map(drop).unwrap_err();
        assert_eq!(
            late.to_string(),
            "sh -c exec sleep 60 was not done after 1s"
        );
        let given_up = shell("exec sleep 60", LONG).run(&|| began.elapsed().as_secs() < 2);
        let given_up = given_up.map(drop).unwrap_err();
        assert_eq!(given_up.to_string(), "sh -c exec sleep 60 was given up");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_a_program_leaves_behind_is_not_waited_for() {
        let began = Instant::now();
        let ended = shell("sleep 30 & echo done", LONG).run(&|| true).unwrap();
        assert_eq!(ended.output, "done");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
