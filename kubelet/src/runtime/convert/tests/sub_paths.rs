//! Parts of volumes (`subPath`, `subPathExpr`).

use super::*;
use crate::volumes::SubPath;

/// Which parts of volumes the container of a pod mounts, with the variables that it has.
fn sub_paths_of(mounts: Value) -> Result<Vec<SubPath>, String> {
    let env = json!([
        {"name": "EMPTY", "value": ""},
        {"name": "PART", "value": "a/$(NAME)"},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "ROOT", "value": "/etc"},
        {"name": "UP", "value": "a/../b"},
    ]);
    let pod = pod_with(
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/h"}}]}),
        json!({"env": env, "volumeMounts": mounts}),
    );
    let around = Around::default();
    let asked = with_inputs(&pod, "c", &node(), &ImageUser::Uid(101), &around, sub_paths);
    asked.map_err(|error| error.to_string())
}

#[test]
fn parts_of_volumes_are_named_with_the_containers_variables() {
    let asked = sub_paths_of(json!([
        {"name": "v", "mountPath": "/whole"},
        {"name": "v", "mountPath": "/a", "subPath": "x/$(NAME)"},
        {"name": "h", "mountPath": "/b", "subPath": "", "subPathExpr": "$(NAME)/$$(NAME)/..x"},
        {"name": "h", "mountPath": "/whole", "subPath": "", "subPathExpr": ""},
        {"name": "v", "mountPath": "/c", "subPathExpr": "plain"},
    ]));
    let shown: Vec<_> = asked
        .unwrap()
        .into_iter()
        .map(|asked| {
            let at = asked.volume_path.display().to_string();
            (asked.index, asked.volume, at, asked.path)
        })
        .collect();
    let v = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v";
    let wanted = [
        (1, "v", v, "x/$(NAME)"),
        (2, "h", "/h", "p/$(NAME)/..x"),
        (4, "v", v, "plain"),
    ];
    let wanted = wanted.map(|(index, volume, at, path)| {
        (index, volume.to_owned(), at.to_owned(), path.to_owned())
    });
    assert_eq!(shown, wanted);
}

#[test]
fn parts_of_volumes_that_are_none_are_refused_in_upstreams_words() {
    let refused = |mount: Value| {
        let mut whole = json!({"name": "v", "mountPath": "/v"});
        whole
            .as_object_mut()
            .unwrap()
            .extend(mount.as_object().unwrap().clone());
        sub_paths_of(json!([whole])).unwrap_err()
    };
    for (mount, message) in [
        (
            json!({"subPathExpr": "$(Z)/$(EMPTY)/$(A)/$(Z)/$(NAME)"}),
            "missing value for A, EMPTY, Z",
        ),
        (json!({"subPathExpr": "$()"}), "missing value for "),
        (
            json!({"subPathExpr": "$(ROOT)"}),
            "error SubPath `/etc` must not be an absolute path",
        ),
        (
            json!({"subPath": "/abs"}),
            "error SubPath `/abs` must not be an absolute path",
        ),
        (
            json!({"subPathExpr": "$(UP)"}),
            "unable to provision SubPath `a/../b`: must not contain '..'",
        ),
        (
            json!({"subPath": ".."}),
            "unable to provision SubPath `..`: must not contain '..'",
        ),
        (
            json!({"name": "w", "subPath": "a"}),
            "cannot find volume \"w\" to mount into container \"c\"",
        ),
    ] {
        assert_eq!(refused(mount), message);
    }
}

#[test]
fn a_part_of_a_volume_is_mounted_as_the_whole_would_be() {
    let pod = pod_with(
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "fixed", "emptyDir": {}}]}),
        json!({"volumeMounts": [
            {"name": "v", "mountPath": "/whole"},
            {"name": "v", "mountPath": "/a", "subPath": "a", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "v", "mountPath": "b", "subPathExpr": "b", "mountPropagation": "HostToContainer"},
            {"name": "fixed", "mountPath": "/c", "subPath": "c"},
        ]}),
    );
    let around = Around {
        sub_paths: SubPaths::from([1, 2, 3].map(|index| (index, format!("/bound/{index}").into()))),
        ..Around::default()
    };
    let config = in_surroundings(&pod, "c", &node(), &ImageUser::Uid(101), &around).unwrap();
    let [whole, a, b, c] = &config.mounts[..4] else {
        panic!()
    };
    assert!(whole.host_path.ends_with("/v"));
    assert_eq!((&*a.host_path, &*a.container_path), ("/bound/1", "/a"));
    assert!(a.readonly && a.recursive_read_only && a.selinux_relabel);
    assert_eq!((&*b.host_path, &*b.container_path), ("/bound/2", "/b"));
    assert_eq!(
        b.propagation(),
        v1::MountPropagation::PropagationHostToContainer
    );
    assert_eq!((&*c.host_path, c.readonly), ("/bound/3", true));
}
