//! Which pod, and which of its containers.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::pods::{self, Listed};
use super::{StreamError, tell};

/// The annotation that names the container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod called `name`, by its name in the manifest or with the node's name behind it.
///
/// # Errors
/// When nobody answers, or there is none.
pub(super) fn pod(socket: &Path, namespace: &str, name: &str) -> Result<Listed, StreamError> {
    let all = pods::list(socket)?;
    one_of(all, namespace, name).ok_or_else(|| StreamError::NoPod(name.to_owned()))
}

fn one_of(all: Vec<Listed>, namespace: &str, name: &str) -> Option<Listed> {
    let mut found: Vec<Listed> = all
        .into_iter()
        .filter(|pod| pod.namespace() == namespace && pod.is_called(name))
        .collect();
    let exact = found.iter().position(|pod| pod.name() == name);
    (!found.is_empty()).then(|| found.swap_remove(exact.unwrap_or(0)))
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
    let (chosen, remark) = choose(&listed.pod, listed.name(), asked)?;
    if let Some(remark) = remark.filter(|_| !quiet) {
        tell(&remark);
    }
    Ok(chosen)
}

type Chosen = ((String, bool), Option<String>);

fn choose(pod: &Pod, pod_name: &str, asked: Option<&str>) -> Result<Chosen, StreamError> {
    let all = all(pod);
    let found = |name: &str| {
        let mut all = all.iter();
        all.find(|(container, ..)| *container == name)
            .map(|(name, tty, _)| ((*name).to_owned(), *tty))
    };
    let names = || {
        let names = all.iter().map(|(name, _, kind)| format!("{name}{kind}"));
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(asked) = asked {
        let found = found(asked).map(|found| (found, None));
        return found.ok_or_else(|| {
            StreamError::Cannot(format!(
                "container {asked} is not valid for pod {pod_name} out of: {}",
                names()
            ))
        });
    }
    let annotations = pod.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(DEFAULT_CONTAINER));
    let mut remark = None;
    if let Some(annotated) = annotated.filter(|name| !name.is_empty()) {
        if let Some(found) = found(annotated) {
            return Ok((found, None));
        }
        remark = Some(format!(
            "Default container name {annotated:?} not found in pod {pod_name}"
        ));
    }
    let Some((first, tty, _)) = all.first() else {
        return Err(StreamError::Cannot(format!(
            "pod {pod_name} has no container"
        )));
    };
    if all.len() > 1 {
        let defaulted = format!("Defaulted container {first:?} out of: {}", names());
        remark = Some(match remark {
            Some(remark) => format!("{remark}\n{defaulted}"),
            None => defaulted,
        });
    }
    Ok((((*first).to_owned(), *tty), remark))
}

/// All containers, those of the pod's life first: the name, whether there is a terminal, what kubectl puts behind the name.
fn all(pod: &Pod) -> Vec<(&str, bool, &'static str)> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let mut all = Vec::new();
    let named = |container: &'_ Container| container.tty.unwrap_or(false);
    all.extend(
        spec.containers
            .iter()
            .map(|one| (&*one.name, named(one), "")),
    );
    for one in spec.ephemeral_containers.iter().flatten() {
        all.push((&one.name, one.tty.unwrap_or(false), " (ephem)"));
    }
    for one in spec.init_containers.iter().flatten() {
        all.push((&one.name, named(one), " (init)"));
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example(annotation: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"annotations": {DEFAULT_CONTAINER: annotation}},
            "spec": {
                "containers": [{"name": "main"}, {"name": "side", "tty": true}],
                "initContainers": [{"name": "before"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_container_is_chosen_as_kubectl_does() {
        let choose = |annotation, asked| {
            let chosen = super::choose(&example(annotation), "web-node", asked);
            chosen.map_err(|error| error.to_string())
        };
        let side = ("side".to_owned(), true);
        let main = ("main".to_owned(), false);
        assert_eq!(choose("", Some("side")), Ok((side.clone(), None)));
        assert_eq!(choose("side", None), Ok((side, None)));
        let defaulted = "Defaulted container \"main\" out of: main, side, before (init)";
        assert_eq!(
            choose("", None),
            Ok((main.clone(), Some(defaulted.to_owned())))
        );
        let both =
            format!("Default container name \"gone\" not found in pod web-node\n{defaulted}");
        assert_eq!(choose("gone", None), Ok((main, Some(both))));
        assert_eq!(
            choose("", Some("x")).unwrap_err(),
            "error: container x is not valid for pod web-node out of: main, side, before (init)"
        );
    }

    #[test]
    fn what_has_ended_is_left_alone() {
        let mut pod = example("");
        assert!(is_not_completed(&pod, "attach").is_ok());
        pod.status = Some(Default::default());
        pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        assert_eq!(
            is_not_completed(&pod, "attach").unwrap_err().to_string(),
            "error: cannot attach a container in a completed pod; current phase is Failed"
        );
    }
}
