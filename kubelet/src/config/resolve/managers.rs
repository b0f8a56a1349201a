//! CPU, memory and topology managers.

use serde_json::Value;

use super::Resolver;
use crate::config::ManagersConfig;

impl Resolver<'_> {
    pub(super) fn managers(&self) -> ManagersConfig {
        let s = self.settings;
        let text = |amount: &Value| match amount {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let reserved = s
            .objects("reservedMemory")
            .iter()
            .filter_map(|reservation| {
                let node = u32::try_from(reservation["numaNode"].as_i64().unwrap_or(0)).ok()?;
                let limits = reservation["limits"].as_object()?.iter();
                let limits = limits.map(|(name, amount)| (name.clone(), text(amount)));
                Some((node, limits.collect()))
            });
        ManagersConfig {
            reserved_cpus: self.text("reservedSystemCPUs"),
            cpu_policy: s.text("cpuManagerPolicy").to_owned(),
            cpu_policy_options: s.text_map("cpuManagerPolicyOptions"),
            cpu_reconcile_every: self.span("cpuManagerReconcilePeriod"),
            memory_policy: s.text("memoryManagerPolicy").to_owned(),
            reserved_memory: reserved.collect(),
            topology_policy: s.text("topologyManagerPolicy").to_owned(),
            topology_scope: s.text("topologyManagerScope").to_owned(),
            topology_policy_options: s.text_map("topologyManagerPolicyOptions"),
        }
    }
}
