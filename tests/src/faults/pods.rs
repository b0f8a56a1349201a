//! The pods that the faults are tried on: what their manifests say, and therefore what has to run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::agent::NODE_NAME;
use crate::images;

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The manifest's file; the same pod in another file is another pod of the same name.
    pub file: String,
    /// Differs from one edit to the next.
    pub version: u32,
    /// How many containers.
    pub containers: usize,
    /// Does not heed SIGTERM: stopping takes all of its grace period.
    pub stubborn: bool,
}

impl Wanted {
    /// A pod of one container.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            file: format!("{name}.yaml"),
            version: 1,
            containers: 1,
            stubborn: false,
        }
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self, name: &str) -> String {
        let (image, version) = (images::BUSYBOX, self.version);
        let trap = if self.stubborn { "" } else { "exit 0" };
        let mut text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             volumes: [{{name: scratch, emptyDir: {{}}}}]\n  containers:\n"
        );
        for container in self.names() {
            text.push_str(&format!(
                "  - name: {container}\n    image: {image}\n    imagePullPolicy: IfNotPresent\n    \
                 env: [{{name: VERSION, value: \"{version}\"}}]\n    \
                 volumeMounts: [{{name: scratch, mountPath: /scratch}}]\n    \
                 lifecycle: {{postStart: {{exec: {{command: ['true']}}}}, preStop: {{exec: {{command: ['true']}}}}}}\n    \
                 command: [sh, -c, \"trap '{trap}' TERM; while :; do sleep 100000 & wait; done\"]\n"
            ));
        }
        text
    }

    /// The names of its containers.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.containers).map(|number| format!("c{number}"))
    }

    /// The name that the pod gets on the node.
    #[must_use]
    pub fn full_name(name: &str) -> String {
        format!("{name}-{NODE_NAME}")
    }

    /// Whether `pod` is what this manifest makes, rather than an earlier one of the same name.
    #[must_use]
    pub fn is(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else {
            return false;
        };
        let version = self.version.to_string();
        spec.containers.len() == self.containers
            && spec.containers.iter().all(|container| {
                let mut env = container.env.iter().flatten();
                env.any(|e| e.name == "VERSION" && e.value.as_ref() == Some(&version))
            })
    }
}

/// The pods wanted, by the name in their manifest.
pub type Pods = BTreeMap<String, Wanted>;
