//! What ids a pod has, by the runtime that made its namespace: for a pod whose file is lost.

use std::collections::BTreeMap;

use cri_proto::{CriError, RuntimeClient, v1};
use serde_json::Value;

use super::range::Range;
use crate::pod::PodUid;
use crate::runtime::convert::label;
use crate::runtime::observed::sandbox_ready;

/// What a sandbox says of its ids.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It has these.
    Range(Range),
    /// It shares the node's.
    Node,
    /// Nothing.
    Nothing,
}

/// The ids of the pod's sandboxes, the newest first; none where it has no sandbox, or none in a namespace of its own.
///
/// # Errors
/// When the runtime does not answer; with nothing, when it has a sandbox that runs and does not tell.
pub(super) async fn of_pod(
    runtime: &RuntimeClient,
    uid: &PodUid,
) -> Result<Option<Range>, Option<CriError>> {
    let filter = v1::PodSandboxFilter {
        label_selector: BTreeMap::from([(label::POD_UID.to_owned(), uid.to_string())]),
        ..v1::PodSandboxFilter::default()
    };
    let mut sandboxes = runtime.list_pod_sandbox(Some(filter)).await.map_err(Some)?;
    sandboxes.sort_by_key(|sandbox| {
        let attempt = sandbox.metadata.as_ref().map_or(0, |m| m.attempt);
        std::cmp::Reverse((attempt, sandbox.created_at))
    });
    for listed in sandboxes {
        let status = match runtime.verbose_pod_sandbox_status(&listed.id).await {
            // One that does not run has no say about who shares what.
            Err(error) if error.is_not_found() || !sandbox_ready(listed.state) => continue,
            status => status.map_err(Some)?,
        };
        match told(&status) {
            Told::Range(range) => return Ok(Some(range)),
            Told::Nothing if sandbox_ready(listed.state) => return Err(None),
            Told::Node | Told::Nothing => {}
        }
    }
    Ok(None)
}

/// By CRI's own field, which containerd leaves empty, or else the specification that the runtime made the sandbox by.
fn told(answer: &v1::PodSandboxStatusResponse) -> Told {
    let status = answer.status.as_ref();
    let namespaces = status.and_then(|status| status.linux.as_ref()?.namespaces.as_ref());
    let users =
        namespaces.and_then(|namespaces| namespaces.options.as_ref()?.userns_options.as_ref());
    if let Some(users) = users {
        return match (users.mode(), users.uids.as_slice()) {
            (v1::NamespaceMode::Node, _) => Told::Node,
            (_, [one]) if one.container_id == 0 => known(one.host_id, one.length),
            _ => Told::Nothing,
        };
    }
    let info = answer.info.get("info").map(String::as_str);
    let info: Value = serde_json::from_str(info.unwrap_or_default()).unwrap_or_default();
    let Some(linux) = info["runtimeSpec"]["linux"].as_object() else {
        return Told::Nothing;
    };
    let mappings = linux.get("uidMappings").and_then(Value::as_array);
    match mappings.map(Vec::as_slice) {
        None | Some([]) => Told::Node,
        Some([one]) if one["containerID"] == 0 => {
            let number = |name: &str| one[name].as_u64().and_then(|n| u32::try_from(n).ok());
            match (number("hostID"), number("size")) {
                (Some(first), Some(length)) => known(first, length),
                _ => Told::Nothing,
            }
        }
        Some(_) => Told::Nothing,
    }
}

fn known(first: u32, length: u32) -> Told {
    Range::new(first, length).map_or(Told::Nothing, Told::Range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_info(info: &str) -> v1::PodSandboxStatusResponse {
        let mut answer = v1::PodSandboxStatusResponse::default();
        answer.info.insert("info".to_owned(), info.to_owned());
        answer
    }

    fn with_users(users: v1::UserNamespace) -> v1::PodSandboxStatusResponse {
        let options = v1::NamespaceOption {
            userns_options: Some(users),
            ..v1::NamespaceOption::default()
        };
        v1::PodSandboxStatusResponse {
            status: Some(v1::PodSandboxStatus {
                linux: Some(v1::LinuxPodSandboxStatus {
                    namespaces: Some(v1::Namespace {
                        options: Some(options),
                    }),
                }),
                ..v1::PodSandboxStatus::default()
            }),
            ..v1::PodSandboxStatusResponse::default()
        }
    }

    #[test]
    fn a_sandbox_tells_its_ids_in_either_form() {
        let range = Told::Range(Range::new(131_072, 65_536).unwrap());
        // As containerd 2 has it.
        let spec = r#"{"pid":7,"runtimeSpec":{"linux":{"uidMappings":[{"containerID":0,"hostID":131072,"size":65536}],"gidMappings":[]}}}"#;
        assert_eq!(told(&with_info(spec)), range);
        let one = v1::IdMapping {
            host_id: 131_072,
            container_id: 0,
            length: 65_536,
        };
        let users = v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: vec![one],
            gids: vec![one],
        };
        assert_eq!(told(&with_users(users)), range);
    }

    #[test]
    fn the_nodes_own_ids_are_no_range_and_silence_is_neither() {
        let node = v1::UserNamespace {
            mode: v1::NamespaceMode::Node.into(),
            ..v1::UserNamespace::default()
        };
        assert_eq!(told(&with_users(node)), Told::Node);
        let plain = r#"{"runtimeSpec":{"linux":{"namespaces":[]}}}"#;
        assert_eq!(told(&with_info(plain)), Told::Node);
        for silent in ["", "{}", "no JSON", r#"{"runtimeSpec":{}}"#] {
            assert_eq!(told(&with_info(silent)), Told::Nothing, "{silent}");
        }
        let odd =
            r#"{"runtimeSpec":{"linux":{"uidMappings":[{"containerID":0,"hostID":7,"size":1}]}}}"#;
        assert_eq!(told(&with_info(odd)), Told::Nothing);
    }
}
