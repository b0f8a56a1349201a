//! What the packaging is tested with: the .deb made of a binary that is already built, and a machine to install it on.
//!
//! [`Machine`] is this very Debian seen through an overlay in mount and PID namespaces of its own: dpkg, its database and
//! the maintainer scripts are the real ones, and nothing that they change is seen outside. systemd is not in it: a
//! `systemctl` of ours writes down what it is asked for.

mod agent;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, anyhow, ensure};

pub use agent::Agent;
pub use machine::Machine;

/// The version of the older package of [`packages`].
pub const OLD: &str = "0.0.9";
/// The version of the newer package of [`packages`].
pub const NEW: &str = "9.0.0-rc.1";
/// Where the agent's configuration is.
pub const CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir).to_owned()
}

/// Packs `binary` as `version` into `directory`, as `make deb` does, and returns the package's path.
///
/// # Errors
/// When the script fails, with what it said.
pub fn pack(binary: &Path, version: &str, directory: &Path) -> Result<PathBuf> {
    let script = repository().join("systemd/package/deb");
    let output = Command::new(&script)
        .args(["--quick", "--binary"])
        .arg(binary)
        .args(["--version", version])
        .arg("--output")
        .arg(directory)
        .output()
        .with_context(|| format!("run {}", script.display()))?;
    ensure!(
        output.status.success(),
        "{} {}: {}",
        script.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8(output.stdout).context("the path of the package")?;
    Ok(said.trim().into())
}

static PACKAGES: LazyLock<Result<(PathBuf, PathBuf), String>> = LazyLock::new(|| {
    let packed = || -> Result<_> {
        let directory = crate::target_dir()?.join("package-tests");
        let binary = crate::release_binary()?;
        Ok((
            pack(&binary, OLD, &directory)?,
            pack(&binary, NEW, &directory)?,
        ))
    };
    packed().map_err(|error| format!("{error:#}"))
});

/// The package of [`crate::release_binary`] as [`OLD`] and as [`NEW`], packed once a process.
///
/// # Errors
/// As [`pack`].
pub fn packages() -> Result<&'static (PathBuf, PathBuf)> {
    PACKAGES.as_ref().map_err(|error| anyhow!("{error}"))
}

/// A machine with this package on it, and what dpkg said.
///
/// # Errors
/// When there is no machine, or the installation fails.
pub fn installed(deb: &Path) -> Result<(Machine, String)> {
    let machine = Machine::start()?;
    let path = machine.share(deb)?;
    let said = machine.run(&format!("dpkg -i {path}"))?;
    Ok((machine, said))
}
