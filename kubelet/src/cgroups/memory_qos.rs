//! What of memory the kernel keeps for whom, and from when on it slows who takes more (feature gate `MemoryQoS`, cgroup
//! v2 alone). Pure.
//!
//! Source: KEP-2570 "Support memory QoS with cgroups v2"; the files are those of the kernel's `cgroup-v2`.

use k8s_openapi::api::core::v1::Container;

use super::resources::{ResourceError, container_memory, pod_requests, qos_class};
use crate::pod::{Pod, QosClass};

/// Memory that the kernel never takes back.
pub(super) const MEMORY_MIN: &str = "memory.min";
/// Memory that the kernel takes back last.
pub(super) const MEMORY_LOW: &str = "memory.low";
/// From here on whoever takes more is slowed, and its memory taken back.
pub(super) const MEMORY_HIGH: &str = "memory.high";

/// How memory is kept and throttled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryQos {
    /// `memoryThrottlingFactor`: how far between request and limit containers are slowed, above 0 and up to 1.
    pub throttling_factor: f64,
    /// `memoryReservationPolicy: TieredReservation`: what pods ask for is kept for them.
    pub reserves: bool,
}

/// What the pods of the node ask for in sum, as the levels of the classes follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassRequests {
    /// Of Burstable pods, thousandths of a cpu.
    pub burstable_cpu_milli: i64,
    /// Of Burstable pods, bytes.
    pub burstable_memory: i64,
    /// Of Guaranteed pods, bytes.
    pub guaranteed_memory: i64,
}

/// What one level keeps; `None` leaves what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// `memory.min`, bytes.
    pub(super) min: Option<i64>,
    /// `memory.low`, bytes.
    pub(super) low: Option<i64>,
}

impl MemoryQos {
    /// The files of a container and their values. `allocatable` is what all pods may have, bytes; `page` the size of a
    /// page.
    ///
    /// # Errors
    /// When a quantity of the container cannot be read.
    pub fn container(
        &self,
        pod: &Pod,
        c: &Container,
        allocatable: i64,
        page: i64,
    ) -> Result<Vec<(&'static str, i64)>, ResourceError> {
        let (request, limit) = container_memory(c)?;
        let mut files = match (self.reserves && request != 0, qos_class(pod)) {
            (true, QosClass::Guaranteed) => vec![(MEMORY_MIN, request)],
            (true, _) => vec![(MEMORY_LOW, request)],
            (false, _) => vec![(MEMORY_MIN, 0), (MEMORY_LOW, 0)],
        };
        let most = if limit != 0 { limit } else { allocatable };
        if request != limit && most > 0 {
            let high = self.high(request, most, page);
            if high > request {
                files.push((MEMORY_HIGH, high));
            }
        }
        Ok(files)
    }

    /// `request` and a part of what lies between it and `most`, in whole pages.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "bytes in the precision that upstream computes them in, so that they are the same"
    )]
    fn high(&self, request: i64, most: i64, page: i64) -> i64 {
        let (request, most, page) = (request as f64, most as f64, page.max(1));
        let between = (most - request) * self.throttling_factor;
        ((request + between).floor() / page as f64) as i64 * page
    }

    /// What the level of a pod keeps.
    ///
    /// # Errors
    /// When a quantity of the pod cannot be read.
    pub(super) fn pod(&self, pod: &Pod) -> Result<Kept, ResourceError> {
        let requests = pod_requests(pod)?;
        let request = requests.get("memory").map_or(0, |amount| amount.value());
        Ok(match (self.reserves && request > 0, qos_class(pod)) {
            (false, _) => Kept::default(),
            (true, QosClass::Guaranteed) => Kept {
                min: Some(request),
                low: None,
            },
            (true, _) => Kept {
                min: None,
                low: Some(request),
            },
        })
    }

    /// What is kept in sum of Guaranteed pods' memory for ever, and of Burstable ones' until there is no other; bytes.
    pub(super) fn kept_in_sum(&self, requests: &ClassRequests) -> (u64, u64) {
        let kept = |bytes: i64| match self.reserves {
            true => u64::try_from(bytes).unwrap_or(0),
            false => 0,
        };
        (
            kept(requests.guaranteed_memory),
            kept(requests.burstable_memory),
        )
    }

    /// What the level of a class keeps; that of Guaranteed pods is the one of all pods, and keeps what those below it do.
    pub(super) fn class(&self, class: QosClass, requests: &ClassRequests) -> Kept {
        let kept = |bytes: i64| Some(if self.reserves { bytes } else { 0 });
        let (guaranteed, burstable) = (requests.guaranteed_memory, requests.burstable_memory);
        match class {
            QosClass::Guaranteed => Kept {
                min: kept(guaranteed.saturating_add(burstable)),
                low: None,
            },
            QosClass::Burstable => Kept {
                min: None,
                low: kept(burstable),
            },
            QosClass::BestEffort => Kept::default(),
        }
    }
}

/// What a class may take of memory at most where a part of what better ones ask for is kept from it (`qosReserved`),
/// bytes; none for the best one, and where nothing would be left: a limit of nothing would end what runs.
pub(super) fn class_limit(
    class: QosClass,
    requests: &ClassRequests,
    allocatable: i64,
    percent: i64,
) -> Option<i64> {
    let part = |bytes: i64| bytes.saturating_mul(percent) / 100;
    let burstable = allocatable.saturating_sub(part(requests.guaranteed_memory));
    let limit = match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some(burstable),
        QosClass::BestEffort => Some(burstable.saturating_sub(part(requests.burstable_memory))),
    };
    limit.filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod;

    const MIB: i64 = 1 << 20;
    const PAGE: i64 = 4096;

    fn of(resources: Value) -> Pod {
        let spec = json!({ "containers": [{ "name": "c", "resources": resources }] });
        serde_json::from_value(json!({ "spec": spec })).unwrap()
    }

    fn files(reserves: bool, factor: f64, resources: Value) -> String {
        let qos = MemoryQos {
            throttling_factor: factor,
            reserves,
        };
        let pod = of(resources);
        let container = &pod::spec(&pod).containers[0];
        let files = qos.container(&pod, container, 1000 * MIB, PAGE).unwrap();
        let shown = files.iter().map(|(file, value)| format!("{file}={value}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn containers_are_slowed_between_request_and_limit() {
        let memory = |request: &str, limit: &str| json!({ "requests": { "memory": request }, "limits": { "memory": limit } });
        for (factor, resources, expected) in [
            // 100 MiB and nine tenths of the other 100 MiB.
            (0.9, memory("100Mi", "200Mi"), Some(190 * MIB)),
            (0.5, memory("100Mi", "200Mi"), Some(150 * MIB)),
            (1.0, memory("100Mi", "200Mi"), Some(200 * MIB)),
            // In whole pages: 1000 + 0.9 × 9000 = 9100 bytes.
            (0.9, memory("1000", "10000"), Some(8192)),
            // Not above the request.
            (0.9, memory("1000", "2000"), None),
            (0.9, memory("100Mi", "100Mi"), None),
            // Without a limit, up to what all pods may have.
            (
                0.9,
                json!({ "requests": { "memory": "100Mi" } }),
                Some(910 * MIB),
            ),
            (0.9, json!({}), None),
            (0.9, json!({ "limits": { "memory": "100Mi" } }), None),
        ] {
            let high = expected.map_or(String::new(), |high| format!(" memory.high={high}"));
            let shown = files(false, factor, resources.clone());
            let kept = "memory.min=0 memory.low=0";
            assert_eq!(shown, format!("{kept}{high}"), "{resources}");
        }
    }

    #[test]
    fn what_is_asked_for_is_kept_by_class() {
        let guaranteed = json!({ "limits": { "cpu": "1", "memory": "100Mi" } });
        let burstable =
            json!({ "requests": { "memory": "100Mi" }, "limits": { "memory": "100Mi" } });
        assert_eq!(files(true, 0.9, guaranteed), "memory.min=104857600");
        assert_eq!(files(true, 0.9, burstable), "memory.low=104857600");
        assert_eq!(files(true, 0.9, json!({})), "memory.min=0 memory.low=0");
    }

    #[test]
    fn levels_keep_what_lies_below_them() {
        let requests = ClassRequests {
            burstable_cpu_milli: 0,
            burstable_memory: 30,
            guaranteed_memory: 50,
        };
        let mut qos = MemoryQos {
            throttling_factor: 0.9,
            reserves: true,
        };
        let kept = |qos: &MemoryQos, class| {
            let kept = qos.class(class, &requests);
            (kept.min, kept.low)
        };
        assert_eq!(kept(&qos, QosClass::Guaranteed), (Some(80), None));
        assert_eq!(kept(&qos, QosClass::Burstable), (None, Some(30)));
        assert_eq!(kept(&qos, QosClass::BestEffort), (None, None));
        assert_eq!(qos.kept_in_sum(&requests), (50, 30));
        let of_pod = |qos: &MemoryQos, resources| {
            let kept = qos.pod(&of(resources)).unwrap();
            (kept.min, kept.low)
        };
        let asks = |memory: &str| json!({ "requests": { "memory": memory } });
        let guaranteed = json!({ "limits": { "cpu": "1", "memory": "1Ki" } });
        assert_eq!(of_pod(&qos, guaranteed), (Some(1024), None));
        assert_eq!(of_pod(&qos, asks("2Ki")), (None, Some(2048)));
        assert_eq!(of_pod(&qos, json!({})), (None, None));
        qos.reserves = false;
        assert_eq!(of_pod(&qos, asks("2Ki")), (None, None));
        assert_eq!(kept(&qos, QosClass::Guaranteed), (Some(0), None));
        assert_eq!(kept(&qos, QosClass::Burstable), (None, Some(0)));
        assert_eq!(qos.kept_in_sum(&requests), (0, 0));
    }

    #[test]
    fn lesser_classes_leave_what_better_ones_ask_for() {
        let requests = ClassRequests {
            burstable_cpu_milli: 0,
            burstable_memory: 300,
            guaranteed_memory: 400,
        };
        let limit = |class, percent| class_limit(class, &requests, 1000, percent);
        assert_eq!(limit(QosClass::Guaranteed, 100), None);
        assert_eq!(limit(QosClass::Burstable, 100), Some(600));
        assert_eq!(limit(QosClass::BestEffort, 100), Some(300));
        assert_eq!(limit(QosClass::Burstable, 50), Some(800));
        assert_eq!(limit(QosClass::BestEffort, 50), Some(650));
        assert_eq!(class_limit(QosClass::BestEffort, &requests, 700, 100), None);
    }
}
