//! What is counted of one probe, for `/metrics/probes`.

use std::time::Duration;

use super::spec::{ProbeKey, ProbeKind};
use crate::metrics::{ProbeResult, kubelet};
use crate::pod::{Pod, PodName};

/// The labels of one probe's counts. Dropping it forgets them: they would be there as long as the agent.
pub(super) struct Counts {
    container: String,
    pod: PodName,
    uid: String,
    kind: &'static str,
}

impl Counts {
    pub(super) fn of(pod: &Pod, key: &ProbeKey) -> Self {
        let kind = match key.kind {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        };
        Self {
            container: key.container.to_string(),
            pod: PodName::of(pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            kind,
        }
    }

    /// One answer, which took `nanos`. Upstream times those that passed, and those that nobody gave.
    pub(super) fn count(&self, result: ProbeResult, nanos: i64) {
        kubelet().probes.inc(&self.of_result(result));
        if result != ProbeResult::Failed {
            let took = Duration::from_nanos(nanos.max(0).unsigned_abs());
            kubelet().probe_duration.observe(&self.of_duration(), took);
        }
    }

    fn of_result(&self, result: ProbeResult) -> [&str; 6] {
        [
            &self.container,
            &self.pod.namespace,
            &self.pod.name,
            &self.uid,
            self.kind,
            result.as_str(),
        ]
    }

    fn of_duration(&self) -> [&str; 4] {
        [
            &self.container,
            &self.pod.namespace,
            &self.pod.name,
            self.kind,
        ]
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        for result in ProbeResult::ALL {
            kubelet().probes.forget(&self.of_result(result));
        }
        kubelet().probe_duration.forget(&self.of_duration());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_there_as_long_as_the_probe() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("counted".to_owned());
        pod.metadata.namespace = Some("probes".to_owned());
        pod.metadata.uid = Some("u".to_owned());
        let key = ProbeKey {
            container: "c".into(),
            kind: ProbeKind::Readiness,
        };
        let counts = Counts::of(&pod, &key);
        counts.count(ProbeResult::Successful, 5_000_000);
        counts.count(ProbeResult::Failed, 5_000_000);
        let result = |result| ["c", "probes", "counted", "u", "Readiness", result];
        let duration = ["c", "probes", "counted", "Readiness"];
        assert_eq!(kubelet().probes.get(&result("successful")), 1);
        assert_eq!(kubelet().probes.get(&result("failed")), 1);
        assert_eq!(kubelet().probe_duration.count(&duration), 1);
        drop(counts);
        assert_eq!(kubelet().probes.get(&result("successful")), 0);
        assert_eq!(kubelet().probes.get(&result("failed")), 0);
        assert_eq!(kubelet().probe_duration.count(&duration), 0);
    }
}
