//! Which pods may go on without the API server's word. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Volume};

use crate::config::RestoreApiPods;
use crate::pod::{self, Pod, RestartPolicy};

/// What is known of the machine and the agent when it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// The machine was booted since the API server was heard last.
    pub(super) rebooted: bool,
    /// `restoreAPIPods`.
    pub(super) restore: RestoreApiPods,
    /// `restoreAPIPodsMaxAge`.
    pub(super) max_age: Duration,
    /// When the node's lease was renewed last; none where that is not known.
    pub(super) renewed: Option<Timestamp>,
    /// By the same clock.
    pub(super) now: Timestamp,
}

/// Why a pod does not go on before the API server has been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Why {
    #[error("nothing of it is left in the runtime")]
    Gone,
    #[error("the machine was rebooted, and restoreAPIPods is Never")]
    Never,
    #[error("it is not known when the node's lease was renewed last")]
    NoLease,
    #[error("the clock shows a time before the node's last lease")]
    Clock,
    #[error("the node's last lease is older than restoreAPIPodsMaxAge")]
    TooOld,
    #[error("it is being deleted")]
    Deleted,
    #[error("it is not to be restarted whenever it ends")]
    RunsOnce,
    #[error("it belongs to a StatefulSet")]
    StatefulSet,
    #[error("it has a claim")]
    Claim,
    #[error("it has a CSI volume")]
    Csi,
    #[error("it has a volume that is not the node's own")]
    ForeignVolume,
    #[error("it has a host port, or the host's network")]
    HostPort,
    #[error("it needs a token of its service account, which the API server alone makes")]
    Token,
    #[error("it names a RuntimeClass, which the API server alone knows")]
    RuntimeClass,
    #[error("it has resource claims")]
    ResourceClaims,
}

/// Whether `pod` goes on; `in_runtime` says whether the runtime holds a sandbox or a container of it.
pub(super) fn may_go_on(pod: &Pod, in_runtime: bool, so: &Circumstances) -> Result<(), Why> {
    if !so.rebooted {
        return match in_runtime {
            true => Ok(()),
            false => Err(Why::Gone),
        };
    }
    match so.restore {
        RestoreApiPods::Never => return Err(Why::Never),
        RestoreApiPods::Stateless => {}
    }
    let age = so.now.duration_since(so.renewed.ok_or(Why::NoLease)?);
    // Nobody can tell how long it really was.
    let age = Duration::try_from(age).map_err(|_| Why::Clock)?;
    if age > so.max_age {
        return Err(Why::TooOld);
    }
    stateless(pod)
}

/// Whether a pod can begin anew on this node, whatever has become of it elsewhere, and does no harm.
fn stateless(pod: &Pod) -> Result<(), Why> {
    let spec = pod::spec(pod);
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(Why::Deleted);
    }
    if RestartPolicy::of_pod(pod) != RestartPolicy::Always {
        return Err(Why::RunsOnce);
    }
    let owners = pod.metadata.owner_references.iter().flatten();
    if owners.into_iter().any(|owner| owner.kind == "StatefulSet") {
        return Err(Why::StatefulSet);
    }
    for volume in spec.volumes.iter().flatten() {
        of_the_node(volume)?;
    }
    // Whoever has the host's network may listen on ports that are not declared.
    let mut containers = pod::containers(pod).map(|(_, container)| container);
    if pod::host_network(pod) || containers.any(has_host_port) {
        return Err(Why::HostPort);
    }
    if spec
        .runtime_class_name
        .as_ref()
        .is_some_and(|name| !name.is_empty())
    {
        return Err(Why::RuntimeClass);
    }
    if spec
        .resource_claims
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        return Err(Why::ResourceClaims);
    }
    Ok(())
}

fn has_host_port(container: &Container) -> bool {
    let mut ports = container.ports.iter().flatten();
    ports.any(|port| port.host_port.is_some_and(|port| port != 0))
}

/// Whether the node alone can make the volume. Kinds that are not named here are not restored.
fn of_the_node(volume: &Volume) -> Result<(), Why> {
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return Err(Why::Claim);
    }
    if volume.csi.is_some() {
        return Err(Why::Csi);
    }
    if let Some(projected) = &volume.projected {
        let mut sources = projected.sources.iter().flatten();
        return match sources.any(|source| source.service_account_token.is_some()) {
            true => Err(Why::Token),
            false => Ok(()),
        };
    }
    let own = volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || is_bare(volume);
    own.then_some(()).ok_or(Why::ForeignVolume)
}

/// A volume without any source is an emptyDir: the API's default.
fn is_bare(volume: &Volume) -> bool {
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    *volume == bare
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn rebooted() -> Circumstances {
        Circumstances {
            rebooted: true,
            restore: RestoreApiPods::Stateless,
            max_age: HOUR,
            renewed: Some(at(0)),
            now: at(60),
        }
    }

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r"}]},
            "spec": {"containers": [{"name": "main", "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b"}, {"name": "c", "secret": {"secretName": "s"}},
                    {"name": "d", "hostPath": {"path": "/"}}, {"name": "e", "configMap": {"name": "c"}},
                    {"name": "f", "downwardAPI": {}}, {"name": "g", "projected": {"sources": [{"secret": {"name": "s"}}]}}]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn after_a_mere_restart_whatever_is_in_the_runtime_goes_on_and_nothing_else() {
        for restore in [RestoreApiPods::Never, RestoreApiPods::Stateless] {
            let so = Circumstances {
                rebooted: false,
                restore,
                renewed: None,
                ..rebooted()
            };
            let stateful = pod(|p| {
                p["spec"]["volumes"] =
                    json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
                p["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
            });
            assert_eq!(may_go_on(&stateful, true, &so), Ok(()));
            assert_eq!(may_go_on(&pod(|_| {}), false, &so), Err(Why::Gone));
        }
    }

    #[test]
    fn after_a_reboot_the_setting_decides_and_the_age_of_the_last_lease() {
        let decide = |so: Circumstances| may_go_on(&pod(|_| {}), true, &so);
        assert_eq!(decide(rebooted()), Ok(()));
        let never = RestoreApiPods::Never;
        assert_eq!(
            decide(Circumstances {
                restore: never,
                ..rebooted()
            }),
            Err(Why::Never)
        );
        for (now, expected) in [
            (at(0), Ok(())),
            (at(3600), Ok(())),
            (at(3601), Err(Why::TooOld)),
            (at(-1), Err(Why::Clock)),
        ] {
            assert_eq!(
                decide(Circumstances { now, ..rebooted() }),
                expected,
                "{now}"
            );
        }
        let unknown = Circumstances {
            renewed: None,
            ..rebooted()
        };
        assert_eq!(decide(unknown), Err(Why::NoLease));
    }

    #[test]
    fn what_has_a_state_or_a_place_elsewhere_is_never_restored() {
        let volume = |volume: Value| move |p: &mut Value| p["spec"]["volumes"] = json!([volume]);
        let cases: Vec<(Why, Pod)> = vec![
            (
                Why::Claim,
                pod(volume(
                    json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
                )),
            ),
            (
                Why::Claim,
                pod(volume(json!({"name": "v", "ephemeral": {}}))),
            ),
            (
                Why::Csi,
                pod(volume(json!({"name": "v", "csi": {"driver": "d"}}))),
            ),
            (
                Why::ForeignVolume,
                pod(volume(
                    json!({"name": "v", "nfs": {"server": "s", "path": "/"}}),
                )),
            ),
            (
                Why::Token,
                pod(volume(json!({"name": "v", "projected": {"sources":
                [{"serviceAccountToken": {"path": "token"}}]}}))),
            ),
            (
                Why::StatefulSet,
                pod(|p| p["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet")),
            ),
            (
                Why::HostPort,
                pod(|p| p["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(80)),
            ),
            (
                Why::HostPort,
                pod(|p| {
                    p["spec"]["initContainers"] = json!([{"name": "i",
                "ports": [{"containerPort": 1, "hostPort": 1}]}])
                }),
            ),
            (
                Why::HostPort,
                pod(|p| p["spec"]["hostNetwork"] = json!(true)),
            ),
            (
                Why::RunsOnce,
                pod(|p| p["spec"]["restartPolicy"] = json!("OnFailure")),
            ),
            (
                Why::RunsOnce,
                pod(|p| p["spec"]["restartPolicy"] = json!("Never")),
            ),
            (
                Why::RuntimeClass,
                pod(|p| p["spec"]["runtimeClassName"] = json!("gvisor")),
            ),
            (
                Why::ResourceClaims,
                pod(|p| p["spec"]["resourceClaims"] = json!([{"name": "gpu"}])),
            ),
            (
                Why::Deleted,
                pod(|p| p["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z")),
            ),
        ];
        for (why, pod) in cases {
            assert_eq!(may_go_on(&pod, true, &rebooted()), Err(why));
        }
    }
}
