//! The RuntimeService, a method a call.

mod stats;

use std::time::Duration;

use tonic::transport::Channel;

use crate::call::{CallObserver, gone_is_fine, rpc, some_url, whole_seconds};
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{Connection, ContainerEvents, CriError, v1};

/// A client of the RuntimeService; a clone is a few pointers and shares the connection.
///
/// Each call has the request timeout as its deadline, unless it says otherwise, and fails with a [`CriError`].
#[derive(Clone, Debug)]
pub struct RuntimeClient {
    client: RuntimeServiceClient<Channel>,
    request_timeout: Duration,
    observer: Option<CallObserver>,
}

/// The runtime.
impl RuntimeClient {
    pub(crate) fn new(connection: &Connection) -> Self {
        let options = connection.options();
        Self {
            client: RuntimeServiceClient::new(connection.channel())
                .max_decoding_message_size(options.max_receive_bytes),
            request_timeout: options.request_timeout,
            observer: options.observer,
        }
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.request_timeout)
    }

    /// Name and version of the runtime and of its interface.
    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        // The version of the kubelet's runtime interface, a constant of upstream's that no runtime looks at.
        let version = String::from("0.1.0");
        let message = v1::VersionRequest { version };
        rpc!(self, "Version", version, self.deadline(), message)
    }

    /// Conditions, handlers and features; with `verbose` the runtime's configuration as well.
    pub async fn status(&self, verbose: bool) -> Result<v1::StatusResponse, CriError> {
        let message = v1::StatusRequest { verbose };
        rpc!(self, "Status", status, self.deadline(), message)
    }

    /// What the runtime is set to, the cgroup driver above all. Unimplemented in containerd 1.x.
    pub async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse, CriError> {
        let message = v1::RuntimeConfigRequest {};
        rpc!(
            self,
            "RuntimeConfig",
            runtime_config,
            self.deadline(),
            message
        )
    }

    /// Tells the runtime the pod network of the node.
    pub async fn update_runtime_config(&self, pod_cidr: String) -> Result<(), CriError> {
        let network_config = Some(v1::NetworkConfig { pod_cidr });
        let message = v1::UpdateRuntimeConfigRequest {
            runtime_config: Some(v1::RuntimeConfig { network_config }),
        };
        rpc!(
            self,
            "UpdateRuntimeConfig",
            update_runtime_config,
            self.deadline(),
            message
        )
        .map(drop)
    }

    /// Container events as they happen; unimplemented in containerd 1.6. No deadline. Opened with the first
    /// [`ContainerEvents::next`].
    #[must_use]
    pub fn container_events(&self) -> ContainerEvents {
        let mut client = self.client.clone();
        ContainerEvents::new(
            async move { client.get_container_events(v1::GetEventsRequest {}).await },
        )
    }
}

/// Sandboxes.
impl RuntimeClient {
    /// Makes and starts a sandbox, and returns its id. `runtime_handler` empty: the default one.
    /// Deadline: twice the request timeout.
    pub async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String, CriError> {
        let message = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler,
        };
        let deadline = Some(self.request_timeout.saturating_mul(2));
        let answer = rpc!(self, "RunPodSandbox", run_pod_sandbox, deadline, message)?;
        if answer.pod_sandbox_id.is_empty() {
            return Err(CriError::malformed("RunPodSandbox", "sandbox id"));
        }
        Ok(answer.pod_sandbox_id)
    }

    /// Stops a sandbox and what runs in it. One that is stopped or gone is fine.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let pod_sandbox_id = id.into();
        let message = v1::StopPodSandboxRequest { pod_sandbox_id };
        gone_is_fine(rpc!(
            self,
            "StopPodSandbox",
            stop_pod_sandbox,
            self.deadline(),
            message
        ))
    }

    /// Removes a sandbox and its containers. One that is gone is fine.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let pod_sandbox_id = id.into();
        let message = v1::RemovePodSandboxRequest { pod_sandbox_id };
        gone_is_fine(rpc!(
            self,
            "RemovePodSandbox",
            remove_pod_sandbox,
            self.deadline(),
            message
        ))
    }

    /// State and addresses of a sandbox; `status` is there. Runtimes with container events add its containers.
    pub async fn pod_sandbox_status(
        &self,
        id: &str,
    ) -> Result<v1::PodSandboxStatusResponse, CriError> {
        self.ask_pod_sandbox_status(id, false).await
    }

    /// The same with what the runtime has to say besides, in a form of its own: more work for it than an ordinary status.
    pub async fn verbose_pod_sandbox_status(
        &self,
        id: &str,
    ) -> Result<v1::PodSandboxStatusResponse, CriError> {
        self.ask_pod_sandbox_status(id, true).await
    }

    async fn ask_pod_sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::PodSandboxStatusResponse, CriError> {
        let message = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose,
        };
        let answer = rpc!(
            self,
            "PodSandboxStatus",
            pod_sandbox_status,
            self.deadline(),
            message
        )?;
        if answer.status.is_none() {
            return Err(CriError::malformed("PodSandboxStatus", "status"));
        }
        Ok(answer)
    }

    /// The sandboxes the runtime holds; all of them without a filter.
    pub async fn list_pod_sandbox(
        &self,
        filter: Option<v1::PodSandboxFilter>,
    ) -> Result<Vec<v1::PodSandbox>, CriError> {
        let message = v1::ListPodSandboxRequest { filter };
        let answer = rpc!(
            self,
            "ListPodSandbox",
            list_pod_sandbox,
            self.deadline(),
            message
        )?;
        Ok(answer.items)
    }

    /// Tells a sandbox the pod's new resources, after its cgroup has them.
    pub async fn update_pod_sandbox_resources(
        &self,
        message: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), CriError> {
        rpc!(
            self,
            "UpdatePodSandboxResources",
            update_pod_sandbox_resources,
            self.deadline(),
            message
        )
        .map(drop)
    }
}

/// Containers.
impl RuntimeClient {
    /// Makes a container in a sandbox, and returns its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.into(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let answer = rpc!(
            self,
            "CreateContainer",
            create_container,
            self.deadline(),
            message
        )?;
        if answer.container_id.is_empty() {
            return Err(CriError::malformed("CreateContainer", "container id"));
        }
        Ok(answer.container_id)
    }

    /// Starts a container that was made and never started.
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let container_id = id.into();
        let message = v1::StartContainerRequest { container_id };
        rpc!(
            self,
            "StartContainer",
            start_container,
            self.deadline(),
            message
        )
        .map(drop)
    }

    /// Stops a container: its stop signal, and after `grace` SIGKILL. One that has ended is fine.
    /// Deadline: the request timeout plus `grace`, which counts in whole seconds, rounded up.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let message = v1::StopContainerRequest {
            container_id: id.into(),
            timeout: whole_seconds(grace),
        };
        let deadline = Some(self.request_timeout.saturating_add(grace));
        gone_is_fine(rpc!(
            self,
            "StopContainer",
            stop_container,
            deadline,
            message
        ))
    }

    /// Removes a container, killing it if it runs. One that is gone is fine.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let container_id = id.into();
        let message = v1::RemoveContainerRequest { container_id };
        gone_is_fine(rpc!(
            self,
            "RemoveContainer",
            remove_container,
            self.deadline(),
            message
        ))
    }

    /// The containers the runtime holds; all of them without a filter.
    pub async fn list_containers(
        &self,
        filter: Option<v1::ContainerFilter>,
    ) -> Result<Vec<v1::Container>, CriError> {
        let message = v1::ListContainersRequest { filter };
        let answer = rpc!(
            self,
            "ListContainers",
            list_containers,
            self.deadline(),
            message
        )?;
        Ok(answer.containers)
    }

    /// State, times and exit of a container.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        let answer = self.ask_container_status(id, false).await?;
        answer
            .status
            .ok_or_else(|| CriError::malformed("ContainerStatus", "status"))
    }

    /// The same with what the runtime has to say besides, in a form of its own: more work for it than an ordinary status.
    pub async fn verbose_container_status(
        &self,
        id: &str,
    ) -> Result<v1::ContainerStatusResponse, CriError> {
        self.ask_container_status(id, true).await
    }

    async fn ask_container_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::ContainerStatusResponse, CriError> {
        let message = v1::ContainerStatusRequest {
            container_id: id.into(),
            verbose,
        };
        rpc!(
            self,
            "ContainerStatus",
            container_status,
            self.deadline(),
            message
        )
    }

    /// Sets the resources of a container that was made or runs.
    pub async fn update_container_resources(
        &self,
        message: v1::UpdateContainerResourcesRequest,
    ) -> Result<(), CriError> {
        rpc!(
            self,
            "UpdateContainerResources",
            update_container_resources,
            self.deadline(),
            message
        )
        .map(drop)
    }

    /// Makes the runtime open the container's log file anew, after rotation moved it away.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let container_id = id.into();
        let message = v1::ReopenContainerLogRequest { container_id };
        rpc!(
            self,
            "ReopenContainerLog",
            reopen_container_log,
            self.deadline(),
            message
        )
        .map(drop)
    }

    /// Writes a checkpoint of a running container to `location`. The runtime gets at least the request timeout for it.
    /// Deadline: the larger of `timeout` and the request timeout.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: String,
        timeout: Duration,
    ) -> Result<(), CriError> {
        let timeout = timeout.max(self.request_timeout);
        let message = v1::CheckpointContainerRequest {
            container_id: id.into(),
            location,
            timeout: whole_seconds(timeout),
        };
        rpc!(
            self,
            "CheckpointContainer",
            checkpoint_container,
            Some(timeout),
            message
        )
        .map(drop)
    }
}

/// Commands in a container, and streams to it.
impl RuntimeClient {
    /// Runs a command in a container and waits for its end; an exit code other than 0 is an answer, not an error.
    /// `timeout` zero: none, and no deadline either. Else the deadline is the request timeout plus `timeout`, which counts
    /// in whole seconds, rounded up; a command that outlives it is [`crate::CriErrorKind::DeadlineExceeded`].
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let message = v1::ExecSyncRequest {
            container_id: id.into(),
            cmd: command,
            timeout: whole_seconds(timeout),
        };
        let deadline = (!timeout.is_zero()).then(|| self.request_timeout.saturating_add(timeout));
        rpc!(self, "ExecSync", exec_sync, deadline, message)
    }

    /// The address of a stream to a new command in a container. It carries a token: treat it as a secret.
    pub async fn exec(&self, message: v1::ExecRequest) -> Result<String, CriError> {
        let answer = rpc!(self, "Exec", exec, self.deadline(), message)?;
        some_url("Exec", answer.url)
    }

    /// The address of a stream to a container's first process. It carries a token: treat it as a secret.
    pub async fn attach(&self, message: v1::AttachRequest) -> Result<String, CriError> {
        let answer = rpc!(self, "Attach", attach, self.deadline(), message)?;
        some_url("Attach", answer.url)
    }

    /// The address of a stream to ports of a sandbox. It carries a token: treat it as a secret.
    pub async fn port_forward(&self, message: v1::PortForwardRequest) -> Result<String, CriError> {
        let answer = rpc!(self, "PortForward", port_forward, self.deadline(), message)?;
        some_url("PortForward", answer.url)
    }
}
