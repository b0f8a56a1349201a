//! The machine goes down, in order and not, and every pod is back afterwards.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tests::vm::guest;

use super::{NOTES, PODS, Session};

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
