//! Persistent volumes: what is mounted of them for a pod, and that nothing of them goes with it.

use std::os::unix::fs::FileTypeExt as _;
use std::process::Command;

use super::*;
use crate::claims::ClaimedVolume;

const LOCAL: &str = "volumes/kubernetes.io~local-volume/pv";

/// The pod's volume `v`, with the claim `c`, is the persistent volume `pv` of this spec.
fn claimed(spec: serde_json::Value) -> ClaimedVolume {
    let claimed = json!({
        "name": "v", "claim": "c", "claim_uid": "claim-1", "read_only": false,
        "volume": {"metadata": {"name": "pv"}, "spec": spec},
    });
    serde_json::from_value(claimed).unwrap()
}

fn given(claimed: ClaimedVolume) -> Given {
    Given {
        claimed: [(claimed.name.clone(), claimed)].into(),
        ..Given::default()
    }
}

fn of_claim() -> Pod {
    pod(json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]))
}

fn other() -> PodUid {
    PodUid::parse("decade00-1111-4222-8333-444455556666").unwrap()
}

impl Node {
    fn mount(&self, claimed: &ClaimedVolume) -> HostVolume {
        self.mount_for(&uid(), claimed).unwrap()
    }

    fn mount_for(&self, uid: &PodUid, claimed: &ClaimedVolume) -> Result<HostVolume, String> {
        let mounted = self
            .volumes
            .set_up(&of_claim(), uid, given(claimed.clone()));
        match mounted {
            Ok(mut mounted) => Ok(mounted.remove("v").unwrap()),
            Err(errors) => Err(errors[0].to_string()),
        }
    }

    /// A directory of the node with a file in it.
    fn data(&self) -> PathBuf {
        let data = self.temp.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("precious"), "x").unwrap();
        data
    }
}

fn is_whole(data: &Path) -> bool {
    std::fs::read(data.join("precious")).is_ok_and(|bytes| bytes == b"x")
}

#[test]
fn a_claim_that_nobody_uses_is_no_volume() {
    let node = Node::new();
    let mounted = node.set_up(&of_claim());
    assert!(mounted.is_empty());
}

#[test]
fn a_host_path_is_checked_and_used_where_it_is() {
    let node = Node::new();
    let data = node.data();
    let mut claimed = claimed(json!({"hostPath": {"path": data, "type": "Directory"}}));
    claimed.read_only = true;
    let place = HostVolume {
        read_only: true,
        ..at(data.clone())
    };
    assert_eq!(node.mount(&claimed), place);
    claimed.volume.spec.mount_options = Some(vec!["noexec".to_owned()]);
    assert_eq!(
        node.mount_for(&uid(), &claimed).unwrap_err(),
        "MountVolume.MountOptionSupport check failed for volume \"pv\" : mount options are not supported for this volume type"
    );
    let gone = self::claimed(json!({"hostPath": {"path": data.join("none"), "type": "Directory"}}));
    let error = node.mount_for(&uid(), &gone).unwrap_err();
    let begins = "MountVolume.SetUp failed for volume \"pv\" : hostPath type check failed: ";
    assert!(error.starts_with(begins), "{error}");
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data));
}

#[test]
fn kinds_that_are_not_built_are_refused() {
    let node = Node::new();
    let csi = json!({"csi": {"driver": "d.example", "volumeHandle": "h"}});
    for spec in [csi, json!({"iscsi": {}}), json!({})] {
        assert_eq!(
            node.mount_for(&uid(), &claimed(spec)).unwrap_err(),
            "MountVolume.SetUp failed for volume \"pv\" : no volume plugin matched"
        );
    }
    let device = json!({"hostPath": {"path": "/dev/null"}, "volumeMode": "Block"});
    let errors = node
        .volumes
        .set_up(&of_claim(), &uid(), given(claimed(device)));
    assert_eq!(errors.unwrap_err()[0].reason(), "FailedMapVolume");
}

#[test]
fn a_local_directory_is_mounted_and_left_as_it_is() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.data();
    let claimed = claimed(json!({"local": {"path": data}}));
    let place = node.mount(&claimed);
    assert_eq!(place, at(node.pod_dir().join(LOCAL)));
    std::fs::write(place.path.join("new"), "y").unwrap();
    assert_eq!(std::fs::read(data.join("new")).unwrap(), b"y");
    // Again, and by another life of the agent: it stays as it is.
    let mounts = || {
        let place = node.pod_dir().join(LOCAL);
        let all = crate::mounts::read().unwrap();
        all.iter().filter(|m| m.mount_point == place).count()
    };
    node.mount(&claimed);
    let dirs = PodDirs::new(node.temp.path()).unwrap();
    let again = Volumes::new(dirs, VolumesConfig::default());
    again
        .set_up(&of_claim(), &uid(), given(claimed.clone()))
        .unwrap();
    assert_eq!(mounts(), 1);
    // A second pod has the same, and keeps it.
    let second = node.mount_for(&other(), &claimed).unwrap();
    again.tear_down(&uid()).unwrap();
    assert!(is_whole(&data) && is_whole(&second.path));
    assert!(!node.pod_dir().join(LOCAL).exists());
    node.volumes.tear_down(&other()).unwrap();
    assert!(is_whole(&data) && data.join("new").exists());
    assert_eq!(mounts(), 0);
}

#[test]
fn a_local_volume_has_its_mount_options() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.data();
    let mut claimed = claimed(json!({"local": {"path": data}, "mountOptions": ["noexec", "x"]}));
    claimed.read_only = true;
    let place = node.mount(&claimed);
    assert!(place.read_only);
    let written = std::fs::write(place.path.join("new"), "").unwrap_err();
    assert_eq!(written.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let flags = rustix::fs::statvfs(&place.path).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    let outside = rustix::fs::statvfs(&data).unwrap().f_flag;
    assert!(!outside.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data));
}

#[test]
fn the_first_pod_decides_whose_group_a_local_volume_is() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.data();
    let claimed = claimed(json!({"local": {"path": data}}));
    let with_group = |group: i64| {
        let mut pod = of_claim();
        let context = json!({"fsGroup": group});
        pod.spec.as_mut().unwrap().security_context = serde_json::from_value(context).unwrap();
        pod
    };
    let set_up = |uid: &PodUid, group| {
        let given = given(claimed.clone());
        node.volumes.set_up(&with_group(group), uid, given).unwrap()
    };
    let group = || {
        let of = |path: &Path| std::fs::metadata(path).unwrap().gid();
        (of(&data), of(&data.join("precious")))
    };
    set_up(&uid(), 4321);
    assert_eq!(group(), (4321, 4321));
    set_up(&other(), 5432);
    assert_eq!(group(), (4321, 4321));
    node.volumes.tear_down(&uid()).unwrap();
    node.volumes.tear_down(&other()).unwrap();
    // Nobody has it, so the next one is the first.
    set_up(&other(), 5432);
    assert_eq!(group(), (5432, 5432));
    node.volumes.tear_down(&other()).unwrap();
    assert!(is_whole(&data));
}

#[test]
fn what_is_no_place_for_a_local_volume_is_refused() {
    let node = Node::new();
    let data = node.data();
    let refused = |path: &Path| {
        let claimed = claimed(json!({"local": {"path": path}}));
        node.mount_for(&uid(), &claimed).unwrap_err()
    };
    let initialization = "MountVolume.NewMounter initialization failed for volume \"pv\" : ";
    assert_eq!(
        refused(&data.join("precious")),
        format!("{initialization}only directory and block device are supported")
    );
    let none = refused(&data.join("none"));
    assert!(
        none.starts_with(initialization) && none.contains("data/none"),
        "{none}"
    );
    let steps = refused(&data.join("../data"));
    assert!(steps.ends_with("must not contain '..'"), "{steps}");
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data));
}

/// A volume that cannot be unmounted now stays, with all that is in it, and goes when it can be.
#[test]
fn a_local_volume_in_use_is_kept_whole_until_it_is_free() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.data();
    std::fs::create_dir(data.join("dir")).unwrap();
    let claimed = claimed(json!({"local": {"path": data}}));
    let place = node.mount(&claimed).path;
    let busy = std::fs::File::open(place.join("precious")).unwrap();
    let dirs = PodDirs::new(node.temp.path()).unwrap();
    for _ in 0..3 {
        let error = node.volumes.tear_down(&uid()).unwrap_err();
        assert!(matches!(error, VolumeError::Unmount { .. }), "{error}");
        // Nor does the pod's directory go over its head.
        assert!(dirs.remove(&uid()).is_err());
        assert!(is_whole(&data) && is_whole(&place));
        assert!(data.join("dir").exists());
    }
    drop(busy);
    node.volumes.tear_down(&uid()).unwrap();
    dirs.remove(&uid()).unwrap();
    assert!(is_whole(&data) && data.join("dir").exists());
}

/// Whatever lies where a volume was, or is mounted over it, is unmounted or kept, and never emptied.
#[test]
fn data_in_the_place_of_a_local_volume_is_never_removed() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.data();
    let claimed = claimed(json!({"local": {"path": data}}));
    // Mounted twice, by somebody else the second time; and in the volume itself.
    let place = node.mount(&claimed).path;
    rustix::mount::mount_bind(&data, &place).unwrap();
    let inner = node.temp.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("precious"), "x").unwrap();
    std::fs::create_dir(data.join("in")).unwrap();
    rustix::mount::mount_bind(&inner, place.join("in")).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data) && is_whole(&inner));
    assert!(!place.exists());
    // Unmounted behind the agent's back, and written to since.
    let place = node.mount(&claimed).path;
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).unwrap();
    std::fs::write(place.join("late"), "x").unwrap();
    node.volumes.tear_down(&uid()).unwrap_err();
    assert_eq!(std::fs::read(place.join("late")).unwrap(), b"x");
    std::fs::remove_file(place.join("late")).unwrap();
    // A link in its place leads nowhere.
    std::fs::remove_dir(&place).unwrap();
    symlink(&data, &place).unwrap();
    assert!(node.mount_for(&uid(), &claimed).is_err());
    node.volumes.tear_down(&uid()).unwrap_err();
    assert!(is_whole(&data));
    std::fs::remove_file(&place).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    // The directory of the kind, exchanged for one of somebody else's.
    node.mount(&claimed);
    let kind = place.parent().unwrap();
    let aside = node.temp.path().join("aside");
    std::fs::rename(kind, &aside).unwrap();
    symlink(data.parent().unwrap(), kind).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data) && is_whole(&aside.join("pv")));
    std::fs::remove_file(kind).unwrap();
    std::fs::rename(&aside, kind).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&data));
}

/// A loop device, taken away at the end.
struct LoopDevice {
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    fn new(mib: u64) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(mib << 20).unwrap();
        let made = Command::new("losetup")
            .args(["--show", "-f"])
            .arg(file.path())
            .output()
            .unwrap();
        if !made.status.success() {
            eprintln!("skipped: no loop device: {made:?}");
            return None;
        }
        let path = String::from_utf8(made.stdout).unwrap().trim().into();
        Some(Self { path, _file: file })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let done = Command::new(program)
            .args(arguments)
            .arg(&self.path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        self.run("losetup", &["-d"]);
    }
}

#[test]
fn a_blank_device_gets_a_file_system_that_pods_share() {
    let Some(device) = LoopDevice::new(16) else {
        return;
    };
    let node = Node::new();
    let spec = json!({"local": {"path": device.path, "fsType": "ext4"}});
    let mut claimed = claimed(spec);
    let global = node
        .temp
        .path()
        .join("plugins/kubernetes.io/local-volume/mounts/pv");
    // Not while it may not be written to.
    claimed.read_only = true;
    assert_eq!(
        node.mount_for(&uid(), &claimed).unwrap_err(),
        format!(
            "MountVolume.MountDevice failed for volume \"pv\" : cannot mount unformatted disk {} as we are manipulating it in read-only mode",
            device.path.display()
        )
    );
    assert!(!global.exists());
    claimed.read_only = false;
    let place = node.mount(&claimed).path;
    assert_eq!(mount_of(&global).unwrap().fs_type, "ext4");
    std::fs::write(place.join("precious"), "x").unwrap();
    let second = node.mount_for(&other(), &claimed).unwrap().path;
    assert!(is_whole(&second));
    node.volumes.tear_down(&uid()).unwrap();
    assert!(is_whole(&second), "the other one has it still");
    node.volumes.tear_down(&other()).unwrap();
    assert!(!global.exists());
    // What has a file system keeps it and what is in it.
    assert!(is_whole(&node.mount(&claimed).path));
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!global.exists());
}

#[test]
fn a_device_with_anything_on_it_is_never_formatted() {
    let Some(device) = LoopDevice::new(16) else {
        return;
    };
    // A partition table is something; there is no file system to mount in it.
    let mut first = std::fs::OpenOptions::new().write(true).open(&device.path);
    let mut table = [0; 512];
    table[446..450].copy_from_slice(&[0x80, 0x20, 0x21, 0x00]);
    table[450] = 0x83;
    table[454..462].copy_from_slice(&[0, 8, 0, 0, 0, 0x10, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    io::Write::write_all(first.as_mut().unwrap(), &table).unwrap();
    first.unwrap().sync_all().unwrap();
    let node = Node::new();
    let claimed = claimed(json!({"local": {"path": device.path}}));
    let error = node.mount_for(&uid(), &claimed).unwrap_err();
    let begins = "MountVolume.MountDevice failed for volume \"pv\" : local: failed to mount device /dev/loop";
    assert!(error.starts_with(begins), "{error}");
    let mut read = [0; 512];
    let mut file = std::fs::File::open(&device.path).unwrap();
    io::Read::read_exact(&mut file, &mut read).unwrap();
    assert_eq!(read, table);
    assert_eq!(
        device.run("blkid", &["-p", "-s", "TYPE", "-o", "value"]),
        ""
    );
}

#[test]
fn a_raw_device_is_linked_for_the_pod_and_shown_for_the_node() {
    let Some(device) = LoopDevice::new(4) else {
        return;
    };
    let node = Node::new();
    let named = node.temp.path().join("disk");
    symlink(&device.path, &named).unwrap();
    let claimed = claimed(json!({"local": {"path": named}, "volumeMode": "Block"}));
    let place = node.mount(&claimed);
    assert!(place.device && !place.read_only);
    let link = node
        .pod_dir()
        .join("volumeDevices/kubernetes.io~local-volume/pv");
    assert_eq!(place.path, link);
    assert_eq!(std::fs::read_link(&link).unwrap(), device.path);
    let shown = node
        .temp
        .path()
        .join("plugins/kubernetes.io~local-volume/volumeDevices/pv");
    let rdev = |path: &Path| std::fs::symlink_metadata(path).unwrap().rdev();
    let of_pod = |uid: &PodUid| shown.join(uid.as_str());
    assert_eq!(rdev(&of_pod(&uid())), rdev(&device.path));
    // Again, and for a second pod.
    assert_eq!(node.mount(&claimed), place);
    node.mount_for(&other(), &claimed).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!link.exists() && !of_pod(&uid()).exists());
    assert_eq!(rdev(&of_pod(&other())), rdev(&device.path));
    // After a reboot there is a file where the device was mounted, and the link is an old one.
    let dirs = PodDirs::new(node.temp.path()).unwrap();
    let pod = dirs.get(&other()).unwrap().unwrap();
    rustix::mount::unmount(of_pod(&other()), rustix::mount::UnmountFlags::empty()).unwrap();
    let links = pod.path().join("volumeDevices/kubernetes.io~local-volume");
    std::fs::remove_file(links.join("pv")).unwrap();
    symlink("/dev/null", links.join("pv")).unwrap();
    node.mount_for(&other(), &claimed).unwrap();
    assert_eq!(std::fs::read_link(links.join("pv")).unwrap(), device.path);
    assert_eq!(rdev(&of_pod(&other())), rdev(&device.path));
    node.volumes.tear_down(&other()).unwrap();
    assert!(!shown.exists());
    dirs.remove(&other()).unwrap();
    let kind = std::fs::metadata(&device.path).unwrap().file_type();
    assert!(kind.is_block_device());
    // A file is no device.
    let file = json!({"local": {"path": node.temp.path()}, "volumeMode": "Block"});
    let error = node.mount_for(&uid(), &self::claimed(file)).unwrap_err();
    assert!(
        error.starts_with("MapVolume.MapBlockVolume failed for volume \"pv\" : "),
        "{error}"
    );
}

#[test]
fn what_claims_were_bound_to_is_forgotten_with_the_volumes() {
    let node = Node::new();
    let data = node.data();
    node.mount(&claimed(json!({"hostPath": {"path": data}})));
    let kept = node.pod_dir().join("claims.json");
    std::fs::write(&kept, "x").unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert!(!kept.exists());
    assert!(is_whole(&data));
}
