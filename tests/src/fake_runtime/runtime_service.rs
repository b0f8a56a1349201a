//! RuntimeService of the fake. What is not here answers Unimplemented.

use std::time::Duration;

use cri_proto::v1;
use cri_proto::v1::runtime_service_server::RuntimeService;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::messages;
use super::service::Service;
use super::store::{Kind, container_name, sandbox_subject};

type Answer<T> = Result<Response<T>, Status>;

/// containerd joins what makes an object unique with underscores.
fn sandbox_name(config: &v1::PodSandboxConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    let v1::PodSandboxMetadata {
        name,
        uid,
        namespace,
        attempt,
    } = metadata;
    format!("{name}_{namespace}_{uid}_{attempt}")
}

fn full_container_name(config: &v1::ContainerConfig, sandbox: &v1::PodSandboxConfig) -> String {
    let pod = sandbox.metadata.clone().unwrap_or_default();
    let attempt = config.metadata.as_ref().map_or(0, |m| m.attempt);
    format!(
        "{}_{}_{}_{}_{attempt}",
        container_name(config),
        pod.name,
        pod.namespace,
        pod.uid
    )
}

impl Service {
    fn subject_of(&self, id: &str) -> String {
        self.lock().subject_of(id)
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.perform("Version", "", String::new(), |_, _| async {
            Ok(v1::VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1.6.20".into(),
                runtime_api_version: "v1".into(),
            })
        })
        .await
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.perform("Status", "", String::new(), |service, _| async move {
            Ok(service.lock().status())
        })
        .await
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        self.perform(
            "RuntimeConfig",
            "",
            String::new(),
            |service, _| async move {
                let driver = service.lock().cgroup_driver;
                let driver =
                    driver.ok_or_else(|| Status::unimplemented("unknown method RuntimeConfig"))?;
                let linux = Some(v1::LinuxRuntimeConfiguration {
                    cgroup_driver: driver.into(),
                });
                Ok(v1::RuntimeConfigResponse { linux })
            },
        )
        .await
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        self.perform("UpdateRuntimeConfig", "", String::new(), |_, _| async {
            Ok(v1::UpdateRuntimeConfigResponse {})
        })
        .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let subject = sandbox_subject(&config);
        // Taken before anything that may last, as containerd does.
        let reserved = self.reserve(Kind::Sandbox, &sandbox_name(&config));
        self.perform("RunPodSandbox", "", subject, |service, call| async move {
            let reserved = reserved?;
            let id = reserved.id.clone();
            service.change(|store| store.add_sandbox(&id, config, request.runtime_handler));
            reserved.keep();
            service.note(call, |call| call.id.clone_from(&id));
            service.emit(v1::ContainerEventType::ContainerCreatedEvent, &id, &id);
            service.emit(v1::ContainerEventType::ContainerStartedEvent, &id, &id);
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let subject = self.subject_of(&id);
        self.perform(
            "StopPodSandbox",
            &id.clone(),
            subject,
            |service, _| async move {
                service.lock().sandbox(&id)?;
                service.stop_sandbox(&id).await?;
                Ok(v1::StopPodSandboxResponse {})
            },
        )
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let subject = self.subject_of(&id);
        self.perform(
            "RemovePodSandbox",
            &id.clone(),
            subject,
            |service, _| async move {
                if service.lock().sandbox(&id).is_err() {
                    return Ok(v1::RemovePodSandboxResponse {});
                }
                service.stop_sandbox(&id).await?;
                let containers = service.lock().containers_of(&id);
                for container in containers {
                    service.remove_container(&container).await;
                }
                service.change(|store| {
                    store.release(&id);
                    store.sandboxes.remove(&id);
                });
                service.emit(v1::ContainerEventType::ContainerDeletedEvent, &id, &id);
                Ok(v1::RemovePodSandboxResponse {})
            },
        )
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let subject = self.subject_of(&id);
        self.perform(
            "PodSandboxStatus",
            &id.clone(),
            subject,
            |service, _| async move {
                let mut store = service.lock();
                let status = store.sandbox(&id)?.status();
                // Only runtimes with events fill these two.
                let (containers_statuses, timestamp) = if store.has_events {
                    (messages::statuses_in(&store, &id), store.now())
                } else {
                    (Vec::new(), 0)
                };
                Ok(v1::PodSandboxStatusResponse {
                    status: Some(status),
                    containers_statuses,
                    timestamp,
                    ..Default::default()
                })
            },
        )
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.perform(
            "ListPodSandbox",
            "",
            String::new(),
            |service, _| async move {
                let store = service.lock();
                let sandboxes = store.sandboxes.values();
                let items = sandboxes
                    .filter(|sandbox| sandbox.matches(&filter))
                    .map(super::store::Sandbox::listed)
                    .collect();
                Ok(v1::ListPodSandboxResponse { items })
            },
        )
        .await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let id = request.pod_sandbox_id;
        let subject = self.subject_of(&id);
        self.perform(
            "UpdatePodSandboxResources",
            &id.clone(),
            subject,
            |service, _| async move {
                service.lock().sandbox(&id)?;
                service.change(|store| {
                    if let Some(sandbox) = store.sandboxes.get_mut(&id) {
                        sandbox.resources = request.resources;
                    }
                });
                Ok(v1::UpdatePodSandboxResourcesResponse {})
            },
        )
        .await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let sandbox_id = request.pod_sandbox_id;
        // The sandbox's own configuration counts, not the one sent along.
        let sandbox = self.lock().sandboxes.get(&sandbox_id).cloned();
        let sandbox = sandbox.map(|sandbox| sandbox.config).unwrap_or_default();
        let subject = format!("{}/{}", sandbox_subject(&sandbox), container_name(&config));
        let reserved = self.reserve(Kind::Container, &full_container_name(&config, &sandbox));
        self.perform("CreateContainer", "", subject, |service, call| async move {
            let reserved = reserved?;
            let id = reserved.id.clone();
            service.change(|store| store.add_container(&id, &sandbox_id, config))?;
            reserved.keep();
            service.note(call, |call| call.id.clone_from(&id));
            service.emit(
                v1::ContainerEventType::ContainerCreatedEvent,
                &id,
                &sandbox_id,
            );
            Ok(v1::CreateContainerResponse { container_id: id })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "StartContainer",
            &id.clone(),
            subject,
            |service, _| async move {
                let sandbox_id = service.lock().container(&id)?.sandbox_id.clone();
                service.start(&id)?;
                service.emit(
                    v1::ContainerEventType::ContainerStartedEvent,
                    &id,
                    &sandbox_id,
                );
                Ok(v1::StartContainerResponse {})
            },
        )
        .await
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let v1::StopContainerRequest {
            container_id: id,
            timeout,
        } = request.into_inner();
        let subject = self.subject_of(&id);
        self.perform(
            "StopContainer",
            &id.clone(),
            subject,
            |service, _| async move {
                let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
                service.stop(&id, grace).await?;
                Ok(v1::StopContainerResponse {})
            },
        )
        .await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "RemoveContainer",
            &id.clone(),
            subject,
            |service, _| async move {
                service.remove_container(&id).await;
                Ok(v1::RemoveContainerResponse {})
            },
        )
        .await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.perform(
            "ListContainers",
            "",
            String::new(),
            |service, _| async move {
                let store = service.lock();
                let containers = store.containers.values();
                let containers = containers
                    .filter(|container| container.matches(&filter))
                    .map(|container| container.listed(&store))
                    .collect();
                Ok(v1::ListContainersResponse { containers })
            },
        )
        .await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "ContainerStatus",
            &id.clone(),
            subject,
            |service, _| async move {
                let store = service.lock();
                Ok(v1::ContainerStatusResponse {
                    status: Some(store.container(&id)?.status(&store)),
                    ..Default::default()
                })
            },
        )
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "UpdateContainerResources",
            &id.clone(),
            subject,
            |service, _| async move {
                service.change(|store| {
                    let container = store.container_mut(&id)?;
                    let (before, news) = (container.resources.take(), request.linux);
                    container.resources = Some(messages::updated(before.unwrap_or_default(), news));
                    Ok(v1::UpdateContainerResourcesResponse {})
                })
            },
        )
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "ReopenContainerLog",
            &id.clone(),
            subject,
            |service, _| async move {
                if !service.lock().container(&id)?.running {
                    return Err(Status::unknown("container is not running"));
                }
                service.open_log(&id)?;
                Ok(v1::ReopenContainerLogResponse {})
            },
        )
        .await
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        let subject = self.subject_of(&id);
        self.perform(
            "ExecSync",
            &id.clone(),
            subject.clone(),
            |service, _| async move {
                service
                    .exec(&id, &subject, &request.cmd, request.timeout)
                    .await
            },
        )
        .await
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<BoxStream<v1::ContainerEventResponse>> {
        self.perform(
            "GetContainerEvents",
            "",
            String::new(),
            |service, _| async move {
                if !service.lock().has_events {
                    // containerd 1.6 has the method and no more.
                    return Err(Status::unimplemented(
                        "method GetContainerEvents not implemented",
                    ));
                }
                // Who is too slow loses events, as with a real runtime.
                let events = BroadcastStream::new(service.events())
                    .filter_map(Result::ok)
                    .map(Ok);
                Ok(Box::pin(events) as BoxStream<_>)
            },
        )
        .await
    }
}
