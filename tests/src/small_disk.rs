//! A file system of a few megabytes in a file, mounted for one test: what fills it fills nothing else.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A mounted file system. Dropped, it is unmounted, whatever still has it open.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Makes one of so many MiB and inodes in the file `image`, and mounts it at `at`. Needs root.
    ///
    /// # Errors
    /// When there is no ext4 or no loop device to be had.
    pub fn mount(image: &Path, at: &Path, mebibytes: u64, inodes: u64) -> Result<Self> {
        let file = File::create(image).context("make the image")?;
        file.set_len(mebibytes << 20).context("size the image")?;
        fs::create_dir_all(at).context("make the mount point")?;
        let mut mkfs = Command::new("mkfs.ext4");
        // Nothing is kept for root: full is full.
        mkfs.args(["-q", "-F", "-m", "0", "-N"])
            .arg(inodes.to_string())
            .arg(image);
        run(mkfs)?;
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(image).arg(at);
        run(mount)?;
        Ok(Self { at: at.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.at.display());
        }
    }
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// Writes a file of so many MiB.
///
/// # Errors
/// When there is no room for it.
pub fn write_mebibytes(path: &Path, mebibytes: usize) -> Result<()> {
    fs::write(path, vec![7u8; mebibytes << 20])
        .with_context(|| format!("write {mebibytes} MiB to {}", path.display()))
}

/// Fills the file system with bytes of the file at `path`, to the last.
///
/// # Errors
/// When something else than the lack of room ends it.
pub fn fill_bytes(path: &Path) -> Result<()> {
    let mut file = File::create(path).context("make a file")?;
    let mut piece = vec![7u8; 1 << 20];
    while !piece.is_empty() {
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
    Ok(())
}

/// Takes every inode with empty files in `directory`.
///
/// # Errors
/// When something else than the lack of inodes ends it.
pub fn fill_inodes(directory: &Path) -> Result<()> {
    for number in 0u32.. {
        match File::create(directory.join(number.to_string())) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).context("take all inodes"),
        }
    }
    Ok(())
}
