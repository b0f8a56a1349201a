//! Where the cgroups are looked for.

use super::*;

#[tokio::test]
async fn slices_of_systemd_are_found_by_the_containers_id() {
    let fixture = fixture(Version::V2);
    let pod = fixture
        .temp
        .path()
        .join(format!("cgroup/kubepods/burstable/pod{UID}"));
    std::fs::rename(
        pod.join(CONTAINER),
        pod.join(format!("cri-containerd-{CONTAINER}.scope")),
    )
    .unwrap();
    let readings = fixture.stats.read(Depth::Usage).await.unwrap();
    let container = &readings.pods[0].containers[0];
    assert!(
        container
            .level
            .path
            .ends_with(&format!("/cri-containerd-{CONTAINER}.scope"))
    );
    assert!(container.level.numbers.cpu.is_some());
    assert_eq!(container.level.processes, None, "nobody looked");
}

#[tokio::test]
async fn a_pod_whose_cgroups_are_gone_is_left_out() {
    let fixture = fixture(Version::V2);
    let pod = fixture
        .temp
        .path()
        .join(format!("cgroup/kubepods/burstable/pod{UID}"));
    std::fs::remove_dir_all(pod).unwrap();
    let readings = fixture.stats.read(Depth::Everything).await.unwrap();
    assert!(readings.pods.is_empty());
}

#[test]
fn the_agents_own_cgroup_is_one_that_processor_and_memory_share() {
    let own = pods::own_path;
    assert_eq!(
        own("0::/system.slice/kubelet.service\n"),
        Some("/system.slice/kubelet.service")
    );
    assert_eq!(own("0::/\n"), None);
    assert_eq!(
        own("4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/b\n"),
        Some("/a")
    );
    assert_eq!(own("4:memory:/a\n3:cpu,cpuacct:/b\n"), None);
    assert_eq!(own("4:memory:/a\n0::/c\n"), None);
}
