//! The unit: what systemd thinks of it, what it tells, and what it does with a configuration that is wrong.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::vm::guest;
use tests::vm::machine::COMMAND;

use super::{CONFIG, GOOD_CONFIG, Session};

pub(super) fn unit_is_as_systemd_wants_it(session: &mut Session) -> Result<()> {
    let vm = &mut session.vm;
    let said = vm.run("systemd-analyze verify kubelet.service", COMMAND)?;
    ensure!(
        said.status == 0 && said.text.is_empty(),
        "systemd-analyze verify: {said:?}"
    );
    let security = vm.ok("systemd-analyze security --no-pager kubelet.service | tail -n 1")?;
    println!("{}: {security}", session.system);
    ensure!(security.contains("exposure level"), "{security}");
    for (property, want) in [
        ("Type", "notify"),
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("Restart", "always"),
        ("UnitFileState", "enabled"),
    ] {
        let found = guest::unit(vm, property)?;
        ensure!(found == want, "{property} is {found}");
    }
    let watchdog = guest::unit(vm, "WatchdogUSec")?;
    ensure!(
        !["0", "infinity", ""].contains(&watchdog.as_str()),
        "WatchdogUSec is {watchdog:?}"
    );
    let after = guest::unit(vm, "After")?;
    ensure!(after.contains("containerd.service"), "After is {after}");
    let binds = guest::unit(vm, "BindsTo")?;
    ensure!(binds.is_empty(), "BindsTo is {binds}");
    Ok(())
}

pub(super) fn status_and_journal_can_be_read(session: &mut Session) -> Result<()> {
    let vm = &mut session.vm;
    let line = guest::unit(vm, "StatusText")?;
    println!("{}: Status: {line}", session.system);
    ensure!(!line.is_empty(), "no STATUS");
    let status = vm.ok("systemctl status --no-pager kubelet")?;
    ensure!(status.contains(&line), "{status}");

    // Of each pod's start there is an entry with fields to search for.
    let entries = vm.ok(
        "journalctl -u kubelet -o json --no-pager POD=hooked-node NAMESPACE=default CONTAINER=main",
    )?;
    let first = entries.lines().next().context("no entry with the fields")?;
    let entry: serde_json::Value = serde_json::from_str(first).context("a journal entry")?;
    for field in ["MESSAGE", "MESSAGE_ID", "PRIORITY"] {
        let value = entry[field].as_str().unwrap_or_default();
        ensure!(!value.is_empty(), "no {field} in {entry}");
    }
    Ok(())
}

pub(super) fn reload_reads_what_can_be_read_anew(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let vm = &mut session.vm;
        let before = guest::unit(vm, "MainPID")?;
        vm.ok(&format!("cp -p {CONFIG} {GOOD_CONFIG}"))?;
        vm.ok(&format!(
            "sed -i '/^maxPods:/d' {CONFIG}; echo 'maxPods: 57' >>{CONFIG}"
        ))?;
        let cursor =
            vm.ok("journalctl -u kubelet -n 1 --show-cursor | sed -n 's/^-- cursor: //p'")?;
        vm.ok("systemctl reload kubelet")?;
        vm.eventually("maxPods is named", Duration::from_secs(30), |vm| {
            let said = vm.ok(&format!(
                "journalctl -u kubelet --no-pager -o cat --after-cursor='{cursor}'"
            ))?;
            ensure!(said.contains("maxPods"), "since the reload: {said}");
            Ok(())
        })?;
        guest::active(vm)?;
        vm.ok(&format!("cp -p {GOOD_CONFIG} {CONFIG}"))?;
        vm.ok("systemctl reload kubelet")?;
        let after = guest::unit(vm, "MainPID")?;
        ensure!(before == after, "the process changed");
        Ok(())
    })
}

pub(super) fn a_wrong_configuration_shows_in_the_status(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let vm = &mut session.vm;
        vm.ok(&format!("cp -p {CONFIG} {GOOD_CONFIG}"))?;
        vm.ok(&format!(
            "echo 'imageGCHighThresholdPercent: 101' >>{CONFIG}"
        ))?;
        let restart = vm.run("systemctl restart kubelet", COMMAND)?;
        ensure!(restart.status != 0, "systemctl restart said nothing");
        let status = vm.run("systemctl status -l --no-pager kubelet", COMMAND)?;
        ensure!(
            status.text.contains("imageGCHighThresholdPercent"),
            "{}",
            status.text
        );
        ensure!(status.text.contains("status=78"), "{}", status.text);
        vm.ok(&format!("cp -p {GOOD_CONFIG} {CONFIG}"))?;
        // By itself, with its next try.
        guest::active(vm)
    })
}

/// Takes the watchdog's time, and so is not part of what decides whether a change lands.
pub(super) fn a_hung_agent_is_killed_and_its_pods_are_not(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let vm = &mut session.vm;
        let before = guest::unit(vm, "MainPID")?;
        vm.ok(&format!("kill -STOP {before}"))?;
        let limit = Duration::from_secs(240);
        vm.eventually("the watchdog bites", limit, |vm| {
            let now = guest::unit(vm, "MainPID")?;
            ensure!(now != before && now != "0", "MainPID is {now}");
            Ok(())
        })?;
        guest::active(vm)
    })
}
