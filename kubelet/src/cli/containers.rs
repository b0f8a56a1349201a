//! Which of a pod's containers is meant, by kubectl's rules.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The annotation that names the container that is meant where none is named.
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container that is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) name: String,
    /// Whether it has a terminal.
    pub(super) tty: bool,
    /// What kubectl says of the choice.
    pub(super) remark: Option<String>,
}

/// The container called `asked`; without one, that of the annotation or the first.
///
/// # Errors
/// When there is none of that name: which there are.
pub(super) fn choose(pod: &Pod, asked: Option<&str>) -> Result<Chosen, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let all = all(pod);
    let found = |name: &str, remark: Option<String>| {
        let found = all.iter().find(|(container, ..)| *container == name);
        found.map(|(name, tty, _)| Chosen {
            name: (*name).to_owned(),
            tty: *tty,
            remark,
        })
    };
    let names = || {
        let names = all.iter().map(|(name, _, kind)| format!("{name}{kind}"));
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(asked) = asked {
        return found(asked, None).ok_or_else(|| {
            format!(
                "container {asked} is not valid for pod {pod_name} out of: {}",
                names()
            )
        });
    }
    let annotations = pod.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(DEFAULT_CONTAINER));
    let mut remarks = Vec::new();
    if let Some(annotated) = annotated.filter(|name| !name.is_empty()) {
        if let Some(found) = found(annotated, None) {
            return Ok(found);
        }
        remarks.push(format!(
            "Default container name {annotated:?} not found in pod {pod_name}"
        ));
    }
    let Some((first, ..)) = all.first() else {
        return Err(format!("pod {pod_name} does not have any containers"));
    };
    if all.len() > 1 {
        remarks.push(format!("Defaulted container {first:?} out of: {}", names()));
    }
    let remark = (!remarks.is_empty()).then(|| remarks.join("\n"));
    found(first, remark).ok_or_else(String::new)
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

    #[test]
    fn a_container_is_chosen_as_kubectl_does() {
        let choose = |annotation: &str, asked| {
            let pod = serde_json::from_value(json!({
                "metadata": {"name": "web-node", "annotations": {DEFAULT_CONTAINER: annotation}},
                "spec": {
                    "containers": [{"name": "main"}, {"name": "side", "tty": true}],
                    "initContainers": [{"name": "before"}],
                },
            }));
            super::choose(&pod.unwrap(), asked)
        };
        let chosen = |name: &str, tty, remark: Option<&str>| {
            Ok(Chosen {
                name: name.to_owned(),
                tty,
                remark: remark.map(str::to_owned),
            })
        };
        assert_eq!(choose("", Some("side")), chosen("side", true, None));
        assert_eq!(choose("side", None), chosen("side", true, None));
        let defaulted = "Defaulted container \"main\" out of: main, side, before (init)";
        assert_eq!(choose("", None), chosen("main", false, Some(defaulted)));
        let both =
            format!("Default container name \"gone\" not found in pod web-node\n{defaulted}");
        assert_eq!(choose("gone", None), chosen("main", false, Some(&both)));
        assert_eq!(
            choose("", Some("x")).unwrap_err(),
            "container x is not valid for pod web-node out of: main, side, before (init)"
        );
        assert_eq!(
            super::choose(&Pod::default(), None).unwrap_err(),
            "pod  does not have any containers"
        );
    }
}
