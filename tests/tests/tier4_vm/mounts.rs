//! Mounts that take a newer runtime than Debian 12 has: images as volumes, and mounts that are read-only with all that is
//! mounted below (containerd 2.1 has both, 1.7 has neither, and parts of images come with 2.2: 2.1 mounts the whole). And volumes of a real server of NFS.

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::vm::guest::{self, MANIFESTS, POD};

use super::{PODS, Session, containerd_version};

/// What a container sees of an image, of a part of it, and of a directory of the node's with a mount below; each line is
/// what a command printed, or `refused`.
const POD_OF_MOUNTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: mounts}
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
      /image/bin/busybox echo whole
      if [ -e /part/busybox ]; then echo part; else echo whole; fi
      (echo x >/image/new) 2>/dev/null || echo refused
      (echo x >/above/new) 2>/dev/null || echo refused
      (echo x >/above/below/new) 2>/dev/null || echo refused
      } >/notes/mounts
      exec sleep 100000
    volumeMounts:
    - {name: image, mountPath: /image}
    - {name: image, mountPath: /part, subPath: bin}
    - {name: above, mountPath: /above, readOnly: true, recursiveReadOnly: Enabled}
    - {name: notes, mountPath: /notes}
  volumes:
  - {name: image, image: {reference: 'busybox:1.36', pullPolicy: Never}}
  - {name: above, hostPath: {path: /root/above}}
  - {name: notes, hostPath: {path: /root/notes, type: DirectoryOrCreate}}
";

pub(super) fn images_are_volumes_and_read_only_goes_down(session: &mut Session) -> Result<()> {
    let numbers = containerd_version(session)?;
    session.vm.ok(
        "mkdir -p /root/above/below && { mountpoint -q /root/above/below || mount -t tmpfs below /root/above/below; }",
    )?;
    session.manifest("mounts", POD_OF_MOUNTS)?;
    let shown = match numbers >= (2, 0) {
        true => works(session, numbers >= (2, 2)),
        false => is_refused(session),
    };
    let vm = &mut session.vm;
    vm.ok(&format!("rm {MANIFESTS}/mounts.yaml"))?;
    shown?;
    guest::all_ready(vm, &PODS)?;
    vm.ok("umount /root/above/below").map(drop)
}

fn works(session: &mut Session, has_parts: bool) -> Result<()> {
    let mut all = PODS.to_vec();
    all.push("default/mounts-node");
    let pods = guest::all_ready(&mut session.vm, &all)?;
    let part = if has_parts { "part" } else { "whole" };
    let expected = ["whole", part, "refused", "refused", "refused"];
    session.vm.eventually("the container looks", POD, |vm| {
        let said = vm.ok("cat /root/notes/mounts")?;
        ensure!(said.lines().eq(expected), "{said}");
        Ok(())
    })?;
    let pod = pods.get("default/mounts-node").context("no such pod")?;
    let mounts = pod.container("main")?.volume_mounts.clone();
    let mounts = mounts.unwrap_or_default();
    let above = mounts.iter().find(|mount| mount.name == "above");
    let mode = above.and_then(|mount| mount.recursive_read_only.as_deref());
    ensure!(mode == Some("Enabled"), "{mode:?}");
    Ok(())
}

fn is_refused(session: &mut Session) -> Result<()> {
    session.vm.eventually("the pod says why not", POD, |vm| {
        let pods = guest::pods(vm)?;
        let pod = pods.get("default/mounts-node").context("no such pod")?;
        let shown = pod.describe();
        ensure!(shown.contains("is not supported by the runtime"), "{shown}");
        Ok(())
    })
}

const POD_OF_SERVER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: served}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'cat /served/there >/served/here; exec sleep 100000']
    volumeMounts:
    - {name: served, mountPath: /served}
  volumes:
  - {name: served, nfs: {server: 127.0.0.1, path: /srv/served}}
";

pub(super) fn a_server_of_nfs_is_mounted_and_left(session: &mut Session) -> Result<()> {
    if !session.system.has_nfs() {
        return Ok(());
    }
    session
        .vm
        .ok("mkdir -p /srv/served && echo text >/srv/served/there && \
         echo '/srv/served 127.0.0.1(rw,no_root_squash,no_subtree_check)' >/etc/exports && \
         systemctl restart nfs-server && exportfs -ra")?;
    session.manifest("served", POD_OF_SERVER)?;
    let mut all = PODS.to_vec();
    all.push("default/served-node");
    let ready = guest::all_ready(&mut session.vm, &all);
    let vm = &mut session.vm;
    let seen = vm.eventually("the volume is read and written", POD, |vm| {
        let seen = vm.ok("findmnt -n -o FSTYPE,SOURCE -t nfs,nfs4 && cat /srv/served/here")?;
        let is_served = seen.contains("127.0.0.1:/srv/served") && seen.ends_with("text");
        ensure!(is_served, "{seen}");
        Ok(())
    });
    vm.ok(&format!("rm {MANIFESTS}/served.yaml"))?;
    ready?;
    seen?;
    guest::all_ready(vm, &PODS)?;
    vm.eventually("nothing of the server's is mounted", POD, |vm| {
        let left = vm.ok("findmnt -n -t nfs,nfs4 || true")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    // What was served is the server's.
    let left = vm.ok("cat /srv/served/here && systemctl stop nfs-server && rm /etc/exports")?;
    ensure!(left == "text", "{left}");
    Ok(())
}
