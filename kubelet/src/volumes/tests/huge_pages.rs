//! emptyDirs of huge pages, mounted for real; that takes no pages to be reserved.

use super::*;

fn asking(medium: &str, pages: &str) -> Pod {
    let resources = json!({"requests": {pages: "4Mi"}, "limits": {pages: "4Mi"}});
    let spec = json!({
        "containers": [{"name": "c", "resources": resources}],
        "volumes": [{"name": "huge", "emptyDir": {"medium": medium}}],
    });
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

#[test]
fn an_empty_dir_of_huge_pages_is_mounted_once_and_goes_with_its_pod() {
    if !is_root() || !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        return;
    }
    for medium in ["HugePages", "HugePages-2Mi"] {
        let node = Node::new();
        let pod = asking(medium, "hugepages-2Mi");
        let set_up = || node.volumes.set_up(&pod, &uid(), Given::default());
        set_up().unwrap();
        let path = node.empty_dir("huge");
        let mounts = || {
            let path = path.canonicalize().unwrap();
            let mounts = crate::mounts::read().unwrap();
            let own = mounts.into_iter().filter(|m| m.mount_point == path);
            own.map(|mount| (mount.fs_type, mount.super_options))
                .collect::<Vec<_>>()
        };
        let [(kind, options)] = &mounts()[..] else {
            panic!("{:?}", mounts())
        };
        assert_eq!(kind, "hugetlbfs");
        assert!(options.contains(&"pagesize=2M".to_owned()), "{options:?}");
        assert_eq!(
            mode(&path),
            0o755,
            "the file system's own, as with upstream"
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        set_up().unwrap();
        assert_eq!(mounts().len(), 1);
        assert_eq!(mode(&path), 0o700, "the pod's own change stays");

        // The note is lost, as when the agent ended just before it.
        std::fs::remove_dir_all(node.pod_dir().join("plugins")).unwrap();
        set_up().unwrap();
        assert_eq!(mounts().len(), 1);

        node.volumes.tear_down(&uid()).unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn pages_that_nobody_asks_for_are_refused_by_name() {
    let node = Node::new();
    let pod = asking("HugePages-1Gi", "hugepages-2Mi");
    let errors = node.volumes.set_up(&pod, &uid(), Given::default());
    assert_eq!(
        errors.unwrap_err()[0].to_string(),
        "MountVolume.SetUp failed for volume \"huge\" : medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages"
    );
}
