//! Subcommands: what somebody at this machine asks the running agent, over its unix socket, in the words of kubectl.
//!
//! Owns: their arguments, the requests, what is printed. Inputs: the socket. Outputs: standard output and error, an exit
//! status. Blocking exchanges, in a process of its own; a thread each where several logs are followed at once.
//!
//! Deliberately not here: answering ([`server`](crate::server)), and the judgement of `kubelet validate`, which asks
//! nobody.

mod age;
mod arguments;
mod containers;
mod describe;
mod diff;
mod events;
mod get;
mod join;
mod logs;
mod pods;
mod socket;
mod status;
mod streams;
mod summary;
mod table;
mod top;
mod watching;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser as _};

use crate::config::UsageError;
use crate::errors::error_chain;
use crate::validate;
use arguments::{
    Command, CompletionArguments, Described, DiffArguments, Line, Listed, ManualArguments, Used,
};
use diff::Difference;

/// Why a subcommand has nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Nobody answers.
    #[error(
        "no agent answers at {}: is it running, and with this root directory (--root-dir)?",
        .0.display()
    )]
    Silent(PathBuf, #[source] io::Error),
    /// The agent says no.
    #[error("the agent answers: {0}")]
    Refused(String),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// A file that was named cannot be read.
    #[error("cannot read {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The agent has gone before all was told.
    #[error("the agent ended, or was restarted, in the middle of its answer")]
    Cut,
    /// Some of what was asked for could be shown; what not was told.
    #[error("not all could be shown")]
    Partly,
    /// What came is no answer.
    #[error("the agent's answer cannot be understood: {0}")]
    Garbled(String),
    /// The answer cannot be printed.
    #[error("cannot write")]
    Write(#[from] io::Error),
}

/// Where a subcommand writes.
struct Streams<'a> {
    output: &'a mut dyn Write,
    /// What is no part of the answer goes here.
    remarks: &'a mut dyn Write,
}

impl Streams<'_> {
    fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.output.write_all(text.as_bytes())?;
        Ok(self.output.flush()?)
    }

    fn remark(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.remarks, "{text}")?)
    }
}

/// The words that ask for a subcommand.
#[must_use]
pub fn names() -> Vec<String> {
    let definition = Line::command();
    definition
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect()
}

/// The subcommands, and what each does.
#[must_use]
pub fn summaries() -> Vec<(String, String)> {
    let definition = Line::command();
    let summary = |one: &clap::Command| {
        let about = one.get_about().map(ToString::to_string);
        (one.get_name().to_owned(), about.unwrap_or_default())
    };
    let shown = definition
        .get_subcommands()
        .filter(|one| !one.is_hide_set());
    shown.map(summary).collect()
}

/// Does what the subcommand `name` with these `arguments` asks for, on this process's own streams. The exit status: 0 when
/// it was done, 1 when not, 64 for what the command line got wrong.
#[must_use]
pub fn run(name: &str, arguments: &[String]) -> u8 {
    let words = ["kubelet", name].into_iter();
    let words = words.chain(arguments.iter().map(String::as_str));
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => {
            // Help was asked for, or the line is wrong: clap knows where which of them goes.
            let printed = error.print();
            return match (error.use_stderr(), printed) {
                (true, _) => UsageError::EXIT_CODE,
                (false, Ok(())) => 0,
                (false, Err(_)) => 1,
            };
        }
    };
    // Those that have this process's streams to themselves.
    match &line.command {
        Command::Attach(arguments) => return streams::attach(arguments),
        Command::Cp(arguments) => return streams::copy(arguments),
        Command::Exec(arguments) => return streams::exec(arguments),
        Command::PortForward(arguments) => return streams::forward(arguments),
        Command::Join(arguments) => return join::run(arguments),
        Command::Leave(arguments) => return join::leave(arguments),
        _ => {}
    }
    let mut streams = Streams {
        output: &mut io::stdout().lock(),
        remarks: &mut io::stderr().lock(),
    };
    let now = crate::clock::system_wall();
    let done = match &line.command {
        Command::Completion(arguments) => complete(arguments, &mut streams),
        Command::Describe(Described::Pod(arguments)) => describe::run(arguments, &mut streams, now),
        Command::Diff(arguments) => return compare(arguments, &mut streams),
        Command::Events(arguments) => events::run(arguments, &mut streams, now),
        Command::Get(Listed::Pods(arguments)) => get::run(arguments, &mut streams, now),
        Command::Logs(arguments) => logs::run(arguments, &mut streams),
        Command::Manual(arguments) => manual(arguments, &mut streams),
        Command::Status(arguments) => status::run(arguments, &mut streams, now),
        Command::Top(Used::Node(arguments)) => top::node(arguments, &mut streams),
        Command::Top(Used::Pods(arguments)) => top::pods(arguments, &mut streams),
        Command::Validate(arguments) => return judge(arguments, &mut streams),
        Command::Attach(_) | Command::Cp(_) | Command::Exec(_) | Command::PortForward(_) => Ok(()),
        Command::Join(_) | Command::Leave(_) => Ok(()),
    };
    match done {
        Ok(()) => 0,
        Err(error) => fail(name, &error, &mut streams),
    }
}

pub use join::Foreground;

/// For `kubelet join --foreground`, everything up to the agent as which the process goes on, or the exit status where it
/// does not come to that; none for any other line.
#[must_use]
pub fn foreground(name: &str, arguments: &[String]) -> Option<Result<Foreground, u8>> {
    let words = ["kubelet", name].into_iter();
    let words = words.chain(arguments.iter().map(String::as_str));
    match Line::try_parse_from(words).ok()?.command {
        Command::Join(arguments) if arguments.foreground => Some(join::begin(&arguments)),
        _ => None,
    }
}

/// Tells of a failure; the exit status for it.
fn fail(name: &str, error: &CliError, streams: &mut Streams<'_>) -> u8 {
    match error {
        // Whoever read the first lines and went has what they wanted.
        CliError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        _ => {
            // Nobody is left to tell when that fails too.
            let _ = streams.remark(&format!("kubelet {name}: {}", error_chain(error)));
            1
        }
    }
}

/// As `diff` and `kubectl diff`: 1 is no failure here.
fn compare(arguments: &DiffArguments, streams: &mut Streams<'_>) -> u8 {
    match diff::run(arguments, streams) {
        Ok(Difference::None) => 0,
        Ok(Difference::Some) => 1,
        Err(error) => fail("diff", &error, streams) * 2,
    }
}

fn complete(arguments: &CompletionArguments, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Line::command(), "kubelet", &mut text);
    streams.output.write_all(&text)?;
    Ok(streams.output.flush()?)
}

/// For the package: one page, or the names of all there are.
fn manual(arguments: &ManualArguments, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let mut definition = Line::command();
    definition.build();
    let pages = pages(&definition);
    let Some(name) = &arguments.command else {
        let names = pages.keys().map(|name| format!("{name}\n"));
        return streams.print(&names.collect::<String>());
    };
    let Some(page) = pages.get(name) else {
        return Err(CliError::NotFound(format!("there is no page {name:?}")));
    };
    clap_mangen::Man::new((*page).clone())
        .section("8")
        .render(streams.output)?;
    Ok(streams.output.flush()?)
}

/// The subcommands that have a page, by its name without `kubelet-`: `get`, and `get-pods` to which that one refers.
fn pages(definition: &clap::Command) -> BTreeMap<String, &clap::Command> {
    let mut pages = BTreeMap::new();
    for outer in definition
        .get_subcommands()
        .filter(|one| !one.is_hide_set())
    {
        pages.insert(outer.get_name().to_owned(), outer);
        for inner in outer.get_subcommands() {
            pages.insert(format!("{}-{}", outer.get_name(), inner.get_name()), inner);
        }
    }
    pages
}

fn judge(arguments: &validate::Arguments, streams: &mut Streams<'_>) -> u8 {
    match validate::run(arguments, &mut io::stdin(), streams.output) {
        Ok(verdict) => verdict.exit_code(),
        Err(error) => {
            // Nobody is left to tell when that fails too.
            let _ = streams.remark(&format!(
                "kubelet {}: {}",
                validate::NAME,
                error_chain(&error)
            ));
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together_and_names_every_subcommand() {
        Line::command().debug_assert();
        assert_eq!(
            names(),
            [
                "attach",
                "completion",
                "cp",
                "describe",
                "diff",
                "events",
                "exec",
                "get",
                "join",
                "leave",
                "logs",
                "manual",
                "port-forward",
                "status",
                "top",
                "validate"
            ]
        );
    }

    #[test]
    fn each_page_that_a_page_refers_to_is_there_and_names_its_flags() {
        let mut definition = Line::command();
        definition.build();
        let pages = pages(&definition);
        let text = |name: &str| {
            let mut text = Vec::new();
            let page = clap_mangen::Man::new(pages[name].clone()).section("8");
            page.render(&mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert!(text("get").contains("kubelet\\-get\\-pods(8)"));
        assert!(text("get-pods").contains("all\\-namespaces"));
        assert!(text("logs").contains("since\\-time") && text("top-pods").contains("sort\\-by"));
        assert!(!pages.contains_key("manual"));
    }
}
