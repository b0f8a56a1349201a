//! Rules of cgroups and of reserved and enforced resources.

use serde_json::Value;
use static_pods::quantity::Quantity;

use super::Judge;
use crate::managers::CpuSet;

/// What `enforceNodeAllocatable` may hold, and the field that names the cgroup it needs.
const ENFORCEABLE: &[(&str, Option<&str>)] = &[
    ("pods", None),
    ("system-reserved", Some("systemReservedCgroup")),
    ("system-reserved-compressible", Some("systemReservedCgroup")),
    ("kube-reserved", Some("kubeReservedCgroup")),
    ("kube-reserved-compressible", Some("kubeReservedCgroup")),
];

impl Judge<'_> {
    pub(super) fn allocatable(&mut self) {
        const PATH: &str = "enforceNodeAllocatable";
        const NAME: &str = "enforceNodeAllocatable (--enforce-node-allocatable)";
        let enforced = self.settings.texts(PATH);
        let has = |word: &str| enforced.iter().any(|each| each == word);
        for (whole, part) in [
            ("system-reserved", "system-reserved-compressible"),
            ("kube-reserved", "kube-reserved-compressible"),
        ] {
            if has(whole) && has(part) {
                self.say(
                    PATH,
                    format!("both {whole:?} and {part:?} cannot be specified together in {NAME}"),
                );
            }
        }
        for (index, word) in enforced.iter().enumerate() {
            if enforced[..index].contains(word) {
                self.say(PATH, format!("duplicated enforcements {word:?} in {NAME}"));
                continue;
            }
            if word == "none" {
                if enforced.len() > 1 {
                    self.say(PATH, format!("{NAME} may not contain additional enforcements when \"none\" is specified"));
                }
                continue;
            }
            let Some((_, cgroup)) = ENFORCEABLE.iter().find(|(name, _)| name == word) else {
                self.say(
                    PATH,
                    format!(
                        "option {word:?} specified for {NAME}. Valid options are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\""
                    ),
                );
                continue;
            };
            if let Some(cgroup) = cgroup
                && self.settings.text(cgroup).is_empty()
            {
                let cgroup = super::Settings::name(cgroup);
                self.say(
                    PATH,
                    format!("{cgroup} must be specified when {word:?} included in {NAME}"),
                );
            }
            // Upstream asks the same of its default, and so refuses cgroupsPerQOS: false on its own.
            if !self.settings.bool("cgroupsPerQOS") {
                self.say("cgroupsPerQOS", format!("cgroupsPerQOS (--cgroups-per-qos) must be set to true when {word:?} contained in {NAME}"));
            }
        }
    }

    pub(super) fn reserved(&mut self) {
        if !self.settings.text("systemCgroups").is_empty()
            && self.settings.text("cgroupRoot").is_empty()
        {
            self.say(
                "systemCgroups",
                "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified",
            );
        }
        let cpus = self.settings.text("reservedSystemCPUs").to_owned();
        if !cpus.is_empty() {
            if !self.settings.text("systemReservedCgroup").is_empty()
                || !self.settings.text("kubeReservedCgroup").is_empty()
            {
                self.say(
                    "reservedSystemCPUs",
                    "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)",
                );
            }
            if cpus.parse::<CpuSet>().is_err() {
                self.refuse(
                    "reservedSystemCPUs",
                    "must be CPUs and ranges such as 0-1,4",
                );
            }
        }
        for path in ["systemReserved", "kubeReserved"] {
            for (name, amount) in self.settings.text_map(path) {
                let known = matches!(
                    name.as_str(),
                    "cpu" | "memory" | "ephemeral-storage" | "pid"
                );
                if !known {
                    self.refuse(path, format!("cannot reserve {name:?} resource; write cpu, memory, ephemeral-storage or pid"));
                }
                match Quantity::parse(&amount) {
                    Ok(quantity) if quantity.milli() < 0 => {
                        self.refuse(
                            path,
                            format!("resource quantity for {name:?} cannot be negative: {amount}"),
                        );
                    }
                    Ok(_) => {}
                    Err(_) => self.refuse(
                        path,
                        format!("{name}: {amount:?} is not a quantity such as 500Mi"),
                    ),
                }
            }
        }
        self.reserved_memory();
    }

    fn reserved_memory(&mut self) {
        let mut seen: Vec<(i64, &str)> = Vec::new();
        for reservation in self.settings.objects("reservedMemory") {
            let node = reservation["numaNode"].as_i64().unwrap_or(0);
            let Some(limits) = reservation["limits"].as_object() else {
                continue;
            };
            for (name, amount) in limits {
                if name != "memory" && !name.starts_with("hugepages-") {
                    self.say("reservedMemory", format!("the limit type {name:?} for NUMA node {node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"));
                }
                let amount = match amount {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                if Quantity::parse(&amount).is_ok_and(|amount| amount.value() == 0) {
                    self.say("reservedMemory", format!("reserved memory may not be zero for NUMA node {node} and resource {name:?}"));
                }
                if seen.contains(&(node, name)) {
                    self.say("reservedMemory", format!("the reserved memory has a duplicate value for NUMA node {node} and resource {name:?}"));
                }
                seen.push((node, name));
            }
        }
    }
}
