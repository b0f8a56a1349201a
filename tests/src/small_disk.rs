//! A file system of a few megabytes in a file, mounted for one test: what fills it fills nothing else.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::containerd::Node;

/// A mounted file system. Dropped, it is unmounted, whatever still has it open.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    unmount: Command,
}

impl SmallDisk {
    /// Makes one of so many MiB and inodes in the file `image`, and mounts it at `at`. Needs root.
    ///
    /// # Errors
    /// When there is no ext4 or no loop device to be had.
    pub fn mount(image: &Path, at: &Path, mebibytes: u64, inodes: u64) -> Result<Self> {
        make(image, mebibytes, inodes)?;
        fs::create_dir_all(at).context("make the mount point")?;
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(image).arg(at);
        run(mount)?;
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(at);
        let at = at.to_owned();
        Ok(Self { at, unmount })
    }

    /// As [`SmallDisk::mount`], where the node's containerd and agent see it, and nobody else.
    ///
    /// # Errors
    /// As there.
    pub fn mount_on(node: &Node, at: &str, mebibytes: u64, inodes: u64) -> Result<Self> {
        let image = node.path(&format!("{at}.img"));
        let at = node.path(at);
        make(&image, mebibytes, inodes)?;
        fs::create_dir_all(&at).context("make the mount point")?;
        let mut mount = node.command("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&at);
        run(mount)?;
        let mut unmount = node.command("umount");
        unmount.arg("-l").arg(&at);
        let at = node.inside(&at);
        Ok(Self { at, unmount })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = self.unmount.status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.at.display());
        }
    }
}

/// Makes a file system in a file.
fn make(image: &Path, mebibytes: u64, inodes: u64) -> Result<()> {
    let file = File::create(image).context("make the image")?;
    file.set_len(mebibytes << 20).context("size the image")?;
    let mut mkfs = Command::new("mkfs.ext4");
    // Nothing is kept for root: full is full.
    mkfs.args(["-q", "-F", "-m", "0", "-N"])
        .arg(inodes.to_string())
        .arg(image);
    run(mkfs)
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
