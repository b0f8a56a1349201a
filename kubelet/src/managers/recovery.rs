//! What running containers have, where the state file that should say so was lost.
//!
//! Asked of the runtime once, before any pod is admitted: the one time that it is asked for a verbose status, where it says
//! nothing of a container's resources otherwise (containerd 1.6).

use std::sync::Arc;

use cri_proto::{CriError, RuntimeClient, v1};

use super::CpuSet;
use super::topology::NumaMask;
use crate::pod::PodUid;
use crate::runtime::convert::label;
use crate::runtime::observed::owner;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its pod.
    pub uid: PodUid,
    /// Its name in the spec.
    pub name: Arc<str>,
    /// The CPUs that it may run on; none where it may on all.
    pub cpus: CpuSet,
    /// The NUMA nodes that its memory comes from; none where it may from all.
    pub mems: NumaMask,
}

/// All containers of pods that run now.
///
/// # Errors
/// When the runtime does not say; one that is gone meanwhile is left out.
pub async fn running_containers(
    runtime: &RuntimeClient,
) -> Result<Vec<RunningContainer>, CriError> {
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning.into(),
        }),
        ..v1::ContainerFilter::default()
    };
    let mut running = Vec::new();
    for listed in runtime.list_containers(Some(filter)).await? {
        let Some(uid) = owner(&listed.labels) else {
            continue;
        };
        let Some(name) = listed.labels.get(label::CONTAINER_NAME) else {
            continue;
        };
        let status = match runtime.verbose_container_status(&listed.id).await {
            Err(error) if error.is_not_found() => continue,
            status => status?,
        };
        let (cpus, mems) = sets(&status);
        running.push(RunningContainer {
            uid,
            name: name.as_str().into(),
            cpus: cpus.parse().unwrap_or_default(),
            mems: nodes(&mems),
        });
    }
    Ok(running)
}

/// The CPUs and NUMA nodes of a container by its status: what CRI says of its resources, or else the specification that
/// the runtime has made it by.
fn sets(status: &v1::ContainerStatusResponse) -> (String, String) {
    let resources = status
        .status
        .as_ref()
        .and_then(|status| status.resources.as_ref());
    if let Some(linux) = resources.and_then(|resources| resources.linux.as_ref()) {
        return (linux.cpuset_cpus.clone(), linux.cpuset_mems.clone());
    }
    let info = status
        .info
        .get("info")
        .map(String::as_str)
        .unwrap_or_default();
    let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
    let cpu = &info["runtimeSpec"]["linux"]["resources"]["cpu"];
    let text = |name: &str| cpu[name].as_str().unwrap_or_default().to_owned();
    (text("cpus"), text("mems"))
}

/// NUMA nodes are listed as CPUs are.
fn nodes(list: &str) -> NumaMask {
    let nodes: CpuSet = list.parse().unwrap_or_default();
    NumaMask::of(nodes.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_has_is_made_out() {
        let bare = v1::ContainerStatusResponse::default();
        assert_eq!(sets(&bare), (String::new(), String::new()));
        // As containerd 1.6 has it.
        let mut of_info = bare.clone();
        let info = r#"{"pid":7,"runtimeSpec":{"linux":{"resources":{"cpu":{"shares":2,"cpus":"1,3","mems":"0"}}}}}"#;
        of_info.info.insert("info".to_owned(), info.to_owned());
        assert_eq!(sets(&of_info), ("1,3".to_owned(), "0".to_owned()));
        let linux = v1::LinuxContainerResources {
            cpuset_cpus: "2".to_owned(),
            ..v1::LinuxContainerResources::default()
        };
        of_info.status = Some(v1::ContainerStatus {
            resources: Some(v1::ContainerResources {
                linux: Some(linux),
                ..v1::ContainerResources::default()
            }),
            ..v1::ContainerStatus::default()
        });
        assert_eq!(sets(&of_info), ("2".to_owned(), String::new()));
        assert_eq!(nodes("0-1"), NumaMask::of([0, 1]));
    }
}
