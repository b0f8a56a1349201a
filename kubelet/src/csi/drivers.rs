//! Which drivers there are on the node: those whose plugin has registered, for as long as its socket is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cri_proto::csi::node_service_capability::rpc::Type as Ability;
use tokio::sync::watch;

use super::names::PLUGIN;

/// A version of CSI that a driver speaks, as numbers.
pub(super) type Version = (u64, u64, u64);

/// A driver that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Driver {
    /// The socket that it serves at.
    pub(super) endpoint: PathBuf,
    /// The highest version that it speaks.
    pub(super) version: Version,
    /// What it calls this node.
    pub(super) node_id: String,
    /// How many volumes it can have here at most; none where it does not say.
    pub(super) most_volumes: Option<i32>,
    /// Where this node is, for the scheduler.
    pub(super) topology: BTreeMap<String, String>,
    /// What it can do.
    pub(super) abilities: BTreeSet<i32>,
    /// Tells one registration from the next.
    pub(super) generation: u64,
}

impl Driver {
    pub(super) fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&i32::from(ability))
    }
}

/// All of them, by name.
pub(super) type Drivers = BTreeMap<String, Driver>;

/// The drivers that are there now.
#[derive(Debug)]
pub(super) struct Registry {
    drivers: watch::Sender<Arc<Drivers>>,
    generations: AtomicU64,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            drivers: watch::Sender::default(),
            generations: AtomicU64::new(1),
        }
    }
}

impl Registry {
    pub(super) fn get(&self, name: &str) -> Option<Driver> {
        self.drivers.borrow().get(name).cloned()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Drivers>> {
        self.drivers.subscribe()
    }

    /// A driver is there, until what this gives is dropped.
    pub(super) fn insert(self: &Arc<Self>, name: &str, mut driver: Driver) -> Registration {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        driver.generation = generation;
        self.drivers.send_modify(|drivers| {
            Arc::make_mut(drivers).insert(name.to_owned(), driver);
        });
        Registration {
            registry: self.clone(),
            name: name.to_owned(),
            generation,
        }
    }
}

/// A driver that is registered for as long as this is held.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    name: String,
    pub(super) generation: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (name, generation) = (&self.name, self.generation);
        self.registry.drivers.send_if_modified(|drivers| {
            let own = drivers
                .get(name)
                .is_some_and(|d| d.generation == generation);
            if own {
                Arc::make_mut(drivers).remove(name);
            }
            own
        });
    }
}

/// The highest of `versions` that this agent speaks: of 1.x, which are compatible with one another.
///
/// # Errors
/// Upstream's words where there is none, or where a driver `there` speaks as high a one.
pub(super) fn check_versions(
    name: &str,
    versions: &[String],
    there: Option<&Driver>,
) -> Result<Version, String> {
    let who = format!("{PLUGIN}: ValidatePlugin for CSI driver {name:?} failed.");
    if versions.is_empty() {
        return Err(format!(
            "{who} Plugin returned an empty list for supported versions"
        ));
    }
    let ours = versions
        .iter()
        .filter_map(|text| parse(text))
        .filter(|(major, _, _)| *major == 1);
    let Some(highest) = ours.max() else {
        return Err(format!(
            "{who} None of the versions specified {versions:?} are supported. err=could not find a version of 1.x"
        ));
    };
    match there {
        Some(there) if there.version >= highest => {
            let (a, b, c) = there.version;
            Err(format!(
                "{who} Another driver with the same name is already registered with a higher supported version: \"{a}.{b}.{c}\""
            ))
        }
        _ => Ok(highest),
    }
}

/// `v1.2.3`, `1.2`, `1.0.0-rc1`.
fn parse(text: &str) -> Option<Version> {
    let text = text.trim();
    let text = text.strip_prefix('v').unwrap_or(text);
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next().map_or(Some(0), |patch| patch.parse().ok())?;
    Some((major, minor, patch))
}

#[cfg(test)]
pub(super) fn some_driver(version: Version) -> Driver {
    Driver {
        endpoint: "/csi.sock".into(),
        version,
        node_id: "n".into(),
        most_volumes: None,
        topology: BTreeMap::new(),
        abilities: BTreeSet::new(),
        generation: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_that_is_spoken_counts() {
        let check = |versions: &[&str], there: Option<Version>| {
            let versions: Vec<_> = versions.iter().map(|&v| v.to_owned()).collect();
            let there = there.map(some_driver);
            check_versions("d", &versions, there.as_ref())
        };
        assert_eq!(check(&["1.0.0"], None), Ok((1, 0, 0)));
        assert_eq!(
            check(&["0.3.0", "v1.2.0", "1.10", "2.0.0"], None),
            Ok((1, 10, 0))
        );
        assert!(check(&[], None).unwrap_err().contains("an empty list"));
        assert!(
            check(&["2.0.0", "0.9.0"], None)
                .unwrap_err()
                .contains("are supported")
        );
        let taken = check(&["1.0.0"], Some((1, 0, 0))).unwrap_err();
        assert!(taken.contains("already registered"), "{taken}");
        assert_eq!(check(&["1.1.0"], Some((1, 0, 0))), Ok((1, 1, 0)));
    }

    #[test]
    fn a_registration_ends_with_its_holder_and_takes_no_other_along() {
        let registry = Arc::new(Registry::default());
        let first = registry.insert("d", some_driver((1, 0, 0)));
        let second = registry.insert("d", some_driver((1, 1, 0)));
        drop(first);
        assert_eq!(registry.get("d").unwrap().version, (1, 1, 0));
        drop(second);
        assert!(registry.get("d").is_none());
    }
}
