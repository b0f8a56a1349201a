//! `record.json`: `{"version":1,"checksum":"<16 hex digits>","record":{…}}`, the checksum over the record's own bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::Deserialize;
use static_pods::fnv::Fnv64;

use super::types::Record;

/// Name of a record's file in its pod's directory.
pub const FILE_NAME: &str = "record.json";
/// Name of the file while it is being written.
const TEMPORARY: &str = "record.json.tmp";
/// What the name of a bad file that was set aside begins with; a number follows. One such file is kept.
pub const BAD_PREFIX: &str = "record.json.bad-";
/// The version this agent reads and writes. An agent of another version sets the file aside, and with it what it held:
/// fields are added without raising it.
const VERSION: u32 = 1;
/// No record is larger; what is, is bad.
pub const MAX_BYTES: usize = 64 * 1024;
/// A changed record is written at most this often, a durable one at once.
const INTERVAL: Duration = Duration::from_secs(1);
/// After a failure the wait before the next try doubles up to this.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Why a file is not a record. The record is lost, the pod is not: retry never.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// It could not be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// It is larger than any record.
    #[error("it is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// It does not have the form of a record's file; cut off, for one.
    #[error("it does not have the form of a record")]
    Form,
    /// Another version of the agent wrote it.
    #[error("its version is {0}, not {VERSION}")]
    Version(u32),
    /// Its bytes are not those that were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum holds and the content is no record.
    #[error("its content is not a record")]
    Content(#[source] serde_json::Error),
}

/// What a look at the file brought.
#[derive(Debug)]
pub enum Loaded {
    /// There is no file.
    Missing,
    /// A record.
    Good(Box<Record>),
    /// A file that is no record.
    Bad {
        /// Where the file was moved; `None` when it could not be moved, and the next write replaces it.
        set_aside: Option<PathBuf>,
        /// What is wrong with it.
        why: RecordFault,
    },
}

/// A record that was not written. It stays due: see [`RecordWriter::next_flush`].
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed: the disk is full, the directory is gone.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The record is beyond [`MAX_BYTES`].
    #[error("the record for {} has {bytes} bytes, more than {MAX_BYTES}", path.display())]
    TooLarge {
        /// Where it was to go.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// The record has no JSON form.
    #[error("cannot encode the record for {}", path.display())]
    Encode {
        /// Where it was to go.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// The file of one pod's record.
#[derive(Clone, Copy, Debug)]
pub struct RecordFile;

impl RecordFile {
    /// Reads the record in `directory`. A file that is no record is named in the log and moved to
    /// `record.json.bad-<n>`, and the bad one before it is removed.
    #[must_use]
    pub fn load(directory: &Path) -> Loaded {
        let path = directory.join(FILE_NAME);
        let why = match read(&path) {
            Ok(None) => return Loaded::Missing,
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(record) => return Loaded::Good(Box::new(record)),
                Err(why) => why,
            },
            Err(why) => why,
        };
        let set_aside = match set_aside(directory) {
            Ok(moved) => Some(moved),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a bad record cannot be set aside");
                None
            }
        };
        tracing::warn!(
            path = %path.display(),
            set_aside = %set_aside.as_deref().unwrap_or(&path).display(),
            %why,
            "the record of a pod is bad: the pod goes on with what the runtime shows"
        );
        Loaded::Bad { set_aside, why }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, RecordFault> {
    // No link is followed, and opening what is no plain file does not wait for a peer.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(bits(flags))
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RecordFault::Unreadable(error)),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(RecordFault::Unreadable)?;
    if bytes.len() > MAX_BYTES {
        return Err(RecordFault::TooLarge);
    }
    Ok(Some(bytes))
}

/// `open(2)` takes the flags as a C int, in which each of them fits.
fn bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    checksum: String,
}

const RECORD_KEY: &[u8] = b",\"record\":";
const END: &[u8] = b"}\n";

pub(super) fn encode(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(record)?;
    let checksum = Fnv64::of(&body);
    let mut bytes =
        format!("{{\"version\":{VERSION},\"checksum\":\"{checksum:016x}\"").into_bytes();
    bytes.extend_from_slice(RECORD_KEY);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(END);
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, RecordFault> {
    let key = bytes
        .windows(RECORD_KEY.len())
        .position(|w| w == RECORD_KEY);
    let (header, rest) = bytes.split_at(key.ok_or(RecordFault::Form)?);
    let body = rest
        .strip_prefix(RECORD_KEY)
        .and_then(|rest| rest.strip_suffix(END));
    let header: Header =
        serde_json::from_slice(&[header, b"}"].concat()).map_err(|_| RecordFault::Form)?;
    if header.version != VERSION {
        return Err(RecordFault::Version(header.version));
    }
    let body = body.ok_or(RecordFault::Form)?;
    if header.checksum != format!("{:016x}", Fnv64::of(body)) {
        return Err(RecordFault::Checksum);
    }
    serde_json::from_slice(body).map_err(RecordFault::Content)
}

/// Moves the file out of the way, under a number of its own, and drops those set aside before.
fn set_aside(directory: &Path) -> io::Result<PathBuf> {
    let mut before = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_prefix(BAD_PREFIX)?.parse::<u32>().ok());
        before.extend(number.map(|number| (number, directory.join(&name))));
    }
    let next = before
        .iter()
        .map(|(n, _)| *n)
        .max()
        .unwrap_or(0)
        .saturating_add(1);
    let target = directory.join(format!("{BAD_PREFIX}{next}"));
    fs::rename(directory.join(FILE_NAME), &target)?;
    for (_, path) in before.iter().filter(|(_, path)| *path != target) {
        fs::remove_file(path)?;
    }
    Ok(target)
}

/// What [`RecordWriter::store`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The file already says this.
    Unchanged,
    /// The file was written.
    Written,
    /// The file was written less than a second ago, or could not be: the record waits for [`RecordWriter::flush`].
    Deferred,
    /// The directory is not there yet: the record waits for the next [`RecordWriter::store`].
    NoDirectory,
}

/// Writes one pod's record, for its worker alone: on change, at most once a second, by way of a temporary file.
///
/// Only a durable record reaches the disk before the call returns; any other survives the agent and not the machine.
#[derive(Debug)]
pub struct RecordWriter {
    directory: PathBuf,
    /// Hash of what the file holds, and whether it was synced.
    on_disk: Option<(u64, bool)>,
    due: Option<Due>,
    not_before: Duration,
    failures: u32,
    /// A pod is shown before it has a directory. That is no failure, and must not put off the first record.
    no_directory: bool,
}

#[derive(Debug)]
struct Due {
    bytes: Vec<u8>,
    durable: bool,
}

impl RecordWriter {
    /// A writer of the record in `directory`. The first record is always written, once the directory is there.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            on_disk: None,
            due: None,
            not_before: Duration::ZERO,
            failures: 0,
            no_directory: false,
        }
    }

    /// A writer for a file that was found to hold `record`: storing the same again writes nothing.
    #[must_use]
    pub fn resume(directory: PathBuf, record: &Record) -> Self {
        let mut writer = Self::new(directory);
        // Whether it was synced is not known.
        writer.on_disk = encode(record).ok().map(|bytes| (Fnv64::of(&bytes), false));
        writer
    }

    /// Has the next change written at once: an agent that dies within a second must not have told the world what the
    /// next one does not know. A file that cannot be written is not tried any sooner.
    pub fn hurry(&mut self) {
        if self.failures == 0 {
            self.not_before = Duration::ZERO;
        }
    }

    /// Brings the file up to `record`, at `now` of the monotonic clock. With `durable`, at once and synced, for what
    /// must survive the machine: a terminal phase.
    ///
    /// # Errors
    /// When the record cannot be written. An I/O failure leaves the record due.
    pub fn store(
        &mut self,
        record: &Record,
        now: Duration,
        durable: bool,
    ) -> Result<Stored, RecordError> {
        let bytes = encode(record).map_err(|source| RecordError::Encode {
            path: self.path(),
            source,
        })?;
        if bytes.len() > MAX_BYTES {
            return Err(RecordError::TooLarge {
                path: self.path(),
                bytes: bytes.len(),
            });
        }
        let hash = Fnv64::of(&bytes);
        if self
            .on_disk
            .is_some_and(|(there, synced)| there == hash && (synced || !durable))
        {
            self.due = None;
            return Ok(Stored::Unchanged);
        }
        // What once had to be durable stays so while it waits.
        let durable = durable || self.due.as_ref().is_some_and(|due| due.durable);
        let newly_durable = durable && !self.due.as_ref().is_some_and(|due| due.durable);
        self.due = Some(Due { bytes, durable });
        if newly_durable {
            self.write(now)
        } else {
            self.flush(now)
        }
    }

    /// Writes the record that is due, if one is and its time has come.
    ///
    /// # Errors
    /// When it cannot be written; it stays due.
    pub fn flush(&mut self, now: Duration) -> Result<Stored, RecordError> {
        if self.due.is_none() {
            Ok(Stored::Unchanged)
        } else if now < self.not_before {
            Ok(Stored::Deferred)
        } else {
            self.write(now)
        }
    }

    /// When, on the monotonic clock, [`RecordWriter::flush`] has something to write. `None` while nothing is due, and
    /// while there is no directory to write to.
    #[must_use]
    pub fn next_flush(&self) -> Option<Duration> {
        let due = self.due.as_ref().filter(|_| !self.no_directory);
        due.map(|_| self.not_before)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    fn write(&mut self, now: Duration) -> Result<Stored, RecordError> {
        let Some(due) = self.due.take() else {
            return Ok(Stored::Unchanged);
        };
        match replace(&self.directory, &due.bytes, due.durable) {
            Ok(()) => {
                self.on_disk = Some((Fnv64::of(&due.bytes), due.durable));
                self.failures = 0;
                self.no_directory = false;
                self.not_before = now.saturating_add(INTERVAL);
                Ok(Stored::Written)
            }
            Err(_) if !self.directory.exists() => {
                self.on_disk = None;
                self.due = Some(due);
                self.no_directory = true;
                Ok(Stored::NoDirectory)
            }
            Err(error) => {
                self.no_directory = false;
                let wait = INTERVAL
                    .saturating_mul(1 << self.failures.min(6))
                    .min(MAX_RETRY);
                self.failures = self.failures.saturating_add(1);
                self.not_before = now.saturating_add(wait);
                // The file may be the old one or the new one.
                self.on_disk = None;
                self.due = Some(due);
                Err(error)
            }
        }
    }
}

fn replace(directory: &Path, bytes: &[u8], durable: bool) -> Result<(), RecordError> {
    let temporary = directory.join(TEMPORARY);
    let path = directory.join(FILE_NAME);
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| RecordError::Io { step, path, source }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(bits(OFlags::NOFOLLOW | OFlags::CLOEXEC))
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    let written = file.write_all(bytes).map_err(failed("write", &temporary));
    let synced = written.and_then(|()| {
        let sync = if durable { file.sync_all() } else { Ok(()) };
        sync.map_err(failed("sync", &temporary))
    });
    if let Err(error) = synced {
        // On a full disk the part that was written is in the way. The error that counts is the first one.
        let _unremoved = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
    if durable {
        let opened = File::open(directory).map_err(failed("open", directory))?;
        opened.sync_all().map_err(failed("sync", directory))?;
    }
    Ok(())
}
