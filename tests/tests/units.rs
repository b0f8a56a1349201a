//! The unit, its drop-in for kubeadm and the directories, as files: what tools and people rely on, and what a node agent
//! cannot bear. What systemd makes of them is shown in the VM.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kubelet::config::{Invocation, parse_arguments};

/// `Section.Key`, each with its values in their order.
type Unit = BTreeMap<String, Vec<String>>;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../systemd")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn unit(name: &str) -> Unit {
    let mut unit = Unit::new();
    let mut section = String::new();
    for line in text(name)
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let values = unit.entry(format!("{section}.{key}")).or_default();
        values.push(value.to_owned());
    }
    unit
}

fn one<'u>(unit: &'u Unit, key: &str) -> &'u str {
    match unit.get(key).map(Vec::as_slice) {
        Some([value]) => value,
        other => panic!("{key}: {other:?}"),
    }
}

/// The command line of a unit with these variables, split as systemd splits `$VARIABLE`.
fn command_line(command: &str, variables: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut words = Vec::new();
    for word in command.split_whitespace().skip(1) {
        match word.strip_prefix('$') {
            Some(name) => words.extend(variables[name].split_whitespace().map(str::to_owned)),
            None => words.push(word.to_owned()),
        }
    }
    words
}

/// `Environment=` of a unit.
fn variables(unit: &Unit) -> BTreeMap<&str, &str> {
    let assignments = unit["Service.Environment"].iter();
    assignments
        .map(|line| line.trim_matches('"').split_once('=').unwrap_or((line, "")))
        .collect()
}

fn assert_runs(arguments: Vec<String>) {
    let parsed = parse_arguments(arguments, &[]);
    assert!(matches!(parsed, Ok(Invocation::Run(_))), "{parsed:?}");
}

#[test]
fn tools_find_what_they_go_by() {
    let unit = unit("kubelet.service");
    assert_eq!(
        one(&unit, "Unit.Description"),
        "kubelet: The Kubernetes Node Agent"
    );
    let service = |key: &str| one(&unit, &format!("Service.{key}"));
    for (key, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("Restart", "always"),
        ("RestartSec", "10"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
    ] {
        assert_eq!(service(key), value, "{key}");
    }
    assert!(service("WatchdogSec").parse::<u64>().unwrap() > 1);
    assert_eq!(one(&unit, "Unit.StartLimitIntervalSec"), "0");
    for key in ["Unit.After", "Unit.Wants"] {
        let words = unit[key].join(" ");
        for runtime in ["containerd.service", "crio.service"] {
            assert!(words.contains(runtime), "{key}: {words}");
        }
    }
    for key in [
        "Unit.BindsTo",
        "Unit.Requires",
        "Service.RestartPreventExitStatus",
    ] {
        assert!(!unit.contains_key(key), "{key}");
    }
}

#[test]
fn nothing_takes_the_agent_out_of_the_hosts_mount_namespace() {
    let unit = unit("kubelet.service");
    for key in [
        "BindPaths",
        "BindReadOnlyPaths",
        "DeviceAllow",
        "DevicePolicy",
        "DynamicUser",
        "ExecPaths",
        "InaccessiblePaths",
        "LogNamespace",
        "MountFlags",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RestrictSUIDSGID",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
        "User",
    ] {
        assert!(!unit.contains_key(&format!("Service.{key}")), "{key}");
    }
    // Left out of what it may do: nothing that mounts, cgroups, ownership, signals and low ports need.
    let kept = [
        "ADMIN",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SYS_ADMIN",
        "SYS_PTRACE",
        "SYS_RESOURCE",
    ];
    for line in &unit["Service.CapabilityBoundingSet"] {
        let dropped = line.strip_prefix('~').expect("a list of what is dropped");
        for name in dropped.split_whitespace() {
            let name = name.strip_prefix("CAP_").expect(name);
            assert!(!kept.contains(&name), "{name}");
        }
    }
}

#[test]
fn by_itself_the_unit_runs_a_node_of_its_own() {
    let unit = unit("kubelet.service");
    let command = one(&unit, "Service.ExecStart");
    let words = command_line(command, &variables(&unit));
    assert_eq!(words, ["--config=/var/lib/kubelet/config.yaml"]);
    assert_runs(words);
}

#[test]
fn the_drop_in_makes_it_a_node_of_kubeadms() {
    let (unit, drop_in) = (
        unit("kubelet.service"),
        unit("kubelet.service.d/10-kubeadm.conf"),
    );
    let command = one(&unit, "Service.ExecStart");
    assert_eq!(drop_in["Service.ExecStart"], ["", command]);
    let files = [
        "-/var/lib/kubelet/kubeadm-flags.env",
        "-/etc/default/kubelet",
    ];
    assert_eq!(unit["Service.EnvironmentFile"], files);
    assert_eq!(drop_in["Service.EnvironmentFile"], files);
    let mut variables = variables(&unit);
    variables.extend(self::variables(&drop_in));
    variables.insert(
        "KUBELET_KUBEADM_ARGS",
        "--hostname-override=n1 --register-with-taints=a=b:NoSchedule",
    );
    variables.insert("KUBELET_EXTRA_ARGS", "--v=4");
    let words = command_line(command, &variables);
    assert_eq!(
        words,
        [
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--config=/var/lib/kubelet/config.yaml",
            "--hostname-override=n1",
            "--register-with-taints=a=b:NoSchedule",
            "--v=4",
        ]
    );
    assert_runs(words);
}

#[test]
fn the_directories_have_modes_that_nobody_else_reads_secrets_by() {
    let lines = text("tmpfiles.d/kubelet.conf");
    let modes: BTreeMap<&str, &str> = lines
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(
                (words[0], words[5]),
                ("d", "-"),
                "{line}: nothing is cleaned up"
            );
            (words[1], words[2])
        })
        .collect();
    assert_eq!(modes["/var/lib/kubelet"], ":0700");
    assert_eq!(modes["/etc/kubernetes/manifests"], ":0700");
    assert_eq!(modes["/var/log/pods"], ":0750");
    assert_eq!(modes["/var/log/containers"], ":0755");
}
