//! Which ids of the node the users of the pod have.

use super::Worker;
use super::start::StartError;
use crate::metrics::kubelet;
use crate::pod::{self, Pod};
use crate::userns::{Range, UserNamespaceError};

impl Worker {
    /// The ids for a sandbox that is about to be made by `handler`; none where the pod has the node's own users.
    pub(super) async fn users_of_new_sandbox(
        &self,
        pod: &Pod,
        handler: &str,
    ) -> Result<Option<Range>, StartError> {
        if !pod::has_own_users(pod) {
            return Ok(None);
        }
        kubelet().user_namespaces.started.inc();
        self.can_have_own_users(handler).await?;
        let (namespaces, runtime) = (&self.tools.user_namespaces, &self.tools.runtime);
        let range = namespaces.for_new_sandbox(&self.uid, runtime).await?;
        Ok(Some(range))
    }

    /// The ids of the sandbox that is there; none where the pod has the node's own users.
    pub(super) async fn users_of_sandbox(&self, pod: &Pod) -> Result<Option<Range>, StartError> {
        if !pod::has_own_users(pod) {
            return Ok(None);
        }
        let (namespaces, runtime) = (&self.tools.user_namespaces, &self.tools.runtime);
        let range = namespaces.of_sandbox(&self.uid, runtime).await?;
        Ok(Some(range))
    }

    /// A runtime that does not name its handlers is too old to have any that can.
    async fn can_have_own_users(&self, handler: &str) -> Result<(), UserNamespaceError> {
        let status = self.tools.runtime.status(false).await;
        let handlers = status
            .map_err(UserNamespaceError::Abilities)?
            .runtime_handlers;
        if handlers.is_empty() {
            return Err(cannot(handler));
        }
        let Some(found) = handlers.into_iter().find(|one| one.name == handler) else {
            return Err(UserNamespaceError::UnknownHandler(handler.to_owned()));
        };
        match found.features.is_some_and(|can| can.user_namespaces) {
            true => Ok(()),
            false => Err(cannot(handler)),
        }
    }
}

fn cannot(handler: &str) -> UserNamespaceError {
    match handler {
        "" => UserNamespaceError::Runtime,
        handler => UserNamespaceError::Handler(handler.to_owned()),
    }
}
