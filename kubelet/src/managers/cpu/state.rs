//! `<root>/cpu_manager_state`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::managers::CpuSet;
use crate::managers::state_file::State;

/// Name of the file in the root directory, as upstream has it.
pub(in crate::managers) const FILE_NAME: &str = "cpu_manager_state";

/// Sets of CPUs by pod UID and container.
pub(super) type Entries = BTreeMap<String, BTreeMap<String, CpuSet>>;

/// What the file holds (upstream's second form, which it writes unless `PodLevelResourceManagers` is on).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CpuState {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    checksum: u64,
}

impl CpuState {
    pub(super) fn new(policy: &str, shared: &CpuSet, entries: &Entries) -> Self {
        let texts = |of_pod: &BTreeMap<String, CpuSet>| {
            let texts = of_pod
                .iter()
                .map(|(name, cpus)| (name.clone(), cpus.to_string()));
            texts.collect()
        };
        Self {
            policy_name: policy.to_owned(),
            default_cpu_set: shared.to_string(),
            entries: entries
                .iter()
                .map(|(uid, pod)| (uid.clone(), texts(pod)))
                .collect(),
            checksum: 0,
        }
    }

    /// The CPUs that all share, and those of single containers; none where a text cannot be read.
    pub(super) fn read(&self) -> Option<(CpuSet, Entries)> {
        let shared = self.default_cpu_set.parse().ok()?;
        let mut entries = Entries::new();
        for (uid, pod) in &self.entries {
            for (name, cpus) in pod {
                let cpus = cpus.parse().ok()?;
                entries
                    .entry(uid.clone())
                    .or_default()
                    .insert(name.clone(), cpus);
            }
        }
        Some((shared, entries))
    }
}

impl State for CpuState {
    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn set_checksum(&mut self, checksum: u64) {
        self.checksum = checksum;
    }

    fn printed(&self) -> String {
        let mut text = format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string)map[",
            self.policy_name, self.default_cpu_set
        );
        for (index, (uid, pod)) in self.entries.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            // Writing to a string does not fail.
            let _ = write!(text, "{space}{uid}:map[");
            for (index, (name, cpus)) in pod.iter().enumerate() {
                let space = if index > 0 { " " } else { "" };
                let _ = write!(text, "{space}{name}:{cpus}");
            }
            text.push(']');
        }
        text.push_str("] Checksum:(checksum.Checksum)0}");
        text
    }

    fn is_sound(&self) -> bool {
        self.read().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managers::state_file::{Found, StateError, StateFile};

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    fn load(root: &std::path::Path, policy: &str) -> Result<Found<CpuState>, StateError> {
        StateFile::new(root, FILE_NAME, "CPU").load(policy)
    }

    #[test]
    fn upstreams_files_are_read_and_written_alike() {
        // Checksums out of upstream's own tests, and of what a kubelet without a policy writes.
        let cases = [
            // As upstream 1.36.2 writes it.
            (
                r#"{"policyName":"static","defaultCpuSet":"0","entries":{"c87683e5c567bd6f5154b6a23792d771":{"main":"1"}},"checksum":3259390472}"#,
                "static",
            ),
            (
                r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#,
                "none",
            ),
            (
                r#"{"policyName":"none","defaultCpuSet":"4-6","checksum":354655845}"#,
                "none",
            ),
            (
                r#"{"policyName":"none","defaultCpuSet":"1-3","entries":{"pod":{"container1":"4-6","container2":"1-3"}},"checksum":3610638499}"#,
                "none",
            ),
        ];
        for (text, policy) in cases {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(FILE_NAME);
            std::fs::write(&path, text).unwrap();
            let Found::Good(state) = load(root.path(), policy).unwrap() else {
                panic!("{text} was not taken");
            };
            let (shared, entries) = state.read().unwrap();
            let file = StateFile::new(root.path(), FILE_NAME, "CPU");
            file.store(CpuState::new(policy, &shared, &entries))
                .unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_corrupt_file_is_kept_beside() {
        for text in [
            "{",
            "",
            r#"{"policyName":"static","defaultCpuSet":"0-1","checksum":1337}"#,
            r#"{"policyName":"static","defaultCpuSet":"x"}"#,
            r#"{"policyName":"static","defaultCpuSet":"0","entries":{"id":"1"}}"#,
        ] {
            let root = tempfile::tempdir().unwrap();
            for number in ["", ".1", ".2"] {
                std::fs::write(root.path().join(FILE_NAME), text).unwrap();
                assert_eq!(load(root.path(), "static").unwrap(), Found::Corrupt);
                let aside = root.path().join(format!("{FILE_NAME}.corrupt{number}"));
                assert_eq!(std::fs::read_to_string(aside).unwrap(), text);
                assert_eq!(load(root.path(), "static").unwrap(), Found::Missing);
            }
        }
    }

    #[test]
    fn a_file_of_another_policy_is_refused_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let file = StateFile::new(root.path(), FILE_NAME, "CPU");
        file.store(CpuState::new("none", &CpuSet::new(), &Entries::new()))
            .unwrap();
        let path = root.path().join(FILE_NAME);
        let expected = format!(
            "could not restore state from checkpoint: configured policy \"static\" differs from state checkpoint policy \"none\", please drain this node and delete the CPU manager checkpoint file {path:?} before restarting Kubelet"
        );
        assert_eq!(
            load(root.path(), "static").unwrap_err().to_string(),
            expected
        );
        assert_eq!(
            file.check_policy("static").unwrap_err().to_string(),
            expected
        );
        assert!(file.check_policy("none").is_ok() && path.exists());
        // One that nobody can read says nothing of its policy.
        std::fs::write(&path, "{").unwrap();
        assert!(file.check_policy("none").is_ok());
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let file = StateFile::new(root.path(), FILE_NAME, "CPU");
        let entries: Entries = [
            ("uid-b".to_owned(), [("main".to_owned(), set("1,3"))].into()),
            (
                "uid-a".to_owned(),
                [
                    ("init".to_owned(), set("2")),
                    ("side".to_owned(), set("4-5")),
                ]
                .into(),
            ),
        ]
        .into();
        file.store(CpuState::new("static", &set("0"), &entries))
            .unwrap();
        let Found::Good(state) = load(root.path(), "static").unwrap() else {
            panic!("not taken");
        };
        assert_eq!(state.read(), Some((set("0"), entries)));
    }
}
