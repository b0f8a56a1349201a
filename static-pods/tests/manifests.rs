//! Manifests that must be taken, with the pods they give, and manifests that must be refused, with the exact words.
//!
//! `objects/` is likewise of ConfigMaps and Secrets on a node where these are taken, from files that anybody may read.
//! `accepts/<case>.yaml` gives `accepts/<case>.json`; `rejects/<family>/<case>.yaml` gives the lines of
//! `rejects/<family>/<case>.txt`. With `BLESS=1` in the environment both are written instead of compared; read the
//! difference before it is committed. `uids/` is never written: a changed UID replaces running pods on every node.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where it stands, in its functions without #[test] too"
)]

use std::fs;
use std::path::{Path, PathBuf};

use static_pods::identity::NodeName;
use static_pods::manifest::{Manifest, Reading, read_manifest};
use static_pods::object::{Access, Objects};

fn house(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(part)
}

/// All manifests beneath `directory`, sorted.
fn manifests(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(manifests(&path));
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> Manifest {
    let name = Path::new(path.file_name().unwrap());
    read_manifest(name, &fs::read(path).unwrap(), &NodeName::new("node"))
}

/// Compares, or writes; the difference as text.
fn golden(path: &Path, found: &str) -> Option<String> {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, found).unwrap();
        return None;
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    (wanted != found).then(|| format!("{}\n--- wanted\n{wanted}--- found\n{found}", path.display()))
}

#[test]
fn accepted_manifests_give_their_pods() {
    let mut wrong = Vec::new();
    let cases = manifests(&house("accepts"));
    assert!(cases.len() >= 20);
    for path in cases {
        let manifest = read(&path);
        assert_eq!(manifest.problems, [], "{}", path.display());
        let pods: Vec<_> = manifest.pods.iter().map(|p| &*p.pod).collect();
        let warnings: Vec<_> = manifest.warnings.iter().map(ToString::to_string).collect();
        let found = serde_json::json!({ "pods": pods, "warnings": warnings });
        let found = serde_json::to_string_pretty(&found).unwrap() + "\n";
        wrong.extend(golden(&path.with_extension("json"), &found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refused_manifests_are_told_why() {
    let mut wrong = Vec::new();
    let cases = manifests(&house("rejects"));
    assert!(cases.len() >= 70);
    for path in cases {
        let manifest = read(&path);
        assert!(manifest.pods.is_empty(), "{}", path.display());
        assert!(!manifest.problems.is_empty(), "{}", path.display());
        let found: String = manifest.problems.iter().map(|p| format!("{p}\n")).collect();
        wrong.extend(golden(&path.with_extension("txt"), &found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refused_objects_are_told_why() {
    let mut wrong = Vec::new();
    let node = NodeName::new("node");
    let access = Some(Access {
        owner: 0,
        mode: 0o644,
    });
    let cases = manifests(&house("objects"));
    assert!(cases.len() >= 9);
    for path in cases {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let reading = Reading {
            objects: &Objects::On,
            access: access.filter(|_| name == "open"),
            ..Reading::new(&node)
        };
        let file = Path::new(path.file_name().unwrap());
        let manifest = reading.read(file, &fs::read(&path).unwrap());
        assert!(manifest.is_empty(), "{name}");
        let found: String = manifest.problems.iter().map(|p| format!("{p}\n")).collect();
        wrong.extend(golden(&path.with_extension("txt"), &found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn uids_never_change() {
    let bytes = fs::read(house("uids/manifests.yaml")).unwrap();
    let file = Path::new("/etc/kubernetes/manifests/manifests.yaml");
    let manifest = read_manifest(file, &bytes, &NodeName::new("node"));
    assert_eq!(manifest.problems, []);
    let line = |p: &static_pods::manifest::StaticPod| format!("{} {}\n", p.uid(), p.key());
    let found: String = manifest.pods.iter().map(line).collect();
    let wanted = fs::read_to_string(house("uids/uids.txt")).unwrap();
    assert_eq!(wanted.lines().count(), 20);
    assert_eq!(found, wanted);
}
