mod configz;
mod rules;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

/// What kubeadm v1.36 writes to config.yaml.
const KUBEADM: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";

fn environment() -> Environment {
    Environment {
        working_directory: PathBuf::from("/srv"),
        hostname: "Node-One".to_owned(),
        cgroup_v1: false,
    }
}

fn line(arguments: &[&str]) -> CommandLine {
    match parse_arguments(arguments.iter().map(|a| (*a).to_owned()), &[]) {
        Ok(Invocation::Run(line)) => line,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn loaded(arguments: &[&str]) -> Loaded {
    load(&line(arguments), &environment()).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    load(&line(arguments), &environment())
        .unwrap_err()
        .to_string()
}

/// A file of `--config`, and the argument that names it.
struct File {
    _directory: tempfile::TempDir,
    argument: String,
    path: String,
}

fn file(text: &str) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    File {
        _directory: directory,
        argument: format!("--config={path}"),
        path,
    }
}

fn with_body(body: &str) -> File {
    file(&format!("{HEAD}{body}"))
}

#[test]
fn the_file_of_kubeadm_gives_the_defaults_and_no_strangers() {
    let file = file(KUBEADM);
    let Loaded {
        config, warnings, ..
    } = loaded(&[&file.argument, "--kubeconfig=/etc/kubernetes/kubelet.conf"]);
    assert_eq!(config.node.name, "node-one");
    assert_eq!(config.sources.sync_every, Duration::from_secs(60));
    assert_eq!(config.sources.file_check_every, Duration::from_secs(20));
    assert_eq!(
        config.sources.static_pod_path.as_deref(),
        Some(Path::new("/etc/kubernetes/manifests"))
    );
    assert_eq!(
        config.runtime.socket,
        Path::new("/run/containerd/containerd.sock")
    );
    assert_eq!(config.runtime.image_socket, config.runtime.socket);
    assert_eq!(config.runtime.request_timeout, Duration::from_secs(120));
    assert_eq!(config.runtime.max_restart_backoff, Duration::from_secs(300));
    assert_eq!(
        config.server.healthz,
        Some("127.0.0.1:10248".parse::<SocketAddr>().unwrap())
    );
    assert_eq!(
        config.server.main,
        Some("0.0.0.0:10250".parse::<SocketAddr>().unwrap())
    );
    assert_eq!(config.server.read_only, None);
    assert!(!config.server.access.anonymous);
    assert_eq!(
        config.server.access.token_webhook,
        Some(Duration::from_secs(120))
    );
    assert_eq!(
        config.server.access.authorization,
        Authorization::Webhook {
            authorized_for: Duration::from_secs(300),
            unauthorized_for: Duration::from_secs(30)
        }
    );
    assert_eq!(config.cgroups.driver, CgroupDriver::Systemd);
    assert_eq!(config.node.status_report_every, Duration::from_secs(300));
    assert_eq!(
        config
            .eviction
            .hard
            .get("memory.available")
            .map(String::as_str),
        Some("100Mi")
    );
    assert_eq!(config.container_logs.max_size, Some(10 << 20));
    assert_eq!(config.process.oom_score_adj, -999);
    assert!(config.api.is_some());
    let strangers: Vec<_> = warnings
        .iter()
        .filter(|w| !w.message.contains("has no effect"))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn defaults_without_a_file_are_those_of_old() {
    let config = loaded(&["--kubeconfig=k"]).config;
    assert!(config.server.access.anonymous);
    assert_eq!(config.server.access.token_webhook, None);
    assert_eq!(
        config.server.access.authorization,
        Authorization::AlwaysAllow
    );
    assert_eq!(config.server.read_only.map(|a| a.port()), Some(10255));
    assert_eq!(config.server.main.map(|a| a.port()), Some(10250));
    assert!(config.eviction.hard.is_empty());
    assert_eq!(config.api.unwrap().kubeconfig, Path::new("/srv/k"));
}

#[test]
fn bare_standalone_opens_nothing_but_healthz() {
    let config = loaded(&[]).config;
    assert_eq!((config.server.main, config.server.read_only), (None, None));
    assert_eq!(config.server.healthz.map(|a| a.port()), Some(10248));
    assert!(config.api.is_none());
    assert_eq!(config.paths.root, Path::new("/var/lib/kubelet"));
    assert_eq!(config.paths.certificates, Path::new("/var/lib/kubelet/pki"));

    let config = loaded(&["--read-only-port=10255", "--port=10250"]).config;
    assert_eq!(config.server.read_only.map(|a| a.port()), Some(10255));
    assert_eq!(config.server.main.map(|a| a.port()), Some(10250));
}

#[test]
fn cgroup_v1_is_refused_unless_allowed() {
    assert!(
        loaded(&[]).config.node.fail_on_cgroup_v1,
        "upstream's default, and ours"
    );
    let v1 = Environment {
        cgroup_v1: true,
        ..environment()
    };
    let error = load(&line(&[]), &v1).unwrap_err().to_string();
    assert!(
        error.contains("kubelet is configured to not run on a host using cgroup v1"),
        "{error}"
    );
    let file = with_body("failCgroupV1: false\n");
    assert!(load(&line(&[&file.argument]), &v1).is_ok());
    assert!(load(&line(&["--fail-cgroupv1=false"]), &v1).is_ok());
}

#[test]
fn flags_win_over_drop_ins_which_win_over_the_file() {
    let file = with_body(
        "maxPods: 1\npodsPerCore: 1\nport: 1\nfeatureGates: {MemoryQoS: true, PodsAPI: true}\n",
    );
    let drop_ins = tempfile::tempdir().unwrap();
    std::fs::write(
        drop_ins.path().join("1.conf"),
        format!("{HEAD}maxPods: 2\npodsPerCore: 2\n"),
    )
    .unwrap();
    std::fs::write(
        drop_ins.path().join("2.conf"),
        format!("{HEAD}podsPerCore: 3\n"),
    )
    .unwrap();
    let directory = format!("--config-dir={}", drop_ins.path().display());
    let config = loaded(&[
        &file.argument,
        &directory,
        "--max-pods=4",
        "--feature-gates=MemoryQoS=false,EventedPLEG=true",
    ])
    .config;
    assert_eq!(config.node.max_pods, 4);
    assert_eq!(config.node.pods_per_core, Some(3));
    assert_eq!(config.server.main.map(|a| a.port()), Some(1));
    assert!(config.gates.enabled("PodsAPI"), "from the file");
    assert!(config.gates.enabled("EventedPLEG"), "from the flag");
    assert!(
        !config.gates.enabled("MemoryQoS"),
        "the flag wins gate by gate"
    );
}

#[test]
fn a_zero_of_a_flag_is_a_zero() {
    assert_eq!(loaded(&["--max-pods=0"]).config.node.max_pods, 0);
    let error = refused(&["--port=0"]);
    assert!(
        error
            .contains("--port: invalid configuration: port (--port) 0 must be between 1 and 65535"),
        "{error}"
    );
}

#[test]
fn unreadable_files_are_named() {
    assert_eq!(
        refused(&["--config=nope.yaml"]),
        "cannot read the configuration file /srv/nope.yaml"
    );
    assert_eq!(
        refused(&["--agent-config=/nope"]),
        "cannot read the configuration file /nope"
    );
    assert_eq!(
        refused(&["--config-dir=/nope"]),
        "cannot read the configuration file /nope"
    );
}

#[test]
fn the_node_has_a_name() {
    assert_eq!(
        loaded(&["--hostname-override= Edge-7 "]).config.node.name,
        "edge-7"
    );
    assert!(refused(&["--hostname-override=a_b"]).contains("\"a_b\" cannot name a node"));
    let empty = Environment {
        hostname: " ".to_owned(),
        ..environment()
    };
    let error = load(&line(&[]), &empty).unwrap_err().to_string();
    assert!(error.contains("empty hostname is invalid"), "{error}");
    let ips = loaded(&["--node-ip=10.0.0.1, fd00::1"]).config.node.ips;
    assert_eq!(ips.len(), 2);
    assert!(refused(&["--node-ip=10.0.0.1,::"]).contains("dual-stack node IP cannot include"));
}

#[test]
fn derived_settings() {
    let file = with_body(
        "nodeStatusUpdateFrequency: 7s\nmaxParallelImagePulls: 4\nevictionHard: {memory.available: 5%}\nclusterDNS: [10.0.0.1, x]\npodPidsLimit: -5\nnodeStatusMaxImages: -1\nresolvConf: \"\"\nenforceNodeAllocatable: [none]\nlogging: {flushFrequency: 5000000000, verbosity: 4, vmodule: [{filePattern: q, verbosity: 6}]}\n",
    );
    let Loaded {
        config, warnings, ..
    } = loaded(&[&file.argument, "--container-runtime-endpoint=/run/x.sock"]);
    assert_eq!(config.node.status_report_every, Duration::from_secs(7));
    assert_eq!(config.images.parallel_pulls, Some(4));
    assert_eq!(
        config.eviction.hard.len(),
        1,
        "a map that is given is not filled up"
    );
    assert_eq!(config.network.cluster_dns.len(), 1);
    assert_eq!(config.node.pod_pids_limit, None);
    assert_eq!(config.node.status_max_images, None);
    assert_eq!(config.network.resolv_conf, None);
    assert!(config.cgroups.enforce_allocatable.is_empty());
    assert_eq!(config.runtime.socket, Path::new("/run/x.sock"));
    assert_eq!(
        (config.logging.verbosity, config.logging.modules.len()),
        (4, 1)
    );
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        texts
            .iter()
            .any(|t| t.contains("Invalid clusterDNS IP \"x\"")),
        "{texts:?}"
    );
    assert!(
        texts.iter().any(|t| t.contains("write unix:///run/x.sock")),
        "{texts:?}"
    );

    let file =
        with_body("evictionHard: {memory.available: 5%}\nmergeDefaultEvictionSettings: true\n");
    let hard = loaded(&[&file.argument]).config.eviction.hard;
    assert_eq!((hard.len(), hard["memory.available"].as_str()), (5, "5%"));
}

#[test]
fn headers_of_the_manifest_url_are_never_shown() {
    let line = line(&[
        "--manifest-url=http://h/",
        "--manifest-url-header=Authorization:Bearer s3cret",
    ]);
    assert!(!format!("{line:?}").contains("s3cret"));
    let config = load(&line, &environment()).unwrap().config;
    assert_eq!(
        config.sources.static_pod_url_headers[0].1.expose(),
        "Bearer s3cret"
    );
    assert!(!format!("{config:?}").contains("s3cret"));
    let error = parse_arguments(["--manifest-url-header=s3cret".to_owned()], &[]).unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn versions() {
    assert_eq!(version(false), "Kubernetes v1.36.2");
    let raw = version(true);
    assert!(
        raw.contains("GitVersion:\"v1.36.2\"") && raw.contains(env!("CARGO_PKG_VERSION")),
        "{raw}"
    );
    assert_eq!((UsageError::EXIT_CODE, ConfigError::EXIT_CODE), (64, 78));
}

#[test]
fn the_host_answers() {
    let host = Environment::of_host().unwrap();
    assert!(!host.hostname.is_empty());
    assert!(host.working_directory.is_absolute());
}
