//! Reading a container's log for somebody: its last lines, lines since some time, lines as they come.
//!
//! Owns: the two formats of a log (`line`), what is sent of one (`emit`), where its end begins (`start`), the files of a
//! log that is rotated meanwhile (`files`), and the wait for more (`watch`). All but the last are free of time and tasks.
//! Inputs: a log's path as the runtime has it, [`LogOptions`], word of the container's end. Outputs: chunks of some 64 KiB.
//! Tasks: none; files are read on the threads for blocking calls, one chunk at a time, and nothing is read that nobody
//! takes. A reader that waits holds a file, a watch, and no buffer.
//! Deliberately not here: which container's log it is, and HTTP (that is `server/container_logs`).
//!
//! A log is what its newest file holds, as upstream has it; its rotated files are read where that is asked for (`history`).
//! A log that is followed is followed across rotations, however far behind its reader is: the file that is held is read to
//! its end, then the one after it.

mod emit;
mod files;
mod history;
mod line;
mod reader;
mod start;
mod watch;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;

use self::emit::EmitError;
use self::files::Files;
use self::reader::{Reader, Step};
use self::watch::Watch;
use super::{LogsError, PodLogs};
use crate::dir::Dir;

/// How long a file that has a successor is still looked at: the runtime ends writing to it only after it has made the new
/// one (`ReopenContainerLog`).
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How often, and how far apart, a log is looked for that rotation has just renamed.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Which of a container's streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Both, as they were written.
    #[default]
    All,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What is wanted of a log: `PodLogOptions` of the Kubernetes API, and rotated files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only so many lines from the end; all of them without. When following, lines to come are on top.
    pub tail: Option<u64>,
    /// Only so many bytes, times included.
    pub limit_bytes: Option<u64>,
    /// Only what was written then or later.
    pub since: Option<Timestamp>,
    /// Go on until the container ends.
    pub follow: bool,
    /// Each line with the time at which it was written before it.
    pub timestamps: bool,
    /// Which streams.
    pub streams: Streams,
    /// What rotation has left of the log too, where it is still there.
    pub rotated: bool,
}

/// Why a log cannot be read, or not to its end. Texts are upstream's, where it has the same error.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// There is no such file.
    #[error("failed to try resolving symlinks in path {:?}: lstat {}: no such file or directory", .0, .0.display())]
    Missing(PathBuf),
    /// The runtime writes it somewhere else.
    #[error("log file {:?} is not below podLogsDir", .0)]
    Elsewhere(PathBuf),
    /// It cannot be opened: it is no regular file, or a link is on the way.
    #[error("failed to open log file {path:?}")]
    Open {
        /// The log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: LogsError,
    },
    /// It could be opened and cannot be read.
    #[error("failed to read log file {path:?}")]
    Read {
        /// The log.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its content is no log.
    #[error("{0}")]
    Content(String),
    /// The agent ends.
    #[error("reading the log was given up")]
    GivenUp,
}

impl PodLogs {
    /// Begins to read the log at `log_path`. Following it goes on until `ended`, the end of its container, is over and
    /// all is read that was written before.
    ///
    /// # Errors
    /// When there is no such log below the directory of logs.
    pub async fn read(
        &self,
        log_path: &Path,
        options: LogOptions,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Result<LogReading, ReadLogError> {
        let (logs, path) = (self.clone(), log_path.to_owned());
        let open = move || logs.open_log(&path, options);
        let (reader, watch) = off_thread(open).await??;
        Ok(LogReading {
            path: log_path.to_owned(),
            reader: Some(reader),
            follow: watch,
            ended: Box::pin(ended),
            over: false,
            last_words: false,
        })
    }

    fn open_log(
        &self,
        path: &Path,
        options: LogOptions,
    ) -> Result<(Box<Reader>, Option<Watch>), ReadLogError> {
        let open = |source| ReadLogError::Open {
            path: path.to_owned(),
            source,
        };
        if self.names_of(path).is_none() {
            return Err(ReadLogError::Elsewhere(path.to_owned()));
        }
        let missing = || ReadLogError::Missing(path.to_owned());
        let find = || self.file_of(path).map_err(open);
        let mut found = find()?;
        // Rotation has taken it away this moment, and the runtime makes another.
        for _ in 0..if options.rotated { LOOKS } else { 0 } {
            if found.as_ref().is_none_or(|(dir, name)| is_there(dir, name)) {
                break;
            }
            std::thread::sleep(BETWEEN_LOOKS);
            found = find()?;
        }
        let (dir, name) = found.ok_or_else(missing)?;
        // Before the file is opened: no change is missed.
        let watch = options.follow.then(|| Watch::on(&dir));
        let files = Files::open(dir, name).map_err(|error| open(error.into()))?;
        let reader = Reader::new(files.ok_or_else(missing)?, options);
        let reader = reader.map_err(|source| ReadLogError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok((Box::new(reader), watch))
    }
}

/// A log that is being read.
pub struct LogReading {
    path: PathBuf,
    /// None only while a thread has it.
    reader: Option<Box<Reader>>,
    /// None where the log's end is the end.
    follow: Option<Watch>,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The container has ended: what can be read now is all.
    over: bool,
    /// The file that is held has had its time for last words.
    last_words: bool,
}

impl LogReading {
    /// The next bytes to send, none at the end. Where the log is followed, it waits for them. What comes of a call that
    /// is dropped is lost, so a reading of which one call was dropped is over.
    ///
    /// # Errors
    /// When the log cannot be read, or is none.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ReadLogError> {
        loop {
            let (step, chunk) = self.on_thread(Reader::step).await?;
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
            match (step, &mut self.follow) {
                (Step::More, _) => {}
                (Step::Done, _) => return Ok(None),
                (Step::End { replaced: true }, Some(_)) if self.over || self.last_words => {
                    self.last_words = false;
                    let (_, chunk) = self.on_thread(Reader::go_on).await?;
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                (Step::End { .. }, None) => return self.rest().await,
                (Step::End { .. }, Some(_)) if self.over => return self.rest().await,
                (Step::End { replaced: true }, Some(_)) => {
                    tokio::time::sleep(LAST_WORDS).await;
                    self.last_words = true;
                }
                // Cancel-safe: the watch keeps what it has seen, and the end of a container stays its end.
                (Step::End { replaced: false }, Some(watch)) => tokio::select! {
                    () = watch.changed() => {}
                    () = &mut self.ended => self.over = true,
                },
            }
        }
    }

    /// The last line, where it has no end, and after it nothing.
    async fn rest(&mut self) -> Result<Option<Vec<u8>>, ReadLogError> {
        let (_, chunk) = self.on_thread(Reader::finish).await?;
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Lets the reader do something that may block; what it returns, and what is to be sent.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Reader, &mut Vec<u8>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<(T, Vec<u8>), ReadLogError> {
        let mut reader = self.reader.take().ok_or(ReadLogError::GivenUp)?;
        let done = off_thread(move || {
            let mut chunk = Vec::new();
            let done = work(&mut reader, &mut chunk);
            (reader, done.map(|done| (done, chunk)))
        });
        let (reader, done) = done.await?;
        self.reader = Some(reader);
        done.map_err(|error| match error {
            ReadError::Io(source) => ReadLogError::Read {
                path: self.path.clone(),
                source,
            },
            ReadError::Content(error) => ReadLogError::Content(error.to_string()),
        })
    }
}

/// Whether a file can be opened, or the reason why not is another than that it is not there.
fn is_there(dir: &Dir, name: &str) -> bool {
    !matches!(dir.open_file(name), Ok(None))
}

/// Why the reader cannot go on.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Content(#[from] EmitError),
}

/// Runs `work` on a thread for blocking calls.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadLogError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ReadLogError::GivenUp)
}
