mod attacks;
mod huge_pages;
mod keys;
mod persistent;
mod projected;
mod written;

use super::*;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::json;

/// A root directory with one pod, whose volumes are torn down at the end.
struct Node {
    temp: tempfile::TempDir,
    volumes: Volumes,
}

impl Node {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dirs = PodDirs::new(temp.path()).unwrap();
        let config = VolumesConfig {
            mounter: None,
            allocatable_memory_bytes: 1 << 30,
        };
        let volumes = Volumes::new(dirs, config);
        Self { temp, volumes }
    }

    fn pod_dir(&self) -> PathBuf {
        self.temp.path().join("pods").join(uid().as_str())
    }

    fn empty_dir(&self, name: &str) -> PathBuf {
        self.pod_dir()
            .join("volumes/kubernetes.io~empty-dir")
            .join(name)
    }

    fn set_up(&self, pod: &Pod) -> MountedVolumes {
        self.volumes.set_up(pod, &uid(), Given::default()).unwrap()
    }

    fn failure(&self, volume: serde_json::Value) -> VolumeError {
        let errors = self
            .volumes
            .set_up(&pod(json!([volume])), &uid(), Given::default());
        errors.unwrap_err().remove(0)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.volumes.tear_down(&uid());
    }
}

fn uid() -> PodUid {
    PodUid::parse("c0ffee00-1111-4222-8333-444455556666").unwrap()
}

fn pod(volumes: serde_json::Value) -> Pod {
    let spec = json!({"containers": [{"name": "c"}], "volumes": volumes});
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: this needs root");
    }
    is_root
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn mount_of(path: &Path) -> Option<crate::mounts::Mount> {
    let path = path.canonicalize().unwrap();
    let mut mounts = crate::mounts::read().unwrap();
    mounts.retain(|mount| mount.mount_point == path);
    mounts.pop()
}

#[test]
fn an_empty_dir_is_open_to_all_and_keeps_its_content() {
    let node = Node::new();
    let pod = pod(json!([{"name": "data", "emptyDir": {}}, {"name": "bare"}]));
    let mounted = node.set_up(&pod);
    let path = node.empty_dir("data");
    assert_eq!(mounted["data"], at(path.clone()));
    assert_eq!(mounted["bare"].path, node.empty_dir("bare"));
    assert_eq!(mode(&path), 0o777);
    assert_eq!(mode(path.parent().unwrap()), 0o750);
    assert!(
        node.pod_dir()
            .join("plugins/kubernetes.io~empty-dir/data/ready")
            .is_file()
    );

    std::fs::write(path.join("file"), "kept").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(node.set_up(&pod), mounted);
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"kept");
    assert_eq!(mode(&path), 0o700, "the pod's own change stays");

    // Somebody removed it by hand: it is made again.
    std::fs::remove_dir_all(&path).unwrap();
    node.set_up(&pod);
    assert_eq!(mode(&path), 0o777);

    node.volumes.tear_down(&uid()).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!path.exists());
    assert_eq!(
        std::fs::read_dir(node.pod_dir().join("volumes"))
            .unwrap()
            .count(),
        0
    );
    PodDirs::new(node.temp.path())
        .unwrap()
        .remove(&uid())
        .unwrap();
}

#[test]
fn an_empty_dir_in_memory_is_bounded_and_outlives_the_agent() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = pod(json!([{"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}]));
    node.set_up(&pod);
    let path = node.empty_dir("mem");
    let mount = mount_of(&path).expect("it is mounted");
    assert_eq!(mount.fs_type, "tmpfs");
    assert!(
        mount.super_options.contains(&"size=4096k".to_owned()),
        "{mount:?}"
    );
    std::fs::write(path.join("file"), "kept").unwrap();

    // As after a restart of the agent, and after one that came before the volume was marked.
    let again = Volumes::new(
        PodDirs::new(node.temp.path()).unwrap(),
        VolumesConfig::default(),
    );
    again.set_up(&pod, &uid(), Given::default()).unwrap();
    std::fs::remove_file(
        node.pod_dir()
            .join("plugins/kubernetes.io~empty-dir/mem/ready"),
    )
    .unwrap();
    again.set_up(&pod, &uid(), Given::default()).unwrap();
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"kept");

    node.volumes.tear_down(&uid()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_reboot_empties_an_empty_dir_in_memory() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = pod(json!([{"name": "mem", "emptyDir": {"medium": "Memory"}}]));
    node.set_up(&pod);
    let path = node.empty_dir("mem");
    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::empty()).unwrap();
    node.set_up(&pod);
    let mount = mount_of(&path).expect("it is mounted again");
    assert!(
        mount.super_options.contains(&"size=1048576k".to_owned()),
        "{mount:?}"
    );
}

#[test]
fn the_pods_memory_limit_bounds_its_volumes_in_memory() {
    let config = VolumesConfig {
        mounter: None,
        allocatable_memory_bytes: 1 << 30,
    };
    let size = |limit: &str, size_limit| {
        let spec =
            json!({"containers": [{"name": "c", "resources": {"limits": {"memory": limit}}}]});
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        empty_dir_size(&pod, size_limit, &config)
    };
    assert_eq!(size("64Mi", None), Some(64 << 20));
    assert_eq!(size("64Mi", Some("1Mi")), Some(1 << 20));
    assert_eq!(size("64Mi", Some("0")), Some(64 << 20));
    assert_eq!(size("4Gi", Some("8Gi")), Some(1 << 30));
    let unbounded = VolumesConfig::default();
    assert_eq!(empty_dir_size(&Pod::default(), None, &unbounded), None);
}

fn empty_dir_size(pod: &Pod, size_limit: Option<&str>, config: &VolumesConfig) -> Option<u64> {
    empty_dir::size(pod, size_limit, config).unwrap()
}

#[test]
fn fs_group_owns_the_volume() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut pod = pod(json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "mem", "emptyDir": {"medium": "Memory"}},
    ]));
    let context = json!({"fsGroup": 4321});
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(context).unwrap();
    node.set_up(&pod);
    for (name, wanted) in [("disk", 0o2777), ("mem", 0o3777)] {
        let path = node.empty_dir(name);
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), 4321, "{name}");
        assert_eq!(mode(&path), wanted, "{name}");
    }
    node.set_up(&pod);
    assert_eq!(mode(&node.empty_dir("disk")), 0o2777);
}

#[test]
fn ownership_reaches_all_files_and_follows_no_link() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::write(&outside, "").unwrap();
    std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o600)).unwrap();
    let volume = temp.path().join("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    std::fs::write(volume.join("sub/file"), "").unwrap();
    std::fs::set_permissions(volume.join("sub/file"), PermissionsExt::from_mode(0o4700)).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let dir = crate::dir::Dir::open(&volume).unwrap();
    ownership::apply(&dir, 4321, false).unwrap();
    let gid = |path: &Path| std::fs::symlink_metadata(path).unwrap().gid();
    for name in ["", "sub", "sub/file", "link"] {
        assert_eq!(gid(&volume.join(name)), 4321, "{name}");
    }
    assert_eq!(mode(&volume.join("sub")), 0o2775);
    assert_eq!(mode(&volume.join("sub/file")), 0o4760);
    assert_eq!((gid(&outside), mode(&outside)), (0, 0o600));
    // Whoever asks for it trusts the directory itself, for as long as it is the group's.
    let by = |policy| {
        let progress = Progress::of(&Pod::default(), dir.path());
        ownership::apply_by(policy, &dir, 4321, false, progress).unwrap();
    };
    std::fs::write(volume.join("late"), "").unwrap();
    std::os::unix::fs::chown(volume.join("late"), None, Some(0)).unwrap();
    by(ownership::ChangePolicy::OnRootMismatch);
    assert_eq!(gid(&volume.join("late")), 0);
    std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o0770)).unwrap();
    by(ownership::ChangePolicy::OnRootMismatch);
    assert_eq!((gid(&volume.join("late")), mode(&volume)), (4321, 0o2770));
    std::os::unix::fs::chown(volume.join("late"), None, Some(0)).unwrap();
    by(ownership::ChangePolicy::Always);
    assert_eq!(gid(&volume.join("late")), 4321);
    assert!(matches!(
        ownership::apply(&dir, i64::from(u32::MAX), false),
        Err(SetUpError::FsGroup(_))
    ));
}

#[test]
fn tear_down_unmounts_what_containers_left_and_removes_nothing_through_it() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.set_up(&pod(json!([{"name": "data", "emptyDir": {}}])));
    let outside = node.temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "x").unwrap();
    let left = node.empty_dir("data").join("a b/left");
    std::fs::create_dir_all(&left).unwrap();
    rustix::mount::mount_bind(&outside, &left).unwrap();
    rustix::mount::mount_bind(&outside, &left).unwrap();
    assert!(left.join("precious").exists());
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!node.empty_dir("data").exists());
    assert!(outside.join("precious").exists());
}

#[test]
fn a_mount_in_use_holds_up_the_tear_down_until_it_is_free() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.set_up(&pod(
        json!([{"name": "mem", "emptyDir": {"medium": "Memory"}}]),
    ));
    let file = std::fs::File::create(node.empty_dir("mem").join("open")).unwrap();
    let error = node.volumes.tear_down(&uid()).unwrap_err();
    assert!(matches!(error, VolumeError::Unmount { .. }), "{error}");
    assert_eq!(error.retry(), Retry::BackOff);
    assert!(node.empty_dir("mem").join("open").exists());
    drop(file);
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!node.empty_dir("mem").exists());
}

#[test]
fn content_of_an_unknown_kind_is_kept() {
    let node = Node::new();
    node.set_up(&pod(json!([])));
    let volumes = node.pod_dir().join("volumes");
    std::fs::create_dir_all(volumes.join("kubernetes.io~nfs/gone")).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!volumes.join("kubernetes.io~nfs").exists());
    std::fs::create_dir_all(volumes.join("kubernetes.io~nfs/share")).unwrap();
    std::fs::write(volumes.join("kubernetes.io~nfs/share/file"), "precious").unwrap();
    assert!(node.volumes.tear_down(&uid()).is_err());
    assert!(volumes.join("kubernetes.io~nfs/share/file").exists());
}

#[test]
fn host_path_types() {
    let node = Node::new();
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    symlink("dir", at("link")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();

    let check = |path: &str, kind: &str| {
        let source = json!({"path": path, "type": kind});
        let volumes = json!([{"name": "h", "hostPath": source}]);
        match node.volumes.set_up(&pod(volumes), &uid(), Given::default()) {
            Ok(mounted) => {
                assert_eq!(mounted["h"].path, Path::new(path));
                Ok(())
            }
            Err(errors) => Err(errors[0].to_string()),
        }
    };
    for (path, kind) in [
        (at("dir"), "Directory"),
        (at("link"), "Directory"),
        (at("file"), "File"),
        (at("socket"), "Socket"),
        ("/dev/null".to_owned(), "CharDevice"),
        (at("none"), ""),
        (at("new/deep"), "DirectoryOrCreate"),
        (at("newfile"), "FileOrCreate"),
        (at("dir"), "DirectoryOrCreate"),
        (at("file"), "FileOrCreate"),
    ] {
        assert_eq!(check(&path, kind), Ok(()), "{path} {kind}");
    }
    assert!(!Path::new(&at("none")).exists());
    assert_eq!(mode(Path::new(&at("newfile"))) & 0o600, 0o600);

    let prefix = "MountVolume.SetUp failed for volume \"h\" : ";
    for (path, kind, text) in [
        (at("file"), "Directory", "is not a directory"),
        (at("file"), "DirectoryOrCreate", "is not a directory"),
        (at("none"), "Directory", "is not a directory"),
        (at("dir"), "File", "is not a file"),
        (at("dir"), "FileOrCreate", "is not a file"),
        (at("file"), "Socket", "is not a socket file"),
        (at("file"), "CharDevice", "is not a character device"),
        (at("file"), "BlockDevice", "is not a block device"),
    ] {
        let expected = format!("{prefix}hostPath type check failed: {path} {text}");
        assert_eq!(check(&path, kind), Err(expected));
    }
    assert_eq!(
        check("/x", "Odd"),
        Err(format!("{prefix}Odd is an invalid volume type"))
    );
    assert_eq!(
        check("/x/../etc", ""),
        Err(format!(
            "{prefix}invalid HostPath `/x/../etc`: must not contain '..'"
        ))
    );
    let error = check(&at("missing/file"), "FileOrCreate").unwrap_err();
    assert!(
        error.ends_with("missing/file: No such file or directory (os error 2)"),
        "{error}"
    );
    assert!(!Path::new(&at("missing")).exists());
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let node = Node::new();
    let error = node.failure(json!({"name": "v", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2026-01.x:y", "lun": 0}}));
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : no volume plugin matched"
    );
    assert_eq!(error.retry(), Retry::OnChange);
    let error = node.failure(json!({"name": "v", "emptyDir": {"medium": "Floppy"}}));
    assert!(
        error
            .to_string()
            .ends_with(" : unknown storage medium \"Floppy\"")
    );
    let error =
        node.failure(json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "x"}}));
    assert!(
        error
            .to_string()
            .contains("sizeLimit \"x\" is not a quantity: quantities must match")
    );
    let error = node.failure(json!({"name": "../../v", "emptyDir": {}}));
    assert!(
        error.to_string().ends_with("it is not a single name"),
        "{error}"
    );
}

#[test]
fn one_bad_volume_does_not_hide_the_others() {
    let node = Node::new();
    let pod = pod(json!([
        {"name": "a", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2026-01.x:y", "lun": 0}},
        {"name": "b", "emptyDir": {}},
        {"name": "c", "hostPath": {"path": "/none/at/all", "type": "File"}},
    ]));
    let errors = node
        .volumes
        .set_up(&pod, &uid(), Given::default())
        .unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("\"a\"") && texts[1].contains("\"c\""));
    assert!(node.empty_dir("b").exists());
    assert_eq!(errors[1].retry(), Retry::BackOff);
}

#[tokio::test]
async fn the_work_may_be_done_in_the_background() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = PodDirs::new(temp.path()).unwrap();
    let volumes = Arc::new(Volumes::new(dirs, VolumesConfig::default()));
    let pod = Arc::new(pod(json!([{"name": "data", "emptyDir": {}}])));
    let mounted = Arc::clone(&volumes)
        .set_up_in_background(pod, uid(), Given::default(), ())
        .await
        .unwrap();
    assert!(mounted["data"].path.is_dir());
    volumes.tear_down_in_background(uid()).await.unwrap();
    assert!(!mounted["data"].path.exists());
}
