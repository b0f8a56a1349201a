//! What the node's API asks of the runtime about one container, a trait so that tests need no runtime.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{CriError, RuntimeClient, v1};

use crate::observe::Observer;
use crate::pod::PodUid;
use crate::runtime::{ContainerId, ContainerState, ObservedPod, SandboxId};

/// The runtime, as the handlers of logs and streams need it. Errors are the runtime's.
pub trait StreamRuntime: Send + Sync + 'static {
    /// The running instance of the container called `name`; none where none runs.
    fn running(
        &self,
        pod: &PodUid,
        name: &str,
    ) -> impl Future<Output = Result<Option<ContainerId>, CriError>> + Send;

    /// The pod's sandbox that is ready; none where none is.
    fn sandbox(
        &self,
        pod: &PodUid,
    ) -> impl Future<Output = Result<Option<SandboxId>, CriError>> + Send;

    /// Where the container's log is.
    fn log_path(
        &self,
        container: &ContainerId,
    ) -> impl Future<Output = Result<String, CriError>> + Send;

    /// Is over once the container does not run.
    fn ended(
        &self,
        pod: &PodUid,
        container: &ContainerId,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// The address of a stream to a new command. It is a secret.
    fn exec(
        &self,
        message: v1::ExecRequest,
    ) -> impl Future<Output = Result<String, CriError>> + Send;

    /// The address of a stream to the container's first process. It is a secret.
    fn attach(
        &self,
        message: v1::AttachRequest,
    ) -> impl Future<Output = Result<String, CriError>> + Send;

    /// The address of a stream to ports of the sandbox. It is a secret.
    fn port_forward(
        &self,
        message: v1::PortForwardRequest,
    ) -> impl Future<Output = Result<String, CriError>> + Send;

    /// Runs a command to its end, however long that takes.
    fn run(
        &self,
        container: &ContainerId,
        command: Vec<String>,
    ) -> impl Future<Output = Result<v1::ExecSyncResponse, CriError>> + Send;

    /// Writes what the container holds to the file `location`; `timeout` zero: as long as a request may take.
    fn checkpoint(
        &self,
        container: &ContainerId,
        location: String,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), CriError>> + Send;
}

/// The runtime behind the agent's own observations: who runs is known without asking.
#[derive(Clone)]
pub struct ObservedRuntime {
    /// What is known of each pod.
    pub observer: Arc<Observer>,
    /// Who is asked for all else.
    pub runtime: RuntimeClient,
}

impl ObservedRuntime {
    /// Looks for something of a pod, and once more after the runtime was asked: it may have begun this moment.
    async fn find<T>(
        &self,
        pod: &PodUid,
        found: impl Fn(&ObservedPod) -> Option<T>,
    ) -> Result<Option<T>, CriError> {
        let known = found(&self.observer.subscribe(pod).borrow());
        if known.is_some() {
            return Ok(known);
        }
        Ok(found(&*self.observer.refresh(pod).await?))
    }
}

impl StreamRuntime for ObservedRuntime {
    async fn running(&self, pod: &PodUid, name: &str) -> Result<Option<ContainerId>, CriError> {
        let running = |observed: &ObservedPod| {
            let mut running = observed
                .instances(name)
                .filter(|container| container.state == ContainerState::Running);
            running.next().map(|container| container.id.clone())
        };
        self.find(pod, running).await
    }

    async fn sandbox(&self, pod: &PodUid) -> Result<Option<SandboxId>, CriError> {
        let ready = |observed: &ObservedPod| {
            let mut ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
            ready.next().map(|sandbox| sandbox.id.clone())
        };
        self.find(pod, ready).await
    }

    async fn log_path(&self, container: &ContainerId) -> Result<String, CriError> {
        let status = self.runtime.container_status(container.as_str()).await?;
        Ok(status.log_path)
    }

    fn ended(
        &self,
        pod: &PodUid,
        container: &ContainerId,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut observed = self.observer.subscribe(pod);
        let (runtime, container) = (self.runtime.clone(), container.clone());
        async move {
            loop {
                let state = {
                    let observed = observed.borrow_and_update();
                    let mut instances = observed.containers.iter();
                    instances.find(|c| c.id == container).map(|c| c.state)
                };
                let runs = match state {
                    Some(state) => state == ContainerState::Running,
                    // Not looked at yet, or removed.
                    None => may_run(&runtime, &container).await,
                };
                // A pod that is forgotten has nothing that runs.
                if !runs || observed.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    async fn exec(&self, message: v1::ExecRequest) -> Result<String, CriError> {
        self.runtime.exec(message).await
    }

    async fn attach(&self, message: v1::AttachRequest) -> Result<String, CriError> {
        self.runtime.attach(message).await
    }

    async fn port_forward(&self, message: v1::PortForwardRequest) -> Result<String, CriError> {
        self.runtime.port_forward(message).await
    }

    async fn run(
        &self,
        container: &ContainerId,
        command: Vec<String>,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let id = container.as_str();
        self.runtime.exec_sync(id, command, Duration::ZERO).await
    }

    async fn checkpoint(
        &self,
        container: &ContainerId,
        location: String,
        timeout: Duration,
    ) -> Result<(), CriError> {
        let id = container.as_str();
        self.runtime
            .checkpoint_container(id, location, timeout)
            .await
    }
}

/// Whether the runtime does not say that the container has ended.
async fn may_run(runtime: &RuntimeClient, container: &ContainerId) -> bool {
    match runtime.container_status(container.as_str()).await {
        Ok(status) => status.state == v1::ContainerState::ContainerRunning as i32,
        Err(error) => !error.is_not_found(),
    }
}

#[cfg(test)]
pub(super) mod fake;
