use cri_proto::CriErrorKind;

use super::*;

fn call_failed() -> CriError {
    CriError::new("Call", CriErrorKind::Other, "no")
}

/// What the status says of a container that could not be started, and the reason of the event: upstream's words.
#[test]
fn failures_have_upstreams_reasons() {
    let run = StartError::Run {
        id: "c".into(),
        error: call_failed(),
    };
    let never_pull = StartError::Image(ImageFailure {
        error: ImageError::NeverPull {
            image: "nosuch:1".to_owned(),
            retry_after: Duration::ZERO,
        },
        retry_at: Duration::ZERO,
    });
    let io = || std::io::Error::other("no");
    for (error, event, waiting, message) in [
        (
            never_pull,
            "ErrImageNeverPull",
            "ErrImageNeverPull",
            "Container image \"nosuch:1\" is not present with pull policy of Never",
        ),
        (
            StartError::NoSuchContainer,
            "CreateContainerConfigError",
            "CreateContainerConfigError",
            "the spec has no container of this name",
        ),
        (
            StartError::Hosts(io()),
            "CreateContainerConfigError",
            "CreateContainerConfigError",
            "cannot read the node's hosts file: no",
        ),
        (
            StartError::Create(call_failed()),
            "CreateContainerError",
            "CreateContainerError",
            "no",
        ),
        (run, "RunContainerError", "RunContainerError", "no"),
        (
            StartError::PostStartLost,
            "PostStartHookError",
            "PostStartHookError",
            "the container or its sandbox ended, and the postStart hook was not answered for",
        ),
        (
            StartError::Network("network is not ready: no".into()),
            "NetworkNotReady",
            "ContainerCreating",
            "network is not ready: no",
        ),
        (
            StartError::RuntimeClass(NoRuntimeClass("boxed".to_owned())),
            "FailedCreatePodSandBox",
            "ContainerCreating",
            "runtimeclass.node.k8s.io \"boxed\" not found",
        ),
        (
            StartError::Volumes(Vec::new()),
            "FailedMount",
            "ContainerCreating",
            "",
        ),
        (
            StartError::Claims(crate::claims::error_of_one("p", "data", "db")),
            "FailedMount",
            "ContainerCreating",
            "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: error processing PVC default/db: PVC is not bound",
        ),
        (
            StartError::NotPrepared,
            "FailedSync",
            "ContainerCreating",
            "the pod's directory, cgroup and volumes are not ready",
        ),
    ] {
        assert_eq!(error.reason(), event);
        let shown = error.waiting();
        assert_eq!(
            (&*shown.reason, &*shown.message),
            (waiting, message),
            "{event}"
        );
    }
}
