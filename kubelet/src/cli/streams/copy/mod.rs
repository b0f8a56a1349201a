//! `kubelet cp`: files into a container and out of it, by `tar` there.

mod pack;
mod unpack;

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::exec::{Command, Ends};
use super::{StreamError, own, target, tell};
use crate::cli::arguments::CopyArguments;
use crate::cli::pods::Listed;
use crate::errors::error_chain;

/// What cannot be packed, unpacked or found.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("{} doesn't exist in local filesystem", .0.display())]
    NoSource(PathBuf),
    #[error("tar contents corrupted")]
    Corrupted,
    #[error("tar contents corrupted: {0}")]
    Unusable(&'static str),
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("the archive breaks off")]
    Archive(#[source] io::Error),
}

/// A path, of this machine or of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Spec {
    Local(String),
    Remote {
        namespace: Option<String>,
        pod: String,
        path: String,
    },
}

impl Spec {
    /// `PATH`, `POD:PATH` or `NAMESPACE/POD:PATH`. What begins as a path does is one of this machine, colons or not.
    fn of(text: &str) -> Result<Self, StreamError> {
        let wrong = || {
            StreamError::Cannot(
                "filespec must match the canonical format: [[namespace/]pod:]file/path".to_owned(),
            )
        };
        let is_path = ["/", "./", "../"]
            .iter()
            .any(|begin| text.starts_with(begin));
        let Some((pod, path)) = text.split_once(':').filter(|_| !is_path) else {
            return Ok(Self::Local(text.to_owned()));
        };
        let (namespace, pod) = match pod.split_once('/') {
            Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
            None => (None, pod),
        };
        if pod.is_empty() || pod.contains('/') || namespace.as_deref() == Some("") {
            return Err(wrong());
        }
        Ok(Self::Remote {
            namespace,
            pod: pod.to_owned(),
            path: path.to_owned(),
        })
    }
}

pub(super) async fn copy(arguments: &CopyArguments) -> Result<(), StreamError> {
    let refused = |why: &str| Err(StreamError::Cannot(why.to_owned()));
    let specs = (
        Spec::of(&arguments.source)?,
        Spec::of(&arguments.destination)?,
    );
    let (local, namespace, pod, path) = match &specs {
        (Spec::Remote { .. }, Spec::Remote { .. }) => {
            return refused("one of src or dest must be a local file specification");
        }
        (Spec::Local(_), Spec::Local(_)) => {
            return refused("one of src or dest must be a remote file specification");
        }
        (
            Spec::Local(local),
            Spec::Remote {
                namespace,
                pod,
                path,
            },
        )
        | (
            Spec::Remote {
                namespace,
                pod,
                path,
            },
            Spec::Local(local),
        ) => (local, namespace, pod, path),
    };
    if local.is_empty() || path.is_empty() {
        return refused("filepath can not be empty");
    }
    let socket = arguments.place.socket();
    let namespace = namespace.as_ref().unwrap_or(&arguments.namespace);
    let pod = target::pod(&socket, namespace, pod)?;
    target::is_not_completed(&pod.pod, "exec into")?;
    let (container, _) = target::container(&pod, arguments.container.as_deref(), false)?;
    let there = There {
        socket: &socket,
        pod: &pod,
        container: &container,
    };
    match specs.0 {
        Spec::Local(_) => into(Path::new(local), path, &there, arguments.no_preserve).await,
        Spec::Remote { .. } => out_of(path, Path::new(local), &there).await,
    }
}

/// The container that files are copied into or out of.
struct There<'a> {
    socket: &'a Path,
    pod: &'a Listed,
    container: &'a str,
}

impl There<'_> {
    async fn run(&self, words: &[&str], ends: Ends) -> Result<(), StreamError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let command = Command {
            socket: self.socket,
            namespace: self.pod.namespace(),
            pod: self.pod.name(),
            container: self.container,
            words: &words,
        };
        command.run(ends).await
    }

    /// Whether there is such a directory.
    async fn is_directory(&self, path: &str) -> Result<bool, StreamError> {
        let ends = Ends {
            stdin: None,
            stdout: Box::new(tokio::io::sink()),
            stderr: Some(Box::new(tokio::io::sink())),
        };
        match self.run(&["test", "-d", path], ends).await {
            Ok(()) => Ok(true),
            // Without that command, it is seen what becomes of it.
            Err(StreamError::Exit(_) | StreamError::Cannot(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// One end for a command in a container, one for this side, which blocks.
fn pipe() -> Result<(UnixStream, StdStream), StreamError> {
    let made = || {
        let (there, here) = UnixStream::pair()?;
        let here = here.into_std()?;
        here.set_nonblocking(false)?;
        Ok((there, here))
    };
    made().map_err(|error| StreamError::Local("make a pipe".to_owned(), error))
}

async fn into(
    source: &Path,
    path: &str,
    there: &There<'_>,
    no_preserve: bool,
) -> Result<(), StreamError> {
    if std::fs::metadata(source).is_err() {
        let error = CopyError::NoSource(source.to_owned());
        return Err(StreamError::Cannot(error.to_string()));
    }
    let mut path = cleaned(path);
    if there.is_directory(&path).await? {
        // Into it, by its own name.
        let source = std::fs::canonicalize(source);
        let source =
            source.map_err(|error| StreamError::Local("find the source".to_owned(), error))?;
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        path = format!("{}/{name}", path.trim_end_matches('/'));
    }
    let (directory, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((directory, name)) => (directory, name),
        None => (".", &*path),
    };
    let mut words = vec!["tar"];
    if no_preserve {
        words.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    words.extend(["-xmf", "-", "-C", directory]);
    let (theirs, ours) = pipe()?;
    let (source, name) = (source.to_owned(), name.to_owned());
    let packed = tokio::task::spawn_blocking(move || pack::pack(&source, &name, ours));
    let ends = Ends {
        stdin: Some(Box::new(theirs)),
        stdout: Box::new(own(io::stdout())?),
        stderr: Some(Box::new(own(io::stderr())?)),
    };
    let ran = there.run(&words, ends).await;
    match done(packed).await {
        // It broke off because the command did, which says why.
        Err(CopyError::Archive(_)) if ran.is_err() => ran,
        packed => packed.map_err(said).and(ran),
    }
}

async fn out_of(path: &str, destination: &Path, there: &There<'_>) -> Result<(), StreamError> {
    let (theirs, ours) = pipe()?;
    let below = unpack::Below::of(path, destination);
    let unpacked = tokio::task::spawn_blocking(move || unpack::unpack(ours, &below, &mut tell));
    let ends = Ends {
        stdin: None,
        stdout: Box::new(theirs),
        stderr: Some(Box::new(own(io::stderr())?)),
    };
    let ran = there.run(&["tar", "cf", "-", path], ends).await;
    match (done(unpacked).await, ran) {
        // What was sent after it went wrong on this side was not wanted any more.
        (unpacked, Err(StreamError::Unread)) => unpacked.map_err(said),
        // The archive ended because the command did, which says why.
        (Err(CopyError::Archive(_)), Err(error)) => Err(error),
        (unpacked, ran) => unpacked.map_err(said).and(ran),
    }
}

async fn done(work: JoinHandle<Result<(), CopyError>>) -> Result<(), CopyError> {
    let failed = |error| Err(CopyError::Archive(io::Error::other(error)));
    work.await.unwrap_or_else(failed)
}

fn said(error: CopyError) -> StreamError {
    StreamError::Cannot(error_chain(&error))
}

/// A path of the container without `.`, `..`, and slashes that say nothing, as Go's `path.Clean` has it.
fn cleaned(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests;
