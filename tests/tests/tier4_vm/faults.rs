//! The fault harness once, on a real system's kernel, runtime and cgroup v2.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Session, built};

/// The test program with the harness.
const PROGRAM: &str = "tier3_faults-";
/// A minute of the schedule, and what it takes to settle on an emulated processor.
const LIMIT: Duration = Duration::from_secs(2400);

/// What it needs in the machine: the test program, and the agent beside it as in a target directory.
pub(super) fn files() -> Result<Vec<(String, PathBuf)>> {
    let deps = built("deps")?;
    let mut newest = None;
    for entry in fs::read_dir(&deps).context("look for the fault harness")? {
        let entry = entry.context("look for the fault harness")?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PROGRAM) && !name.contains('.') {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            newest = newest.max(Some((modified.context("age of a program")?, entry.path())));
        }
    }
    let (_, program) = newest.context("no fault harness: cargo build --workspace --tests")?;
    Ok(vec![
        ("target/debug/deps/faults".to_owned(), program),
        ("target/debug/kubelet".to_owned(), built("kubelet")?),
    ])
}

pub(super) fn the_fault_harness_runs_here(session: &mut Session) -> Result<()> {
    session
        .vm
        .ok_within(
            LIMIT,
            "cd /in/target/debug && FAULTS_PATIENCE=5 SOAK_SECONDS=60 deps/faults a_seeded_schedule --nocapture",
        )
        .map(drop)
}
