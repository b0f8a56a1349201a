//! The package that is tested, and packages that differ from it in their version and a byte of the binary.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

/// The environment variable with a package's path, for one that `make deb` has not made here.
pub const PACKAGE_VARIABLE: &str = "KUBELET_DEB";
/// Below the target directory, where `make deb` puts it.
const DIRECTORY: &str = "dist";
/// The agent in the package.
const BINARY: &str = "usr/bin/kubelet";

/// A Debian package of the agent.
#[derive(Clone, Debug)]
pub struct Package {
    /// The file.
    pub path: PathBuf,
    /// `Package` in its control file.
    pub name: String,
    /// `Version` in its control file.
    pub version: String,
}

impl Package {
    /// The package of `$KUBELET_DEB`, or the newest one of `make deb`.
    ///
    /// # Errors
    /// When there is none, or it is none.
    pub fn find() -> Result<Self> {
        let path = match std::env::var_os(PACKAGE_VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => newest(&crate::target_dir()?.join(DIRECTORY))?,
        };
        Self::read(path)
    }

    fn read(path: PathBuf) -> Result<Self> {
        let name = field(&path, "Package")?;
        let version = field(&path, "Version")?;
        Ok(Self {
            path,
            name,
            version,
        })
    }

    /// The same package as another version in `dir`, with a binary of other bytes that does the same.
    ///
    /// # Errors
    /// When it cannot be taken apart or put together.
    pub fn as_version(&self, version: &str, dir: &Path) -> Result<Self> {
        let tree = tempfile::tempdir_in(dir).context("a directory for the package")?;
        let tree = tree.path();
        run(Command::new("dpkg-deb").arg("-R").arg(&self.path).arg(tree))?;
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).context("read the package's control file")?;
        let changed: String = text
            .lines()
            .map(|line| match line.strip_prefix("Version:") {
                Some(_) => format!("Version: {version}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        fs::write(&control, changed).context("write the package's control file")?;
        // Behind the end of an ELF file nobody looks.
        OpenOptions::new()
            .append(true)
            .open(tree.join(BINARY))
            .and_then(|mut binary| binary.write_all(version.as_bytes()))
            .context("change the package's binary")?;
        let path = dir.join(format!("{}_{}.deb", self.name, version.replace(':', "%3a")));
        let mut build = Command::new("dpkg-deb");
        build.args(["-Zgzip", "-z1", "--root-owner-group", "-b"]);
        run(build.arg(tree).arg(&path))?;
        Self::read(path)
    }
}

fn newest(dir: &Path) -> Result<PathBuf> {
    let missing = || {
        format!(
            "no package in {}: make deb makes it, {PACKAGE_VARIABLE} names another",
            dir.display()
        )
    };
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).with_context(missing)? {
        let entry = entry.with_context(missing)?;
        if entry.path().extension().is_some_and(|e| e == "deb") {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            found.push((modified.with_context(missing)?, entry.path()));
        }
    }
    let newest = found.into_iter().max().with_context(missing)?;
    Ok(newest.1)
}

fn field(path: &Path, name: &str) -> Result<String> {
    let out = Command::new("dpkg-deb")
        .arg("-f")
        .arg(path)
        .arg(name)
        .output()
        .context("run dpkg-deb")?;
    ensure!(
        out.status.success(),
        "dpkg-deb -f {}: {}",
        path.display(),
        String::from_utf8_lossy(&out.stderr)
    );
    let value = String::from_utf8(out.stdout).context("dpkg-deb's output")?;
    let value = value.trim().to_owned();
    ensure!(!value.is_empty(), "{} has no {name}", path.display());
    Ok(value)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn another_version_is_the_same_package_with_another_binary() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        // dpkg-deb wants it so, whatever the umask.
        fs::set_permissions(tree.join("DEBIAN"), fs::Permissions::from_mode(0o755)).unwrap();
        let control = "Package: probe\nVersion: 1.2\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: none\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join(BINARY), "binary").unwrap();
        let path = dir.path().join("probe.deb");
        run(Command::new("dpkg-deb").arg("-b").arg(&tree).arg(&path)).unwrap();

        let first = Package::read(path).unwrap();
        assert_eq!(
            (first.name.as_str(), first.version.as_str()),
            ("probe", "1.2")
        );
        let second = first.as_version("1.2+more", dir.path()).unwrap();
        assert_eq!(second.version, "1.2+more");
        let out = dir.path().join("out");
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&second.path)
            .arg(&out))
        .unwrap();
        assert_eq!(fs::read(out.join(BINARY)).unwrap(), b"binary1.2+more");
        assert_eq!(newest(dir.path()).unwrap(), second.path);
        assert!(newest(&tree).is_err());
    }
}
