//! The package: what is in it, and the scripts that are beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::package::{self, OLD, packages};

/// What a command of the host prints.
fn output(program: &str, arguments: &[&str], path: &Path) -> Result<String> {
    let output = Command::new(program).args(arguments).arg(path).output()?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Paths in the package, with their modes as `ls` writes them and their owners.
fn contents(deb: &Path) -> Result<BTreeMap<String, (String, String)>> {
    let list = output("dpkg-deb", &["--contents"], deb)?;
    let lines = list.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words[5].trim_start_matches('.').to_owned();
        (path, (words[0].to_owned(), words[1].to_owned()))
    });
    Ok(lines.collect())
}

#[test]
fn the_package_has_what_it_should_where_upstream_has_it() -> Result<()> {
    let (deb, _) = packages()?;
    let contents = contents(deb)?;
    for (path, mode) in [
        ("/usr/bin/kubelet", "-rwxr-xr-x"),
        ("/usr/lib/systemd/system/kubelet.service", "-rw-------"),
        ("/usr/lib/tmpfiles.d/kubelet.conf", "-rw-r--r--"),
        ("/usr/share/kubelet/node-config", "-rwxr-xr-x"),
        ("/usr/share/kubelet/stop-pods", "-rwxr-xr-x"),
        ("/usr/share/kubelet/10-bridge.conflist", "-rw-r--r--"),
        ("/etc/default/kubelet", "-rw-r--r--"),
        ("/etc/kubernetes/manifests/", "drwx------"),
        ("/usr/share/doc/kubelet/copyright", "-rw-r--r--"),
        ("/usr/share/doc/kubelet/changelog.gz", "-rw-r--r--"),
        (
            "/usr/share/doc/kubelet/examples/10-kubeadm.conf",
            "-rw-r--r--",
        ),
        ("/usr/share/man/man8/kubelet.8.gz", "-rw-r--r--"),
        ("/usr/share/man/man8/kubelet-status.8.gz", "-rw-r--r--"),
        ("/usr/share/man/man8/kubelet-get-pods.8.gz", "-rw-r--r--"),
        ("/usr/share/man/man8/kubelet-logs.8.gz", "-rw-r--r--"),
        ("/usr/share/man/man8/kubelet-top-pods.8.gz", "-rw-r--r--"),
        (
            "/usr/share/bash-completion/completions/kubelet",
            "-rw-r--r--",
        ),
        ("/usr/share/zsh/vendor-completions/_kubelet", "-rw-r--r--"),
    ] {
        let found = contents
            .get(path)
            .with_context(|| format!("no {path}: {contents:?}"))?;
        assert_eq!(found.0, mode, "{path}");
    }
    // What README.md names in docs/, at the place that it names.
    let readme = include_str!("../../README.md");
    let links = readme.split("](").skip(1);
    let pages =
        links.filter_map(|rest| rest.split(')').next().filter(|to| to.starts_with("docs/")));
    let pages: Vec<_> = pages
        .map(|page| format!("/usr/share/doc/kubelet/{page}"))
        .collect();
    assert!(!pages.is_empty());
    for page in pages {
        assert!(contents.contains_key(&page), "no {page}");
    }
    for (path, (_, owner)) in &contents {
        assert_eq!(owner, "root/root", "{path}");
        // The configuration is made for the machine; kubeadm's drop-in is in kubeadm's package.
        assert!(!path.starts_with("/var/"), "{path}");
        assert!(!path.contains("/system/kubelet.service.d"), "{path}");
    }
    let field = |name: &str| -> Result<String> {
        let text = output(
            "dpkg-deb",
            &["--show", &format!("--showformat=${{{name}}}")],
            deb,
        )?;
        Ok(text.trim().to_owned())
    };
    assert_eq!(field("Package")?, "kubelet");
    assert_eq!(field("Version")?, format!("1:{OLD}"));
    let depends = field("Depends")?;
    assert!(
        depends.starts_with("containerd | containerd.io | cri-o,"),
        "{depends}"
    );
    let conffiles = output("dpkg-deb", &["--info"], deb)?;
    assert!(conffiles.contains("conffiles"), "{conffiles}");
    Ok(())
}

#[test]
fn versions_are_in_the_order_that_upgrades_go_by() -> Result<()> {
    let (old, new) = packages()?;
    let version = |deb| output("dpkg-deb", &["--show", "--showformat=${Version}"], deb);
    let (old, new) = (version(old)?, version(new)?);
    let less = |a: &str, b: &str| {
        let status = Command::new("dpkg")
            .args(["--compare-versions", a, "lt", b])
            .status();
        status.is_ok_and(|status| status.success())
    };
    assert!(less(&old, &new), "{old} {new}");
    assert!(
        less(&new, "1:9.0.0"),
        "a candidate comes before its release: {new}"
    );
    assert!(
        less("1.36.2-1.1", &old),
        "upstream's is not an upgrade of ours"
    );
    Ok(())
}

#[test]
fn the_same_input_makes_the_same_package() -> Result<()> {
    let (deb, _) = packages()?;
    let directory = tempfile::tempdir()?;
    let again = package::pack(&tests::release_binary()?, OLD, directory.path())?;
    assert!(std::fs::read(deb)? == std::fs::read(again)?);
    Ok(())
}

#[test]
fn shells_and_shellcheck_have_nothing_to_say_of_the_scripts() -> Result<()> {
    let systemd = package::repository().join("systemd");
    let of_nodes = [
        "node-config",
        "stop-pods",
        "install.sh",
        "package/postinst",
        "package/prerm",
        "package/postrm",
    ];
    for script in of_nodes {
        for shell in [&["dash"][..], &["busybox", "sh"]] {
            output(
                shell[0],
                &[&shell[1..], &["-n"]].concat(),
                &systemd.join(script),
            )
            .context(script)?;
        }
    }
    let of_builds = [
        "package/deb",
        "package/dist",
        "package/sbom",
        "package/third-party",
    ];
    for script in of_nodes.iter().chain(&of_builds) {
        let checked = Command::new("shellcheck")
            .arg(systemd.join(script))
            .output()?;
        ensure!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
    }
    Ok(())
}

#[test]
fn the_bill_of_materials_lists_what_is_linked() -> Result<()> {
    let script = package::repository().join("systemd/package/sbom");
    let output = Command::new(script)
        .arg("x86_64-unknown-linux-gnu")
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bill: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["specVersion"], "1.5");
    assert_eq!(bill["metadata"]["component"]["name"], "kubelet");
    let components = bill["components"].as_array().context("components")?;
    let names: Vec<_> = components
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    for linked in [
        "tokio",
        "ring",
        "static-pods",
        "k8s-openapi",
        "hickory-resolver",
        "rust-std",
    ] {
        assert!(names.contains(&linked), "{linked}: {names:?}");
    }
    for other in [
        "proptest",
        "prost-derive",
        "serde_derive",
        "protox",
        "windows-sys",
        "tests",
    ] {
        assert!(!names.contains(&other), "{other} is not in the binary");
    }
    let lock = std::fs::read_to_string(package::repository().join("Cargo.lock"))?;
    for component in components {
        let (name, version) = (&component["name"], &component["version"]);
        assert!(
            component["licenses"][0]["expression"].is_string(),
            "{component}"
        );
        if let Some(sum) = component["hashes"][0]["content"].as_str() {
            assert!(lock.contains(sum), "{component}");
        } else {
            let ours = ["cri-proto", "static-pods", "glibc", "rust-std"];
            assert!(
                ours.iter().any(|o| name == o),
                "{name} {version} has no checksum"
            );
        }
    }
    let references: Vec<_> = components.iter().map(|c| &c["bom-ref"]).collect();
    for dependency in bill["dependencies"].as_array().context("dependencies")? {
        for on in dependency["dependsOn"].as_array().context("dependsOn")? {
            assert!(references.contains(&on), "{dependency}");
        }
    }
    Ok(())
}
