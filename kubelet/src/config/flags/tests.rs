use serde_json::json;

use super::*;

fn run(arguments: &[&str]) -> CommandLine {
    match parse(arguments.iter().map(|a| (*a).to_owned()), &[]) {
        Ok(Invocation::Run(line)) => line,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn fails(arguments: &[&str]) -> String {
    parse(arguments.iter().map(|a| (*a).to_owned()), &[])
        .unwrap_err()
        .to_string()
}

#[test]
fn the_table_is_consistent() {
    for (index, flag) in FLAGS.iter().enumerate() {
        assert!(
            FLAGS[..index].iter().all(|other| other.name != flag.name),
            "{} twice",
            flag.name
        );
        if let Target::Field(path) = flag.target {
            assert!(
                fields::find(path).is_some(),
                "{} sets unknown {path}",
                flag.name
            );
        }
        let default = default_text(flag);
        if !default.is_empty() {
            let read = syntax::read(flag.syntax, &default, None);
            assert!(read.is_ok(), "{}: default {default}: {read:?}", flag.name);
        }
    }
    // 149 of upstream at v1.36.2, --help and --agent-config.
    assert_eq!(FLAGS.len(), 151);
}

#[test]
fn values_are_given_as_with_pflag() {
    for arguments in [
        &["--v=2"][..],
        &["--v", "2"],
        &["-v=2"],
        &["-v2"],
        &["-v", "2"],
        &["-v=0x2"],
    ] {
        assert_eq!(run(arguments).value("v"), Some(&json!(2)), "{arguments:?}");
    }
    assert_eq!(
        run(&["--max_pods=7"]).value("max-pods"),
        Some(&json!(7)),
        "underscores"
    );
    assert_eq!(
        run(&["--sync-frequency=1m30s"]).value("sync-frequency"),
        Some(&json!("1m30s"))
    );
    assert_eq!(run(&["--root-dir="]).text("root-dir"), "");
    assert_eq!(run(&[]).text("root-dir"), "/var/lib/kubelet");
    assert_eq!(
        run(&["--root-dir", "--x"]).text("root-dir"),
        "--x",
        "the next word, whatever it is"
    );
}

#[test]
fn booleans_take_their_value_with_an_equals_sign_only() {
    assert_eq!(
        run(&["--fail-swap-on"]).value("fail-swap-on"),
        Some(&json!(true))
    );
    assert_eq!(
        run(&["--fail-swap-on=false"]).value("fail-swap-on"),
        Some(&json!(false))
    );
    assert_eq!(
        run(&["--fail-swap-on=F"]).value("fail-swap-on"),
        Some(&json!(false))
    );
    assert_eq!(
        fails(&["--fail-swap-on", "false"]),
        "unknown command \"false\" for \"kubelet\"; write --fail-swap-on=false to set the flag before it"
    );
    assert_eq!(
        fails(&["--fail-swap-on=maybe"]),
        "invalid argument \"maybe\" for \"--fail-swap-on\" flag: not true or false"
    );
}

#[test]
fn the_last_scalar_counts_and_maps_and_lists_add_up() {
    assert_eq!(
        run(&["--port=1", "--port=2"]).value("port"),
        Some(&json!(2))
    );
    let line = run(&[
        "--feature-gates=A=true,B=false",
        "--feature-gates",
        "B=true,C=false",
    ]);
    assert_eq!(
        line.value("feature-gates"),
        Some(&json!({"A": true, "B": true, "C": false}))
    );
    let line = run(&[
        "--cluster-dns=10.0.0.10,10.0.0.11",
        "--cluster-dns=10.0.0.12",
    ]);
    assert_eq!(
        line.value("cluster-dns"),
        Some(&json!(["10.0.0.10", "10.0.0.11", "10.0.0.12"]))
    );
    let line = run(&["--eviction-hard=memory.available<1Gi,nodefs.available<10%"]);
    assert_eq!(
        line.value("eviction-hard"),
        Some(&json!({"memory.available": "1Gi", "nodefs.available": "10%"}))
    );
    let line = run(&["--node-labels=a=b,c", "--node-labels=d=e=f"]);
    assert_eq!(
        line.value("node-labels"),
        Some(&json!({"a": "b", "c": "", "d": "e=f"}))
    );
    let line = run(&[
        "--cpu-manager-policy-options=a=b,c",
        "--cpu-manager-policy-options=d=e",
    ]);
    assert_eq!(
        line.value("cpu-manager-policy-options"),
        Some(&json!({"a": "b,c", "d": "e"}))
    );
    let line = run(&["--manifest-url-header=A:1,A:2", "--manifest-url-header=B:3"]);
    assert_eq!(
        line.value("manifest-url-header"),
        Some(&json!({"A": ["1", "2"], "B": ["3"]}))
    );
    let line = run(&["--allowed-unsafe-sysctls=\"a,b\",c"]);
    assert_eq!(
        line.value("allowed-unsafe-sysctls"),
        Some(&json!(["a,b", "c"]))
    );
}

#[test]
fn structured_values() {
    let line = run(&["--register-with-taints=a=b:NoSchedule,c:NoExecute"]);
    assert_eq!(
        line.value("register-with-taints"),
        Some(&json!([
            {"key": "a", "value": "b", "effect": "NoSchedule"},
            {"key": "c", "value": "", "effect": "NoExecute"}
        ]))
    );
    let line = run(&["--reserved-memory=0:memory=1Gi,hugepages-2Mi=2Gi;1:memory=1Gi"]);
    assert_eq!(
        line.value("reserved-memory"),
        Some(&json!([
            {"numaNode": 0, "limits": {"memory": "1Gi", "hugepages-2Mi": "2Gi"}},
            {"numaNode": 1, "limits": {"memory": "1Gi"}}
        ]))
    );
    let line = run(&["--vmodule=plan*=4,worker=6"]);
    assert_eq!(
        line.value("vmodule"),
        Some(&json!([
            {"filePattern": "plan*", "verbosity": 4},
            {"filePattern": "worker", "verbosity": 6}
        ]))
    );
    for bad in [
        "--register-with-taints=a=b",
        "--register-with-taints=a:NoSchedule,a:NoSchedule",
        "--reserved-memory=0",
        "--reserved-memory=0:cpu=1",
        "--vmodule=x",
        "--eviction-hard=memory.available",
        "--feature-gates=A=1x",
        "--address=localhost",
        "--sync-frequency=12",
        "--port=abc",
        "--port=99999999999",
        "--log-text-info-buffer-size=x",
    ] {
        assert!(fails(&[bad]).starts_with("invalid argument "), "{bad}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    assert_eq!(
        fails(&["--max-pod=3"]),
        "unknown flag: --max-pod; did you mean --max-pods?"
    );
    assert_eq!(
        fails(&["--nosuchthingatall"]),
        "unknown flag: --nosuchthingatall"
    );
    assert_eq!(fails(&["-x"]), "unknown shorthand flag: 'x' in -x");
    assert_eq!(fails(&["--port"]), "flag needs an argument: --port");
    assert_eq!(fails(&["-v"]), "flag needs an argument: 'v' in -v");
    assert_eq!(fails(&["--=x"]), "bad flag syntax: --=x");
    assert_eq!(fails(&["foo"]), "unknown command \"foo\" for \"kubelet\"");
    assert_eq!(
        fails(&["--", "foo"]),
        "unknown command \"foo\" for \"kubelet\""
    );
    assert!(fails(&["--pod-infra-container-image=x"]).contains("was removed from the kubelet"));
    assert_eq!(
        fails(&["-v=x"]),
        "invalid argument \"x\" for \"-v, --v\" flag: not a whole number"
    );
}

#[test]
fn help_version_and_subcommands() {
    let parsed = |arguments: &[&str]| {
        parse(
            arguments.iter().map(|a| (*a).to_owned()),
            &["status".to_owned()],
        )
        .unwrap()
    };
    assert!(matches!(parsed(&["-h"]), Invocation::Help));
    assert!(matches!(
        parsed(&["--v=2", "--help", "--version"]),
        Invocation::Help
    ));
    assert!(matches!(
        parsed(&["--version"]),
        Invocation::Version { raw: false }
    ));
    assert!(matches!(
        parsed(&["--version=raw"]),
        Invocation::Version { raw: true }
    ));
    assert!(matches!(parsed(&["--version=false"]), Invocation::Run(_)));
    match parsed(&["status", "--x"]) {
        Invocation::Subcommand { name, arguments } => {
            assert_eq!(
                (name.as_str(), arguments),
                ("status", vec!["--x".to_owned()])
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_names_every_flag() {
    let text = usage(&[("status".to_owned(), "Shows how it is".to_owned())]);
    assert!(text.contains("\n  status   Shows how it is\n"));
    for flag in FLAGS {
        assert!(text.contains(&format!("--{}", flag.name)), "{}", flag.name);
    }
    assert!(text.contains("(default 10250)"));
    assert!(text.lines().all(|line| line.len() < 330));
}

#[test]
fn deprecated_flags_say_so() {
    let warning = |name: &str| {
        FLAGS
            .iter()
            .find(|flag| flag.name == name)
            .unwrap()
            .deprecation_warning()
    };
    assert!(
        warning("port")
            .unwrap()
            .starts_with("Flag --port has been deprecated, This parameter")
    );
    assert!(warning("containerd").unwrap().contains("cadvisor flag"));
    for kept in [
        "v",
        "vmodule",
        "log-flush-frequency",
        "provider-id",
        "fail-cgroupv1",
        "config",
    ] {
        assert_eq!(warning(kept), None, "{kept}");
    }
}
