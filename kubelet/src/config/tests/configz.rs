//! What `/configz` shows: every field with a default of KubeletConfiguration v1beta1 (Kubernetes v1.36), and nothing that
//! Go's JSON would leave out.

use serde_json::{Value, json};

use super::*;

/// What is shown of a file in which nothing is set.
fn defaults() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/configz.json")).unwrap()
}

/// What is shown of these fields of a file, and these flags.
fn shown(body: &str, flags: &[&str]) -> (Value, String) {
    let file = with_body(body);
    let arguments = [&[file.argument.as_str()], flags].concat();
    let config = loaded(&arguments).config;
    let document: Value = serde_json::from_str(&config.server.configz).unwrap();
    let directory = std::path::Path::new(&file.path).parent().unwrap();
    (
        document["kubeletconfig"].clone(),
        directory.display().to_string(),
    )
}

/// `expected`, field by field, against the defaults with `changes` (null: not shown).
fn check(body: &str, flags: &[&str], changes: &[(&str, Value)]) {
    let (shown, _) = shown(body, flags);
    let mut expected = defaults();
    for (field, value) in changes {
        let mut steps: Vec<&str> = field.split('.').collect();
        let last = steps.pop().unwrap();
        let place = steps
            .into_iter()
            .fold(&mut expected, |at, step| &mut at[step]);
        match value {
            Value::Null => drop(place.as_object_mut().unwrap().remove(last)),
            value => place[last] = value.clone(),
        }
    }
    let fields = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&shown), fields(&expected), "{body:?}");
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field} of {body:?}");
    }
}

#[test]
fn defaults_are_shown_and_nothing_else() {
    check("", &[], &[]);
}

#[test]
fn what_kubeadm_leaves_at_zero_is_shown_as_the_default_it_means() {
    let body = KUBEADM
        .lines()
        .filter(|line| !line.starts_with("apiVersion") && !line.starts_with("kind"));
    let body: String = body.map(|line| format!("{line}\n")).collect();
    check(
        &body,
        &[],
        &[
            (
                "authentication.x509.clientCAFile",
                json!("/etc/kubernetes/pki/ca.crt"),
            ),
            ("cgroupDriver", json!("systemd")),
            ("clusterDNS", json!(["10.96.0.10"])),
            ("clusterDomain", json!("cluster.local")),
            ("resolvConf", json!("/run/systemd/resolve/resolv.conf")),
            ("rotateCertificates", json!(true)),
            ("staticPodPath", json!("/etc/kubernetes/manifests")),
        ],
    );
}

#[test]
fn defaults_that_come_of_other_fields() {
    for (body, changes) in [
        (
            "nodeStatusUpdateFrequency: 20s\n",
            &[
                ("nodeStatusUpdateFrequency", json!("20s")),
                ("nodeStatusReportFrequency", json!("20s")),
            ][..],
        ),
        (
            "maxParallelImagePulls: 3\n",
            &[
                ("maxParallelImagePulls", json!(3)),
                ("serializeImagePulls", json!(false)),
            ],
        ),
        (
            "serverTLSBootstrap: true\n",
            &[
                ("serverTLSBootstrap", json!(true)),
                ("tlsCertFile", Value::Null),
                ("tlsPrivateKeyFile", Value::Null),
            ],
        ),
        (
            "evictionHard: {memory.available: 1Gi}\n",
            &[("evictionHard", json!({ "memory.available": "1Gi" }))],
        ),
        ("podPidsLimit: -7\n", &[]),
    ] {
        check(body, &[], changes);
    }
    let pki = [
        ("tlsCertFile", json!("/srv/pki/kubelet.crt")),
        ("tlsPrivateKeyFile", json!("/srv/pki/kubelet.key")),
    ];
    check("", &["--cert-dir=pki"], &pki);
}

#[test]
fn what_is_empty_or_false_is_left_out_as_go_leaves_it_out() {
    check(
        "readOnlyPort: 0\npodsPerCore: 0\nrotateCertificates: false\nclusterDNS: []\nnodeStatusMaxImages: 0\nenableServer: true\nfailSwapOn: false\nevictionHard: {}\nsystemReserved: {}\nresolvConf: \"\"\n",
        &[],
        &[
            ("nodeStatusMaxImages", json!(0)),
            ("failSwapOn", json!(false)),
            ("resolvConf", json!("")),
            ("evictionHard", Value::Null),
        ],
    );
}

#[test]
fn paths_are_shown_as_they_are_used() {
    let body = "staticPodPath: manifests\nauthentication: {x509: {clientCAFile: pki/ca.crt}}\n";
    let (shown, directory) = shown(body, &[]);
    assert_eq!(shown["staticPodPath"], format!("{directory}/manifests"));
    let authority = &shown["authentication"]["x509"]["clientCAFile"];
    assert_eq!(authority, &json!(format!("{directory}/pki/ca.crt")));
}
