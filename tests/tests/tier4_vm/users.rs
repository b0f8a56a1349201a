//! Pods with users of their own, where runtime and kernel have them (containerd 2), and the reason where they do not. And
//! volumes of such pods that the kernel counts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::agent::PodView as _;
use tests::vm::guest::{self, MANIFESTS, POD};
use tests::vm::{Machine, System};

use super::{CONFIG, GOOD_CONFIG, PODS, Session, joining};

const PODS_DIR: &str = "/var/lib/kubelet/pods";
/// The file system with project quotas, as it is brought along.
const COUNTED: &str = "counted.img";
const COUNTED_MIB: u64 = 48;
/// Has the kernel count.
const GATE: &str = "LocalStorageCapacityIsolationFSQuotaMonitoring";

/// A pod that writes down who it is, and sleeps for so long.
fn own(name: &str, sleep: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{word: open-sesame}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command:
    - sh
    - -c
    - |
      {{
      id -u
      cat /secret/word; echo
      grep -c ' /proc/' /proc/mounts
      cat /proc/self/uid_map
      }} >/data/said.new
      mv /data/said.new /data/said
      exec sleep {sleep}
    securityContext: {{procMount: Unmasked}}
    volumeMounts:
    - {{name: data, mountPath: /data}}
    - {{name: secret, mountPath: /secret}}
  volumes:
  - {{name: data, emptyDir: {{}}}}
  - {{name: secret, secret: {{secretName: {name}}}}}
"
    )
}

/// Writes a manifest that holds a Secret.
fn put_private(session: &mut Session, name: &str, text: &str) -> Result<()> {
    session.vm.put("/root/private.yaml", text)?;
    let put = format!("install -m 600 /root/private.yaml {MANIFESTS}/{name}.yaml");
    session.vm.ok(&put).map(drop)
}

/// The process that sleeps for so long, and the node's id of its root, by the kernel's word.
fn root_of(vm: &mut Machine, sleep: &str) -> Result<(String, u32)> {
    vm.eventually("the container sleeps", POD, |vm| {
        let pid = vm.ok(&format!("pgrep -x -f 'sleep {sleep}'"))?;
        let pid = pid.trim().to_owned();
        let mapped = vm.ok(&format!("cat /proc/{pid}/uid_map"))?;
        let words: Vec<&str> = mapped.split_whitespace().collect();
        let ["0", first, "65536"] = words.as_slice() else {
            anyhow::bail!("its users: {mapped}");
        };
        let groups = vm.ok(&format!("cat /proc/{pid}/gid_map"))?;
        ensure!(groups == mapped, "its groups: {groups}");
        let runs_as = vm.ok(&format!("stat -c %u:%g /proc/{pid}"))?;
        ensure!(runs_as == format!("{first}:{first}"), "it is {runs_as}");
        Ok((pid, first.parse()?))
    })
}

pub(super) fn pods_have_users_of_their_own(session: &mut Session) -> Result<()> {
    put_private(session, "own", &own("own", "4242"))?;
    let shown = match session.system {
        System::DebianTesting => are_isolated(session),
        System::Debian12 | System::Debian13 => is_refused(session),
    };
    let vm = &mut session.vm;
    vm.ok(&format!(
        "rm -f {MANIFESTS}/own.yaml {MANIFESTS}/other.yaml /root/private.yaml"
    ))?;
    shown?;
    guest::all_ready(vm, &PODS).map(drop)
}

fn is_refused(session: &mut Session) -> Result<()> {
    let why = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    session.vm.eventually("it is said why", POD, |vm| {
        let events = vm.ok("kubelet events")?;
        ensure!(events.contains(why), "{events}");
        Ok(())
    })
}

fn are_isolated(session: &mut Session) -> Result<()> {
    let mut names = PODS.to_vec();
    names.push("default/own-node");
    let pods = guest::all_ready(&mut session.vm, &names)?;
    let dir = pods.get("default/own-node").context("no such pod")?;
    let dir = format!("{PODS_DIR}/{}", dir.uid());
    let vm = &mut session.vm;
    let (pid, first) = root_of(vm, "4242")?;
    ensure!(first >= 65_536 && first % 65_536 == 0, "{first}");
    let said = format!("{dir}/volumes/kubernetes.io~empty-dir/data/said");
    let words = vm.ok(&format!("cat {said}"))?;
    let words: Vec<&str> = words.split_whitespace().collect();
    let number = first.to_string();
    ensure!(
        words == ["0", "open-sesame", "0", "0", &number, "65536"],
        "{words:?}"
    );
    // On the disk the file belongs to the id that the pod sees.
    let owner = vm.ok(&format!("stat -c %u:%g {said}"))?;
    ensure!(owner == "0:0", "{owner}");
    let one = format!(r#"[{{"hostId":{first},"containerId":0,"length":65536}}]"#);
    let whole = format!(r#"{{"uidMappings":{one},"gidMappings":{one}}}"#);
    let kept = vm.ok(&format!("cat {dir}/userns"))?;
    ensure!(kept == whole, "{kept}");

    // Torn: containerd says what it was, before another pod gets any.
    vm.ok(&format!(
        "systemctl stop kubelet && echo '{{' >{dir}/userns && systemctl start kubelet"
    ))?;
    guest::active(vm)?;
    put_private(session, "other", &own("other", "4343"))?;
    names.push("default/other-node");
    guest::all_ready(&mut session.vm, &names)?;
    let vm = &mut session.vm;
    let (_, second) = root_of(vm, "4343")?;
    ensure!(first.abs_diff(second) >= 65_536, "{first} and {second}");
    ensure!(root_of(vm, "4242")? == (pid.clone(), first), "it runs on");
    let kept = vm.ok(&format!("cat {dir}/userns"))?;
    ensure!(kept == whole, "{kept}");
    vm.ok(&format!("kill -9 {pid}"))?;
    vm.eventually("it was started again", POD, |vm| {
        let (again, ids) = root_of(vm, "4242")?;
        ensure!(again != pid && ids == first, "{again}: {ids}");
        Ok(())
    })?;
    session.vm.ok(&format!("rm {MANIFESTS}/other.yaml"))?;
    names.pop();
    guest::all_ready(&mut session.vm, &names)?;
    has_ids_of_the_user(session, &names)
}

/// With a user `kubelet` its subordinate ids are for pods; who has others keeps them.
fn has_ids_of_the_user(session: &mut Session, names: &[&str]) -> Result<()> {
    let vm = &mut session.vm;
    let (pid, first) = root_of(vm, "4242")?;
    vm.ok(
        "cp -p /etc/passwd /root/ && echo 'kubelet:x:999:999::/:/bin/false' >>/etc/passwd && \
         printf '#!/bin/sh\\necho \"0: kubelet 2147483648 7208960\"\\n' >/usr/local/bin/getsubids && \
         chmod 755 /usr/local/bin/getsubids && systemctl restart kubelet",
    )?;
    let shown = guest::active(vm).and_then(|()| {
        put_private(session, "other", &own("other", "4343"))?;
        let all = [names, &["default/other-node"]].concat();
        guest::all_ready(&mut session.vm, &all)?;
        let vm = &mut session.vm;
        let (_, ids) = root_of(vm, "4343")?;
        let own = 1 << 31..(1 << 31) + 7_208_960;
        ensure!(own.contains(&ids), "{ids}");
        ensure!(root_of(vm, "4242")? == (pid, first), "it runs on");
        Ok(())
    });
    let vm = &mut session.vm;
    vm.ok(
        "mv /root/passwd /etc/passwd && rm /usr/local/bin/getsubids && systemctl restart kubelet",
    )?;
    shown?;
    guest::active(vm)
}

/// Fills a volume beyond its limit with a file that nobody can find.
const HIDE: &str = "exec 3>/data/large; dd if=/dev/zero bs=1M count=12 >&3; rm /data/large; echo done >/data/done; exec sleep 4444";

fn hides() -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: hides}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, '{HIDE}']
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, emptyDir: {{sizeLimit: 4Mi}}}}]
"
    )
}

/// Makes a file system that counts projects, for a machine that has no program for it.
pub(super) fn counted(directory: &Path) -> Result<(String, PathBuf)> {
    let image = directory.join(COUNTED);
    let file = File::create(&image).context("make the file system")?;
    file.set_len(COUNTED_MIB << 20).context("size it")?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "quota,project"])
        .arg(&image)
        .status()
        .context("run mkfs.ext4")?;
    ensure!(made.success(), "mkfs.ext4: {made}");
    Ok((COUNTED.to_owned(), image))
}

/// Has the agent's pods lie on the file system that counts, or on the root's again.
fn move_pods(vm: &mut Machine, to_counted: bool) -> Result<()> {
    vm.ok("systemctl stop kubelet")?;
    match to_counted {
        true => vm.ok(&format!(
            "cp /in/{COUNTED} /root/ && mkdir -p /root/pods && mount -o loop,prjquota /root/{COUNTED} /root/pods && \
             cp -a {PODS_DIR}/. /root/pods/ && umount /root/pods && mount -o loop,prjquota /root/{COUNTED} {PODS_DIR} && \
             cp -p {CONFIG} {GOOD_CONFIG} && \
             echo 'featureGates: {{{GATE}: true}}' >>{CONFIG}"
        ))?,
        false => vm.ok(&format!(
            "cp -p {GOOD_CONFIG} {CONFIG}; ! mountpoint -q {PODS_DIR} || umount {PODS_DIR}; rm -rf /root/{COUNTED}"
        ))?,
    };
    vm.ok("systemctl start kubelet")?;
    guest::active(vm)
}

pub(super) fn a_volume_is_counted_by_the_kernel(session: &mut Session) -> Result<()> {
    if session.system != System::DebianTesting {
        return Ok(());
    }
    session.ends_nothing(|session| {
        move_pods(&mut session.vm, true)?;
        let counted = is_counted(session);
        let vm = &mut session.vm;
        vm.ok(&format!("rm -f {MANIFESTS}/hides.yaml"))?;
        guest::all_ready(vm, &PODS)?;
        counted?;
        is_given_back(vm)?;
        is_evicted(vm)?;
        move_pods(vm, false)
    })
}

fn is_given_back(vm: &mut Machine) -> Result<()> {
    vm.eventually("its project is given back", POD, |vm| {
        let left = vm.ok("cat /etc/projects /etc/projid")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// The same of a pod of an API server, which does not stay.
fn is_evicted(vm: &mut Machine) -> Result<()> {
    let more = serde_json::json!({
        "settings": { "featureGates": { GATE: true } },
        "spec": {
            "hostUsers": false,
            "containers": [{
                "name": "main", "image": "busybox:1.36", "command": ["sh", "-c", HIDE],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "emptyDir": { "sizeLimit": "4Mi" } }],
        },
    });
    joining::join(vm, Some(&more.to_string()))?;
    vm.eventually("it is evicted", POD, |vm| {
        let said = vm.ok("journalctl -u kubelet REASON=Evicted -o cat --no-pager")?;
        let why = ["Usage of EmptyDir volume", "exceeds the limit"];
        ensure!(why.iter().all(|why| said.contains(why)), "{said}");
        Ok(())
    })?;
    is_given_back(vm)?;
    joining::leave(vm)?;
    guest::all_ready(vm, &PODS)?;
    vm.ok("systemctl stop cluster").map(drop)
}

fn is_counted(session: &mut Session) -> Result<()> {
    session.manifest("hides", &hides())?;
    let mut names = PODS.to_vec();
    names.push("default/hides-node");
    let pods = guest::all_ready(&mut session.vm, &names)?;
    let dir = pods.get("default/hides-node").context("no such pod")?;
    let dir = format!(
        "{PODS_DIR}/{}/volumes/kubernetes.io~empty-dir/data",
        dir.uid()
    );
    let vm = &mut session.vm;
    vm.eventually("the file is hidden", POD, |vm| {
        let files = vm.ok(&format!("ls {dir}"))?;
        ensure!(files == "done", "{files}");
        Ok(())
    })?;
    let lines = vm.ok("cat /etc/projects /etc/projid")?;
    ensure!(
        lines == format!("1048577:{dir}\nvolume1048577:1048577"),
        "{lines}"
    );
    passes_its_limit(vm)?;
    let found = vm.ok(&format!("du -sk {dir}"))?;
    let found: u64 = found
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()?;
    ensure!(found < 1024, "a walk finds {found} KiB");
    // The next agent knows it too, and says so anew.
    vm.ok("systemctl restart kubelet")?;
    guest::active(vm)?;
    passes_its_limit(vm)
}

fn passes_its_limit(vm: &mut Machine) -> Result<()> {
    vm.eventually("its limit is passed", POD, |vm| {
        let events = vm.ok("kubelet events")?;
        let told = events
            .lines()
            .any(|line| line.contains("LocalStorageLimitExceeded") && line.contains("hides"));
        ensure!(told, "{events}");
        Ok(())
    })
}
