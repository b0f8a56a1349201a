//! What a container's environment is made of.

use super::*;

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
fn sources_that_are_not_there_fail_by_name() {
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
    assert_eq!(
        from(json!({"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}})),
        "environment variable \"V\": fileKeyRef is not supported in this version"
    );
}
