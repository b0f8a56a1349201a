//! What is counted of pods with users of their own, under upstream's names.

use super::instruments::Counter;
use super::text::Exposition;

/// Sandboxes of pods with users of their own.
#[derive(Debug)]
pub struct UserNamespaces {
    /// Those that were asked for.
    pub started: Counter,
    /// Passes over a pod that were to make one, in which something did not start.
    pub errors: Counter,
}

impl UserNamespaces {
    pub(super) const fn new() -> Self {
        Self {
            started: Counter::new(
                "kubelet_started_user_namespaced_pods_total",
                "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
            ),
            errors: Counter::new(
                "kubelet_started_user_namespaced_pods_errors_total",
                "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
            ),
        }
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        self.errors.write(out);
        self.started.write(out);
    }
}
