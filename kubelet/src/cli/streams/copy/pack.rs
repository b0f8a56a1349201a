//! Files of this machine, as an archive.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{CopyError, tell};

/// Writes `source`, a file or a directory with all that is in it, to `to`, called `name` there. Links stay links; what is
/// neither a file, a directory nor a link is left out, and told.
///
/// # Errors
/// When something cannot be read, or nobody takes it.
pub(super) fn pack(source: &Path, name: &str, to: impl Write) -> Result<(), CopyError> {
    let mut archive = tar::Builder::new(to);
    // A link that was named is that which it leads to.
    let metadata = fs::metadata(source).map_err(|error| unread(source, error))?;
    add(&mut archive, source, name.as_ref(), &metadata)?;
    let mut to = archive.into_inner().map_err(CopyError::Archive)?;
    to.flush().map_err(CopyError::Archive)
}

fn add(
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
) -> Result<(), CopyError> {
    let kind = metadata.file_type();
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    if kind.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| unread(path, error))?;
        let mut is_empty = true;
        for entry in entries {
            let entry = entry.map_err(|error| unread(path, error))?;
            let metadata = entry.metadata().map_err(|error| unread(path, error))?;
            add(
                archive,
                &entry.path(),
                &name.join(entry.file_name()),
                &metadata,
            )?;
            is_empty = false;
        }
        // As kubectl: others come to be with what is in them, and those that are there keep their modes.
        return match is_empty {
            true => append(archive, &mut header, name, &mut io::empty()),
            false => Ok(()),
        };
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|error| unread(path, error))?;
        header.set_size(0);
        let added = archive.append_link(&mut header, name, target);
        return added.map_err(CopyError::Archive);
    }
    if !kind.is_file() {
        tell(&format!(
            "warning: skipping {:?}: it is neither a file, a directory nor a link",
            path.display()
        ));
        return Ok(());
    }
    // Without waiting, should it have become something else meanwhile.
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| unread(path, error))?;
    let size = file.metadata().map_err(|error| unread(path, error))?.len();
    header.set_size(size);
    // One that shrinks or grows meanwhile must not spoil what comes after it.
    let mut content = Content { file, missing: 0 }.take(size);
    append(archive, &mut header, name, &mut content)?;
    match content.into_inner().missing {
        0 => Ok(()),
        missing => {
            tell(&format!(
                "warning: {:?} shrank while it was read; it ends in {missing} zeros",
                path.display()
            ));
            Ok(())
        }
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    header: &mut tar::Header,
    name: &Path,
    content: &mut dyn Read,
) -> Result<(), CopyError> {
    let added = archive.append_data(header, name, content);
    added.map_err(CopyError::Archive)
}

/// A file, and zeros behind it.
struct Content {
    file: File,
    /// How many zeros were needed.
    missing: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer)? {
            0 => {
                buffer.fill(0);
                self.missing += u64::try_from(buffer.len()).unwrap_or(u64::MAX);
                Ok(buffer.len())
            }
            read => Ok(read),
        }
    }
}

fn unread(path: &Path, error: io::Error) -> CopyError {
    CopyError::Read(path.to_owned(), error)
}
