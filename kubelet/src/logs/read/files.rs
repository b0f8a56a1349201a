//! The files of a log: the one that is being read, and the one after it. Blocks on the disk.
//!
//! Rotation renames `N.log` to `N.log.<time>`, compresses it to `N.log.<time>.gz` when the next one is rotated, and later
//! removes it; the runtime makes a new `N.log`. Whoever holds a file has its content whatever happens to its name.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use flate2::read::GzDecoder;

use super::super::rotation::{COMPRESSED, UNFINISHED};
use super::line::Time;
use crate::dir::{Dir, DirError};

/// What of a file holds the time of its first line in any case.
const HEAD: usize = 64;

/// A log by its directory and name, with the file of it that is open.
#[derive(Debug)]
pub(super) struct Files {
    dir: Dir,
    /// `N.log`.
    name: String,
    pub(super) held: Held,
}

/// An open file.
#[derive(Debug)]
pub(super) enum Held {
    /// It was `N.log` when it was opened.
    Newest { file: File, position: u64 },
    /// A rotated one by its name, less `.gz`.
    Rotated { name: String, source: Source },
}

#[derive(Debug)]
pub(super) enum Source {
    Plain(File),
    Compressed(Box<GzDecoder<File>>),
}

impl Files {
    /// Opens `name` in `dir`; none where there is no such file.
    pub(super) fn open(dir: Dir, name: String) -> Result<Option<Self>, DirError> {
        let file = dir.open_file(&name)?;
        Ok(file.map(|file| Self {
            dir,
            name,
            held: Held::Newest { file, position: 0 },
        }))
    }

    /// The file, where one can go about in it.
    pub(super) fn plain(&mut self) -> Option<&mut File> {
        match &mut self.held {
            Held::Newest { file, .. } => Some(file),
            Held::Rotated { .. } => None,
        }
    }

    /// Goes to `position` in the newest file.
    pub(super) fn seek(&mut self, to: u64) -> io::Result<()> {
        if let Held::Newest { file, position } = &mut self.held {
            *position = file.seek(SeekFrom::Start(to))?;
        }
        Ok(())
    }

    /// Reads on; 0 at the end of the file that is held.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.held {
                Held::Newest { file, .. } => file.read(buffer),
                Held::Rotated { source, .. } => source.read(buffer),
            };
            match (read, &mut self.held) {
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Ok(read), Held::Newest { position, .. }) => {
                    *position += read as u64;
                    return Ok(read);
                }
                (read, _) => return read,
            }
        }
    }

    /// Whether somebody has cut off what was read already.
    pub(super) fn was_truncated(&self) -> io::Result<bool> {
        match &self.held {
            Held::Newest { file, position } => Ok(file.metadata()?.len() < *position),
            Held::Rotated { .. } => Ok(false),
        }
    }

    /// Whether the log goes on in another file than the one that is held.
    pub(super) fn is_replaced(&self) -> io::Result<bool> {
        match &self.held {
            Held::Newest { file, .. } => {
                // While it is missing, the runtime still writes to the one that is held.
                let newest = self.open_in_dir(&self.name)?;
                newest.map_or(Ok(false), |newest| Ok(!is_same(file, &newest)?))
            }
            Held::Rotated { .. } => Ok(true),
        }
    }

    /// Whether the file that is held is a rotated one, and nobody writes to it any more: another was rotated after it.
    pub(super) fn is_settled(&self) -> io::Result<bool> {
        match &self.held {
            Held::Newest { .. } => Ok(false),
            Held::Rotated { name, .. } => Ok(self.rotated()?.last() > Some(name)),
        }
    }

    /// Whether the file that is held is a rotated one.
    pub(super) fn is_rotated(&self) -> bool {
        matches!(self.held, Held::Rotated { .. })
    }

    /// Takes the file after the one that is held, where there is one; says whether there is.
    pub(super) fn go_on(&mut self) -> io::Result<bool> {
        // Before the names are read: what is rotated in between is then among them.
        let newest = self.open_in_dir(&self.name)?;
        let names = self.rotated()?;
        let after = match &self.held {
            Held::Rotated { name, .. } => names.iter().position(|other| other > name),
            Held::Newest { file, .. } => {
                if let Some(newest) = &newest
                    && is_same(file, newest)?
                {
                    return Ok(false);
                }
                self.after(file, &names)?
            }
        };
        for name in after.map_or(&[][..], |at| &names[at..]) {
            if let Some(source) = self.open_rotated(name)? {
                // Opened while it was still the newest, it is held as that: it may have grown since.
                if let (Source::Plain(rotated), Some(newest)) = (&source, &newest)
                    && is_same(rotated, newest)?
                {
                    break;
                }
                let name = name.clone();
                self.held = Held::Rotated { name, source };
                return Ok(true);
            }
        }
        let found = newest.is_some();
        if let Some(file) = newest {
            self.held = Held::Newest { file, position: 0 };
        }
        Ok(found)
    }

    /// Which of the rotated files comes after `held`, which was the newest.
    fn after(&self, held: &File, names: &[String]) -> io::Result<Option<usize>> {
        let ours = first_time_of(held)?;
        let mut later = None;
        for (at, name) in names.iter().enumerate().rev() {
            let Some(mut source) = self.open_rotated(name)? else {
                continue;
            };
            let is_ours = match &source {
                Source::Plain(file) => is_same(file, held)?,
                Source::Compressed(_) => false,
            };
            // One that is compressed has the same beginning. One that is gone has only later ones left.
            if is_ours || source.first_time()? <= ours {
                break;
            }
            later = Some(at);
        }
        Ok(later)
    }

    /// The names of the rotated files, the oldest first, less `.gz`.
    pub(super) fn rotated(&self) -> io::Result<Vec<String>> {
        let prefix = format!("{}.", self.name);
        let names = self.dir.names().map_err(io::Error::other)?.into_iter();
        let names = names.filter(|name| name.starts_with(&prefix) && !name.ends_with(UNFINISHED));
        let plain = |name: String| match name.strip_suffix(COMPRESSED) {
            Some(plain) => plain.to_owned(),
            None => name,
        };
        let mut names: Vec<String> = names.map(plain).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    pub(super) fn open_rotated(&self, name: &str) -> io::Result<Option<Source>> {
        if let Some(file) = self.open_in_dir(name)? {
            return Ok(Some(Source::Plain(file)));
        }
        let compressed = self.open_in_dir(&format!("{name}{COMPRESSED}"))?;
        Ok(compressed.map(|file| Source::Compressed(Box::new(GzDecoder::new(file)))))
    }

    fn open_in_dir(&self, name: &str) -> io::Result<Option<File>> {
        self.dir.open_file(name).map_err(io::Error::other)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(decoder) => decoder.read(buffer),
        }
    }
}

impl Source {
    /// The time of the first line; of one that is compressed it can be asked once.
    pub(super) fn first_time(&mut self) -> io::Result<Option<jiff::Timestamp>> {
        first_time(|head| self.read_head(head))
    }

    /// As [`read_head`]; of one that is compressed it can be asked once.
    fn read_head(&mut self, head: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => read_head(file, head),
            Self::Compressed(decoder) => {
                let mut filled = 0;
                while filled < head.len() {
                    match decoder.read(&mut head[filled..])? {
                        0 => break,
                        read => filled += read,
                    }
                }
                Ok(filled)
            }
        }
    }
}

/// Reads the beginning of a file, and leaves it where it was.
fn read_head(file: &File, head: &mut [u8]) -> io::Result<usize> {
    file.read_at(head, 0)
}

/// The time of the first line of the file that is open; it stays where it is.
pub(super) fn first_time_of(file: &File) -> io::Result<Option<jiff::Timestamp>> {
    first_time(|head| read_head(file, head))
}

/// The time of the first line of a file; none where it has no line yet, which is before any time.
fn first_time(
    read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Option<jiff::Timestamp>> {
    let mut head = [0; HEAD];
    let read = read(&mut head)?;
    let first = head[..read].split(|&byte| byte == b' ').next();
    Ok(first.and_then(Time::parse).and_then(Time::instant))
}

pub(super) fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}
