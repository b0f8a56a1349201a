//! `kubelet logs`: what containers have written, as `kubectl logs` prints it.
//!
//! One container's log is copied as it comes. Several are read a line at a time: one after the other, or, when they are
//! followed, side by side, a thread each, of which each waits until its line has been printed.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use k8s_openapi::api::core::v1::Pod;

use super::arguments::LogsArguments;
use super::pods::{self, Listed};
use super::socket::{self, Body};
use super::{CliError, Streams, containers};
use crate::errors::error_chain;

/// What is copied at once, bytes.
const PIECE: usize = 64 << 10;
/// A line that is longer comes in parts.
const LONGEST: u64 = 256 << 10;
/// Lines that wait to be printed, of all containers together.
const WAITING: usize = 16;

pub(super) fn run(arguments: &LogsArguments, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    let all = pods::list(&socket)?;
    let pod = pods::one(&all, &arguments.namespace, &arguments.pod)?;
    let containers = wanted(pod, arguments, streams)?;
    let query = query(arguments);
    let sources = containers.into_iter().map(|container| Source {
        path: format!(
            "/containerLogs/{}/{}/{container}{query}",
            pod.namespace(),
            pod.name()
        ),
        prefix: match arguments.prefix {
            true => format!("[pod/{}/{container}] ", pod.name()),
            false => String::new(),
        },
    });
    let sources: Vec<Source> = sources.collect();
    match &sources[..] {
        [one] if one.prefix.is_empty() => copy(&mut one.open(&socket, arguments.follow)?, streams),
        [one] => one.print(&socket, arguments.follow, streams),
        _ if arguments.follow => follow(sources, &socket, streams),
        several => in_turn(several, &socket, streams),
    }
}

/// The containers whose logs are asked for.
fn wanted(
    listed: &Listed,
    arguments: &LogsArguments,
    streams: &mut Streams<'_>,
) -> Result<Vec<String>, CliError> {
    if arguments.all_containers {
        return Ok(in_order(&listed.pod));
    }
    let named = arguments.container.as_ref();
    let named = named.or(arguments.positional.as_ref());
    let chosen = containers::choose(&listed.pod, named.map(String::as_str));
    let chosen = chosen.map_err(CliError::NotFound)?;
    if let Some(remark) = &chosen.remark {
        streams.remark(remark)?;
    }
    Ok(vec![chosen.name])
}

/// The names of a pod's containers, in the order in which they start.
fn in_order(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let init = spec.init_containers.iter().flatten().map(|c| &c.name);
    let regular = spec.containers.iter().map(|c| &c.name);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|c| &c.name);
    init.chain(regular).chain(ephemeral).cloned().collect()
}

fn query(arguments: &LogsArguments) -> String {
    let mut query = "?rotated=true".to_owned();
    for (name, wanted) in [
        ("follow", arguments.follow),
        ("previous", arguments.previous),
        ("timestamps", arguments.timestamps),
    ] {
        if wanted {
            query.push_str(&format!("&{name}=true"));
        }
    }
    let tail = u64::try_from(arguments.tail).ok();
    let limit = Some(arguments.limit_bytes).filter(|limit| *limit > 0);
    for (name, number) in [
        ("tailLines", tail),
        ("sinceSeconds", arguments.since),
        ("limitBytes", limit),
    ] {
        if let Some(number) = number {
            query.push_str(&format!("&{name}={number}"));
        }
    }
    if let Some(time) = &arguments.since_time {
        // In UTC: there is no `+` that would have to be encoded.
        query.push_str(&format!("&sinceTime={time}"));
    }
    query
}

/// The log of one container.
struct Source {
    path: String,
    /// What stands before each line.
    prefix: String,
}

/// Copies a log as it comes.
fn copy(body: &mut Body, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = match body.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(body.error(error)),
        };
        streams.output.write_all(&piece[..read])?;
        streams.output.flush()?;
    }
}

impl Source {
    fn open(&self, socket: &Path, follow: bool) -> Result<Body, CliError> {
        match follow {
            true => socket::follow(socket, &self.path),
            false => socket::get(socket, &self.path),
        }
    }

    fn print(
        &self,
        socket: &Path,
        follow: bool,
        streams: &mut Streams<'_>,
    ) -> Result<(), CliError> {
        self.read(socket, follow, |line| {
            streams.output.write_all(&line)?;
            Ok(streams.output.flush()?)
        })
    }

    /// Gives each line, with what stands before it, to `take`.
    fn read(
        &self,
        socket: &Path,
        follow: bool,
        mut take: impl FnMut(Vec<u8>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut body = BufReader::new(self.open(socket, follow)?);
        let mut at_line_start = true;
        loop {
            let mut line = match at_line_start {
                true => self.prefix.clone().into_bytes(),
                false => Vec::new(),
            };
            let read = body.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => at_line_start = line.ends_with(b"\n"),
                Err(error) => return Err(body.get_ref().error(error)),
            }
            take(line)?;
        }
    }
}

/// One after the other. One that cannot be shown, which a container that has not begun has none to show, keeps back none.
fn in_turn(sources: &[Source], socket: &Path, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let mut done = Ok(());
    for source in sources {
        match source.print(socket, false, streams) {
            Ok(()) => {}
            Err(CliError::Write(error)) => return Err(CliError::Write(error)),
            Err(error) => {
                streams.remark(&error_chain(&error))?;
                done = Err(CliError::Partly);
            }
        }
    }
    done
}

/// Side by side, until all have ended. The threads wait for the agent: should nobody want the lines any more, they end with
/// the process.
fn follow(sources: Vec<Source>, socket: &Path, streams: &mut Streams<'_>) -> Result<(), CliError> {
    let (sender, lines) = sync_channel(WAITING);
    for source in sources {
        let (sender, socket) = (sender.clone(), socket.to_owned());
        thread::spawn(move || {
            let gone = || CliError::Write(ErrorKind::BrokenPipe.into());
            let told = source.read(&socket, true, |line| {
                sender.send(Ok(line)).map_err(|_| gone())
            });
            if let Err(error) = told {
                // Nobody is left to hear it when that fails.
                let _ = sender.send(Err(error));
            }
        });
    }
    drop(sender);
    let mut done = Ok(());
    for line in lines {
        match line {
            Ok(line) => {
                streams.output.write_all(&line)?;
                streams.output.flush()?;
            }
            Err(error) => {
                streams.remark(&error_chain(&error))?;
                done = Err(CliError::Partly);
            }
        }
    }
    done
}

#[cfg(test)]
mod tests;
