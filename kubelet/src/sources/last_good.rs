//! The last good text of each manifest, `<root>/manifests/<hash of its path>`: what a file's pods go on by when the agent
//! starts and finds the file broken.
//!
//! A copy is one line, `<checksum> <path>`, and the text; in the path, `%XX` stands for a byte that is not plain text. A
//! copy that is torn or foreign is removed, and the log says so; the next good text of its manifest makes a new one.
//! Copies are written by a thread of their own, synced, so that no pod's start waits for the disk. They are root's alone,
//! in a directory that is: manifests may hold Secrets.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use static_pods::fnv::Fnv64;
use static_pods::watch::LastGood;

use crate::dir::{Dir, DirError};
use crate::errors::error_chain;

/// The directory below the agent's root.
const DIRECTORY: &str = "manifests";
/// Bytes of a copy that are read: a manifest of the largest size, and its first line.
const MOST_BYTES: u64 = (static_pods::tree::MAX_BYTES + 8192) as u64;
/// Bytes of stack for the thread that writes.
const STACK_BYTES: usize = 128 * 1024;

/// Copies in a directory.
pub struct Copies {
    directory: PathBuf,
    writer: Sender<Job>,
}

enum Job {
    Store(PathBuf, Vec<u8>),
    Forget(PathBuf),
}

impl Copies {
    /// Copies below `root`; those of manifests that are gone are removed.
    ///
    /// # Errors
    /// When the directory cannot be made, or the thread not started.
    pub fn new(root: &Path) -> io::Result<Self> {
        let directory = root.join(DIRECTORY);
        let open = Dir::open_or_create(&directory, 0o700).map_err(io::Error::other)?;
        for name in open.names().map_err(io::Error::other)? {
            let path = read(&open, &name).and_then(|copy| split(&copy).map(|(path, _)| path));
            let keep = match path {
                Some(path) => name == name_of(&path) && !is_gone(&path),
                None => {
                    let copy = open.path_of(&name);
                    tracing::warn!(copy = %copy.display(), "a copy of a good manifest is damaged, and removed");
                    false
                }
            };
            if !keep {
                open.remove_file(&name).map_err(io::Error::other)?;
            }
        }
        let (writer, jobs) = channel();
        let target = directory.clone();
        std::thread::Builder::new()
            .name("last-good".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || write_all(&target, &jobs))?;
        Ok(Self { directory, writer })
    }
}

impl LastGood for Copies {
    fn load(&mut self, path: &Path) -> Option<Vec<u8>> {
        let copy = read(&Dir::open(&self.directory).ok()?, &name_of(path))?;
        let (of, text) = split(&copy)?;
        (of == path).then(|| text.to_vec())
    }

    fn store(&mut self, path: &Path, bytes: &[u8]) {
        // The thread ends only with this sender.
        let _ = self
            .writer
            .send(Job::Store(path.to_owned(), bytes.to_vec()));
    }

    fn forget(&mut self, path: &Path) {
        let _ = self.writer.send(Job::Forget(path.to_owned()));
    }
}

/// Does what it is told until nobody is left to tell it. A copy that cannot be written costs what it is for, and no more.
fn write_all(directory: &Path, jobs: &Receiver<Job>) {
    for job in jobs {
        let (path, done) = match job {
            Job::Store(path, text) => {
                let done = write(directory, &path, &text);
                (path, done)
            }
            Job::Forget(path) => {
                let done = Dir::open(directory).and_then(|dir| dir.remove_file(&name_of(&path)));
                (path, done)
            }
        };
        if let Err(error) = done {
            let error = error_chain(&error);
            tracing::warn!(path = %path.display(), error, "cannot keep a copy of a good manifest");
        }
    }
}

fn write(directory: &Path, path: &Path, text: &[u8]) -> Result<(), DirError> {
    let dir = Dir::open(directory)?;
    let name = name_of(path);
    let copy = join(path, text);
    if read(&dir, &name).as_deref() == Some(&copy) {
        return Ok(());
    }
    dir.replace(&name, &copy, 0o600)
}

fn read(dir: &Dir, name: &str) -> Option<Vec<u8>> {
    dir.read_file(name, MOST_BYTES).ok().flatten()
}

fn name_of(path: &Path) -> String {
    let mut hash = Fnv64::default();
    hash.write(path.as_os_str().as_encoded_bytes());
    format!("{:016x}", hash.value())
}

/// Whether there is no entry at `path`: a link that leads nowhere is a broken manifest, not one that is gone.
fn is_gone(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// A path as one line of plain text.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

fn checksum(path: &str, text: &[u8]) -> String {
    let mut hash = Fnv64::default();
    hash.write(path.as_bytes());
    hash.write(text);
    format!("{:016x}", hash.value())
}

fn join(path: &Path, text: &[u8]) -> Vec<u8> {
    let path = escape(path);
    let mut copy = format!("{} {path}\n", checksum(&path, text)).into_bytes();
    copy.extend_from_slice(text);
    copy
}

/// The path and the text of a copy that is whole.
fn split(copy: &[u8]) -> Option<(PathBuf, &[u8])> {
    let end = copy.iter().position(|byte| *byte == b'\n')?;
    let (sum, path) = std::str::from_utf8(&copy[..end]).ok()?.split_once(' ')?;
    let text = &copy[end + 1..];
    (checksum(path, text) == sum).then_some((unescape(path)?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the thread finish: it ends once it has no more to do and its sender is gone.
    fn settled(copies: Copies, wanted: impl Fn(&Path) -> bool) {
        let directory = copies.directory.clone();
        drop(copies);
        let done = || wanted(&directory);
        let mut left = 500;
        while !done() && left > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            left -= 1;
        }
        assert!(done(), "not after five seconds");
    }

    #[test]
    fn a_copy_outlives_the_agent_and_goes_with_its_manifest() {
        let root = tempfile::tempdir().unwrap();
        let manifest = root.path().join("web.yaml");
        std::fs::write(&manifest, "broken").unwrap();
        let mut copies = Copies::new(root.path()).unwrap();
        copies.store(&manifest, b"good\ntext");
        let name = name_of(&manifest);
        settled(copies, |directory| directory.join(&name).exists());

        let mut again = Copies::new(root.path()).unwrap();
        assert_eq!(again.load(&manifest).as_deref(), Some(&b"good\ntext"[..]));
        assert_eq!(again.load(Path::new("/other")), None);
        again.forget(&manifest);
        settled(again, |directory| !directory.join(&name).exists());
    }

    #[test]
    fn a_torn_copy_and_one_without_a_manifest_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let (kept, gone) = (root.path().join("kept.yaml"), root.path().join("gone.yaml"));
        std::fs::write(&kept, "x").unwrap();
        let directory = root.path().join(DIRECTORY);
        std::fs::create_dir(&directory).unwrap();
        let whole = join(&kept, b"some text");
        for length in 0..whole.len() {
            std::fs::write(directory.join(name_of(&kept)), &whole[..length]).unwrap();
            let open = Dir::open(&directory).unwrap();
            let copy = read(&open, &name_of(&kept)).unwrap();
            assert_eq!(split(&copy), None, "of {length} bytes");
        }
        std::fs::write(directory.join(name_of(&kept)), &whole).unwrap();
        std::fs::write(directory.join(name_of(&gone)), join(&gone, b"other")).unwrap();
        let mut copies = Copies::new(root.path()).unwrap();
        assert!(copies.load(&kept).is_some());
        assert!(!directory.join(name_of(&gone)).exists());
    }

    #[test]
    fn any_path_has_a_copy() {
        let root = tempfile::tempdir().unwrap();
        let odd = OsString::from_vec(b"100%\n \xff\xc3\xa4.yaml".to_vec());
        let manifest = root.path().join(odd);
        std::fs::write(&manifest, "x").unwrap();
        let mut copies = Copies::new(root.path()).unwrap();
        copies.store(&manifest, b"text");
        let name = name_of(&manifest);
        settled(copies, |directory| directory.join(&name).exists());
        let mut again = Copies::new(root.path()).unwrap();
        assert_eq!(again.load(&manifest).as_deref(), Some(&b"text"[..]));
        assert_eq!(unescape("a%4"), None);
        assert_eq!(unescape("a%zz"), None);
    }

    #[test]
    fn at_the_start_damaged_and_leftover_copies_go_and_those_of_broken_links_stay() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link.yaml");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let directory = root.path().join(DIRECTORY);
        std::fs::create_dir(&directory).unwrap();
        let whole = join(&link, b"text");
        std::fs::write(directory.join(name_of(&link)), &whole).unwrap();
        std::fs::write(directory.join("leftover.tmp"), &whole).unwrap();
        std::fs::write(directory.join("0123456789abcdef"), &whole[1..]).unwrap();
        let mut copies = Copies::new(root.path()).unwrap();
        assert!(copies.load(&link).is_some());
        let names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [OsString::from(name_of(&link))]);
    }
}
