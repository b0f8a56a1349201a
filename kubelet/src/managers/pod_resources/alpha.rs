//! `v1alpha1`: all pods, the devices of their containers, and nothing more.

use cri_proto::podresources_alpha::pod_resources_lister_server::PodResourcesLister;
use cri_proto::podresources_alpha::{
    ContainerDevices, ContainerResources, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
};
use tonic::{Request, Response, Status};

use super::lister::Lister;
use crate::metrics::kubelet;
use crate::pod::{self, Pod, PodName, PodUid};

const VERSION: &[&str] = &["v1alpha1"];

impl Lister {
    fn alpha_resources(&self, pod: &Pod) -> PodResources {
        let PodName { namespace, name } = PodName::of(pod);
        let uid = PodUid::of(pod).ok();
        let of = |name: &str| ContainerResources {
            name: name.to_owned(),
            devices: uid
                .as_ref()
                .map(|uid| self.alpha_devices(uid, name))
                .unwrap_or_default(),
        };
        let containers = pod::spec(pod).containers.iter();
        PodResources {
            name: name.to_string(),
            namespace: namespace.to_string(),
            containers: containers.map(|container| of(&container.name)).collect(),
        }
    }

    /// One entry a device and NUMA node of it, as upstream has them.
    fn alpha_devices(&self, uid: &PodUid, container: &str) -> Vec<ContainerDevices> {
        let devices = self.inputs.devices.of_container(uid, container);
        let entries = devices.into_iter().flat_map(|device| {
            let entry = ContainerDevices {
                resource_name: device.resource,
                device_ids: vec![device.id],
            };
            std::iter::repeat_n(entry, device.nodes.map_or(1, |nodes| nodes.len()))
        });
        entries.collect()
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.limit.take()?;
        kubelet().pod_resources.all.inc(VERSION);
        let pods = self.pods(true);
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pods.iter().map(|pod| self.alpha_resources(pod)).collect(),
        }))
    }
}
