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
