//! Going back into the files that rotation has left. Blocks on the disk.

use std::cmp::Ordering;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use jiff::Timestamp;

use super::files::{Files, Held, Source, first_time_of, is_same};
use super::start::{self, Beginning};

impl Files {
    /// Goes to where the last `lines` lines of the whole log begin, `lacking` of them in rotated files.
    pub(super) fn go_back_by(&mut self, mut lacking: u64) -> io::Result<()> {
        for name in self.rotated()?.into_iter().rev() {
            if lacking == 0 {
                return Ok(());
            }
            let Some(source) = self.open_older(&name)? else {
                continue;
            };
            let beginning = self.beginning_in(&name, source, lacking)?;
            if self.hold(&name, beginning.at)? {
                lacking = beginning.lacking;
            }
        }
        Ok(())
    }

    /// Goes to the last file that begins before `since`, at its beginning; without one, to the oldest.
    pub(super) fn go_back_to(&mut self, since: Option<Timestamp>) -> io::Result<()> {
        let is_before = |time: Option<Timestamp>| {
            since
                .is_some_and(|since| time.is_some_and(|time| time.cmp(&since) != Ordering::Greater))
        };
        if let Held::Newest { file, .. } = &self.held
            && is_before(first_time_of(file)?)
        {
            return Ok(());
        }
        for name in self.rotated()?.into_iter().rev() {
            let Some(mut source) = self.open_older(&name)? else {
                continue;
            };
            let reached = is_before(source.first_time()?);
            if self.hold(&name, 0)? && reached {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A rotated file, unless it is the very one that is held: it was rotated after it was opened.
    fn open_older(&self, name: &str) -> io::Result<Option<Source>> {
        let source = self.open_rotated(name)?;
        if let (Some(Source::Plain(file)), Held::Newest { file: held, .. }) = (&source, &self.held)
            && is_same(file, held)?
        {
            return Ok(None);
        }
        Ok(source)
    }

    fn beginning_in(&self, name: &str, source: Source, lines: u64) -> io::Result<Beginning> {
        let mut first = Some(source);
        if let Some(Source::Plain(file)) = &mut first {
            return start::of_last(file, lines);
        }
        let open = || match first.take() {
            Some(source) => Ok(source),
            None => self
                .open_rotated(name)?
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
        };
        match start::of_last_in_stream(open, lines) {
            // Removed meanwhile, as the oldest ones are.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Beginning {
                at: 0,
                lacking: lines,
            }),
            found => found,
        }
    }

    /// Takes a rotated file, less its first `skipped` bytes; says whether it is still there.
    fn hold(&mut self, name: &str, skipped: u64) -> io::Result<bool> {
        let Some(mut source) = self.open_rotated(name)? else {
            return Ok(false);
        };
        match &mut source {
            Source::Plain(file) => {
                file.seek(SeekFrom::Start(skipped))?;
            }
            Source::Compressed(decoder) => {
                io::copy(&mut decoder.by_ref().take(skipped), &mut io::sink())?;
            }
        }
        self.held = Held::Rotated {
            name: name.to_owned(),
            source,
        };
        Ok(true)
    }
}
