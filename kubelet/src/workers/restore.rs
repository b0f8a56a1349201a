//! What the annotations of a container say of it, for a pod whose spec nobody has any more.

use cri_proto::CriError;
use k8s_openapi::api::core::v1::{Container, Lifecycle};

use super::Tools;
use crate::runtime::ContainerId;
use crate::runtime::convert::annotation;

impl Tools {
    /// As much of the spec of the container `id` as its annotations hold: its preStop hook and its ports. What they say
    /// and nobody can read counts as nothing.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub(super) async fn restore_container(
        &self,
        id: &ContainerId,
        name: &str,
    ) -> Result<Container, CriError> {
        let status = self.runtime.container_status(id.as_str()).await?;
        let text = |key: &str| status.annotations.get(key).map(String::as_str);
        let pre_stop = text(annotation::PRE_STOP_HANDLER)
            .and_then(|handler| serde_json::from_str(handler).ok());
        Ok(Container {
            name: name.to_owned(),
            ports: text(annotation::PORTS).and_then(|ports| serde_json::from_str(ports).ok()),
            lifecycle: Some(Lifecycle {
                pre_stop,
                ..Lifecycle::default()
            }),
            ..Container::default()
        })
    }
}
