//! User namespaces: a container has those of its sandbox, or is not made.

use cri_proto::v1;
use tonic::Status;

use super::store::{Container, Sandbox};

/// One end of a mapping to the other, and how many ids: within the pod, on the node, length.
pub type Mapping = (u32, u32, u32);

/// What the ids of a pod's users stand for; none where they are the node's own.
type Users = Vec<Mapping>;

impl Sandbox {
    /// What its user ids stand for on the node; nothing where it has the node's own.
    #[must_use]
    pub fn users(&self) -> Users {
        let linux = self.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        mappings(context.and_then(|context| context.namespace_options.as_ref()))
    }
}

impl Container {
    /// What its user ids stand for on the node; nothing where it has the node's own.
    #[must_use]
    pub fn users(&self) -> Users {
        of_container(&self.config)
    }
}

fn of_container(config: &v1::ContainerConfig) -> Users {
    let linux = config.linux.as_ref();
    let context = linux.and_then(|linux| linux.security_context.as_ref());
    mappings(context.and_then(|context| context.namespace_options.as_ref()))
}

/// Of users alone, where those of groups are the same; nonsense is shown as such.
fn mappings(options: Option<&v1::NamespaceOption>) -> Users {
    let Some(users) = options.and_then(|options| options.userns_options.as_ref()) else {
        return Users::new();
    };
    let of = |ids: &[v1::IdMapping]| -> Users {
        let ids = ids.iter();
        ids.map(|ids| (ids.container_id, ids.host_id, ids.length))
            .collect()
    };
    let (uids, gids) = (of(&users.uids), of(&users.gids));
    match (users.mode(), uids == gids, uids.is_empty()) {
        (v1::NamespaceMode::Node, true, true) | (v1::NamespaceMode::Pod, true, false) => uids,
        _ => vec![(u32::MAX, u32::MAX, 0)],
    }
}

/// Refuses a container whose users are not those of its sandbox, as containerd does.
pub(super) fn check(sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<(), Status> {
    let (of_sandbox, of_container) = (sandbox.users(), of_container(config));
    if of_sandbox == of_container {
        return Ok(());
    }
    Err(Status::unknown(format!(
        "user namespace config for sandbox is different from container. Sandbox userns config: {of_sandbox:?} - Container userns config: {of_container:?}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(host_id: u32) -> v1::NamespaceOption {
        let ids = vec![v1::IdMapping {
            host_id,
            container_id: 0,
            length: 65_536,
        }];
        v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: v1::NamespaceMode::Pod.into(),
                uids: ids.clone(),
                gids: ids,
            }),
            ..v1::NamespaceOption::default()
        }
    }

    #[test]
    fn mappings_are_shown_and_nonsense_as_such() {
        assert_eq!(mappings(None), []);
        assert_eq!(mappings(Some(&v1::NamespaceOption::default())), []);
        let mut options = options(131_072);
        assert_eq!(mappings(Some(&options)), [(0, 131_072, 65_536)]);
        if let Some(users) = &mut options.userns_options {
            users.gids.clear();
        }
        assert_eq!(mappings(Some(&options)), [(u32::MAX, u32::MAX, 0)]);
    }

    #[test]
    fn the_users_of_a_container_are_told_apart() {
        let of = |options: v1::NamespaceOption| v1::ContainerConfig {
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(options),
                    ..v1::LinuxContainerSecurityContext::default()
                }),
                ..v1::LinuxContainerConfig::default()
            }),
            ..v1::ContainerConfig::default()
        };
        let users = mappings(Some(&options(65_536)));
        assert_eq!(of_container(&of(options(65_536))), users);
        assert_ne!(of_container(&of(options(131_072))), users);
        assert_ne!(of_container(&v1::ContainerConfig::default()), users);
    }
}
