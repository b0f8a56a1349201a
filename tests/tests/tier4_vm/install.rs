//! The package: installed, upgraded, downgraded, removed, purged.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::images::PAUSE;
use tests::vm::guest;

use super::{CONFIG, GOOD_CONFIG, Session};

/// apt with all that belongs to it, emulated.
const APT: Duration = Duration::from_secs(300);
/// dpkg with maintainer scripts, emulated.
const DPKG: Duration = Duration::from_secs(180);

/// The README's own commands for a VM, in its order, on a machine as Debian leaves it: containerd has no configuration, and
/// pods have no network.
pub(super) fn installs_by_the_readme(session: &mut Session) -> Result<()> {
    let blocks = readme_blocks()?;
    let vm = &mut session.vm;
    vm.ok("ctr -n k8s.io images import /in/images.tar")?;
    vm.ok("rm -r /etc/cni/net.d /etc/containerd && systemctl restart containerd")?;
    let words = || blocks.iter().flat_map(|block| block.split_whitespace());
    let package = words()
        .find(|word| word.starts_with("./kubelet_"))
        .context("README.md installs no ./kubelet_….deb")?;
    vm.ok(&format!("cp /in/kubelet.deb /root/{package}"))?;
    for block in &blocks {
        vm.ok_within(APT, &format!("cd /root && set -e\n{block}"))?;
        if block.contains("/etc/containerd/config.toml") {
            // What the README says of a node without a way to the registry.
            vm.ok(&format!(
                "sed -Ei \"s#^( *sandbox(_image)? = ).*#\\1'{PAUSE}'#\" /etc/containerd/config.toml && \
                 grep -q '{PAUSE}' /etc/containerd/config.toml && systemctl restart containerd"
            ))?;
        }
    }
    guest::active(vm)?;
    let enabled = vm.ok("systemctl is-enabled kubelet")?;
    ensure!(enabled == "enabled", "{enabled}");
    let audit = vm.ok("dpkg --audit")?;
    ensure!(audit.is_empty(), "dpkg --audit: {audit}");
    vm.ok("curl -sS --fail http://127.0.0.1:10248/healthz")?;
    Ok(())
}

/// The indented blocks of README.md's section on VMs.
fn readme_blocks() -> Result<Vec<String>> {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme
        .split_once("\n### On a VM\n")
        .context("README.md has no section on VMs")?;
    let section = section.split("\n### ").next().unwrap_or_default();
    let mut blocks = vec![String::new()];
    for line in section.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(command), Some(block)) => {
                block.push_str(command);
                block.push('\n');
            }
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    ensure!(blocks.len() >= 3, "README.md's section on VMs: {blocks:?}");
    Ok(blocks)
}

/// What the agent's process is: it changes with each start of it.
fn process(session: &mut Session) -> Result<String> {
    let pid = guest::unit(&mut session.vm, "MainPID")?;
    let exe = session.vm.ok(&format!("readlink /proc/{pid}/exe"))?;
    ensure!(exe == "/usr/bin/kubelet", "runs as {exe}");
    Ok(pid)
}

pub(super) fn upgrade_and_downgrade_end_nothing(session: &mut Session) -> Result<()> {
    for (file, version) in [
        ("newer.deb", session.newer.version.clone()),
        ("older.deb", session.older.version.clone()),
    ] {
        session.ends_nothing(|session| {
            let before = process(session)?;
            session.vm.ok_within(DPKG, &format!("dpkg -i /in/{file}"))?;
            guest::active(&mut session.vm)?;
            let after = process(session)?;
            ensure!(before != after, "{file}: the old binary still runs");
            let name = &session.package.name;
            let installed = session
                .vm
                .ok(&format!("dpkg-query -W -f '${{Version}}' {name}"))?;
            ensure!(installed == version, "installed: {installed}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The new binary judges the configuration before the old process stops.
pub(super) fn an_upgrade_that_would_fail_is_not_begun(session: &mut Session) -> Result<()> {
    session.ends_nothing(|session| {
        let before = process(session)?;
        let vm = &mut session.vm;
        vm.ok(&format!("cp -p {CONFIG} {GOOD_CONFIG}"))?;
        vm.ok(&format!(
            "echo 'imageGCHighThresholdPercent: 101' >>{CONFIG}"
        ))?;
        let tried = vm.run("dpkg -i /in/newer.deb", DPKG)?;
        ensure!(tried.status != 0, "dpkg took it: {}", tried.text);
        ensure!(
            tried.text.contains("imageGCHighThresholdPercent"),
            "dpkg does not say why: {}",
            tried.text
        );
        let pid = guest::unit(vm, "MainPID")?;
        ensure!(pid == before, "the old process was stopped");
        vm.ok(&format!("cp -p {GOOD_CONFIG} {CONFIG}"))?;
        // As the package says itself.
        ensure!(tried.text.contains("dpkg --configure"), "{}", tried.text);
        let name = &session.package.name;
        vm.ok_within(DPKG, &format!("dpkg --configure {name}"))?;
        guest::active(vm)?;
        ensure!(process(session)? != before, "the old binary still runs");
        Ok(())
    })
}

pub(super) fn purges_clean(session: &mut Session) -> Result<()> {
    let name = session.package.name.clone();
    let vm = &mut session.vm;
    let before = guest::instances(vm)?;
    ensure!(before.len() >= 2, "running: {before:?}");
    vm.ok_within(DPKG, &format!("dpkg --remove {name}"))?;
    let running = vm.run("pgrep -x kubelet", DPKG)?;
    ensure!(running.status != 0, "still runs: {}", running.text);
    let after = guest::instances(vm)?;
    ensure!(before == after, "before: {before:#?}, after: {after:#?}");
    vm.ok_within(DPKG, &format!("dpkg --purge {name}"))?;
    let after = guest::instances(vm)?;
    ensure!(before == after, "before: {before:#?}, after: {after:#?}");
    let mounts = vm.run("grep -F ' /var/lib/kubelet' /proc/self/mounts", DPKG)?;
    ensure!(mounts.text.is_empty(), "mounts: {}", mounts.text);
    let units = vm.run("systemctl list-unit-files --no-legend 'kubelet*'", DPKG)?;
    ensure!(units.text.is_empty(), "units: {}", units.text);
    let status = vm.run(
        &format!("dpkg-query -W -f '${{db:Status-Status}}' {name}"),
        DPKG,
    )?;
    ensure!(
        status.status != 0 || status.text == "not-installed",
        "dpkg says: {}",
        status.text
    );
    Ok(())
}
