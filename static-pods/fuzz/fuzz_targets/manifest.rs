//! Any bytes as a manifest: reading them neither panics nor hangs, and what it says of them can be shown.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use static_pods::identity::{NodeName, is_path_component};
use static_pods::manifest::Reading;
use static_pods::object::Objects;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("/etc/kubernetes/manifests/fuzz.yaml");
    let node = NodeName::new("node");
    let reading = Reading {
        objects: &Objects::On,
        ..Reading::new(&node)
    };
    let manifest = reading.read(path, bytes);
    for object in &manifest.objects {
        assert!(!object.key.name.is_empty() && !object.key.namespace.is_empty());
    }
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
