//! Huge pages that the machine sets aside: counted, mounted into the pod that asks for some, and no more for it than that.

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::vm::guest::{self, MANIFESTS, POD};

use super::{PODS, Session};

/// Takes two pages by a file that is larger than that, then as many as it may, and fails to take more.
const HUGE: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      {
      awk '$2 == \"/huge\" {print $3}' /proc/mounts
      fallocate -l 8M /huge/all && echo all
      fallocate -l 4M /huge/more 2>/dev/null || echo no more
      } >/notes/huge
      exec sleep 100000
    resources:
      limits: {memory: 32Mi, cpu: 100m, hugepages-2Mi: 8Mi}
    volumeMounts:
    - {name: huge, mountPath: /huge}
    - {name: notes, mountPath: /notes}
  volumes:
  - {name: huge, emptyDir: {medium: HugePages-2Mi}}
  - {name: notes, hostPath: {path: /root/notes, type: DirectoryOrCreate}}
";

/// A pod that asks for more than is left.
const TOO_HUGE: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: too-huge}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sleep, '100000']
    resources:
      limits: {memory: 32Mi, hugepages-2Mi: 26Mi}
";

pub(super) fn huge_pages_are_counted_mounted_and_limited(session: &mut Session) -> Result<()> {
    let vm = &mut session.vm;
    // 16 of 2 MiB.
    let pages = vm.ok(
        "sysctl -qw vm.drop_caches=3 vm.compact_memory=1 vm.nr_hugepages=16 && sysctl -n vm.nr_hugepages",
    )?;
    ensure!(pages == "16", "the machine has {pages} huge pages to spare");
    vm.ok("systemctl restart kubelet")?;
    guest::active(vm)?;
    session.manifest("huge", HUGE)?;
    let shown = takes(session).and_then(|()| is_refused(session));
    let vm = &mut session.vm;
    vm.ok(&format!(
        "rm -f {MANIFESTS}/huge.yaml {MANIFESTS}/too-huge.yaml"
    ))?;
    shown?;
    guest::all_ready(vm, &PODS)?;
    vm.eventually("nothing of it is mounted", POD, |vm| {
        let left = vm.ok("findmnt -rn -o TARGET -t hugetlbfs | grep /var/lib/kubelet/ || true")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    vm.ok("sysctl -qw vm.nr_hugepages=0 && systemctl restart kubelet")?;
    guest::active(vm)?;
    guest::all_ready(vm, &PODS).map(drop)
}

fn takes(session: &mut Session) -> Result<()> {
    let mut all = PODS.to_vec();
    all.push("default/huge-node");
    let pods = guest::all_ready(&mut session.vm, &all)?;
    let pod = pods.get("default/huge-node").context("no such pod")?;
    let slice = format!(
        "/sys/fs/cgroup/kubepods.slice/kubepods-pod{}.slice",
        pod.uid().replace('-', "_")
    );
    session
        .vm
        .eventually("the container has its pages", POD, |vm| {
            let said = vm.ok("cat /root/notes/huge")?;
            ensure!(said == "hugetlbfs\nall\nno more", "{said}");
            let limits = vm.ok(&format!(
                "cat {slice}/hugetlb.2MB.max {slice}/hugetlb.2MB.current"
            ))?;
            ensure!(limits == "8388608\n8388608", "{limits}");
            Ok(())
        })
}

fn is_refused(session: &mut Session) -> Result<()> {
    session.manifest("too-huge", TOO_HUGE)?;
    session.vm.eventually("the pod does not fit", POD, |vm| {
        let pods = guest::pods(vm)?;
        let pod = pods.get("default/too-huge-node").context("no such pod")?;
        let status = pod.status.as_ref().context("no status")?;
        let message = status.message.as_deref().unwrap_or_default();
        let said =
            "resource: hugepages-2Mi, requested: 27262976, used: 8388608, capacity: 33554432";
        ensure!(message.contains(said), "{}: {message}", pod.describe());
        Ok(())
    })
}
