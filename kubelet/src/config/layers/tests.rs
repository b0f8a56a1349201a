use serde_json::json;

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn add(layers: &mut Layers, strictness: Strictness, body: &str) -> Result<(), String> {
    layers
        .add(
            Path::new("/etc/kubelet/c.yaml"),
            format!("{HEAD}{body}").as_bytes(),
            strictness,
        )
        .map_err(|e| e.to_string())
}

fn base(body: &str) -> Layers {
    let mut layers = Layers {
        merged: json!({}),
        ..Layers::default()
    };
    add(&mut layers, Strictness::Lenient, body).unwrap();
    layers
}

#[test]
fn a_stranger_is_a_warning_in_the_file_and_an_error_in_a_drop_in() {
    let body = "maxPod: 5\nauthentication:\n  anonymus:\n    enabled: true\nport: 1\nport: 2\n";
    let layers = base(body);
    let warnings: Vec<String> = layers.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "/etc/kubelet/c.yaml:3:1: unknown field \"maxPod\"; did you mean \"maxPods\"?",
            "/etc/kubelet/c.yaml:5:3: unknown field \"authentication.anonymus\"; did you mean \"anonymous\"?",
            "/etc/kubelet/c.yaml:8:1: field \"port\" already set at 7:1; this one counts",
        ]
    );
    assert_eq!(get(&layers.merged, "port"), Some(&json!(2)));

    let error = add(&mut base(""), Strictness::Strict, body).unwrap_err();
    assert!(
        error.contains("/etc/kubelet/c.yaml:3:1: unknown field \"maxPod\""),
        "{error}"
    );
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn every_wrong_type_is_told_with_its_place() {
    let body = "maxPods: many\nsyncFrequency: 10\nclusterDNS: [10.0.0.10, 7]\nevictionHard:\n  memory.available: 100\naddress: here\nregisterWithTaints:\n- key: 5\n  colour: red\nlogging: text\nfailSwapOn: \"no\"\n";
    let error = add(&mut base(""), Strictness::Strict, body).unwrap_err();
    for line in [
        ":3:10: maxPods must be a whole number, found the text \"many\"",
        ":4:16: syncFrequency must be a duration such as 1m30s, found the number 10",
        ":5:25: clusterDNS[1] must be text, found the number 7; put it in quotes",
        ":7:21: evictionHard[memory.available] must be text, found the number 100; put it in quotes",
        ":8:10: address must be an IP address, found the text \"here\"",
        ":10:8: registerWithTaints[0].key must be text, found the number 5; put it in quotes",
        ":11:3: unknown field \"registerWithTaints[0].colour\"",
        ":12:10: logging must be a mapping of fields, found the text \"text\"",
        ":13:13: failSwapOn must be true or false, found the text \"no\"",
    ] {
        assert!(error.contains(line), "{line}\nis not in\n{error}");
    }
}

#[test]
fn yaml_1_1_scalars_are_read_as_upstream_reads_them() {
    let layers = base("failSwapOn: off\nmaxPods: 0100\n");
    assert_eq!(layers.merged["failSwapOn"], json!(false));
    assert_eq!(layers.merged["maxPods"], json!(64));
}

#[test]
fn files_must_say_what_they_are() {
    let refuse = |text: &str| {
        let mut layers = Layers::default();
        layers
            .add(Path::new("/c"), text.as_bytes(), Strictness::Lenient)
            .unwrap_err()
            .to_string()
    };
    assert!(refuse("").contains("/c:1:1: the file is empty; it must hold a KubeletConfiguration"));
    assert!(refuse("# nothing\n").contains("the file is empty"));
    assert!(
        refuse("kind: KubeletConfiguration\n")
            .contains("apiVersion must be \"kubelet.config.k8s.io/v1beta1\", it is missing")
    );
    assert!(
        refuse("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Pod\n")
            .contains("/c:2:7: kind must be \"KubeletConfiguration\", found \"Pod\"")
    );
    assert!(refuse(&format!("{HEAD}---\n{HEAD}")).contains("a second document begins here"));
    assert!(refuse("a: [\n").contains("/c:"));
}

#[test]
fn relative_paths_begin_at_the_file() {
    let layers = base(
        "staticPodPath: manifests\nresolvConf: /etc/resolv.conf\nauthentication: {x509: {clientCAFile: ../ca.crt}}\ntlsCertFile: \"\"\n",
    );
    assert_eq!(layers.merged["staticPodPath"], "/etc/kubelet/manifests");
    assert_eq!(layers.merged["resolvConf"], "/etc/resolv.conf");
    assert_eq!(
        get(&layers.merged, "authentication.x509.clientCAFile").unwrap(),
        "/etc/kubelet/../ca.crt"
    );
    assert_eq!(layers.merged["tlsCertFile"], "");
}

#[test]
fn drop_ins_merge_maps_and_replace_lists() {
    let mut layers = base(
        "clusterDNS: [10.0.0.1]\nevictionHard: {memory.available: 1Gi}\nmaxPods: 5\nport: 1\n",
    );
    add(
        &mut layers,
        Strictness::Strict,
        "clusterDNS: [10.0.0.2]\nevictionHard: {nodefs.available: 5%}\nmaxPods: null\n",
    )
    .unwrap();
    assert_eq!(layers.merged["clusterDNS"], json!(["10.0.0.2"]));
    assert_eq!(
        layers.merged["evictionHard"],
        json!({"memory.available": "1Gi", "nodefs.available": "5%"})
    );
    assert_eq!(layers.merged.get("maxPods"), None);
    assert_eq!(layers.merged["port"], 1);
}

#[test]
fn zeros_of_kubeadm_mean_the_default() {
    let mut layers = base(
        "syncFrequency: 0s\nmaxPods: 0\nhealthzBindAddress: \"\"\nlogging: {flushFrequency: 0, verbosity: 0}\nshutdownGracePeriod: 0s\nregistryPullQPS: 0\nmemorySwap: {}\ncpuCFSQuotaPeriod: 0s\n",
    );
    layers.clear_zeros();
    for path in [
        "syncFrequency",
        "maxPods",
        "healthzBindAddress",
        "logging.flushFrequency",
    ] {
        assert_eq!(get(&layers.merged, path), None, "{path}");
        assert!(!layers.origins.contains_key(path));
    }
    assert_eq!(
        layers.merged["registryPullQPS"], 0,
        "zero is a value of its own here"
    );
    assert_eq!(layers.merged["cpuCFSQuotaPeriod"], "0s", "and refused here");
}

#[test]
fn drop_ins_are_found_in_lexical_order() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    std::fs::create_dir(root.join("10-sub")).unwrap();
    for name in [
        "20-b.conf",
        "00-a.conf",
        "10-sub/z.conf",
        "10-sub/a.yaml",
        "README",
        ".conf",
    ] {
        std::fs::write(root.join(name), "").unwrap();
    }
    let found = drop_ins(root).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|p| p.strip_prefix(root).unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["00-a.conf", "10-sub/z.conf", "20-b.conf"]);
    let error = drop_ins(&root.join("gone")).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read the configuration file "),
        "{error}"
    );
}
