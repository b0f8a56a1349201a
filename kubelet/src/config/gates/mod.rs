//! Feature gates: which exist, and which are on.

mod table;

use std::collections::BTreeMap;

use super::nearest::nearest;
use table::{GATES, NEEDS};

/// How mature the feature behind a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// May be on.
    Beta,
    /// Done; the gate is about to go.
    Ga,
    /// To be removed.
    Deprecated,
}

impl Stage {
    /// As upstream's help text spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
            Self::Ga => "GA",
            Self::Deprecated => "DEPRECATED",
        }
    }
}

/// One known feature gate.
#[derive(Debug)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// How mature it is.
    pub stage: Stage,
    /// What it is when nobody sets it.
    pub default: bool,
    /// Whether it can only be set to its default.
    pub locked: bool,
}

/// Every gate of Kubernetes v1.36, sorted by name.
#[must_use]
pub fn known() -> &'static [Gate] {
    GATES
}

fn find(name: &str) -> Option<usize> {
    GATES.binary_search_by(|gate| gate.name.cmp(name)).ok()
}

/// The gates of a run, resolved: one bit each.
#[derive(Clone, PartialEq, Eq)]
pub struct FeatureGates {
    on: Vec<bool>,
}

impl Default for FeatureGates {
    fn default() -> Self {
        Self {
            on: GATES.iter().map(|gate| gate.default).collect(),
        }
    }
}

impl std::fmt::Debug for FeatureGates {
    /// Only the gates that differ from their default.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changed = GATES
            .iter()
            .zip(&self.on)
            .filter(|(gate, on)| gate.default != **on);
        f.debug_map()
            .entries(changed.map(|(gate, on)| (gate.name, on)))
            .finish()
    }
}

impl FeatureGates {
    /// Resolves the gates from what the user set: `AllAlpha` and `AllBeta` first, then each gate by name.
    /// Upstream walks a Go map, so there the result of `AllAlpha=true,SomeAlphaGate=false` may vary; here the
    /// gate that is named wins.
    ///
    /// # Errors
    /// One message for each unknown gate, each locked gate set to the other value, and each gate that is on while
    /// one it needs is off.
    pub fn resolve(set: &BTreeMap<String, bool>) -> Result<Self, Vec<String>> {
        let mut gates = Self::default();
        let mut errors = Vec::new();
        for (special, stage) in [("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)] {
            if let Some(&value) = set.get(special) {
                for (gate, on) in GATES.iter().zip(&mut gates.on) {
                    if gate.stage == stage && !gate.locked {
                        *on = value;
                    }
                }
            }
        }
        for (name, &value) in set {
            let Some(index) = find(name) else {
                let hint = nearest(name, GATES.iter().map(|gate| gate.name))
                    .map_or_else(String::new, |n| format!("; did you mean {n}?"));
                errors.push(format!("unrecognized feature gate: {name}{hint}"));
                continue;
            };
            let gate = &GATES[index];
            if gate.locked && gate.default != value {
                errors.push(format!(
                    "cannot set feature gate {name} to {value}, feature is locked to {}",
                    gate.default
                ));
                continue;
            }
            gates.on[index] = value;
        }
        for (name, needs) in NEEDS {
            let off: Vec<&str> = needs
                .iter()
                .copied()
                .filter(|need| !gates.enabled(need))
                .collect();
            if gates.enabled(name) && !off.is_empty() {
                errors.push(format!(
                    "{name} is enabled, but depends on features that are disabled: [{}]",
                    off.join(" ")
                ));
            }
        }
        if errors.is_empty() {
            Ok(gates)
        } else {
            Err(errors)
        }
    }

    /// Whether the gate `name` is on. A name that is no gate is off.
    #[must_use]
    pub fn enabled(&self, name: &str) -> bool {
        find(name).is_some_and(|index| self.on[index])
    }

    /// The gates that are not at their default, and what they are.
    pub fn changed(&self) -> impl Iterator<Item = (&'static Gate, bool)> {
        GATES
            .iter()
            .zip(&self.on)
            .filter(|(gate, on)| gate.default != **on)
            .map(|(gate, on)| (gate, *on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, bool)]) -> BTreeMap<String, bool> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn table_is_sorted_and_its_needs_are_known() {
        assert!(GATES.windows(2).all(|w| w[0].name < w[1].name));
        for (name, needs) in NEEDS {
            assert!(find(name).is_some(), "{name}");
            assert!(needs.iter().all(|need| find(need).is_some()), "{name}");
        }
        assert!(
            FeatureGates::resolve(&BTreeMap::new()).is_ok(),
            "the defaults agree with each other"
        );
    }

    #[test]
    fn defaults_are_those_of_v1_36() {
        let gates = FeatureGates::default();
        for name in [
            "ContainerRestartRules",
            "PodLevelResources",
            "SidecarContainers",
            "NodeSwap",
            "ImageVolume",
        ] {
            assert!(gates.enabled(name), "{name}");
        }
        for name in [
            "MemoryQoS",
            "EventedPLEG",
            "AllAlpha",
            "PodsAPI",
            "GitRepoVolumeDriver",
        ] {
            assert!(!gates.enabled(name), "{name}");
        }
    }

    #[test]
    fn named_gate_beats_all_alpha() {
        let gates = FeatureGates::resolve(&set(&[
            ("AllAlpha", true),
            ("MemoryQoS", false),
            ("GenericWorkload", true),
        ]))
        .unwrap();
        assert!(gates.enabled("EventedPLEG"));
        assert!(!gates.enabled("MemoryQoS"));
        assert!(gates.enabled("AllAlpha"));
    }

    #[test]
    fn unknown_locked_and_dependent_gates_are_refused_together() {
        let errors = FeatureGates::resolve(&set(&[
            ("MemoryQos", true),
            ("NodeSwap", false),
            ("NodeDeclaredFeatures", false),
            ("Nonsense", true),
        ]))
        .unwrap_err();
        assert!(
            errors.contains(
                &"unrecognized feature gate: MemoryQos; did you mean MemoryQoS?".to_owned()
            )
        );
        assert!(errors.contains(&"unrecognized feature gate: Nonsense".to_owned()));
        assert!(errors.contains(
            &"cannot set feature gate NodeSwap to false, feature is locked to true".to_owned()
        ));
        assert!(errors.iter().any(|e| e
            == "ExtendWebSocketsToKubelet is enabled, but depends on features that are disabled: [NodeDeclaredFeatures]"));
    }

    #[test]
    fn debug_shows_what_was_changed() {
        let gates = FeatureGates::resolve(&set(&[("MemoryQoS", true)])).unwrap();
        assert_eq!(format!("{gates:?}"), "{\"MemoryQoS\": true}");
        assert_eq!(gates.changed().count(), 1);
    }
}
