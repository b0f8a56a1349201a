//! What volumes bring along besides their mounts: devices and groups.

use super::*;

#[test]
fn volumes_bring_devices_and_groups_along() {
    let spec = json!({"securityContext": {"fsGroup": 1, "supplementalGroups": [20, 30]}});
    let container = json!({
        "volumeDevices": [
            {"name": "disk", "devicePath": "/dev/a"},
            {"name": "fixed", "devicePath": "/dev/b"},
        ],
    });
    let pod = pod_with(spec, container);
    let link = |name: &str, read_only, gid| HostVolume {
        path: format!("/links/{name}").into(),
        read_only,
        device: name != "files",
        gid,
    };
    let volumes = MountedVolumes::from([
        ("disk".to_owned(), link("disk", false, Some(40))),
        ("fixed".to_owned(), link("fixed", true, Some(20))),
        ("files".to_owned(), link("files", true, Some(7))),
    ]);
    let node = node();
    let with = |pod: &Pod| {
        let container = &pod::spec(pod).containers[0];
        let devices = mounts::devices(container, &volumes);
        devices.map_err(|error| error.to_string())
    };
    let device = |at: &str, name: &str, permissions: &str| v1::Device {
        container_path: at.to_owned(),
        host_path: format!("/links/{name}"),
        permissions: permissions.to_owned(),
    };
    assert_eq!(
        with(&pod).unwrap(),
        [
            device("/dev/a", "disk", "mrw"),
            device("/dev/b", "fixed", "r")
        ]
    );
    let of_sandbox = crate::runtime::convert::security::of_sandbox(&pod, &volumes, None).unwrap();
    assert_eq!(of_sandbox.supplemental_groups, [1, 20, 30, 7, 40]);
    let container = &pod::spec(&pod).containers[0];
    let user = ImageUser::Uid(101);
    let of_container = crate::runtime::convert::security::of_container(
        &pod,
        container,
        &user,
        (&volumes, None),
        &node,
    )
    .unwrap();
    assert_eq!(of_container.supplemental_groups, [1, 20, 30, 7, 40]);
    for (name, path, why) in [
        (
            "files",
            "/dev/a",
            "cannot find volume \"files\" to pass into container ",
        ),
        (
            "none",
            "/dev/a",
            "cannot find volume \"none\" to pass into container ",
        ),
        ("disk", "a", "error DevicePath `a` must be an absolute path"),
    ] {
        let devices = json!({"volumeDevices": [{"name": name, "devicePath": path}]});
        let error = with(&pod_with(json!({}), devices)).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
}
