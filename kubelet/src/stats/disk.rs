//! How full file systems are, and how much of them something takes.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs;

use crate::dir::Dir;

/// A block, as `stat` counts them.
const BLOCK: u64 = 512;

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes that anybody can have.
    pub available: u64,
    /// All bytes.
    pub capacity: u64,
    /// Bytes that are taken.
    pub used: u64,
    /// Inodes that can be had.
    pub inodes_free: u64,
    /// All inodes.
    pub inodes: u64,
}

impl FileSystem {
    /// That on which `path` lies; none where nobody can tell.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let stat = fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Some(Self {
            available: bytes(stat.f_bavail),
            capacity: bytes(stat.f_blocks),
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            inodes_free: stat.f_ffree,
            inodes: stat.f_files,
        })
    }

    /// All that is taken of it.
    pub(super) fn taken(&self) -> Taken {
        Taken {
            bytes: self.used,
            inodes: self.inodes.saturating_sub(self.inodes_free),
        }
    }
}

/// What something takes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes on the disk: a file with holes takes less than its size.
    pub bytes: u64,
    /// Files, directories, links; one with several names once.
    pub inodes: u64,
}

impl Taken {
    pub(super) fn add(&mut self, more: Self) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.inodes = self.inodes.saturating_add(more.inodes);
    }
}

/// What `dir` and all below it take, other file systems left out; none where it cannot be read as a whole.
pub(super) fn of_tree(dir: &Dir) -> Option<Taken> {
    let mut taken = Taken::default();
    // Only what has several names can be met twice.
    let mut met = HashSet::new();
    let walked = dir.walk(&mut |entry| {
        let stat = fs::fstat(entry)?;
        if stat.st_nlink < 2 || is_directory(&stat) || met.insert(stat.st_ino) {
            taken.add(of_stat(&stat));
        }
        Ok(())
    });
    match walked {
        Ok(()) => Some(taken),
        Err(error) => {
            tracing::debug!(%error, "cannot tell what a directory takes");
            None
        }
    }
}

/// What the regular files in `dir` take, those in directories below left out.
pub(crate) fn of_files(dir: &Dir) -> Taken {
    let mut taken = Taken::default();
    for name in dir.names().unwrap_or_default() {
        taken.add(of_file(dir, &name));
    }
    taken
}

/// What the regular file `name` in `dir` takes; nothing where there is none.
pub(super) fn of_file(dir: &Dir, name: &str) -> Taken {
    let file = dir.open_file(name).ok().flatten();
    let stat = file.and_then(|file| fs::fstat(&file).ok());
    stat.map(|stat| of_stat(&stat)).unwrap_or_default()
}

fn is_directory(stat: &fs::Stat) -> bool {
    fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory
}

fn of_stat(stat: &fs::Stat) -> Taken {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    Taken {
        bytes: blocks.saturating_mul(BLOCK),
        inodes: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_takes_its_blocks_and_hard_links_count_once() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(root.join("d/a"), root.join("b")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("l")).unwrap();
        let sparse = std::fs::File::create(root.join("holes")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let taken = of_tree(&Dir::open(root).unwrap()).unwrap();
        assert_eq!(taken.inodes, 5, "the directory, d, a, l, holes");
        assert!((100_000..1 << 20).contains(&taken.bytes), "{taken:?}");
    }

    #[test]
    fn files_of_a_directory_are_those_in_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/a"), vec![1; 100_000]).unwrap();
        std::fs::write(temp.path().join("0.log"), vec![1; 5000]).unwrap();
        std::fs::write(temp.path().join("empty.log"), "").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let taken = of_files(&dir);
        assert_eq!(taken.inodes, 2);
        assert!((5000..100_000).contains(&taken.bytes), "{taken:?}");
        assert_eq!(of_file(&dir, "missing"), Taken::default());
    }

    #[test]
    fn a_file_system_adds_up() {
        let found = FileSystem::of(Path::new("/")).unwrap();
        assert!(found.capacity >= found.used + found.available);
        assert!(FileSystem::of(Path::new("/nowhere/at/all")).is_none());
    }
}
