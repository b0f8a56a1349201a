//! The disks that machines begin with: made by `image.sh`, once for each recipe, and kept.
//!
//! What is in one is said here and in `guest/`; both and the script are the key it is kept under, so that a change makes
//! a new one. A newer point release of Debian does not: `rm -r <target>/vm` makes everything anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::System;

/// What every system has.
const PACKAGES: [&str; 16] = [
    "busybox-static",
    "ca-certificates",
    "catatonit",
    "containerd",
    "containernetworking-plugins",
    "curl",
    "dbus",
    "iproute2",
    "iptables",
    "kmod",
    "mount",
    "procps",
    "runc",
    "systemd",
    "systemd-sysv",
    "udev",
];
/// What the systems with resolved have too.
const RESOLVED: [&str; 2] = ["libnss-resolve", "systemd-resolved"];
/// What a system with a server of NFS has too; mount.nfs comes with it.
const NFS: &str = "nfs-kernel-server";

/// The directory of an image in the making begins with it.
pub(super) const UNFINISHED: &str = "new-image-";
const SCRIPT: &str = "tests/src/vm/image.sh";
const GUEST: &str = "tests/src/vm/guest";

/// A disk, and what starts it.
#[derive(Clone, Debug)]
pub struct Image {
    /// An ext4 file system. Copied by each machine, never written.
    pub disk: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// What mounts the disk.
    pub initrd: PathBuf,
}

/// Where images, disks and console logs are.
///
/// # Errors
/// When it cannot be made.
pub fn directory() -> Result<PathBuf> {
    let dir = crate::target_dir()?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// The image of a system, made now when there is none of today's recipe.
///
/// # Errors
/// When not root, a tool is missing (`tests/install.sh vm`), or the packages cannot be fetched.
pub fn ensure(system: System) -> Result<Image> {
    let mut packages = PACKAGES.to_vec();
    if system.has_resolved() {
        packages.extend(RESOLVED);
    }
    if system.has_nfs() {
        packages.push(NFS);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace's directory")?;
    let key = recipe(workspace, &packages)?;
    let vm = directory()?;
    let place = vm.join(format!("{system}-{key}"));
    let image = Image {
        disk: place.join("disk.raw"),
        kernel: place.join("vmlinuz"),
        initrd: place.join("initrd"),
    };
    if place.exists() {
        return Ok(image);
    }
    remove_old(&vm, system)?;
    let start = Instant::now();
    println!("{system}: making its disk ({})", packages.join(" "));
    let new = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(&vm)
        .context("a directory for the image")?;
    let made = Command::new(workspace.join(SCRIPT))
        .arg(system.suite())
        .arg(new.path())
        .arg(workspace.join(GUEST))
        .args(&packages)
        .status()
        .with_context(|| format!("run {SCRIPT}"))?;
    ensure!(made.success(), "{SCRIPT} for {system}: {made}");
    let new = new.keep();
    fs::rename(&new, &place).with_context(|| format!("move the image to {}", place.display()))?;
    println!("{system}: its disk took {:.0?}", start.elapsed());
    Ok(image)
}

/// A hash of everything that says what an image holds.
fn recipe(workspace: &Path, packages: &[&str]) -> Result<String> {
    let mut files = vec![workspace.join(SCRIPT)];
    collect(&workspace.join(GUEST), &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    hash.update(packages.join(" "));
    for file in files {
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    let hash = hash.finalize();
    Ok(hash.iter().take(6).map(|b| format!("{b:02x}")).collect())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Removes the images that earlier recipes of the same system made.
fn remove_old(vm: &Path, system: System) -> Result<()> {
    let prefix = format!("{system}-");
    for entry in fs::read_dir(vm).context("look for old images")? {
        let entry = entry.context("look for old images")?;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(&prefix));
        if ours && entry.path().join("disk.raw").exists() {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_or_package_makes_another_image() {
        let workspace = tempfile::tempdir().unwrap();
        let script = workspace.path().join(SCRIPT);
        let guest = workspace.path().join(GUEST);
        fs::create_dir_all(guest.join("etc")).unwrap();
        fs::write(&script, "one").unwrap();
        fs::write(guest.join("etc/file"), "one").unwrap();
        let first = recipe(workspace.path(), &["a", "b"]).unwrap();
        assert_eq!(first, recipe(workspace.path(), &["a", "b"]).unwrap());
        assert_ne!(first, recipe(workspace.path(), &["a"]).unwrap());
        fs::write(guest.join("etc/file"), "two").unwrap();
        let second = recipe(workspace.path(), &["a", "b"]).unwrap();
        assert_ne!(first, second);
        fs::write(&script, "two").unwrap();
        assert_ne!(second, recipe(workspace.path(), &["a", "b"]).unwrap());
    }

    #[test]
    fn only_images_of_the_same_system_are_removed() {
        let vm = tempfile::tempdir().unwrap();
        for name in ["debian-12-old", "debian-13-old", "debian-12-other"] {
            fs::create_dir(vm.path().join(name)).unwrap();
        }
        for name in ["debian-12-old", "debian-13-old"] {
            fs::write(vm.path().join(name).join("disk.raw"), "").unwrap();
        }
        fs::write(vm.path().join("debian-12-console.log"), "").unwrap();
        remove_old(vm.path(), System::Debian12).unwrap();
        let mut left: Vec<_> = fs::read_dir(vm.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["debian-12-console.log", "debian-12-other", "debian-13-old"]
        );
    }
}
