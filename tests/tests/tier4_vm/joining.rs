//! `kubelet join` and `kubelet leave` where systemd has the agent; the cluster is the double of an API server, in the machine.
//! What only pods of a cluster have: a share of the swap.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::vm::Machine;
use tests::vm::guest::{self, POD};

use super::{CONFIG, GOOD_CONFIG, PODS, Session};

/// Certificate, registration and the first status, on an emulated processor.
const JOIN: Duration = Duration::from_secs(420);

/// How much may be swapped out of containers, bytes, as the kernel has it by the container's id.
const SWAP_LIMITS: &str = "cd /sys/fs/cgroup/kubepods.slice && find . -name 'cri-containerd-*.scope' | \
    while read d; do echo \"$(basename $d) $(cat $d/memory.swap.max)\"; done";

pub(super) fn joins_and_leaves_and_ends_no_static_pod(session: &mut Session) -> Result<()> {
    let config = "sha256sum /var/lib/kubelet/config.yaml";
    let before = session.vm.ok(config)?;
    as_a_member(session, |_| Ok(()))?;
    let after = session.vm.ok(config)?;
    ensure!(
        after == before,
        "the configuration was {before}, is {after}"
    );
    Ok(())
}

/// On a node with `LimitedSwap` a burstable pod of the cluster's has the part of the swap that its request is of the memory
/// (KEP-2400). Static pods are critical, and have none.
pub(super) fn burstable_pods_of_the_cluster_share_the_swap(session: &mut Session) -> Result<()> {
    session.vm.ok(
        "dd if=/dev/zero of=/swapfile bs=1M count=128 2>&1 && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile",
    )?;
    // A node that joins keeps what it says of swap.
    session.vm.ok(&format!(
        "cp -p {CONFIG} {GOOD_CONFIG}; sed -i '/^failSwapOn:/d; /^memorySwap:/d' {CONFIG}; \
         printf '%s\\n' 'failSwapOn: false' 'memorySwap: {{swapBehavior: LimitedSwap}}' >>{CONFIG}; \
         systemctl restart kubelet"
    ))?;
    guest::active(&mut session.vm)?;
    let shared = as_a_member(session, |session| {
        let total = |vm: &mut Machine, name: &str| -> Result<u64> {
            let text = vm.ok(&format!("awk '/^{name}:/ {{print $2}}' /proc/meminfo"))?;
            Ok(1024 * text.parse::<u64>().context("a line of /proc/meminfo")?)
        };
        let memory = total(&mut session.vm, "MemTotal")?;
        let swap = total(&mut session.vm, "SwapTotal")?;
        ensure!(swap > 100 << 20, "{swap} bytes of swap");
        // In whole pages.
        let share = (32 << 20) * swap / memory / 4096 * 4096;
        // One that has ended has no cgroup.
        let ids = session.vm.ok("ctr -n k8s.io containers ls -q \
             'labels.\"io.kubernetes.pod.name\"==from-cluster,labels.\"io.cri-containerd.kind\"==container'")?;
        let limits = session.vm.ok(SWAP_LIMITS)?;
        let own = |id: &str| format!("cri-containerd-{id}.scope {share}");
        let mut shares = ids.lines().map(own);
        let found = shares.any(|own| limits.lines().any(|line| line == own));
        ensure!(found, "{share} for one of {ids}: {limits}");
        let others = limits.lines().filter(|line| line.ends_with(" 0")).count();
        ensure!(others == PODS.len(), "static pods: {limits}");
        Ok(())
    });
    session.vm.ok(&format!(
        "swapoff /swapfile && rm /swapfile; cp -p {GOOD_CONFIG} {CONFIG}; systemctl restart kubelet"
    ))?;
    shared?;
    guest::active(&mut session.vm)
}

/// Joins a cluster, has `act` look while a pod of the cluster's runs, and leaves it again.
fn as_a_member(session: &mut Session, act: impl FnOnce(&mut Session) -> Result<()>) -> Result<()> {
    session.vm.ok(
        "rm -f /run/join-line; systemd-run --unit=cluster --collect /in/cluster /run/join-line \"$(hostname)\" && sysctl -qw net.ipv4.ip_forward=1",
    )?;
    let limit = Duration::from_secs(60);
    session.vm.eventually("the cluster answers", limit, |vm| {
        vm.ok("test -s /run/join-line")
    })?;
    session.ends_nothing(|session| {
        let said = session
            .vm
            .ok_within(JOIN, "kubelet join $(cat /run/join-line) --timeout 6m 2>&1")?;
        ensure!(said.contains("This node has joined the cluster"), "{said}");
        guest::active(&mut session.vm)?;
        // On a node of a cluster the agent answers nobody on this machine.
        session.vm.eventually("the cluster's pod runs", POD, |vm| {
            let running = guest::instances(vm)?.len();
            ensure!(running == 2 * PODS.len() + 2, "{running} run");
            vm.ok("ls -d /var/log/pods/default_from-cluster_*")
        })?;
        // The token has served.
        session.vm.ok(
            "test -e /etc/kubernetes/kubelet.conf && test ! -e /etc/kubernetes/bootstrap-kubelet.conf",
        )?;
        act(session)?;
        let left = session.vm.ok_within(limit, "kubelet leave 2>&1")?;
        ensure!(left.contains("kubectl delete node"), "{left}");
        guest::active(&mut session.vm)?;
        session.vm.eventually("the cluster's pod is gone", POD, |vm| {
            let pods = vm.ok("kubelet get pods -A")?;
            ensure!(!pods.contains("from-cluster"), "{pods}");
            ensure!(guest::instances(vm)?.len() == 2 * PODS.len(), "its containers run");
            Ok(())
        })
    })?;
    session
        .vm
        .ok("systemctl stop cluster && test ! -e /etc/kubernetes/kubelet.conf")
        .map(drop)
}
