//! systemd's journal, by its native protocol ("Native Journal Protocol", systemd.io/JOURNAL_NATIVE_PROTOCOL): one
//! datagram an entry, `NAME=value` lines in it; an entry that is too long for one goes as a sealed memory file beside an
//! empty one.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::io::Errno;
use static_pods::fnv::Fnv128;
use tracing::{Level, Metadata};

use super::filter::is_own;
use super::format::Fields;
use crate::datagram::Datagram;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// The variable in which systemd names the stream that standard error is (systemd.exec(5)).
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";
/// How long the first entry that finds no room waits for some. Those behind it do not wait at all.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bytes of an entry; nothing that is logged comes near, and a mistake must not fill the journal.
const MOST_BYTES: usize = 1 << 20;
/// `SYSLOG_IDENTIFIER` of every entry.
const IDENTIFIER: &str = "kubelet";

/// Whether standard error is a stream of the journal's, so that entries are better handed over whole.
pub(super) fn has_stderr() -> bool {
    std::env::var(STREAM_VARIABLE).is_ok_and(|stream| is_stream(&stream, std::io::stderr()))
}

/// Whether `fd` is the file that `stream` names: `<device>:<inode>`.
fn is_stream(stream: &str, fd: impl AsFd) -> bool {
    let Ok(stat) = fstat(fd) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The `MESSAGE_ID` of a happening: the FNV-1a hash, 128 bits wide, of `kubelet/` and its reason, with the bits of a UUID
/// of version 8 (RFC 9562). It must never change: rules and catalogues go by it.
#[must_use]
pub fn message_id(reason: &str) -> u128 {
    let mut hash = Fnv128::default();
    hash.write(b"kubelet/");
    hash.write(reason.as_bytes());
    let version = (hash.value() & !(0xf << 76)) | (0x8 << 76);
    (version & !(0b11 << 62)) | (0b10 << 62)
}

/// Hands entries to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    socket: Option<Datagram>,
    /// The journal has stopped receiving: do not wait for it.
    stalled: bool,
}

/// The journal is not there; the entry has to go somewhere else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreachable;

impl Journal {
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Entries that were dropped because nobody received them.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands `entry` over, or drops it when the journal is there and does not receive.
    pub(super) fn write(&self, entry: &[u8]) -> Result<(), Unreachable> {
        // Nothing panics under this lock.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &entry[..entry.len().min(MOST_BYTES)];
        // A journal that was replaced has another socket of the same name.
        for _ in 0..2 {
            if state.socket.is_none() {
                state.socket = Datagram::connect(self.path.as_os_str()).ok();
            }
            let Some(socket) = &state.socket else {
                return Err(Unreachable);
            };
            let patience = if state.stalled {
                Duration::ZERO
            } else {
                PATIENCE
            };
            match hand_over(socket, entry, patience) {
                Ok(()) => {
                    state.stalled = false;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.stalled = true;
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(_) => state.socket = None,
            }
        }
        Err(Unreachable)
    }
}

fn hand_over(socket: &Datagram, entry: &[u8], patience: Duration) -> io::Result<()> {
    match socket.send(entry, patience) {
        Err(error) if is_too_long(&error) => {
            let file = sealed(entry)?;
            socket.send_file(file.as_fd(), patience)
        }
        done => done,
    }
}

fn is_too_long(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno == Some(Errno::MSGSIZE) || errno == Some(Errno::NOBUFS)
}

/// A file in memory that can be changed no more: the journal takes no other.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create("journal-entry", flags)?);
    file.write_all(entry)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The entry of an event.
pub(super) fn entry(fields: &Fields, metadata: &Metadata<'_>, message: &str) -> Vec<u8> {
    let mut entry = Vec::with_capacity(256 + message.len());
    put(&mut entry, "MESSAGE", message);
    put(&mut entry, "PRIORITY", priority(*metadata.level()));
    put(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    let named = fields.named();
    if let Some(reason) = &named.reason
        && is_own(metadata.target())
    {
        put(
            &mut entry,
            "MESSAGE_ID",
            &format!("{:032x}", message_id(reason)),
        );
        put(&mut entry, "REASON", reason);
    }
    if let Some(pod) = &named.pod {
        // As `pod::PodName` writes it; neither part has an underscore.
        let (name, namespace) = pod.split_once('_').unwrap_or((pod, ""));
        put(&mut entry, "POD", name);
        if !namespace.is_empty() {
            put(&mut entry, "NAMESPACE", namespace);
        }
    }
    let others = [("POD_UID", &named.uid), ("CONTAINER", &named.container)];
    for (name, value) in others {
        if let Some(value) = value {
            put(&mut entry, name, value);
        }
    }
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut entry, "CODE_FILE", file);
        put(&mut entry, "CODE_LINE", &line.to_string());
    }
    entry
}

/// syslog's severities; `--v=4` and beyond is for debugging.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests;
