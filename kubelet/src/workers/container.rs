//! What a container is made of, just before it is made: its files, its parts of volumes, its message.

use std::path::PathBuf;

use cri_proto::v1;
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use super::start::{Prepared, StartError};
use crate::images::ImageReady;
use crate::managers::devices::DeviceError;
use crate::plan::ContainerStart;
use crate::pod::{self, Pod};
use crate::poddir::etc_hosts;
use crate::runtime::convert::{self, ContainerConfigError, ContainerInputs, ImageVolumes};
use crate::userns::Range;
use crate::volumes::{SubPath, SubPathRequest, SubPaths, env_files};

impl Worker {
    /// The message that makes a container, and on the node what it has in it.
    pub(super) async fn container_config(
        &self,
        pod: &Pod,
        spec: &Container,
        start: &ContainerStart,
        image: &ImageReady,
        (image_volumes, pod_ips, users): (&ImageVolumes, &[std::net::IpAddr], Option<Range>),
    ) -> Result<v1::ContainerConfig, StartError> {
        let prepared = self
            .memory
            .prepared
            .as_ref()
            .ok_or(StartError::NotPrepared)?;
        let hosts_file = self.write_hosts(pod, prepared, pod_ips)?;
        let termination_log = prepared
            .dir
            .ensure_termination_log(&start.name, start.attempt)?;
        self.tools
            .logs
            .ensure_container(&self.name, &self.uid, &start.name)?;
        let inputs = ContainerInputs {
            attempt: start.attempt,
            image_ref: &image.image_ref,
            image_user: &image.user,
            volumes: &prepared.volumes,
            image_volumes,
            sub_paths: &SubPaths::new(),
            pod_ips,
            objects: &self.objects.snapshot(pod),
            services: &self.objects.services(pod),
            files: &env_files(spec, &prepared.volumes),
            hosts_file: hosts_file.as_deref(),
            termination_log: Some(&termination_log),
            recursive_read_only: self.can_mount_recursively_read_only(pod, spec).await?,
            grants: &self.tools.managers.grants(&self.uid, &spec.name),
            users,
            node: &self.tools.node.settings,
        };
        let wanted = convert::sub_paths(pod, spec, &inputs)?;
        let inputs = ContainerInputs {
            sub_paths: &self.bind_sub_paths(&spec.name, wanted).await?,
            ..inputs
        };
        Ok(convert::container_config(pod, spec, &inputs)?)
    }

    /// Whether the handler of the pod's sandbox can do that; nobody is asked where nothing of `container` wants it.
    async fn can_mount_recursively_read_only(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<bool, StartError> {
        if !convert::wants_recursive_read_only(container) {
            return Ok(false);
        }
        let handler = self.tools.runtime_classes.handler(pod).await?;
        let status = self.tools.runtime.status(false).await;
        let handlers = status.map_err(StartError::Abilities)?.runtime_handlers;
        let features = handlers.into_iter().find(|one| one.name == handler);
        let features = features.and_then(|handler| handler.features);
        Ok(features.is_some_and(|features| features.recursive_read_only_mounts))
    }

    /// Has the plugins make ready what the container has of devices.
    pub(super) async fn ready_devices(
        &self,
        pod: &Pod,
        container: &str,
    ) -> Result<(), DeviceError> {
        let devices = &self.tools.devices;
        if !devices.are_asked_by(pod) {
            return Ok(());
        }
        self.say_at(&format!("asks for the devices of container {container}"));
        devices.before_start(&self.uid, pod, container).await
    }

    /// Mounts what `container` has of volumes. Cancel-safe: once nobody waits for it, nothing is mounted any more.
    async fn bind_sub_paths(
        &self,
        container: &str,
        wanted: Vec<SubPath>,
    ) -> Result<SubPaths, ContainerConfigError> {
        if wanted.is_empty() {
            return Ok(SubPaths::new());
        }
        self.say_at(&format!("mounts the subPaths of container {container}"));
        let volumes = self.tools.volumes.clone();
        let request = SubPathRequest {
            uid: self.uid.clone(),
            container: container.to_owned(),
            wanted,
        };
        let done = volumes.bind_sub_paths_in_background(request, self.upkeep.writing());
        Ok(done.await?)
    }

    /// The pod's `/etc/hosts`, with its addresses as they are now.
    fn write_hosts(
        &self,
        pod: &Pod,
        prepared: &Prepared,
        pod_ips: &[std::net::IpAddr],
    ) -> Result<Option<PathBuf>, StartError> {
        let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
        let text = if pod::host_network(pod) {
            let node_file =
                etc_hosts::node_file("/etc/hosts".as_ref()).map_err(StartError::Hosts)?;
            etc_hosts::of_host_network(&node_file, aliases)
        } else if pod_ips.is_empty() {
            return Ok(None);
        } else {
            let name = convert::pod_hostname(pod, &self.tools.node.settings.cluster_domain)?;
            etc_hosts::of_pod(pod_ips, &name.host, name.domain.as_deref(), aliases).into_bytes()
        };
        Ok(Some(prepared.dir.write_etc_hosts(&text)?))
    }
}
