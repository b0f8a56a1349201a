//! The machine goes down, in order and not, and every pod is back afterwards.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tests::vm::guest::{self, MANIFESTS};

use super::{CONFIG, GOOD_CONFIG, NOTES, PODS, Session};

pub(super) fn a_reboot_runs_pre_stop_hooks_and_brings_every_pod_back(
    session: &mut Session,
) -> Result<()> {
    let vm = &mut session.vm;
    let inhibitors = vm.ok("systemd-inhibit --list --no-pager")?;
    let ours = inhibitors
        .lines()
        .find(|line| line.contains("kubelet"))
        .unwrap_or_default();
    ensure!(
        ours.contains("shutdown") && ours.contains("delay"),
        "{inhibitors}"
    );
    vm.ok(&format!("rm -f {NOTES}/hooked"))?;
    let before = ids(session)?;
    session.vm.reboot()?;
    all_back(session, &before)?;
    let hooks = session.vm.ok(&format!("cat {NOTES}/hooked"))?;
    ensure!(hooks == "stopped\nstarted", "hooks that ran: {hooks:?}");
    // As the other scenarios expect it.
    session
        .vm
        .ok(&format!("echo started >{NOTES}/hooked"))
        .map(drop)
}

pub(super) fn a_power_cut_brings_every_pod_back(session: &mut Session) -> Result<()> {
    let before = ids(session)?;
    session.vm.cut_power()?;
    session.vm.power_on()?;
    all_back(session, &before)
}

/// A pod of that priority, whose last words take `seconds`.
fn with_last_words(name: &str, priority: i32, seconds: u32) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  priority: {priority}
  containers:
  - name: main
    image: busybox:1.36
    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done']
    lifecycle:
      preStop: {{exec: {{command: [sh, -c, 'sleep {seconds}; echo {name} >>/notes/order; sync']}}}}
    volumeMounts:
    - {{name: notes, mountPath: /notes}}
  volumes:
  - name: notes
    hostPath: {{path: {NOTES}}}
"
    )
}

pub(super) fn a_reboot_ends_the_lower_priorities_first(session: &mut Session) -> Result<()> {
    session.vm.ok(&format!(
        "cp -p {CONFIG} {GOOD_CONFIG}; rm -f {NOTES}/order"
    ))?;
    session.vm.ok(&format!(
        "sed -i '/^shutdownGracePeriod/d' {CONFIG}; printf '%s\\n' 'shutdownGracePeriodByPodPriority:' \
         '- {{priority: 0, shutdownGracePeriodSeconds: 40}}' \
         '- {{priority: 10000, shutdownGracePeriodSeconds: 20}}' >>{CONFIG}"
    ))?;
    session.vm.ok("systemctl restart kubelet")?;
    // The one that is to be the last would be the first by far.
    session.manifest("early", &with_last_words("early", 0, 5))?;
    session.manifest("late", &with_last_words("late", 20_000, 0))?;
    let all = [&PODS[..], &["default/early-node", "default/late-node"]].concat();
    guest::all_ready(&mut session.vm, &all)?;
    session.vm.reboot()?;
    guest::active(&mut session.vm)?;
    guest::all_ready(&mut session.vm, &all)?;
    let order = session.vm.ok(&format!("cat {NOTES}/order"))?;
    ensure!(order == "early\nlate", "{order:?}");
    let vm = &mut session.vm;
    vm.ok(&format!("rm {MANIFESTS}/early.yaml {MANIFESTS}/late.yaml"))?;
    vm.ok(&format!("cp -p {GOOD_CONFIG} {CONFIG}"))?;
    vm.ok("systemctl restart kubelet")?;
    guest::all_ready(vm, &PODS)?;
    vm.ok(&format!("echo started >{NOTES}/hooked")).map(drop)
}

/// The ids of the containers that run.
fn ids(session: &mut Session) -> Result<BTreeSet<String>> {
    let instances = guest::instances(&mut session.vm)?;
    ensure!(instances.len() >= 2 * PODS.len(), "running: {instances:?}");
    let id = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    Ok(instances.iter().map(id).collect())
}

fn all_back(session: &mut Session, before: &BTreeSet<String>) -> Result<()> {
    guest::active(&mut session.vm)?;
    guest::all_ready(&mut session.vm, &PODS)?;
    let after = ids(session)?;
    ensure!(
        after.len() == 2 * PODS.len(),
        "running: {after:?}, of {} pods",
        PODS.len()
    );
    // Nothing outlives a boot: a container of the same id would be one that was never ended.
    let same: Vec<_> = before.intersection(&after).collect();
    ensure!(same.is_empty(), "kept: {same:?}");
    Ok(())
}
