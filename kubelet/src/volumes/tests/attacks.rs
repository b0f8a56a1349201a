//! What a container, or whoever else writes to a volume, may try on those of other kinds.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

/// A volume's owner is set while only the agent has it: a container may since have linked a file of the node into it.
#[test]
fn a_hard_link_in_a_volume_gives_no_file_of_the_node_away() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut pod = pod(json!([{"name": "data", "emptyDir": {}}]));
    let context = json!({"fsGroup": 4321});
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(context).unwrap();
    node.set_up(&pod);
    let precious = node.temp.path().join("precious");
    std::fs::write(&precious, "x").unwrap();
    std::fs::set_permissions(&precious, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::hard_link(&precious, node.empty_dir("data").join("linked")).unwrap();
    // At a container's next start, and at the next start of the agent.
    node.set_up(&pod);
    let dirs = PodDirs::new(node.temp.path()).unwrap();
    let again = Volumes::new(dirs, VolumesConfig::default());
    again.set_up(&pod, &uid(), Given::default()).unwrap();
    let found = std::fs::metadata(&precious).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o7777), (0, 0o600));
    node.volumes.tear_down(&uid()).unwrap();
    assert_eq!(std::fs::read(&precious).unwrap(), b"x");
}

/// The type that is asked for is that of what is mounted in the end, whatever links lie before it.
#[test]
fn a_link_has_the_type_of_what_it_leads_to() {
    let node = Node::new();
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    for (target, link) in [("dir", "to-dir"), ("file", "to-file"), ("none", "to-none")] {
        symlink(target, at(link)).unwrap();
    }
    let check = |path: &str, kind: &str| {
        let volumes = json!([{"name": "h", "hostPath": {"path": at(path), "type": kind}}]);
        node.volumes
            .set_up(&pod(volumes), &uid(), Given::default())
            .is_ok()
    };
    for (path, kind, fits) in [
        ("to-dir", "Directory", true),
        ("to-dir", "DirectoryOrCreate", true),
        ("to-file", "File", true),
        ("to-file", "FileOrCreate", true),
        ("to-file", "Directory", false),
        ("to-file", "DirectoryOrCreate", false),
        ("to-dir", "File", false),
        ("to-dir", "FileOrCreate", false),
        ("to-dir", "Socket", false),
        ("to-none", "Directory", false),
        ("to-none", "DirectoryOrCreate", false),
        ("to-none", "File", false),
    ] {
        assert_eq!(check(path, kind), fits, "{path} {kind}");
    }
    assert!(!Path::new(&at("none")).exists());
}

/// Somebody exchanges directories of a pod for links while it is torn down.
#[test]
fn a_directory_that_is_swapped_for_a_link_takes_nothing_outside_along() {
    let node = Node::new();
    let outside = node.temp.path().join("outside");
    std::fs::create_dir_all(outside.join("dir")).unwrap();
    std::fs::write(outside.join("dir/precious"), "x").unwrap();
    let whole = || std::fs::read(outside.join("dir/precious")).unwrap() == b"x";
    let pod = pod(json!([{"name": "data", "emptyDir": {}}]));
    // The volume itself, its kind's directory, the directory of all.
    let volume = node.empty_dir("data");
    for at in [
        volume.clone(),
        volume.parent().unwrap().to_owned(),
        node.pod_dir().join("volumes"),
    ] {
        node.set_up(&pod);
        let aside = node.temp.path().join("aside");
        std::fs::rename(&at, &aside).unwrap();
        symlink(&outside, &at).unwrap();
        let _ = node.volumes.tear_down(&uid());
        assert!(whole(), "{}", at.display());
        let _ = std::fs::remove_file(&at);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::rename(&aside, &at).unwrap();
        node.volumes.tear_down(&uid()).unwrap();
    }
    // And while it is at it.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // What is gone already cannot be exchanged.
                let _ = renameat_with(
                    CWD,
                    volume.join("way"),
                    CWD,
                    volume.join("evil"),
                    RenameFlags::EXCHANGE,
                );
            }
        });
        for round in 0..300 {
            node.set_up(&pod);
            std::fs::create_dir_all(volume.join("way/deep")).unwrap();
            for n in 0..20 {
                std::fs::write(volume.join(format!("way/deep/{n}")), "").unwrap();
            }
            symlink(&outside, volume.join("evil")).unwrap();
            let mut tries = 0;
            while let Err(error) = node.volumes.tear_down(&uid()) {
                tries += 1;
                assert!(tries < 100, "round {round}: {error:?}");
            }
            assert!(whole(), "round {round}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
