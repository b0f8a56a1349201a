//! Any bytes as a manifest: reading them neither panics nor hangs, and what it says of them can be shown.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use static_pods::identity::{NodeName, is_path_component};
use static_pods::manifest::read_manifest;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("/etc/kubernetes/manifests/fuzz.yaml");
    let manifest = read_manifest(path, bytes, &NodeName::new("node"));
    for pod in &manifest.pods {
        assert!(is_path_component(pod.uid()));
        assert!(pod.key().name.ends_with("-node"));
    }
    for problem in &manifest.problems {
        let line = problem.to_string();
        assert!(line.starts_with("/etc/kubernetes/manifests/fuzz.yaml:"));
        assert!(!problem.problem.message().is_empty());
    }
    for warning in &manifest.warnings {
        assert!(!warning.to_string().is_empty());
    }
});
