//! The calls.

use std::sync::Arc;

use cri_proto::deviceplugin::device_plugin_server::DevicePlugin;
use cri_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, DevicePluginOptions,
    Empty, ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use cri_proto::pluginregistration::registration_server::Registration;
use cri_proto::pluginregistration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{Call, Shared};

/// What the servers are made of.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Writes a call down; does what the test has ordered for its method.
    async fn enter(
        &self,
        method: &'static str,
        devices: &[String],
        wanted: i32,
    ) -> Result<(), Status> {
        let mut devices = devices.to_vec();
        devices.sort();
        let failing = {
            let mut state = self.0.state();
            state.calls.push(Call {
                method,
                devices,
                wanted,
            });
            state.failing.get(method).cloned()
        };
        let mut hanging = self.0.hanging.subscribe();
        // The sender is in `self`.
        let _ = hanging.wait_for(|all| !all.contains(method)).await;
        match failing {
            Some((code, text)) => Err(Status::new(code, text)),
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Answer<DevicePluginOptions> {
        self.enter("GetDevicePluginOptions", &[], 0).await?;
        Ok(Response::new(self.0.state().options))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Answer<BoxStream<ListAndWatchResponse>> {
        self.enter("ListAndWatch", &[], 0).await?;
        let lists = WatchStream::new(self.0.devices.subscribe());
        let lists = lists.map(|devices| Ok(ListAndWatchResponse { devices }));
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Answer<PreferredAllocationResponse> {
        let mut answer = PreferredAllocationResponse::default();
        for asked in request.into_inner().container_requests {
            let (available, wanted) = (asked.available_device_i_ds, asked.allocation_size);
            self.enter("GetPreferredAllocation", &available, wanted)
                .await?;
            let state = self.0.state();
            let mut chosen = asked.must_include_device_i_ds;
            for id in &state.preferred {
                let full = chosen.len() >= usize::try_from(wanted).unwrap_or(0);
                if !full && available.contains(id) && !chosen.contains(id) {
                    chosen.push(id.clone());
                }
            }
            answer
                .container_responses
                .push(ContainerPreferredAllocationResponse {
                    device_i_ds: chosen,
                });
        }
        Ok(Response::new(answer))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Answer<AllocateResponse> {
        let mut answer = AllocateResponse::default();
        for asked in request.into_inner().container_requests {
            self.enter("Allocate", &asked.devices_ids, 0).await?;
            let mut given = self.0.state().given.clone();
            let mut ids = asked.devices_ids;
            ids.sort();
            given.envs.insert("DEVICES".to_owned(), ids.join(","));
            answer.container_responses.push(given);
        }
        Ok(Response::new(answer))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Answer<PreStartContainerResponse> {
        let ids = request.into_inner().devices_ids;
        self.enter("PreStartContainer", &ids, 0).await?;
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "DevicePlugin".to_owned(),
            name: self.0.resource.clone(),
            endpoint: self.0.endpoint.display().to_string(),
            supported_versions: vec!["v1beta1".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Answer<RegistrationStatusResponse> {
        let status = request.into_inner();
        let told = (status.plugin_registered, status.error);
        self.0.state().told.push(told);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
