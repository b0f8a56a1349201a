//! Names taken in the runtime by somebody whom the agent does not know.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use cri_proto::v1;

use super::Rig;
use crate::agent::PodView as _;
use crate::images;

/// The namespace option of a sandbox on the node's own network: it costs no CNI.
const NODE_NETWORK: i32 = v1::NamespaceMode::Node as i32;

impl Rig<'_> {
    /// Takes the next name of the pod's sandbox and the next one of its container `c0`, as a creation does that the
    /// runtime lost track of: the names are taken, and whatever has them carries no label of a pod.
    ///
    /// # Errors
    /// When the pod does not run, or the runtime refuses.
    pub async fn reserve_names(&self, name: &str) -> Result<()> {
        let Ok(pod) = self.agent.pod(name) else {
            return Ok(());
        };
        let uid = pod.uid();
        let client = self.runtime.runtime();
        let mut attempt = 0;
        for sandbox in client.list_pod_sandbox(None).await? {
            let metadata = sandbox.metadata.unwrap_or_default();
            if metadata.uid == uid {
                attempt = attempt.max(metadata.attempt + 1);
            }
        }
        let mut next = 0;
        let labels = BTreeMap::from([("io.kubernetes.pod.uid".to_owned(), uid.to_owned())]);
        let filter = v1::ContainerFilter {
            label_selector: labels,
            ..v1::ContainerFilter::default()
        };
        for container in client.list_containers(Some(filter)).await? {
            let metadata = container.metadata.unwrap_or_default();
            if metadata.name == "c0" {
                next = next.max(metadata.attempt + 1);
            }
        }
        let full = pod.metadata.name.clone().context("the pod's name")?;
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: full,
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt,
            }),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.node.cgroup_root(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: NODE_NETWORK,
                        ..v1::NamespaceOption::default()
                    }),
                    ..v1::LinuxSandboxSecurityContext::default()
                }),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        let sandbox = client
            .run_pod_sandbox(config.clone(), String::new())
            .await
            .context("take the sandbox's name")?;
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "c0".to_owned(),
                attempt: next,
            }),
            image: Some(v1::ImageSpec {
                image: images::BUSYBOX.to_owned(),
                ..v1::ImageSpec::default()
            }),
            command: vec!["true".to_owned()],
            ..v1::ContainerConfig::default()
        };
        client
            .create_container(&sandbox, container, config)
            .await
            .context("take the container's name")?;
        self.journal.note(format_args!(
            "taken of {name}: sandbox {attempt}, c0 {next}"
        ));
        self.strangers.borrow_mut().push(sandbox);
        Ok(())
    }

    /// Removes the image of all pods from the runtime; what runs of it runs on.
    ///
    /// # Errors
    /// When the runtime does not do it.
    pub async fn remove_image(&self) -> Result<()> {
        let image = v1::ImageSpec {
            image: images::BUSYBOX.to_owned(),
            ..v1::ImageSpec::default()
        };
        let removed = self.runtime.images().remove_image(image).await;
        removed.context("remove the image")
    }

    /// Gives back the names that were taken.
    ///
    /// # Errors
    /// When the runtime does not do it.
    pub async fn give_back_names(&self) -> Result<()> {
        let client = self.runtime.runtime();
        for sandbox in self.strangers.take() {
            client.stop_pod_sandbox(&sandbox).await?;
            client.remove_pod_sandbox(&sandbox).await?;
        }
        Ok(())
    }
}
