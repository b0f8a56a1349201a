use super::*;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::mount::{MountFlags, UnmountFlags};

fn uid() -> PodUid {
    PodUid::parse("7a1e5f0c-2222-4444-8888-0123456789ab").unwrap()
}

fn dirs() -> (tempfile::TempDir, PodDirs) {
    let temp = tempfile::tempdir().unwrap();
    let dirs = PodDirs::new(&temp.path().join("kubelet")).unwrap();
    (temp, dirs)
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// A tmpfs that is unmounted with it.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: PathBuf) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        Some(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn the_layout_is_upstreams() {
    let (temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    dirs.ensure(&uid()).unwrap();
    let path = temp.path().join("kubelet/pods").join(uid().as_str());
    assert_eq!(pod.path(), path);
    for name in ["", "volumes", "plugins", "containers"] {
        assert_eq!(mode(&path.join(name)), 0o750, "{name}");
    }
    assert_eq!(dirs.list().unwrap(), [uid()]);
    std::fs::create_dir(temp.path().join("kubelet/pods/.hidden")).unwrap();
    std::fs::write(temp.path().join("kubelet/pods/file"), "").unwrap();
    assert_eq!(dirs.list().unwrap(), [uid()]);
    dirs.remove(&uid()).unwrap();
    dirs.remove(&uid()).unwrap();
    assert!(dirs.list().unwrap().is_empty());
    assert!(dirs.get(&uid()).unwrap().is_none());
}

#[test]
fn the_hosts_file_stays_the_same_file() {
    let (_temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    let path = pod.write_etc_hosts(b"one two three\n").unwrap();
    assert_eq!(path, pod.path().join("etc-hosts"));
    let inode = std::fs::metadata(&path).unwrap().ino();
    pod.write_etc_hosts(b"four\n").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"four\n");
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(mode(&path), 0o644);
}

#[test]
fn a_termination_message_is_read_from_its_end() {
    let (_temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    let path = pod.ensure_termination_log("web", 0).unwrap();
    assert_eq!(path, pod.path().join("containers/web/00000000"));
    assert_eq!(mode(&path), 0o666);
    assert_eq!(pod.termination_message("web", &path).unwrap(), "");
    std::fs::write(&path, format!("{}the end", "x".repeat(5000))).unwrap();
    assert_eq!(pod.ensure_termination_log("web", 0).unwrap(), path);
    let message = pod.termination_message("web", &path).unwrap();
    assert_eq!(message.len(), 4096);
    assert!(message.ends_with("xthe end"));
    // Files of other places are not read, even if the runtime names them.
    assert_eq!(
        pod.termination_message("web", Path::new("/etc/passwd"))
            .unwrap(),
        ""
    );
    assert_eq!(pod.termination_message("other", &path).unwrap(), "");
    assert!(pod.termination_message("../web", &path).is_err());
    assert!(pod.ensure_termination_log("a/b", 0).is_err());
    std::fs::write(&path, [b'o', b'k', 0xff]).unwrap();
    assert_eq!(pod.termination_message("web", &path).unwrap(), "ok\u{fffd}");
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(pod.termination_message("web", &path).is_err());
}

#[test]
fn a_crash_loop_leaves_two_termination_messages() {
    let (_temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    for attempt in 0..20 {
        pod.ensure_termination_log("web", attempt).unwrap();
    }
    let mut left = Dir::open(&pod.path().join("containers/web"))
        .unwrap()
        .names()
        .unwrap();
    left.sort();
    assert_eq!(left, ["00000012", "00000013"]);
}

#[test]
fn logs_stand_in_for_the_message_of_a_failure_only() {
    let fallback = Some("FallbackToLogsOnError");
    assert!(falls_back_to_logs(fallback, 1, "Error", true));
    assert!(!falls_back_to_logs(fallback, 0, "Completed", true));
    assert!(!falls_back_to_logs(fallback, 1, "Error", false));
    assert!(!falls_back_to_logs(
        fallback,
        128,
        "ContainerCannotRun",
        true
    ));
    assert!(!falls_back_to_logs(Some("File"), 1, "Error", true));
    assert!(!falls_back_to_logs(None, 1, "Error", true));
}

#[test]
fn a_directory_with_a_volume_left_is_kept() {
    let (_temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    let volume = pod.path().join("volumes/kubernetes.io~empty-dir/data");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("file"), "precious").unwrap();
    let error = dirs.remove(&uid()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "directory of pod {} is kept: volume {} is not torn down",
            uid(),
            volume.display()
        )
    );
    assert!(volume.join("file").exists());
    assert!(pod.path().join("containers").exists());
}

#[test]
fn a_directory_with_something_mounted_below_is_kept() {
    let (_temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    let deep = pod.path().join("containers/web/deep");
    std::fs::create_dir_all(&deep).unwrap();
    let Some(mounted) = Tmpfs::new(deep.clone()) else {
        return;
    };
    std::fs::write(deep.join("file"), "precious").unwrap();
    let error = dirs.remove(&uid()).unwrap_err();
    assert!(matches!(&error, PodDirError::Mounted { path, .. } if path.ends_with("web/deep")));
    assert!(
        error.to_string().ends_with("web/deep is mounted"),
        "{error}"
    );
    // Nor does the removal of a tree itself cross into it.
    let containers = Dir::open(&pod.path().join("containers")).unwrap();
    let error = containers.remove_tree("web").unwrap_err();
    assert!(error.is_mount(), "{error:?}");
    assert!(deep.join("file").exists());
    drop(mounted);
    dirs.remove(&uid()).unwrap();
    assert!(!pod.path().exists());
}

#[test]
fn a_read_only_file_and_a_link_out_are_removed_as_they_are() {
    let (temp, dirs) = dirs();
    let pod = dirs.ensure(&uid()).unwrap();
    let outside = temp.path().join("outside");
    std::fs::write(&outside, "precious").unwrap();
    symlink(&outside, pod.path().join("plugins/link")).unwrap();
    let file = pod.path().join("plugins/file");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).unwrap();
    dirs.remove(&uid()).unwrap();
    assert_eq!(std::fs::read(outside).unwrap(), b"precious");
}

#[tokio::test]
async fn removal_may_run_in_the_background() {
    let (_temp, dirs) = dirs();
    dirs.ensure(&uid()).unwrap();
    dirs.remove_in_background(&uid()).await.unwrap();
    assert!(dirs.list().unwrap().is_empty());
}
