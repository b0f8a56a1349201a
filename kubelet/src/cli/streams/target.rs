//! Which pod, and which of its containers.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::super::containers;
use super::super::pods::{self, Listed};
use super::{StreamError, tell};

/// The pod called `name`, by its name in the manifest or with the node's name behind it.
///
/// # Errors
/// When nobody answers, or there is none.
pub(super) fn pod(socket: &Path, namespace: &str, name: &str) -> Result<Listed, StreamError> {
    let all = pods::list(socket)?;
    let found = pods::position(&all, namespace, name);
    let found = found.and_then(|index| all.into_iter().nth(index));
    found.ok_or_else(|| StreamError::NoPod(name.to_owned()))
}

/// Whether what has ended is not asked for anything: the words of `kubectl VERB`.
///
/// # Errors
/// When the pod has ended.
pub(super) fn is_not_completed(pod: &Pod, doing: &str) -> Result<(), StreamError> {
    match phase(pod) {
        phase @ ("Succeeded" | "Failed") => Err(StreamError::Cannot(format!(
            "cannot {doing} a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

pub(super) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// The container called `asked`; without one, that of the annotation or the first, which is told unless `quiet`. With it
/// whether it has a terminal.
///
/// # Errors
/// When there is none of that name.
pub(super) fn container(
    listed: &Listed,
    asked: Option<&str>,
    quiet: bool,
) -> Result<(String, bool), StreamError> {
    let chosen = containers::choose(&listed.pod, asked).map_err(StreamError::Cannot)?;
    if let Some(remark) = chosen.remark.filter(|_| !quiet) {
        tell(&remark);
    }
    Ok((chosen.name, chosen.tty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_left_alone() {
        let mut pod = Pod::default();
        assert!(is_not_completed(&pod, "attach").is_ok());
        pod.status = Some(Default::default());
        pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        assert_eq!(
            is_not_completed(&pod, "attach").unwrap_err().to_string(),
            "error: cannot attach a container in a completed pod; current phase is Failed"
        );
    }
}
