//! What a container's environment is made of.

use std::sync::Arc;

use super::*;
use crate::objects::{Found, Kind, ObjectData, Protocol, ServiceLink, ServiceLinkPort};

/// The value of the variable `V` of a container, or the error.
fn variable(
    node: &NodeSettings,
    spec: Value,
    container: Value,
    var: Value,
) -> Result<String, String> {
    let mut container = container;
    let mut var = var;
    var["name"] = json!("V");
    container["env"] = json!([var]);
    let config = container_of(&pod_with(spec, container), "c", node).map_err(|e| e.to_string())?;
    let var = config.envs.into_iter().find(|var| var.key == "V").unwrap();
    Ok(String::from_utf8(var.value).unwrap())
}

#[test]
fn field_references() {
    let of = |path: &str| {
        variable(
            &node(),
            json!({}),
            json!({}),
            json!({"valueFrom": {"fieldRef": {"fieldPath": path}}}),
        )
    };
    for (path, value) in [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u1"),
        ("metadata.labels['l']", "L"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['x/y']", "Y"),
        ("metadata.labels", "l=\"L\""),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", ""),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ("status.podIP", "10.0.0.7"),
        ("status.podIPs", "10.0.0.7,fd00::7"),
    ] {
        assert_eq!(of(path), Ok(value.to_owned()), "{path}");
    }
    for (path, error) in [
        (
            "spec.restartPolicy",
            "unsupported fieldPath: spec.restartPolicy",
        ),
        ("spec.priority", "field label not supported: spec.priority"),
        (
            "spec.nodeName['x']",
            "field label does not support subscript: spec.nodeName['x']",
        ),
    ] {
        assert_eq!(of(path), Err(error.to_owned()), "{path}");
    }
    let on_host = variable(
        &node(),
        json!({"hostNetwork": true}),
        json!({}),
        json!({"valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}),
    );
    assert_eq!(on_host.unwrap(), "192.0.2.1,2001:db8::1");
    let nowhere = NodeSettings {
        host_ips: Vec::new(),
        ..node()
    };
    let no_ip = json!({"valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}});
    assert!(variable(&nowhere, json!({}), json!({}), no_ip).is_err());
}

#[test]
fn resource_references_are_rounded_up_by_their_divisor() {
    let container = json!({"resources": {
        "requests": {"cpu": "250m", "memory": "100Mi"},
        "limits": {"cpu": "1500m", "hugepages-2Mi": "4Mi"},
    }});
    let of = |mut field: Value, name: &str, divisor: &str| {
        field["resource"] = json!(name);
        if !divisor.is_empty() {
            field["divisor"] = json!(divisor);
        }
        variable(
            &node(),
            json!({}),
            container.clone(),
            json!({"valueFrom": {"resourceFieldRef": field}}),
        )
    };
    let gib = (1u64 << 30).to_string();
    let seven_gib = (7u64 << 30).to_string();
    for (resource, divisor, value) in [
        ("requests.cpu", "", "1"),
        ("requests.cpu", "1m", "250"),
        ("limits.cpu", "", "2"),
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.memory", "1Mi", "100"),
        ("requests.memory", "3Mi", "34"),
        ("limits.memory", "", &seven_gib),
        ("limits.hugepages-2Mi", "1Mi", "4"),
        ("requests.ephemeral-storage", "", "0"),
        ("limits.ephemeral-storage", "", "0"),
    ] {
        assert_eq!(
            of(json!({}), resource, divisor),
            Ok(value.to_owned()),
            "{resource} {divisor}"
        );
    }
    assert_eq!(
        of(json!({"containerName": "other"}), "limits.memory", ""),
        Ok(gib)
    );
    assert_eq!(
        of(json!({"containerName": "other"}), "limits.cpu", ""),
        Ok("4".to_owned())
    );
    assert_eq!(
        of(json!({"containerName": "none"}), "limits.cpu", ""),
        Err("container none not found".to_owned())
    );
    assert_eq!(
        of(json!({}), "limits.gpu", ""),
        Err("unsupported container resource : limits.gpu".to_owned())
    );
    // The pod's own limit comes before the node's.
    let pod_level = variable(
        &node(),
        json!({"resources": {"limits": {"memory": "2Gi"}}}),
        json!({}),
        json!({"valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}}),
    );
    assert_eq!(pod_level.unwrap(), "2");
}

#[test]
fn without_an_api_server_objects_fail_by_name() {
    let error = |container: Value| {
        let pod = pod_with(json!({}), container);
        container_of(&pod, "c", &node()).unwrap_err().to_string()
    };
    let from = |source: Value| error(json!({"env": [{"name": "V", "valueFrom": source}]}));
    let config_map = "couldn't get configMap ns/m, no kubeClient defined";
    let secret = "couldn't get secret ns/s, no kubeClient defined";
    assert_eq!(
        error(json!({"envFrom": [{"configMapRef": {"name": "m", "optional": true}}]})),
        config_map
    );
    assert_eq!(
        error(json!({"envFrom": [{"secretRef": {"name": "s"}}]})),
        secret
    );
    assert_eq!(
        from(json!({"configMapKeyRef": {"name": "m", "key": "k"}})),
        config_map
    );
    assert_eq!(
        from(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
        secret
    );
}

fn data(values: &[(&'static str, &'static [u8])]) -> Found<Arc<ObjectData>> {
    Found::There(Arc::new(ObjectData::new(values.iter().copied())))
}

fn surroundings() -> Around {
    let http = ServiceLinkPort {
        name: "http".into(),
        number: 80,
        protocol: Protocol::Tcp,
    };
    let dns = ServiceLinkPort {
        name: "dns-udp".into(),
        number: 53,
        protocol: Protocol::Udp,
    };
    let service = |name: &str, cluster_ip: &str, ports: Vec<ServiceLinkPort>| ServiceLink {
        name: name.into(),
        cluster_ip: ip(cluster_ip),
        ports,
    };
    let bare = ServiceLinkPort {
        name: "".into(),
        ..http.clone()
    };
    let file = EnvFile {
        path: "/pods/u1/volumes/v/f.env".to_owned(),
        text: Some("A='one'\nB=''\n".to_owned()),
    };
    let unreadable = EnvFile {
        path: "/pods/u1/volumes/v/none".to_owned(),
        text: None,
    };
    Around {
        image_volumes: ImageVolumes::new(),
        sub_paths: SubPaths::new(),
        recursive_read_only: true,
        objects: PodSnapshot::of_cluster("ns")
            .with(
                Kind::ConfigMap,
                "m",
                data(&[("k", b"v"), ("odd.key-1", b"x"), ("A", b"from map")]),
            )
            .with(
                Kind::Secret,
                "s",
                data(&[("k", b"hush"), ("A", b"from secret"), ("bin", b"\xff\xfe")]),
            )
            .with(Kind::ConfigMap, "gone", Found::Missing)
            .with(Kind::Secret, "gone", Found::Missing)
            .with(Kind::Secret, "late", Found::Unknown(None)),
        services: ServiceLinks::Known(vec![
            service("kubernetes", "10.96.0.1", vec![bare]),
            service("my-dns", "fd00::10", vec![dns, http]),
        ]),
        files: EnvFiles::from([
            (("v".to_owned(), "f.env".to_owned()), file),
            (("v".to_owned(), "none".to_owned()), unreadable),
        ]),
    }
}

/// The environment of a container with `env`, a line each; or the error.
fn lines(container: Value, around: &Around) -> Result<Vec<String>, String> {
    let pod = pod_with(json!({}), container);
    let made = in_surroundings(&pod, "c", &node(), &ImageUser::Uid(101), around);
    let envs = made.map_err(|error| error.to_string())?;
    let line = |var: v1::KeyValue| format!("{}={}", var.key, String::from_utf8_lossy(&var.value));
    Ok(envs.envs.into_iter().map(line).collect())
}

/// Each file of `tests/golden/env` has an environment, and beside it what comes of it. `UPDATE_GOLDEN=1` writes anew.
#[test]
fn golden_environments() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/env");
    let around = surroundings();
    let mut cases = 0;
    for case in fs::read_dir(&root).unwrap() {
        let file = case.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let container: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let made = match lines(container, &around) {
            Ok(lines) => lines.join("\n"),
            Err(error) => format!("error: {error}"),
        };
        check(&file.with_extension("txt"), &format!("{made}\n"));
        cases += 1;
    }
    assert!(cases >= 6, "{cases} cases");
}

#[test]
fn what_is_missing_fails_in_upstreams_words_unless_it_is_optional() {
    let around = surroundings();
    let from = |source: Value| {
        let env = json!({"env": [{"name": "V", "valueFrom": source}, {"name": "W", "value": "w"}]});
        lines(env, &around).map(|lines| {
            lines
                .into_iter()
                .filter(|l| l.len() == 3)
                .collect::<Vec<_>>()
        })
    };
    for (kind, name, key, error) in [
        (
            "configMapKeyRef",
            "gone",
            "k",
            "configmap \"gone\" not found",
        ),
        ("secretKeyRef", "gone", "k", "secret \"gone\" not found"),
        (
            "configMapKeyRef",
            "m",
            "none",
            "couldn't find key none in ConfigMap ns/m",
        ),
        (
            "secretKeyRef",
            "s",
            "none",
            "couldn't find key none in Secret ns/s",
        ),
    ] {
        let reference =
            |optional: bool| json!({kind: {"name": name, "key": key, "optional": optional}});
        assert_eq!(from(reference(false)), Err(error.to_owned()));
        assert_eq!(
            from(reference(true)),
            Ok(vec!["W=w".to_owned()]),
            "{kind} {name}"
        );
    }
    // What is not known yet may be there.
    let late = from(json!({"secretKeyRef": {"name": "late", "key": "k", "optional": true}}));
    let not_yet = "failed to sync secret cache: timed out waiting for the condition";
    assert_eq!(late, Err(not_yet.to_owned()));
    let all = |source: Value| lines(json!({"envFrom": [source]}), &around);
    assert_eq!(
        all(json!({"configMapRef": {"name": "gone"}})),
        Err("configmap \"gone\" not found".to_owned())
    );
    assert!(all(json!({"configMapRef": {"name": "gone", "optional": true}})).is_ok());
    let file = |volume: &str, path: &str, key: &str, optional: bool| {
        from(
            json!({"fileKeyRef": {"volumeName": volume, "path": path, "key": key, "optional": optional}}),
        )
    };
    assert_eq!(
        file("v", "none", "A", true),
        Err("couldn't parse env file".to_owned())
    );
    assert_eq!(
        file("w", "f.env", "A", false),
        Err("cannot find the volume \"w\" referenced by FileKeyRef".to_owned())
    );
    assert_eq!(
        file("v", "f.env", "B", false),
        Err(
            "environment variable key \"B\" not found in file \"/pods/u1/volumes/v/f.env\""
                .to_owned()
        )
    );
    assert_eq!(file("v", "f.env", "B", true), Ok(vec!["W=w".to_owned()]));
    let unknown = Around {
        services: ServiceLinks::NotYet,
        ..surroundings()
    };
    assert_eq!(
        lines(json!({}), &unknown),
        Err("services have not yet been read at least once, cannot construct envvars".to_owned())
    );
}
