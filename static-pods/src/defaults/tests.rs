use super::*;

fn defaulted(spec: &str) -> PodSpec {
    let document =
        crate::tree::parse(format!("spec:\n  {}", spec.replace('\n', "\n  ")).as_bytes())
            .remove(0)
            .unwrap();
    let mut pod = document.root.decode::<Pod>().unwrap().value;
    apply(&mut pod);
    let once = pod.clone();
    apply(&mut pod);
    assert_eq!(pod, once, "twice is once");
    pod.spec.unwrap()
}

#[test]
fn the_pull_policy_follows_the_tag() {
    let policy = |image: &str| {
        let spec = defaulted(&format!("containers: [{{name: c, image: '{image}'}}]"));
        spec.containers[0].image_pull_policy.clone().unwrap()
    };
    assert_eq!(policy("nginx"), "Always");
    assert_eq!(policy("nginx:latest"), "Always");
    assert_eq!(policy("nginx:1"), "IfNotPresent");
    let spec = defaulted("containers: [{name: c, image: nginx, imagePullPolicy: Never}]");
    assert_eq!(
        spec.containers[0].image_pull_policy.as_deref(),
        Some("Never")
    );
}

#[test]
fn limits_are_requests_where_none_are_made() {
    let spec = defaulted(
        "containers:\n- name: c\n  resources: {limits: {cpu: 2, memory: 1024Mi}, requests: {cpu: 100u}}",
    );
    let resources = spec.containers[0].resources.clone().unwrap();
    let requests = resources.requests.unwrap();
    assert_eq!(requests["cpu"].0, "1m");
    assert_eq!(requests["memory"].0, "1Gi");
    assert_eq!(resources.limits.unwrap()["memory"].0, "1Gi");
}

#[test]
fn host_ports_are_container_ports_on_the_host_network() {
    let ports = "containers: [{name: c, ports: [{containerPort: 80}, {containerPort: 81, hostPort: 82}]}]\ninitContainers: [{name: i, ports: [{containerPort: 90}]}]";
    let hosts = |spec: &PodSpec| {
        let init = spec.init_containers.iter().flatten();
        let ports = init
            .chain(&spec.containers)
            .flat_map(|c| c.ports.iter().flatten());
        ports.map(|p| p.host_port).collect::<Vec<_>>()
    };
    assert_eq!(hosts(&defaulted(ports)), [None, None, Some(82)]);
    assert_eq!(
        hosts(&defaulted(&format!("hostNetwork: true\n{ports}"))),
        [Some(90), Some(80), Some(82)]
    );
}

#[test]
fn pod_level_requests_follow_the_containers() {
    let spec = defaulted(
        "resources: {limits: {cpu: 8, memory: 1Gi}}\ncontainers:\n- name: c\n  resources: {requests: {cpu: 500m}, limits: {hugepages-2Mi: 4Mi}}\ninitContainers:\n- name: side\n  restartPolicy: Always\n  resources: {requests: {cpu: 100m}}\n- name: prep\n  resources: {requests: {cpu: 3}}",
    );
    let resources = spec.resources.unwrap();
    let requests = resources.requests.unwrap();
    assert_eq!(
        requests["cpu"].0, "3100m",
        "an init container beside the sidecar"
    );
    assert_eq!(requests["memory"].0, "1Gi");
    assert_eq!(requests["hugepages-2Mi"].0, "4Mi");
    assert_eq!(resources.limits.unwrap()["hugepages-2Mi"].0, "4Mi");
    assert_eq!(defaulted("containers: []").resources, None);
}

#[test]
fn a_volume_without_a_source_is_an_empty_directory() {
    let spec = defaulted("containers: []\nvolumes: [{name: a}, {name: b, hostPath: {path: /b}}]");
    let volumes = spec.volumes.unwrap();
    assert!(volumes[0].empty_dir.is_some());
    assert!(volumes[1].empty_dir.is_none());
    assert_eq!(
        volumes[1].host_path.as_ref().unwrap().type_.as_deref(),
        Some("")
    );
}
