mod attacks;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use tokio::sync::Mutex;

use super::super::{Volumes, VolumesConfig};
use super::*;
use crate::mounts;
use crate::poddir::PodDirs;

/// A root directory with one pod, one volume of it, and files beside the volume that are nobody's business. All is on a
/// file system of its own whose mounts have peers, as on a machine that systemd has started.
struct Node {
    temp: tempfile::TempDir,
    dirs: PodDirs,
    volumes: Volumes,
}

impl Node {
    /// None where the tests may not mount.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: this needs root");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path();
        rustix::mount::mount(at_source(), at, "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(at, MountPropagationFlags::SHARED).unwrap();
        let dirs = PodDirs::new(at).unwrap();
        dirs.ensure(&uid()).unwrap();
        let volumes = Volumes::new(dirs.clone(), VolumesConfig::default());
        let node = Self {
            temp,
            dirs,
            volumes,
        };
        std::fs::create_dir_all(node.volume()).unwrap();
        std::fs::create_dir_all(node.outside().join("dir")).unwrap();
        std::fs::write(node.outside().join("secret"), "precious").unwrap();
        Some(node)
    }

    fn pod(&self) -> PathBuf {
        self.dirs.path(&uid())
    }

    fn volume(&self) -> PathBuf {
        self.pod().join("volumes/kubernetes.io~empty-dir/data")
    }

    fn outside(&self) -> PathBuf {
        self.temp.path().join("outside")
    }

    fn bind(&self, path: &str) -> Result<PathBuf, SubPathError> {
        self.bind_of(&self.volume(), path)
    }

    fn bind_of(&self, volume: &Path, path: &str) -> Result<PathBuf, SubPathError> {
        let request = request(volume, path);
        let mut bound = self.volumes.bind_sub_paths(&request, || Some(()))?;
        Ok(bound.remove(&7).unwrap())
    }

    fn prepared(&self, path: &str) -> Result<PathBuf, String> {
        self.bind(path).map_err(|error| error.to_string())
    }

    fn target(&self) -> PathBuf {
        self.pod().join("volume-subpaths/data/c/7")
    }

    fn mounted(&self) -> Vec<PathBuf> {
        let mounts = mounts::below(&self.pod()).unwrap().into_iter();
        mounts.map(|mount| mount.mount_point).collect()
    }

    /// Nothing outside has been mounted, made or changed.
    fn outside_is_as_it_was(&self) {
        assert_eq!(
            std::fs::read(self.outside().join("secret")).unwrap(),
            b"precious"
        );
        let mut names: Vec<_> = std::fs::read_dir(self.outside()).unwrap().collect();
        assert_eq!(names.len(), 2, "{names:?}");
        names.retain(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
        let dir = names.pop().unwrap().unwrap().path();
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    }
}

fn at_source() -> &'static str {
    "subpath-test"
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.temp.path(), UnmountFlags::DETACH);
    }
}

fn uid() -> PodUid {
    PodUid::parse("c0ffee00-1111-4222-8333-444455557777").unwrap()
}

fn request(volume: &Path, path: &str) -> SubPathRequest {
    SubPathRequest {
        uid: uid(),
        container: "c".to_owned(),
        wanted: vec![SubPath {
            index: 7,
            volume: "data".to_owned(),
            volume_path: volume.to_owned(),
            path: path.to_owned(),
        }],
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn inode(path: &Path) -> (u64, u64) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    (stat.dev(), stat.ino())
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

const PREPARE: &str = "failed to prepare subPath for volumeMount \"data\" of container \"c\"";
const CREATE: &str =
    "failed to create subPath directory for volumeMount \"data\" of container \"c\"";

#[test]
fn directories_and_files_are_mounted_where_upstream_has_them() {
    let Some(node) = Node::new() else { return };
    std::fs::create_dir_all(node.volume().join("a/b")).unwrap();
    std::fs::write(node.volume().join("file"), "content").unwrap();
    for path in ["a/b", "a/./b", "a//b/"] {
        assert_eq!(node.bind(path).unwrap(), node.target(), "{path}");
        assert_eq!(inode(&node.target()), inode(&node.volume().join("a/b")));
        assert_eq!(node.mounted(), [node.target()]);
    }
    node.bind(".").unwrap();
    assert_eq!(inode(&node.target()), inode(&node.volume()));
    // Of the other kind than what was there before.
    node.bind("file").unwrap();
    assert_eq!(std::fs::read(node.target()).unwrap(), b"content");
    node.bind("a").unwrap();
    assert_eq!(inode(&node.target()), inode(&node.volume().join("a")));
    assert_eq!(node.mounted(), [node.target()]);
    for name in ["", "data", "data/c"] {
        let dir = node.pod().join("volume-subpaths").join(name);
        assert_eq!(mode(&dir), 0o750, "{name}");
    }
    // Devices, sockets and pipes are files like others, and opened by nobody.
    let pipe = node.volume().join("pipe");
    fs::mknodat(fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    node.bind("pipe").unwrap();
    assert_eq!(inode(&node.target()), inode(&pipe));
    // A file in the way.
    assert_eq!(node.prepared("file/x"), Err(PREPARE.to_owned()));
}

#[test]
fn missing_directories_are_made_with_the_volumes_mode() {
    let Some(node) = Node::new() else { return };
    chmod(&node.volume(), 0o2777);
    rustix::fs::chown(node.volume(), None, Some(fs::Gid::from_raw(4321))).unwrap();
    node.bind("new/deep").unwrap();
    for name in ["new", "new/deep"] {
        let made = node.volume().join(name);
        assert_eq!(mode(&made), 0o2777, "{name}");
        assert_eq!(std::fs::metadata(&made).unwrap().gid(), 4321);
    }
    chmod(&node.volume(), 0o1700);
    node.bind("closed").unwrap();
    assert_eq!(mode(&node.volume().join("closed")), 0o1700);
    // What was there keeps its own.
    chmod(&node.volume().join("new"), 0o711);
    node.bind("new/other").unwrap();
    assert_eq!(mode(&node.volume().join("new")), 0o711);
    // The process' umask is as it was.
    let before = rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::umask(before);
    assert_ne!(before, Mode::empty());
}

#[test]
fn a_volume_that_is_not_there_or_no_directory() {
    let Some(node) = Node::new() else { return };
    let missing = node.outside().join("none");
    let error = node.bind_of(&missing, "a").unwrap_err();
    let text = format!("stat {}: no such file or directory", missing.display());
    assert_eq!(error.to_string(), text);
    assert!(!missing.exists());
    let file = node.outside().join("secret");
    let error = node.bind_of(&file, "a").unwrap_err();
    assert_eq!(error.to_string(), PREPARE);
    node.outside_is_as_it_was();
}

#[test]
fn links_that_stay_in_the_volume_are_followed() {
    let Some(node) = Node::new() else { return };
    let volume = node.volume();
    std::fs::create_dir_all(volume.join("releases/5/bin")).unwrap();
    std::fs::create_dir(volume.join("x")).unwrap();
    symlink("releases/5", volume.join("current")).unwrap();
    symlink("../x/../releases", volume.join("x/up")).unwrap();
    // Absolute, as the node spells the volume, by its real path too.
    symlink(volume.join("releases/5"), volume.join("absolute")).unwrap();
    let alias = node.outside().join("dir");
    std::fs::remove_dir(&alias).unwrap();
    symlink(&volume, &alias).unwrap();
    symlink(alias.join("current"), volume.join("aliased")).unwrap();
    let wanted = inode(&volume.join("releases/5/bin"));
    for path in ["current/bin", "x/up/5/bin", "absolute/bin"] {
        node.bind(path).unwrap();
        assert_eq!(inode(&node.target()), wanted, "{path}");
    }
    for path in ["aliased/bin", "absolute/bin"] {
        node.bind_of(&alias, path).unwrap();
        assert_eq!(inode(&node.target()), wanted, "{path}");
    }
    // Below a link, what is missing is made; behind one that leads nowhere, nothing is.
    node.bind("current/new").unwrap();
    assert!(volume.join("releases/5/new").is_dir());
    symlink("releases/6", volume.join("next")).unwrap();
    assert_eq!(node.prepared("next"), Err(CREATE.to_owned()));
    assert_eq!(node.prepared("next/bin"), Err(CREATE.to_owned()));
    assert!(!volume.join("releases/6").exists());
    symlink("round", volume.join("round")).unwrap();
    assert_eq!(node.prepared("round"), Err(PREPARE.to_owned()));
}

/// As a configMap is kept: the mount has the file of its time, and the next start of the container the new one.
#[test]
fn a_file_that_is_replaced_stays_until_the_next_start() {
    let Some(node) = Node::new() else { return };
    let volume = node.volume();
    let write = |generation: &str, text: &str| {
        std::fs::create_dir(volume.join(generation)).unwrap();
        std::fs::write(volume.join(generation).join("key"), text).unwrap();
        symlink(generation, volume.join("..data_tmp")).unwrap();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    write("..1", "first");
    symlink("..data/key", volume.join("key")).unwrap();
    node.bind("key").unwrap();
    write("..2", "second");
    std::fs::remove_dir_all(volume.join("..1")).unwrap();
    assert_eq!(std::fs::read(node.target()).unwrap(), b"first");
    node.bind("key").unwrap();
    assert_eq!(std::fs::read(node.target()).unwrap(), b"second");
    assert_eq!(node.mounted(), [node.target()]);
    // A directory that was removed and made again is another one.
    node.bind("dir").unwrap();
    std::fs::remove_dir(volume.join("dir")).unwrap();
    std::fs::create_dir(volume.join("dir")).unwrap();
    std::fs::write(volume.join("dir/new"), "").unwrap();
    node.bind("dir").unwrap();
    assert!(node.target().join("new").exists());
}

#[test]
fn a_mount_that_is_right_is_left_alone() {
    let Some(node) = Node::new() else { return };
    node.bind("dir").unwrap();
    // Held open, it could not be unmounted.
    let held = std::fs::File::create(node.target().join("held")).unwrap();
    node.bind("dir").unwrap();
    assert_eq!(node.mounted(), [node.target()]);
    assert_eq!(node.prepared("other"), Err(PREPARE.to_owned()));
    let error = node.volumes.tear_down(&uid()).unwrap_err();
    assert!(matches!(error, VolumeError::Unmount { .. }), "{error}");
    assert!(node.volume().join("dir/held").exists());
    drop(held);
    node.volumes.tear_down(&uid()).unwrap();
    assert!(node.mounted().is_empty());
    assert!(!node.pod().join("volume-subpaths").exists());
    assert!(!node.volume().exists());
}

#[test]
fn mounts_in_the_volume_are_crossed_and_not_taken_along() {
    let Some(node) = Node::new() else { return };
    let inner = node.volume().join("inner");
    std::fs::create_dir(&inner).unwrap();
    rustix::mount::mount(at_source(), &inner, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::create_dir(inner.join("dir")).unwrap();
    std::fs::write(inner.join("dir/file"), "").unwrap();
    node.bind("inner/dir").unwrap();
    assert!(node.target().join("file").exists());
    node.bind(".").unwrap();
    assert!(!node.target().join("inner/dir").exists());
    node.volumes.tear_down(&uid()).unwrap();
    assert!(node.mounted().is_empty());
}

#[test]
fn nothing_is_mounted_for_a_pod_that_ends() {
    let Some(node) = Node::new() else { return };
    let request = request(&node.volume(), "dir");
    let error = node.volumes.bind_sub_paths(&request, || None::<()>);
    assert_eq!(error.unwrap_err().to_string(), PREPARE);
    assert!(node.mounted().is_empty());
    assert!(!node.pod().join("volume-subpaths").exists());
}

/// Whoever asked has gone, as a worker whose pod is to stop; what was found meanwhile is not mounted any more.
#[tokio::test]
async fn a_request_that_nobody_waits_for_mounts_nothing() {
    let Some(node) = Node::new() else { return };
    let volumes = Arc::new(Volumes::new(node.dirs.clone(), VolumesConfig::default()));
    let writing = Arc::new(Mutex::new(()));
    let ask = || {
        let request = request(&node.volume(), "dir");
        volumes
            .clone()
            .bind_sub_paths_in_background(request, writing.clone())
    };
    let turn = writing.clone().lock_owned().await;
    let asked = tokio::time::timeout(Duration::from_millis(200), ask()).await;
    assert!(asked.is_err(), "it waits for its turn");
    drop(turn);
    // The turn is the thread's next, and comes back once it is done.
    for _ in 0..100 {
        drop(writing.lock().await);
        assert!(node.mounted().is_empty());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(ask().await.unwrap()[&7], node.target());
    assert_eq!(node.mounted(), [node.target()]);
}

#[test]
fn a_reboot_leaves_places_that_are_mounted_on_again() {
    let Some(node) = Node::new() else { return };
    std::fs::write(node.volume().join("file"), "content").unwrap();
    for path in ["dir", "file", "dir"] {
        node.bind(path).unwrap();
        rustix::mount::unmount(node.target(), UnmountFlags::empty()).unwrap();
    }
    node.bind("file").unwrap();
    assert_eq!(std::fs::read(node.target()).unwrap(), b"content");
}
