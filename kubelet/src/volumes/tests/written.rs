//! Volumes whose files the agent writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use static_pods::quantity::Quantity;

use super::*;
use crate::cgroups::resources::ResourceList;
use crate::objects::{Found, Kind as Of, ObjectData, PodSnapshot, Token, TokenWish};

fn data(values: &[(&'static str, &'static [u8])]) -> Found<Arc<ObjectData>> {
    Found::There(Arc::new(ObjectData::new(values.iter().copied())))
}

fn snapshot() -> PodSnapshot {
    let map = ObjectData::new([("text", &b"t"[..]), ("other", b"o")])
        .with_binary([("bin", &b"\0\x01"[..])]);
    let wish = TokenWish {
        audience: "vault".into(),
        expiration_seconds: 3607,
    };
    PodSnapshot::of_cluster("ns")
        .with(Of::ConfigMap, "m", Found::There(Arc::new(map)))
        .with(
            Of::ConfigMap,
            "kube-root-ca.crt",
            data(&[("ca.crt", b"CA")]),
        )
        .with(Of::ConfigMap, "gone", Found::Missing)
        .with(
            Of::Secret,
            "s",
            data(&[("user", b"u"), ("password", b"hush")]),
        )
        .with(Of::Secret, "gone", Found::Missing)
        .with(Of::Secret, "late", Found::Unknown(None))
        .with_token(wish, Found::There(Token::new("token")))
}

/// A pod with `volumes`, and `spec` laid over its own.
fn with(volumes: serde_json::Value, spec: serde_json::Value) -> Pod {
    let mut whole = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}], "volumes": volumes});
    whole
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    let metadata = json!({"name": "p", "namespace": "ns", "uid": uid().as_str(),
        "labels": {"b": "2", "a": "say \"1\""}, "annotations": {"k": "v"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap()
}

fn contents(pod: &Pod, objects: &PodSnapshot) -> Contents {
    Contents::of(&Inputs {
        pod,
        objects,
        allocatable: &ResourceList::from([("memory".to_owned(), Quantity::of(7 << 30))]),
        now: Timestamp::from_second(1_800_000_000).unwrap(),
    })
}

fn given(contents: Contents) -> Given {
    Given {
        contents,
        ..Given::default()
    }
}

/// The files of the only volume of a pod, with their modes; or the error.
fn files(volume: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
    let mut volume = volume;
    volume["name"] = json!("v");
    let pod = with(json!([volume]), json!({}));
    let payload = contents(&pod, &snapshot()).take("v");
    let payload =
        payload.map_err(|error| VolumeError::set_up(&spec_volume(&pod).name, error).to_string())?;
    let show = |(path, file): (&str, &payload::File)| {
        let text = String::from_utf8_lossy(&file.data).into_owned();
        (path.to_owned(), format!("{:o} {text}", file.mode))
    };
    Ok(payload.files().map(show).collect())
}

fn spec_volume(pod: &Pod) -> Volume {
    pod::spec(pod).volumes.as_ref().unwrap()[0].clone()
}

fn expect(volume: serde_json::Value, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    assert_eq!(files(volume), Ok(expected.collect()));
}

#[test]
fn a_config_map_has_its_texts_and_its_bytes_as_files() {
    expect(
        json!({"configMap": {"name": "m"}}),
        &[
            ("bin", "644 \0\u{1}"),
            ("other", "644 o"),
            ("text", "644 t"),
        ],
    );
    expect(
        json!({"configMap": {"name": "m", "defaultMode": 0o400,
            "items": [{"key": "text", "path": "dir/a"}, {"key": "bin", "path": "b", "mode": 0o755}]}}),
        &[("b", "755 \0\u{1}"), ("dir/a", "400 t")],
    );
}

#[test]
fn a_secret_has_its_values_as_files() {
    expect(
        json!({"secret": {"secretName": "s", "defaultMode": 0o440}}),
        &[("password", "440 hush"), ("user", "440 u")],
    );
}

#[test]
fn what_is_missing_is_said_in_upstreams_words_unless_it_is_optional() {
    let failed = |cause: &str| {
        Err(format!(
            "MountVolume.SetUp failed for volume \"v\" : {cause}"
        ))
    };
    let item = json!([{"key": "none", "path": "a"}]);
    for (volume, cause) in [
        (
            json!({"configMap": {"name": "gone"}}),
            "configmap \"gone\" not found",
        ),
        (
            json!({"secret": {"secretName": "gone"}}),
            "secret \"gone\" not found",
        ),
        (
            json!({"configMap": {"name": "m", "items": item}}),
            "configmap references non-existent config key: none",
        ),
        (
            json!({"secret": {"secretName": "s", "items": item}}),
            "references non-existent secret key: none",
        ),
    ] {
        assert_eq!(files(volume.clone()), failed(cause));
        let mut optional = volume;
        for source in optional.as_object_mut().unwrap().values_mut() {
            source["optional"] = json!(true);
        }
        assert_eq!(files(optional), Ok(BTreeMap::new()));
    }
    assert_eq!(
        files(json!({"secret": {"secretName": "late", "optional": true}})),
        failed("failed to sync secret cache: timed out waiting for the condition")
    );
    assert_eq!(
        files(json!({"projected": {"sources": [
            {"configMap": {"name": "gone"}}, {"secret": {"name": "gone"}}, {"configMap": {"name": "gone"}}]}})),
        failed("[configmap \"gone\" not found, secret \"gone\" not found]")
    );
    assert_eq!(
        files(
            json!({"projected": {"sources": [{"podCertificate": {"keyType": "ED25519", "signerName": "s"}}]}})
        ),
        failed("projected source podCertificate is not supported by this kubelet")
    );
    assert_eq!(
        files(json!({"configMap": {"name": "m", "items": [{"key": "text", "path": "../out"}]}})),
        failed("invalid path: must not contain '..': ../out")
    );
}

#[test]
fn a_pod_is_told_of_itself() {
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let resource = |path: &str, name: &str, divisor: &str| json!({"path": path, "mode": 0o600, "resourceFieldRef": {"containerName": "c", "resource": name, "divisor": divisor}});
    let items = json!([
        item("labels", "metadata.labels"),
        item("one", "metadata.labels['b']"),
        item("none", "metadata.labels['c']"),
        item("dir/annotations", "metadata.annotations"),
        item("name", "metadata.name"),
        item("namespace", "metadata.namespace"),
        item("uid", "metadata.uid"),
        resource("cpu", "limits.cpu", "1m"),
        resource("memory", "limits.memory", "1Gi"),
    ]);
    expect(
        json!({"downwardAPI": {"items": items}}),
        &[
            ("cpu", "600 1500"),
            ("dir/annotations", "644 k=\"v\""),
            ("labels", "644 a=\"say \\\"1\\\"\"\nb=\"2\""),
            ("memory", "600 7"),
            ("name", "644 p"),
            ("namespace", "644 ns"),
            ("none", "644 "),
            ("one", "644 2"),
            ("uid", "644 c0ffee00-1111-4222-8333-444455556666"),
        ],
    );
    let failed = |cause: &str| {
        Err(format!(
            "MountVolume.SetUp failed for volume \"v\" : {cause}"
        ))
    };
    let of = |item: serde_json::Value| files(json!({"downwardAPI": {"items": [item]}}));
    assert_eq!(
        of(item("a", "status.podIP")),
        failed("unsupported fieldPath: status.podIP")
    );
    assert_eq!(
        of(item("a", "spec.nodeName['a']")),
        failed("fieldPath \"spec.nodeName['a']\" does not support subscript")
    );
    assert_eq!(
        of(
            json!({"path": "a", "resourceFieldRef": {"containerName": "x", "resource": "limits.cpu"}})
        ),
        failed("container x not found")
    );
}

/// What admission adds to every pod.
fn api_access() -> serde_json::Value {
    json!([{"name": "v", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607, "audience": "vault"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}}])
}

#[test]
fn a_token_is_private_to_the_only_user_and_to_the_group() {
    let token = |spec: serde_json::Value| {
        let payload = contents(&with(api_access(), spec), &snapshot())
            .take("v")
            .unwrap();
        let mut files = payload.files();
        let (_, file) = files.find(|(path, _)| *path == "token").unwrap();
        (file.mode, file.owner)
    };
    let user = |id: i64| json!({"runAsUser": id});
    let two = |a: serde_json::Value, b: serde_json::Value| json!([{"name": "a", "securityContext": a}, {"name": "b", "securityContext": b}]);
    assert_eq!(token(json!({})), (0o644, None));
    assert_eq!(
        token(json!({"securityContext": {"fsGroup": 7}})),
        (0o600, None)
    );
    assert_eq!(
        token(json!({"securityContext": {"runAsUser": 5}})),
        (0o600, Some(5))
    );
    assert_eq!(
        token(json!({"containers": two(user(5), user(5))})),
        (0o600, Some(5))
    );
    assert_eq!(
        token(json!({"containers": two(user(5), user(6))})),
        (0o644, None)
    );
    assert_eq!(
        token(json!({"containers": two(json!({}), user(6))})),
        (0o644, None)
    );
    let init = json!([{"name": "i", "securityContext": user(9)}]);
    let spec = json!({"containers": two(user(5), user(5)), "initContainers": init});
    assert_eq!(token(spec), (0o644, None));
}

#[test]
fn volumes_are_written_renewed_and_taken_away() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut volumes = api_access();
    let more = json!([{"name": "m", "configMap": {"name": "m"}}, {"name": "s", "secret": {"secretName": "s"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]);
    volumes
        .as_array_mut()
        .unwrap()
        .extend(more.as_array().unwrap().clone());
    let pod = with(
        volumes,
        json!({"securityContext": {"fsGroup": 1234, "runAsUser": 77}}),
    );
    let mounted = node
        .volumes
        .set_up(&pod, &uid(), given(contents(&pod, &snapshot())))
        .unwrap();
    let dir = node.pod_dir().join("volumes");
    for (name, plugin, in_memory) in [
        ("v", "kubernetes.io~projected", true),
        ("m", "kubernetes.io~configmap", false),
        ("s", "kubernetes.io~secret", true),
        ("d", "kubernetes.io~downward-api", true),
    ] {
        let path = dir.join(plugin).join(name);
        assert_eq!(
            mounted[name],
            HostVolume {
                path: path.clone(),
                read_only: true,
                ..HostVolume::default()
            }
        );
        assert_eq!(
            mount_of(&path).is_some_and(|mount| mount.fs_type == "tmpfs"),
            in_memory,
            "{name}"
        );
        assert!(
            node.pod_dir()
                .join(format!(
                    "plugins/kubernetes.io~empty-dir/wrapped_{name}/ready"
                ))
                .is_file()
        );
    }
    let token = dir.join("kubernetes.io~projected/v/token");
    let stat = std::fs::metadata(&token).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (77, 1234, 0o640)
    );
    let text = dir.join("kubernetes.io~configmap/m/text");
    let stat = std::fs::metadata(&text).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (0, 1234, 0o644)
    );
    let data = std::fs::metadata(dir.join("kubernetes.io~configmap/m/..data")).unwrap();
    assert_eq!((data.gid(), data.mode() & 0o7777), (1234, 0o2755));

    // A later life of the agent finds its token there.
    let dirs = PodDirs::new(node.temp.path()).unwrap();
    let found = crate::volumes::tokens_in_volumes(&dirs, &uid(), &pod);
    let found: Vec<_> = found
        .iter()
        .map(|(wish, token)| (&*wish.audience, wish.expiration_seconds, &**token.reveal()))
        .collect();
    assert_eq!(found, [("vault", 3607, &b"token"[..])]);

    // Renewed: what changed is there, what did not is the same file as before.
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let (text_before, token_before) = (inode(&text), inode(&token));
    let root = mode(&dir.join("kubernetes.io~configmap/m"));
    let wish = TokenWish {
        audience: "vault".into(),
        expiration_seconds: 3607,
    };
    let newer = snapshot().with_token(wish, Found::There(Token::new("newer")));
    node.volumes
        .refresh(&pod, &uid(), contents(&pod, &newer))
        .unwrap();
    assert_eq!(std::fs::read_to_string(&token).unwrap(), "newer");
    assert_ne!(inode(&token), token_before);
    assert_eq!(inode(&text), text_before);
    assert_eq!(mode(&dir.join("kubernetes.io~configmap/m")), root);
    // What can no longer be had stays as it was, and the others go on.
    let gone = newer.with(Of::ConfigMap, "m", Found::Missing);
    let errors = node
        .volumes
        .refresh(&pod, &uid(), contents(&pod, &gone))
        .unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].waits_for_objects());
    assert_eq!(inode(&text), text_before);

    node.volumes.tear_down(&uid()).unwrap();
    assert!(std::fs::read_dir(&dir).unwrap().next().is_none());
    assert!(mount_of(node.temp.path()).is_none());
}

#[test]
fn a_volume_within_another_finds_its_mount_point() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mounts = json!([{"name": "v", "mountPath": "/etc/app"}, {"name": "x", "mountPath": "/etc/app/nested/deep"},
        {"name": "x", "mountPath": "/etc/app/nested/deep/er"}, {"name": "x", "mountPath": "/etc/application"}]);
    let spec = json!({"containers": [{"name": "c", "volumeMounts": mounts}]});
    let pod = with(
        json!([{"name": "v", "secret": {"secretName": "s"}}, {"name": "x", "emptyDir": {}}]),
        spec,
    );
    let mounted = node
        .volumes
        .set_up(&pod, &uid(), given(contents(&pod, &snapshot())))
        .unwrap();
    let root = &mounted["v"].path;
    assert!(root.join("nested/deep").is_dir());
    assert!(!root.join("nested/deep/er").exists());
    let shown = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut shown: Vec<_> = shown.filter(|name| !name.starts_with("..")).collect();
    shown.sort();
    assert_eq!(shown, ["nested", "password", "user"]);
}

#[test]
fn without_an_api_server_a_pod_is_told_of_itself_all_the_same() {
    let standalone = PodSnapshot::standalone("ns");
    let name = json!({"path": "name", "fieldRef": {"fieldPath": "metadata.name"}});
    let pod = with(
        json!([{"name": "d", "downwardAPI": {"items": [name]}},
            {"name": "p", "projected": {"sources": [{"downwardAPI": {"items": [name]}}]}},
            {"name": "m", "configMap": {"name": "m", "optional": true}}]),
        json!({}),
    );
    let mut contents = contents(&pod, &standalone);
    assert_eq!(contents.take("d").unwrap().len(), 1);
    assert_eq!(contents.take("p").unwrap().len(), 1);
    let error = contents.take("m").unwrap_err();
    assert_eq!(
        error.to_string(),
        "couldn't get configMap ns/m, no kubeClient defined"
    );
}

#[test]
fn files_of_variables_stay_within_their_volume() {
    let temp = tempfile::tempdir().unwrap();
    let volume = temp.path().join("v");
    std::fs::create_dir_all(volume.join("dir")).unwrap();
    std::fs::write(volume.join("dir/a.env"), "A='1'\n").unwrap();
    std::fs::write(temp.path().join("precious"), "P='x'\n").unwrap();
    symlink("../precious", volume.join("out")).unwrap();
    symlink("/dir/a.env", volume.join("within")).unwrap();
    let of = |path: &str| json!({"name": "V", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": path, "key": "A"}}});
    let paths = ["dir/a.env", "out", "within", "none", "dir", "../precious"];
    let env: Vec<_> = paths.iter().map(|path| of(path)).collect();
    let container = serde_json::from_value(json!({"name": "c", "env": env})).unwrap();
    let place = at(volume);
    let found = env_files(&container, &MountedVolumes::from([("v".to_owned(), place)]));
    let text = |path: &str| found[&("v".to_owned(), path.to_owned())].text.clone();
    assert_eq!(
        paths.map(|path| text(path).is_some()),
        [true, false, true, false, false, false]
    );
    assert!(env_files(&container, &MountedVolumes::new()).is_empty());
}
