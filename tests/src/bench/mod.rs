//! What the agent costs and how quick it is, beside the best that bare CRI calls reach on the same containerd.
//!
//! Owns: what is measured and how. Inputs: a private node, kubelets as processes. Outputs: [`report::Report`], as a
//! table, JSON and a picture. Tasks: one follows containerd's events ([`events`]).
//! Does not: assert anything. Absolute figures drift with the machine; the ratios of one run hold.

pub mod chart;
pub mod crowd;
pub mod events;
pub mod floor;
pub mod probes;
pub mod process;
pub mod report;
pub mod run;
pub mod sample;
pub mod scrapes;
pub mod subject;
pub mod writers;

use crate::images::BUSYBOX;

/// What every measured container runs: nothing, until it is told to stop.
pub const COMMAND: [&str; 3] = [
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done",
];

/// The manifest of one measured pod.
#[must_use]
pub fn manifest(name: &str) -> String {
    let [shell, flag, script] = COMMAND;
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 2\n  \
         containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [{shell}, {flag}, \"{script}\"]\n"
    )
}
