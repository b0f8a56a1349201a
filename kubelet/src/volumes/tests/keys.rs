//! What lies where a key of a configMap belongs, or where its path leads: a container with a hostPath may have put it there.

use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::*;
use crate::objects::{Found, Kind as Of, ObjectData, PodSnapshot};

fn map() -> PodSnapshot {
    let data = ObjectData::new([("k", &b"v"[..])]);
    PodSnapshot::of_cluster("ns").with(Of::ConfigMap, "m", Found::There(Arc::new(data)))
}

fn mapped(items: serde_json::Value) -> Pod {
    let mut pod = pod(json!([{"name": "v", "configMap": {"name": "m", "items": items}}]));
    pod.metadata.namespace = Some("ns".to_owned());
    pod
}

fn set_up(node: &Node, pod: &Pod) -> Result<std::path::PathBuf, String> {
    let contents = Contents::of(&Inputs {
        pod,
        objects: &map(),
        allocatable: &crate::cgroups::resources::ResourceList::new(),
        now: Timestamp::from_second(1_800_000_000).unwrap(),
    });
    let given = Given {
        contents,
        ..Given::default()
    };
    let mounted = node.volumes.set_up(pod, &uid(), given);
    let mounted = mounted.map_err(|errors| errors[0].to_string());
    mounted.map(|mounted| mounted["v"].path.clone())
}

/// The agent looks at what is there before it writes: a pipe would keep it waiting, and `/dev/zero` has no end.
#[test]
fn a_device_pipe_or_link_in_the_place_of_a_key_is_replaced_unread() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = mapped(json!([{"key": "k", "path": "dir/k"}]));
    let volume = set_up(&node, &pod).unwrap();
    let outside = node.temp.path().join("precious");
    std::fs::write(&outside, "v").unwrap();
    let mode = Mode::from_raw_mode(0o666);
    let key = |place: &str| match place {
        "generation" => volume.join("..data/dir/k"),
        _ => volume.join("dir"),
    };
    for place in ["generation", "top"] {
        for kind in ["pipe", "device", "link", "directory"] {
            if (place, kind) == ("top", "directory") {
                // It may be the mount point of another volume.
                continue;
            }
            let at = key(place);
            if at.is_dir() && place == "generation" {
                std::fs::remove_dir_all(&at).unwrap();
            } else {
                std::fs::remove_file(&at).unwrap();
            }
            match kind {
                "pipe" => mknodat(CWD, &at, FileType::Fifo, mode, 0).unwrap(),
                "device" => {
                    mknodat(CWD, &at, FileType::CharacterDevice, mode, makedev(1, 5)).unwrap();
                }
                "link" => symlink(&outside, &at).unwrap(),
                _ => std::fs::create_dir_all(at.join("deep")).unwrap(),
            }
            assert_eq!(set_up(&node, &pod).as_ref(), Ok(&volume), "{place} {kind}");
            let found = std::fs::symlink_metadata(key("generation")).unwrap();
            assert!(found.is_file(), "{place} {kind}");
            assert_eq!(std::fs::read(volume.join("dir/k")).unwrap(), b"v");
            assert_eq!(std::fs::read(&outside).unwrap(), b"v");
        }
    }
    node.volumes.tear_down(&uid()).unwrap();
}

/// The API server takes no such items; whoever writes to etcd, or a manifest that is not checked, may.
#[test]
fn items_that_lead_out_are_refused_and_nothing_is_written() {
    let node = Node::new();
    let outside = node.temp.path().join("written");
    let absolute = outside.to_str().unwrap();
    for path in [
        absolute,
        "../../../../../written",
        "a/../../../../../../written",
        "..data/k",
        "..",
    ] {
        let refused = set_up(&node, &mapped(json!([{"key": "k", "path": path}]))).unwrap_err();
        assert!(refused.contains("invalid path: must "), "{refused}");
        assert!(!outside.exists(), "{path}");
        assert!(!node.pod_dir().join("written").exists(), "{path}");
    }
}
