//! `v1`.

use std::sync::Arc;

use cri_proto::podresources::pod_resources_lister_server::PodResourcesLister;
use cri_proto::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerMemory,
    ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, NumaNode, PodResources, TopologyInfo,
};
use tonic::{Request, Response, Status};

use super::limit::Limit;
use super::{MemoryBlock, PodResourcesInputs};
use crate::managers::devices::GivenDevice;
use crate::metrics::kubelet;
use crate::pod::{self, ContainerKind, Pod, PodName, PodUid};

const VERSION: &[&str] = &["v1"];

/// Answers both versions.
pub(super) struct Lister {
    pub(super) inputs: PodResourcesInputs,
    pub(super) limit: Limit,
}

impl Lister {
    /// The pods, in the order of their names; those that have ended only where `all` says so.
    pub(super) fn pods(&self, all: bool) -> Vec<Arc<Pod>> {
        let views = self.inputs.board.snapshot().into_iter();
        let active = views.filter(|view| all || !view.status.phase.is_terminal());
        active.map(|view| view.pod).collect()
    }

    fn resources(&self, pod: &Pod) -> PodResources {
        let PodName { namespace, name } = PodName::of(pod);
        let uid = PodUid::of(pod).ok();
        let lasting = pod::containers(pod).filter(|(kind, _)| *kind != ContainerKind::Init);
        let of = |name: &str| match &uid {
            Some(uid) => self.of_container(uid, name),
            None => ContainerResources {
                name: name.to_owned(),
                ..ContainerResources::default()
            },
        };
        PodResources {
            name: name.to_string(),
            namespace: namespace.to_string(),
            containers: lasting.map(|(_, container)| of(&container.name)).collect(),
        }
    }

    fn of_container(&self, uid: &PodUid, container: &str) -> ContainerResources {
        let PodResourcesInputs {
            devices, pinned, ..
        } = &self.inputs;
        ContainerResources {
            name: container.to_owned(),
            devices: described(&devices.of_container(uid, container)),
            cpu_ids: numbers(pinned.cpus_of(uid, container)),
            memory: memory(pinned.memory_of(uid, container)),
            dynamic_resources: Vec::new(),
        }
    }
}

fn numbers(cpus: Vec<u32>) -> Vec<i64> {
    cpus.into_iter().map(i64::from).collect()
}

fn node(id: i64) -> NumaNode {
    NumaNode { id }
}

/// One entry a device and NUMA node of it, as upstream has them; one of a device that is nowhere in particular.
fn described(devices: &[GivenDevice]) -> Vec<ContainerDevices> {
    let entry = |device: &GivenDevice, topology| ContainerDevices {
        resource_name: device.resource.clone(),
        device_ids: vec![device.id.clone()],
        topology,
    };
    let mut described = Vec::new();
    for device in devices {
        match &device.nodes {
            None => described.push(entry(device, None)),
            Some(nodes) => described.extend(nodes.iter().map(|id| {
                let nodes = vec![node(*id)];
                entry(device, Some(TopologyInfo { nodes }))
            })),
        }
    }
    described
}

fn memory(blocks: Vec<MemoryBlock>) -> Vec<ContainerMemory> {
    let block = |block: MemoryBlock| ContainerMemory {
        memory_type: block.kind,
        size: block.bytes,
        topology: Some(TopologyInfo {
            nodes: block.nodes.iter().map(|id| node(i64::from(*id))).collect(),
        }),
    };
    blocks.into_iter().map(block).collect()
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.limit.take()?;
        let counts = &kubelet().pod_resources;
        counts.all.inc(VERSION);
        counts.list.inc(VERSION);
        let pods = self.pods(!self.inputs.only_active);
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pods.iter().map(|pod| self.resources(pod)).collect(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.limit.take()?;
        let counts = &kubelet().pod_resources;
        counts.all.inc(VERSION);
        counts.allocatable.inc(VERSION);
        Ok(Response::new(AllocatableResourcesResponse {
            devices: described(&self.inputs.devices.allocatable()),
            cpu_ids: numbers(self.inputs.pinned.allocatable_cpus()),
            memory: memory(self.inputs.pinned.allocatable_memory()),
        }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.limit.take()?;
        let counts = &kubelet().pod_resources;
        counts.all.inc(VERSION);
        counts.get.inc(VERSION);
        let wanted = request.into_inner();
        let pods = self.pods(true);
        let found = pods.iter().find(|pod| {
            let PodName { namespace, name } = PodName::of(pod);
            *namespace == *wanted.pod_namespace && *name == *wanted.pod_name
        });
        let Some(pod) = found else {
            counts.get_errors.inc(VERSION);
            return Err(Status::unknown(format!(
                "pod {} in namespace {} not found",
                wanted.pod_name, wanted.pod_namespace
            )));
        };
        Ok(Response::new(GetPodResourcesResponse {
            pod_resources: Some(self.resources(pod)),
        }))
    }
}
