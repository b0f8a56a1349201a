//! Volumes that are images: the runtime mounts them, and finds parts of them.

use super::*;

fn around() -> Around {
    let told = v1::ImageSpec {
        image: "sha256:model".to_owned(),
        user_specified_image: "registry.test/model:1".to_owned(),
        ..v1::ImageSpec::default()
    };
    Around {
        image_volumes: ImageVolumes::from([("model".to_owned(), told)]),
        ..Around::default()
    }
}

fn pod_mounting(mounts: serde_json::Value) -> Pod {
    pod_with(
        json!({"volumes": [
            {"name": "model", "image": {"reference": "registry.test/model:1"}},
            {"name": "scratch", "emptyDir": {}},
        ]}),
        json!({"env": [{"name": "PART", "value": "a/b"}], "volumeMounts": mounts}),
    )
}

#[test]
fn an_image_is_mounted_by_the_runtime_and_never_writable() {
    let pod = pod_mounting(json!([
        {"name": "model", "mountPath": "/whole"},
        {"name": "model", "mountPath": "/part", "subPathExpr": "$(PART)"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]));
    let config = in_surroundings(&pod, "c", &node(), &ImageUser::Uid(0), &around()).unwrap();
    let [whole, part, scratch] = &config.mounts[..3] else {
        panic!()
    };
    assert_eq!(whole.image.as_ref().unwrap().image, "sha256:model");
    assert_eq!(
        (&*whole.host_path, &*whole.image_sub_path, whole.readonly),
        ("", "", true)
    );
    assert_eq!(
        (&*part.host_path, &*part.image_sub_path, part.readonly),
        ("", "a/b", true)
    );
    assert!(!whole.selinux_relabel, "it is not the pod's");
    assert!(scratch.image.is_none() && scratch.host_path.ends_with("/scratch"));
}

#[test]
fn parts_of_images_are_not_the_agents_to_mount_and_must_stay_inside() {
    let asked = |mounts| {
        let (pod, around) = (pod_mounting(mounts), around());
        let user = ImageUser::Uid(0);
        with_inputs(&pod, "c", &node(), &user, &around, sub_paths)
    };
    let own = asked(json!([
        {"name": "model", "mountPath": "/m", "subPath": "a"},
        {"name": "scratch", "mountPath": "/s", "subPath": "b"},
    ]));
    let own: Vec<_> = own.unwrap().into_iter().map(|own| own.index).collect();
    assert_eq!(own, [1]);
    for (path, message) in [
        ("/a", "error SubPath `/a` must not be an absolute path"),
        (
            "a/../..",
            "unable to provision SubPath `a/../..`: must not contain '..'",
        ),
    ] {
        let refused = asked(json!([{"name": "model", "mountPath": "/m", "subPath": path}]));
        assert_eq!(refused.unwrap_err().to_string(), message);
    }
}
