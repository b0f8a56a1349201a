mod devices;
mod env;
mod image_volumes;
mod memory;
mod security;
mod sub_paths;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};
use static_pods::quantity::Quantity;

use super::dns::{DnsSettings, ResolvConf, pod_dns};
use super::*;
use crate::images::ImageUser;
use crate::managers::ContainerGrants;
use crate::objects::{PodSnapshot, ServiceLinks};
use crate::pod::{self, Pod, PodName, QosClass};
use crate::runtime::ImageRef;
use crate::userns::Range;
use crate::volumes::{HostVolume, MountedVolumes, SubPaths};

/// A node with cgroup v2, SELinux and everything else on.
fn node() -> NodeSettings {
    NodeSettings {
        cluster_domain: "cluster.local".into(),
        seccomp_root: "/var/lib/kubelet/seccomp".into(),
        seccomp_default: false,
        masked_paths: default_masked_paths("0-1", |path| path.ends_with("cpu1/thermal_throttle")),
        selinux: true,
        cgroup_v2: true,
        group_oom_kill: true,
        stop_signals: false,
        env_files: true,
        swap_controller: true,
        limited_swap: None,
        memory_qos: None,
        page_bytes: 4096,
        capacity: NodeCapacity {
            memory_bytes: 8 << 30,
            huge_page_sizes: vec![2 << 20, 1 << 30],
        },
        cpu_quota: CpuQuotaConfig::default(),
        allocatable: ResourceList::from([
            ("cpu".to_owned(), Quantity::of(4)),
            ("memory".to_owned(), Quantity::of(7 << 30)),
        ]),
        host_ips: vec![ip("192.0.2.1"), ip("2001:db8::1")],
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dns_settings() -> DnsSettings {
    DnsSettings {
        cluster_dns: vec![ip("10.96.0.10")],
        cluster_domain: "cluster.local".into(),
        resolv_conf: Some(
            ResolvConf::parse("search example.com\nnameserver 192.0.2.53\n").unwrap(),
        ),
        node_ips: node().host_ips,
    }
}

fn volumes(pod: &Pod) -> MountedVolumes {
    let place = |volume: &k8s_openapi::api::core::v1::Volume| {
        let path = match &volume.host_path {
            Some(host) => host.path.clone().into(),
            None => format!(
                "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/{}",
                volume.name
            )
            .into(),
        };
        let read_only = volume.name == "fixed";
        (
            volume.name.clone(),
            HostVolume {
                path,
                read_only,
                ..HostVolume::default()
            },
        )
    };
    pod::spec(pod).volumes.iter().flatten().map(place).collect()
}

/// Where a pod has users of its own, it is these.
fn users_of(pod: &Pod) -> Option<Range> {
    pod::has_own_users(pod).then(|| Range::new(131_072, 65_536).unwrap())
}

fn sandbox_of(pod: &Pod, node: &NodeSettings) -> Result<v1::PodSandboxConfig, SandboxConfigError> {
    let name = PodName::of(pod);
    let log_directory = format!(
        "/var/log/pods/{}_{}_{}",
        name.namespace,
        name.name,
        identity::uid(pod)
    );
    let inputs = SandboxInputs {
        attempt: 1,
        log_directory: &log_directory,
        cgroup_parent: "/kubepods/pod1",
        dns: pod_dns(pod, &dns_settings()).0,
        volumes: &volumes(pod),
        users: users_of(pod),
        node,
    };
    sandbox_config(pod, &inputs)
}

fn container_of(
    pod: &Pod,
    name: &str,
    node: &NodeSettings,
) -> Result<v1::ContainerConfig, ContainerConfigError> {
    with_user(pod, name, node, &ImageUser::Uid(101))
}

fn with_user(
    pod: &Pod,
    name: &str,
    node: &NodeSettings,
    image_user: &ImageUser,
) -> Result<v1::ContainerConfig, ContainerConfigError> {
    let around = Around {
        objects: PodSnapshot::standalone(&PodName::of(pod).namespace),
        ..Around::default()
    };
    in_surroundings(pod, name, node, image_user, &around)
}

/// What a container finds besides its pod and its node.
struct Around {
    objects: PodSnapshot,
    services: ServiceLinks,
    files: EnvFiles,
    image_volumes: ImageVolumes,
    sub_paths: SubPaths,
    recursive_read_only: bool,
}

impl Default for Around {
    fn default() -> Self {
        Self {
            objects: PodSnapshot::of_cluster("ns"),
            services: ServiceLinks::Known(Vec::new()),
            files: EnvFiles::new(),
            image_volumes: ImageVolumes::new(),
            sub_paths: SubPaths::new(),
            recursive_read_only: true,
        }
    }
}

fn in_surroundings(
    pod: &Pod,
    name: &str,
    node: &NodeSettings,
    image_user: &ImageUser,
    around: &Around,
) -> Result<v1::ContainerConfig, ContainerConfigError> {
    with_inputs(pod, name, node, image_user, around, container_config)
}

/// What `ask` says of a container in its surroundings.
fn with_inputs<T>(
    pod: &Pod,
    name: &str,
    node: &NodeSettings,
    image_user: &ImageUser,
    around: &Around,
    ask: impl FnOnce(&Pod, &Container, &ContainerInputs<'_>) -> Result<T, ContainerConfigError>,
) -> Result<T, ContainerConfigError> {
    let (_, container) = pod::containers(pod).find(|(_, c)| c.name == name).unwrap();
    let addresses = [ip("fd00::7"), ip("10.0.0.7")];
    let inputs = ContainerInputs {
        attempt: 3,
        image_ref: &ImageRef::from("sha256:abc"),
        image_user,
        volumes: &volumes(pod),
        image_volumes: &around.image_volumes,
        sub_paths: &around.sub_paths,
        pod_ips: if pod::host_network(pod) {
            &[]
        } else {
            &addresses
        },
        objects: &around.objects,
        services: &around.services,
        files: &around.files,
        hosts_file: Some(Path::new("/var/lib/kubelet/pods/u/etc-hosts")),
        termination_log: Some(Path::new("/var/lib/kubelet/pods/u/containers/c/message")),
        recursive_read_only: around.recursive_read_only,
        grants: &ContainerGrants::default(),
        users: users_of(pod),
        node,
    };
    ask(pod, container, &inputs)
}

/// Each directory of `tests/golden/convert` has a pod and the messages made of it. `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn golden_messages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convert");
    let mut cases = 0;
    for case in fs::read_dir(&root).unwrap() {
        let dir = case.unwrap().path();
        let pod: Pod = serde_json::from_slice(&fs::read(dir.join("pod.json")).unwrap()).unwrap();
        let sandbox = sandbox_of(&pod, &node()).unwrap();
        check(&dir.join("sandbox.txt"), &format!("{sandbox:#?}\n"));
        for (_, container) in pod::containers(&pod) {
            let config = container_of(&pod, &container.name, &node()).unwrap();
            let file = format!("container-{}.txt", container.name);
            check(&dir.join(file), &format!("{config:#?}\n"));
        }
        cases += 1;
    }
    assert!(cases >= 3);
}

fn check(file: &Path, made: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, made).unwrap();
    }
    let wanted = fs::read_to_string(file).unwrap_or_default();
    assert!(
        made == wanted,
        "{} is not what it was:\n{made}",
        file.display()
    );
}

/// A pod with one container `c`, `spec` and `container` laid over both.
fn pod_with(spec: Value, container: Value) -> Pod {
    let mut whole_container = json!({"name": "c", "image": "nginx:1"});
    let mut whole = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"l": "L"}, "annotations": {"x/y": "Y"}},
        "spec": {"nodeName": "node-1", "containers": []},
    });
    for (into, from) in [
        (&mut whole_container, container),
        (&mut whole["spec"], spec),
    ] {
        into.as_object_mut()
            .unwrap()
            .extend(from.as_object().unwrap().clone());
    }
    whole["spec"]["containers"] =
        json!([whole_container, {"name": "other", "resources": {"limits": {"memory": "1Gi"}}}]);
    serde_json::from_value(whole).unwrap()
}

#[test]
fn the_hash_is_upstreams() {
    assert_eq!(container_hash("test_container", "foo/image:v1"), "8e45cbd0");
    // What HTML would read is escaped before it is hashed.
    assert_ne!(container_hash("c", "a<b"), container_hash("c", "a\\u003cb"));
}

#[test]
fn log_paths_name_the_container_and_the_instance() {
    assert_eq!(container_log_path("c", 4), "c/4.log");
}

#[test]
fn mounts_that_cannot_be_made_say_why() {
    let mount = |recursive_read_only: bool, more: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/v"});
        mount
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let pod = pod_with(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumeMounts": [mount]}),
        );
        let around = Around {
            objects: PodSnapshot::standalone("ns"),
            recursive_read_only,
            ..Around::default()
        };
        in_surroundings(&pod, "c", &node(), &ImageUser::Uid(101), &around)
            .map(|config| config.mounts[0].clone())
    };
    let error = |able: bool, more: Value| mount(able, more).unwrap_err().to_string();
    let missing = mount(true, json!({"name": "w"})).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "cannot find volume \"w\" to mount into container \"c\""
    );
    // Whatever comes before has to be mounted: the whole volume never takes its place.
    for sub_path in [json!({"subPath": "a"}), json!({"subPathExpr": "a"})] {
        assert_eq!(
            error(true, sub_path),
            "the subPath of volume \"v\" is not mounted"
        );
    }
    assert_eq!(
        error(true, json!({"mountPropagation": "Up"})),
        "invalid MountPropagation mode: \"Up\""
    );
    let rro = "failed to resolve recursive read-only mode: ";
    let enabled = json!({"readOnly": true, "recursiveReadOnly": "Enabled"});
    assert_eq!(
        error(false, enabled.clone()),
        format!(
            "{rro}volume \"v\" requested recursive read-only mode, but it is not supported by the runtime"
        )
    );
    assert_eq!(
        error(true, json!({"recursiveReadOnly": "Enabled"})),
        format!("{rro}volume \"v\" requested recursive read-only mode, but it is not read-only")
    );
    assert_eq!(
        error(
            true,
            json!({"readOnly": true, "recursiveReadOnly": "Enabled", "mountPropagation": "Bidirectional"})
        ),
        format!(
            "{rro}volume \"v\" requested recursive read-only mode, but it is not compatible with propagation \"Bidirectional\""
        )
    );
    assert!(mount(true, enabled).unwrap().recursive_read_only);
    let if_possible = json!({"readOnly": true, "recursiveReadOnly": "IfPossible"});
    assert!(!mount(false, if_possible).unwrap().recursive_read_only);
}

#[test]
fn resources_follow_the_nodes_cgroup_version() {
    let resources = |node: NodeSettings| {
        let pod = pod_with(
            json!({}),
            json!({"resources": {"limits": {"memory": "1Mi"}}}),
        );
        container_of(&pod, "c", &node)
            .unwrap()
            .linux
            .unwrap()
            .resources
            .unwrap()
    };
    let v2 = resources(node());
    let unified = [("memory.oom.group", "1"), ("memory.swap.max", "0")];
    let unified: BTreeMap<_, _> = unified.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!((v2.unified, v2.memory_swap_limit_in_bytes), (unified, 0));
    let v1 = resources(NodeSettings {
        cgroup_v2: false,
        ..node()
    });
    assert_eq!(
        (v1.unified.len(), v1.memory_swap_limit_in_bytes),
        (0, 1 << 20)
    );
    let single = resources(NodeSettings {
        group_oom_kill: false,
        swap_controller: false,
        ..node()
    });
    assert_eq!(
        (single.unified.len(), single.memory_swap_limit_in_bytes),
        (0, 0)
    );
}

#[test]
fn a_stop_signal_counts_behind_its_gate() {
    let signal = |name: &str, stop_signals: bool| {
        let pod = pod_with(json!({}), json!({"lifecycle": {"stopSignal": name}}));
        let node = NodeSettings {
            stop_signals,
            ..node()
        };
        container_of(&pod, "c", &node).unwrap().stop_signal()
    };
    use cri_proto::v1::Signal;
    assert_eq!(signal("SIGUSR1", true), Signal::Sigusr1);
    assert_eq!(signal("SIGRTMIN+15", true), Signal::Sigrtminplus15);
    assert_eq!(signal("SIGRTMAX-1", true), Signal::Sigrtmaxminus1);
    assert_eq!(signal("SIGNONSENSE", true), Signal::RuntimeDefault);
    assert_eq!(signal("SIGUSR1", false), Signal::RuntimeDefault);
}

#[test]
fn every_signal_is_read_as_it_is_written() {
    use cri_proto::v1::Signal;
    assert_eq!(signal_name(Signal::RuntimeDefault), None);
    assert_eq!(signal_name(Signal::Sigterm).as_deref(), Some("SIGTERM"));
    let mut names = 0;
    for number in 1..=Signal::Sigrtmax as i32 {
        let signal = Signal::try_from(number).unwrap();
        let name = signal_name(signal).unwrap();
        let pod = pod_with(json!({}), json!({"lifecycle": {"stopSignal": &*name}}));
        let node = NodeSettings {
            stop_signals: true,
            ..node()
        };
        let config = container_of(&pod, "c", &node).unwrap();
        assert_eq!(config.stop_signal(), signal, "{name}");
        names += usize::from(name.contains(['+', '-']));
    }
    assert_eq!(names, 29, "SIGRTMIN+1 to +15, SIGRTMAX-14 to -1");
}

#[test]
fn hostnames() {
    let named = |name: &str, spec: Value| {
        let mut pod = pod_with(spec, json!({}));
        pod.metadata.name = Some(name.to_owned());
        pod_hostname(&pod, "cluster.local")
    };
    let of = |name: &str, spec: Value| {
        let hostname = named(name, spec).unwrap();
        (hostname.host, hostname.domain, hostname.nodename)
    };
    let plain = |host: &str| (host.to_owned(), None, host.to_owned());
    let cut = "a".repeat(62);
    assert_eq!(of("p", json!({})), plain("p"));
    assert_eq!(of("p", json!({"hostname": "h"})), plain("h"));
    assert_eq!(
        of(
            "p",
            json!({"hostname": "h", "hostnameOverride": "o.example", "subdomain": "s"})
        ),
        plain("o.example")
    );
    assert_eq!(of(&format!("{cut}-b"), json!({})), plain(&cut));
    assert_eq!(of(&format!("{cut}b"), json!({})), plain(&format!("{cut}b")));
    let domain = Some("s.ns.svc.cluster.local".to_owned());
    assert_eq!(
        of("p", json!({"subdomain": "s"})),
        ("p".into(), domain.clone(), "p".into())
    );
    assert_eq!(
        of("p", json!({"subdomain": "s", "setHostnameAsFQDN": true})),
        ("p".into(), domain, "p.s.ns.svc.cluster.local".into())
    );
    assert_eq!(
        named(&cut, json!({"subdomain": "s", "setHostnameAsFQDN": true}))
            .unwrap_err()
            .to_string(),
        format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {cut}.s.ns.svc.cluster.local is too long (64 characters is the max, 85 characters requested)"
        )
    );
    assert_eq!(
        named(&"-".repeat(70), json!({})).unwrap_err().to_string(),
        format!("hostname for pod {0:?} was invalid: {0:?}", "-".repeat(70))
    );
}

#[test]
fn a_pod_without_defaults_still_has_a_namespace_and_a_termination_log() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
    }))
    .unwrap();
    assert_eq!(&*PodName::of(&pod).namespace, "default");
    assert_eq!(
        crate::cgroups::resources::qos_class(&pod),
        QosClass::BestEffort
    );
    let config = container_of(&pod, "c", &node()).unwrap();
    assert_eq!(config.labels[label::POD_NAMESPACE], "default");
    assert_eq!(
        config.mounts.last().unwrap().container_path,
        DEFAULT_TERMINATION_MESSAGE_PATH
    );
    assert_eq!(
        config.annotations[annotation::TERMINATION_MESSAGE_POLICY],
        "File"
    );
}
