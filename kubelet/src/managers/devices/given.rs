//! What a container is made with for its devices. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cri_proto::v1;

use super::holdings::OfContainer;

/// What the plugins said that a container has to have. Empty for one without devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceGrants {
    /// Variables. Those of the container's own spec go before them.
    pub envs: BTreeMap<String, String>,
    /// Mounts. Those of the container's own spec are made after them, and so over them.
    pub mounts: Vec<v1::Mount>,
    /// Device nodes.
    pub devices: Vec<v1::Device>,
    /// Annotations of the container, for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Fully qualified names of CDI devices.
    pub cdi_devices: Vec<v1::CdiDevice>,
}

impl DeviceGrants {
    /// What comes with all that `held` has. Where two resources differ about one thing, the first by name has its way, and
    /// the log says so (upstream: either of them).
    pub(super) fn of(held: &OfContainer) -> Self {
        let mut grants = Self::default();
        let mut mounted: BTreeMap<&str, &str> = BTreeMap::new();
        let mut devices: BTreeMap<&str, &str> = BTreeMap::new();
        let mut cdi = BTreeSet::new();
        for (resource, held) in held {
            let said = &held.response;
            merge(&mut grants.envs, &said.envs, resource, "variable");
            merge(
                &mut grants.annotations,
                &said.annotations,
                resource,
                "annotation",
            );
            for device in &said.devices {
                let (path, host) = (&device.container_path, &device.host_path);
                if is_new(&mut devices, path, host, (resource, "device")) {
                    grants.devices.push(v1::Device {
                        container_path: path.clone(),
                        host_path: host.clone(),
                        permissions: device.permissions.clone(),
                    });
                }
            }
            for mount in &said.mounts {
                let (path, host) = (&mount.container_path, &mount.host_path);
                if is_new(&mut mounted, path, host, (resource, "mount")) {
                    grants.mounts.push(v1::Mount {
                        container_path: path.clone(),
                        host_path: host.clone(),
                        readonly: mount.read_only,
                        ..v1::Mount::default()
                    });
                }
            }
            for device in &said.cdi_devices {
                if cdi.insert(&device.name) {
                    let name = device.name.clone();
                    grants.cdi_devices.push(v1::CdiDevice { name });
                }
            }
        }
        grants
    }
}

fn merge(
    into: &mut BTreeMap<String, String>,
    from: &BTreeMap<String, String>,
    resource: &str,
    what: &str,
) {
    for (key, value) in from {
        let has = into.entry(key.clone()).or_insert_with(|| value.clone());
        if has != value {
            tracing::warn!(resource, key, "device plugins do not agree on a {what}");
        }
    }
}

fn is_new<'a>(
    known: &mut BTreeMap<&'a str, &'a str>,
    path: &'a str,
    host: &'a str,
    (resource, what): (&str, &str),
) -> bool {
    match known.insert(path, host) {
        None => true,
        Some(before) => {
            known.insert(path, before);
            if before != host {
                tracing::warn!(resource, path, "device plugins do not agree on a {what}");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use cri_proto::deviceplugin::{
        CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount as PluginMount,
    };

    use super::*;
    use crate::managers::devices::holdings::{ByNode, Holding};

    fn held(host: &str, env: &str) -> Holding {
        Holding {
            devices: ByNode::default(),
            response: ContainerAllocateResponse {
                envs: [("SHARED".to_owned(), env.to_owned())].into(),
                mounts: vec![PluginMount {
                    container_path: "/lib/driver".to_owned(),
                    host_path: host.to_owned(),
                    read_only: true,
                }],
                devices: vec![DeviceSpec {
                    container_path: "/dev/ctl".to_owned(),
                    host_path: "/dev/ctl".to_owned(),
                    permissions: "rw".to_owned(),
                }],
                annotations: [(env.to_owned(), "1".to_owned())].into(),
                cdi_devices: vec![CdiDevice {
                    name: "example.com/dev=ctl".to_owned(),
                }],
            },
        }
    }

    #[test]
    fn each_thing_comes_once_by_the_first_resource() {
        let held = OfContainer::from([
            ("example.com/b".to_owned(), held("/opt/b", "b")),
            ("example.com/a".to_owned(), held("/opt/a", "a")),
        ]);
        let grants = DeviceGrants::of(&held);
        assert_eq!(grants.envs["SHARED"], "a");
        assert_eq!(grants.mounts.len(), 1);
        assert_eq!(grants.mounts[0].host_path, "/opt/a");
        assert!(grants.mounts[0].readonly);
        assert_eq!(grants.devices.len(), 1);
        assert_eq!(grants.devices[0].permissions, "rw");
        assert_eq!(grants.annotations.len(), 2);
        assert_eq!(grants.cdi_devices.len(), 1);
        assert_eq!(
            DeviceGrants::of(&OfContainer::new()),
            DeviceGrants::default()
        );
    }
}
