//! The way to a subPath within its volume, a handle at a time.
//!
//! What upstream takes is taken: links that stay in the volume, absolute ones that spell out the volume's own path among
//! them, and mounts. What upstream resolves to a path of the node first, and then checks, is here never looked at outside
//! the volume: a link is read and its target followed name by name, from a handle to the next, so that whatever a
//! container exchanges meanwhile, each handle lies beneath the one before.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::umask;

/// Links on one way, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Directories that one way has handles of at a time: as many as a path of `PATH_MAX` can name.
const MAX_DEPTH: usize = 2048;
/// Bytes of the stack of a thread that makes one directory.
const MAKER_STACK: usize = 64 << 10;

/// Why there is no handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// What is not there cannot be made.
    Create(Errno),
    /// The way leads out of the volume, or nowhere.
    Resolve(Errno),
}

/// A volume's directory, and the paths of the node that mean it.
pub(super) struct Root {
    dir: OwnedFd,
    spelled: Vec<PathBuf>,
}

impl Root {
    /// The volume at `path`, which `dir` is a handle of.
    pub(super) fn new(dir: OwnedFd, path: &Path) -> Self {
        let real = fs::readlink(format!("/proc/self/fd/{}", dir.as_raw_fd()), Vec::new());
        let real = real
            .ok()
            .map(|path| OsString::from_vec(path.into_bytes()).into());
        let spelled = [Some(path.to_owned()), real]
            .into_iter()
            .flatten()
            .collect();
        Self { dir, spelled }
    }

    /// A handle (`O_PATH`) of what lies at `path`. Directories that are missing at its end are made with the mode of the
    /// volume's own.
    pub(super) fn open(self, path: &str) -> Result<OwnedFd, Refused> {
        let mode = fs::fstat(&self.dir).map_err(Refused::Resolve)?.st_mode;
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        let mut ahead: Vec<Step> = steps(Path::new(path), true).map_err(Refused::Resolve)?;
        ahead.reverse();
        while let Some(step) = ahead.pop() {
            let Step::Into { name, asked } = step else {
                // Above the volume there is nothing.
                way.pop().ok_or(Refused::Resolve(Errno::XDEV))?;
                continue;
            };
            let here = way.last().unwrap_or(&self.dir).as_fd();
            let next = match look(here, &name) {
                Err(Errno::NOENT) if asked => {
                    let made = make(here, &name, Mode::from_raw_mode(mode));
                    let next = made.and_then(|()| look(here, &name));
                    let next = next.map_err(Refused::Create)?;
                    if kind(&next).map_err(Refused::Create)? == FileType::Symlink {
                        return Err(Refused::Create(Errno::LOOP));
                    }
                    next
                }
                // A link to nothing: what it names is not made.
                Err(Errno::NOENT) => return Err(Refused::Create(Errno::NOENT)),
                looked => looked.map_err(Refused::Resolve)?,
            };
            if kind(&next).map_err(Refused::Resolve)? != FileType::Symlink {
                way.push(next);
                if way.len() > MAX_DEPTH {
                    return Err(Refused::Resolve(Errno::NAMETOOLONG));
                }
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Refused::Resolve(Errno::LOOP));
            }
            let target = fs::readlinkat(&next, "", Vec::new()).map_err(Refused::Resolve)?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            let target = match target.is_absolute() {
                false => target,
                true => {
                    way.clear();
                    self.within(target).ok_or(Refused::Resolve(Errno::XDEV))?
                }
            };
            let more = steps(target, false).map_err(Refused::Resolve)?;
            ahead.extend(more.into_iter().rev());
        }
        Ok(way.pop().unwrap_or(self.dir))
    }

    /// The rest of a path of the node that is spelled as one in the volume.
    fn within<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let mut roots = self.spelled.iter();
        roots.find_map(|root| path.strip_prefix(root).ok())
    }
}

enum Step {
    Into {
        name: OsString,
        /// It is in the spec, and not in a link.
        asked: bool,
    },
    Back,
}

fn steps(path: &Path, asked: bool) -> Result<Vec<Step>, Errno> {
    let steps = path.components().filter_map(|component| match component {
        Component::CurDir => None,
        Component::Normal(name) => Some(Ok(Step::Into {
            name: name.to_owned(),
            asked,
        })),
        Component::ParentDir if !asked => Some(Ok(Step::Back)),
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => Some(Err(Errno::XDEV)),
    });
    steps.collect()
}

fn kind(entry: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(entry)?.st_mode))
}

/// A handle of `name` itself, link or not.
fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |flags| fs::openat2(dir, name, flags, Mode::empty(), resolve);
    // As a directory first: that is what has an automounter mount it.
    match open(flags | OFlags::DIRECTORY) {
        Err(Errno::NOTDIR | Errno::LOOP) => open(flags),
        opened => opened,
    }
}

/// Makes the directory `name` with exactly `mode`, unless it is there by now.
///
/// The umask is out of the way instead of the mode being set later: by then another directory may have the name, which
/// would be opened to all. The bit that hands on the group comes from the directory above.
fn make(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let make = move || {
        // The umask is the process' unless a thread has its own.
        unshare(CloneFlags::CLONE_FS).map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        umask(Mode::empty());
        match fs::mkdirat(dir, name, mode) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    };
    std::thread::scope(|scope| {
        let maker = std::thread::Builder::new().stack_size(MAKER_STACK);
        let maker = maker.spawn_scoped(scope, make).map_err(|_| Errno::AGAIN)?;
        maker.join().unwrap_or(Err(Errno::IO))
    })
}
