//! What the levels are called: directories of the cgroup filesystem, or slices of systemd (systemd.slice(5)).
//!
//! A slice's name holds its whole path: `a-b.slice` lies in `a.slice`. So every name of ours has its parent's in front,
//! and a `-` of its own is written `_`, as upstream does it.

use super::{CgroupsError, Driver};
use crate::pod::{PodUid, QosClass};

/// The level of all pods.
const ALL_PODS: &str = "kubepods";
/// What the name of a pod's cgroup begins with.
const POD_PREFIX: &str = "pod";
/// What a slice's name ends with.
const SLICE: &str = ".slice";
/// The slice that all others lie in.
const ROOT_SLICE: &str = "-.slice";
/// Longest name of a unit, bytes (systemd's `UNIT_NAME_MAX`, without the terminator).
const UNIT_NAME_MAX: usize = 255;
/// Longest that a pod's name adds to that of the level of all pods: the longest UID is 128 bytes.
const POD_ADDS_MOST: usize = "-burstable-pod".len() + 128 + SLICE.len();

/// The levels, as one driver calls them.
#[derive(Debug)]
pub(super) struct Names {
    driver: Driver,
    /// From the root to the level of all pods, one directory each.
    base: Vec<String>,
    /// What names of slices below the level of all pods begin with: `a-b-kubepods`.
    stem: String,
}

impl Names {
    /// The names below `cgroup_root`; without `per_qos` that is the only level there is.
    pub(super) fn new(
        driver: Driver,
        cgroup_root: &str,
        per_qos: bool,
    ) -> Result<Self, CgroupsError> {
        let parts: Vec<&str> = cgroup_root
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let root_is_plain = parts.iter().all(|part| !matches!(*part, "." | ".."));
        if !root_is_plain {
            return Err(CgroupsError::BadRoot(cgroup_root.to_owned()));
        }
        let levels = parts.into_iter().chain(per_qos.then_some(ALL_PODS));
        match driver {
            Driver::Cgroupfs => Ok(Self {
                driver,
                base: levels.map(str::to_owned).collect(),
                stem: String::new(),
            }),
            Driver::Systemd => {
                let (mut base, mut stem) = (Vec::new(), String::new());
                for level in levels {
                    if !level.bytes().all(is_unit_byte) {
                        return Err(CgroupsError::BadSlice(cgroup_root.to_owned()));
                    }
                    if !stem.is_empty() {
                        stem.push('-');
                    }
                    stem.push_str(&escaped(level));
                    base.push(format!("{stem}{SLICE}"));
                }
                match (stem.is_empty(), stem.len() + POD_ADDS_MOST > UNIT_NAME_MAX) {
                    // Without a slice for sandboxes the runtime has nothing to make its scopes in.
                    (true, _) => Err(CgroupsError::NoSlice),
                    (_, true) => Err(CgroupsError::BadSlice(cgroup_root.to_owned())),
                    _ => Ok(Self { driver, base, stem }),
                }
            }
        }
    }

    /// Directories from the root to the level of all pods.
    pub(super) fn base(&self) -> &[String] {
        &self.base
    }

    /// The level of a class below that of all pods; Guaranteed pods have none of their own.
    pub(super) fn class(&self, class: QosClass) -> Option<String> {
        let word = class_word(class)?;
        Some(match self.driver {
            Driver::Cgroupfs => word.to_owned(),
            Driver::Systemd => format!("{}-{word}{SLICE}", self.stem),
        })
    }

    /// The level of a pod of `class`.
    pub(super) fn pod(&self, class: QosClass, uid: &PodUid) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("{POD_PREFIX}{uid}"),
            Driver::Systemd => {
                let uid = escaped(uid.as_str());
                format!("{}{POD_PREFIX}{uid}{SLICE}", self.pod_stem(class))
            }
        }
    }

    /// Whose level `name` is, below that of `class`. A `_` in a UID cannot be told from a `-` in a slice's name, and
    /// UIDs are taken to have none.
    pub(super) fn uid(&self, class: QosClass, name: &str) -> Option<PodUid> {
        let uid = match self.driver {
            Driver::Cgroupfs => name.strip_prefix(POD_PREFIX)?.to_owned(),
            Driver::Systemd => name
                .strip_prefix(&self.pod_stem(class))?
                .strip_prefix(POD_PREFIX)?
                .strip_suffix(SLICE)?
                .replace('_', "-"),
        };
        PodUid::parse(&uid).ok()
    }

    fn pod_stem(&self, class: QosClass) -> String {
        match class_word(class) {
            Some(word) => format!("{}-{word}-", self.stem),
            None => format!("{}-", self.stem),
        }
    }

    /// The slice of all pods and the one it lies in.
    pub(super) fn base_slices(&self) -> (&str, &str) {
        let mut base = self.base.iter().rev().map(String::as_str);
        let own = base.next().unwrap_or(ROOT_SLICE);
        (own, base.next().unwrap_or(ROOT_SLICE))
    }

    /// The directories from the root to the level of `class`.
    pub(super) fn levels(&self, class: QosClass) -> impl Iterator<Item = String> {
        self.base.iter().cloned().chain(self.class(class))
    }

    /// The path of `name` in the hierarchy, below the level of `class`.
    pub(super) fn path(&self, class: QosClass, name: &str) -> String {
        let mut path = String::new();
        for level in self.levels(class).chain([name.to_owned()]) {
            path.push('/');
            path.push_str(&level);
        }
        path
    }
}

/// The directories from the root to the cgroup of daemons that the configuration calls `name`: a path, or with systemd
/// the name of a slice, of which only the last part of a path counts, as upstream has it.
pub(super) fn reserved_levels(driver: Driver, name: &str) -> Vec<String> {
    let mut parts = name.split('/').filter(|part| !part.is_empty());
    match driver {
        Driver::Cgroupfs => parts.map(str::to_owned).collect(),
        Driver::Systemd => {
            let unit = parts.next_back().unwrap_or_default();
            let unit = unit.strip_suffix(SLICE).unwrap_or(unit);
            let ends = unit.match_indices('-').map(|(at, _)| at);
            let ends = ends.chain([unit.len()]);
            ends.map(|end| format!("{}{SLICE}", &unit[..end])).collect()
        }
    }
}

fn class_word(class: QosClass) -> Option<&'static str> {
    match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    }
}

/// A part of a slice's name, in which `-` would begin another level.
fn escaped(part: &str) -> String {
    part.replace('-', "_")
}

/// Whether names of units may have `byte` (systemd.unit(5)). An `@` would make a template, a `\` is systemd's own escape.
fn is_unit_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":_.-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0d5ee94e-5e25-4e1c-8a7b-1d2f3a4b5c6d";

    #[test]
    fn cgroups_of_daemons_are_paths_or_slices() {
        let levels = |driver, name| reserved_levels(driver, name).join("/");
        assert_eq!(levels(Driver::Cgroupfs, "/kube/own"), "kube/own");
        assert_eq!(levels(Driver::Cgroupfs, "system.slice"), "system.slice");
        assert_eq!(levels(Driver::Systemd, "/system.slice"), "system.slice");
        assert_eq!(levels(Driver::Systemd, "system"), "system.slice");
        assert_eq!(
            levels(Driver::Systemd, "/a.slice/a-b_c.slice"),
            "a.slice/a-b_c.slice"
        );
    }

    fn paths(driver: Driver, root: &str) -> Vec<String> {
        let names = Names::new(driver, root, true).unwrap();
        let uid = PodUid::parse(UID).unwrap();
        super::super::CLASSES
            .map(|class| {
                let name = names.pod(class, &uid);
                assert_eq!(names.uid(class, &name).as_ref(), Some(&uid));
                names.path(class, &name)
            })
            .to_vec()
    }

    #[test]
    fn directories_of_cgroupfs() {
        assert_eq!(
            paths(Driver::Cgroupfs, "/a-b/c"),
            [
                format!("/a-b/c/kubepods/pod{UID}"),
                format!("/a-b/c/kubepods/burstable/pod{UID}"),
                format!("/a-b/c/kubepods/besteffort/pod{UID}"),
            ]
        );
    }

    #[test]
    fn slices_of_systemd() {
        let uid = UID.replace('-', "_");
        assert_eq!(
            paths(Driver::Systemd, "/"),
            [
                format!("/kubepods.slice/kubepods-pod{uid}.slice"),
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice"
                ),
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice"
                ),
            ]
        );
        assert_eq!(
            paths(Driver::Systemd, "/a-b/c")[1],
            format!(
                "/a_b.slice/a_b-c.slice/a_b-c-kubepods.slice/a_b-c-kubepods-burstable.slice/\
                 a_b-c-kubepods-burstable-pod{uid}.slice"
            )
        );
        let names = Names::new(Driver::Systemd, "/a", true).unwrap();
        assert_eq!(names.base_slices(), ("a-kubepods.slice", "a.slice"));
        let names = Names::new(Driver::Systemd, "", true).unwrap();
        assert_eq!(names.base_slices(), ("kubepods.slice", "-.slice"));
    }

    #[test]
    fn what_is_no_pods_level_has_no_uid() {
        let names = Names::new(Driver::Systemd, "", true).unwrap();
        for (class, name) in [
            (QosClass::Guaranteed, "kubepods-burstable.slice"),
            (QosClass::Guaranteed, "kubepods-pod.slice"),
            (QosClass::Guaranteed, "podabc"),
            (QosClass::Guaranteed, "cri-containerd-abc.scope"),
            (QosClass::Burstable, "kubepods-podabc.slice"),
            (QosClass::Burstable, "kubepods-burstable-podabc.scope"),
        ] {
            assert_eq!(names.uid(class, name), None, "{name}");
        }
        let names = Names::new(Driver::Cgroupfs, "", true).unwrap();
        assert_eq!(names.uid(QosClass::Guaranteed, "burstable"), None);
    }

    #[test]
    fn roots_that_cannot_be_are_refused() {
        let refusal = |driver, root: &str, per_qos| {
            Names::new(driver, root, per_qos).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(Driver::Cgroupfs, "/a/../b", true),
            "cgroupRoot \"/a/../b\" is no absolute path of plain names"
        );
        assert_eq!(
            refusal(Driver::Systemd, "/a b", true),
            "cgroupRoot \"/a b\" cannot be the name of a slice of systemd: it may have letters, digits, ':', '_', \
             '.' and '-', and up to 90 characters"
        );
        let long = format!("/{}", "a".repeat(110));
        assert!(refusal(Driver::Systemd, &long, true).contains("up to 90 characters"));
        assert!(Names::new(Driver::Systemd, &"/a".repeat(45), true).is_ok());
        assert_eq!(
            refusal(Driver::Systemd, "/", false),
            "cgroupsPerQOS is false and cgroupRoot is /: with the systemd cgroup driver sandboxes need a slice of \
             their own; set cgroupsPerQOS to true, or cgroupRoot to a slice's path"
        );
    }
}
