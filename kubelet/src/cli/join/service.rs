//! kubelet.service, where systemd runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// There where systemd is the init system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
const UNIT: &str = "kubelet.service";
/// Where drop-ins of units are; the one of kubeadm's package has this name too.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const DROP_IN: &str = "kubelet.service.d/10-kubeadm.conf";
/// What makes the unit a node of a cluster's. Of the rest the unit has what kubeadm's drop-in has.
pub(super) const DROP_IN_TEXT: &str = "# Written by kubelet join; kubelet leave takes it away.\n[Service]\n\
    Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf\"\n";

/// How the service was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    active: bool,
    enabled: bool,
}

impl Before {
    /// Whether it ran.
    pub(super) fn was_active(self) -> bool {
        self.active
    }
}

/// Whether there is systemd.
pub(super) fn systemd_runs() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Whether there is the unit.
pub(super) fn is_installed() -> bool {
    is("cat")
}

/// How the service is.
pub(super) fn now() -> Before {
    // One that fails and is tried again counts as one that is wanted.
    Before {
        active: is("is-active") || shown("ActiveState") == "activating",
        enabled: is("is-enabled"),
    }
}

/// Where the drop-in goes; none where one is there.
pub(super) fn drop_in() -> Option<PathBuf> {
    let places = UNIT_DIRECTORIES.map(|directory| Path::new(directory).join(DROP_IN));
    let missing = places.iter().all(|place| !place.exists());
    missing.then(|| places[0].clone())
}

/// Enables the service and starts it anew, with whatever is in its files now.
///
/// # Errors
/// When systemd does not.
pub(super) fn start() -> Result<(), Failure> {
    call(&["daemon-reload"])?;
    call(&["enable", UNIT])?;
    call(&["restart", "--no-block", UNIT])
}

/// Ends the agent.
///
/// # Errors
/// When systemd does not.
pub(super) fn stop() -> Result<(), Failure> {
    call(&["stop", UNIT])
}

/// Has the service be as it was.
///
/// # Errors
/// When systemd does not.
pub(super) fn restore(before: Before) -> Result<(), Failure> {
    call(&["daemon-reload"])?;
    if !before.enabled {
        call(&["disable", UNIT])?;
    }
    match before.active {
        true => call(&["restart", "--no-block", UNIT]),
        false => stop(),
    }
}

fn is(verb: &str) -> bool {
    let mut command = Command::new("systemctl");
    let command = command.args([verb, UNIT]).stdin(Stdio::null());
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn shown(property: &str) -> String {
    let mut command = Command::new("systemctl");
    let command = command.args(["show", "--value", "--property", property, UNIT]);
    let text = command.output().map(|done| done.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn call(arguments: &[&str]) -> Result<(), Failure> {
    let failed = |why: String| Failure::Service {
        call: arguments.join(" "),
        why,
    };
    let mut command = Command::new("systemctl");
    let done = command.args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|error| failed(error.to_string()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        )),
    }
}
