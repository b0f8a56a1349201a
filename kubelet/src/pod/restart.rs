//! Whether a container that ended is started again: its own rules, then its own policy, then the pod's.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

use super::{ContainerKind, Pod};

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// Unless it ended with 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// The policy of the pod itself; the API's default is `Always`.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        Self::parse(super::spec(pod).restart_policy.as_deref()).unwrap_or(Self::Always)
    }

    /// The policy of one container: its own, else its pod's. A plain init container, which is done once it ended
    /// with 0, reads `Always` as `OnFailure`.
    pub(crate) fn of_container(pod: &Pod, kind: ContainerKind, container: &Container) -> Self {
        let policy = Self::parse(container.restart_policy.as_deref());
        match (kind, policy.unwrap_or_else(|| Self::of_pod(pod))) {
            (ContainerKind::Ephemeral, _) => Self::Never,
            (ContainerKind::Init, Self::Always) => Self::OnFailure,
            (ContainerKind::Sidecar, _) => Self::Always,
            (_, policy) => policy,
        }
    }

    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            Some("Always") => Some(Self::Always),
            Some("OnFailure") => Some(Self::OnFailure),
            Some("Never") => Some(Self::Never),
            _ => None,
        }
    }

    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// `action` of a rule that starts every container of the pod anew (KEP-5532).
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether `container`, a `kind` of container of `pod`, is started again after it ended with `exit_code`.
///
/// The first of `restartPolicyRules` that matches decides; then the container's `restartPolicy`; then the pod's. Rules
/// count only beside a `restartPolicy` of the container's own (KEP-5307). An ephemeral container never is.
#[must_use]
pub fn should_restart(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    exit_code: i32,
) -> bool {
    let rule = first_match(container, exit_code).filter(|_| kind != ContainerKind::Ephemeral);
    if rule.is_some_and(|r| r.action == "Restart" || r.action == RESTART_ALL) {
        return true;
    }
    RestartPolicy::of_container(pod, kind, container).restarts(exit_code)
}

/// Whether the end of `container` with `exit_code` has every container of its pod start anew.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    first_match(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether the end of any container of `pod` may have all of them start anew.
#[must_use]
pub fn may_restart_all(pod: &Pod) -> bool {
    super::containers(pod)
        .flat_map(|(_, c)| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == RESTART_ALL)
}

/// Whether `container` is started again when a probe has ended it. It has no exit code yet, so that only its own
/// policy counts, else its pod's, and no rule.
#[must_use]
pub fn restarts_after_probe(pod: &Pod, kind: ContainerKind, container: &Container) -> bool {
    RestartPolicy::of_container(pod, kind, container) != RestartPolicy::Never
}

fn first_match(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy.as_ref()?;
    let mut rules = container.restart_policy_rules.iter().flatten();
    rules.find(|rule| matches(rule, exit_code))
}

fn matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        match &*codes.operator {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(json: serde_json::Value) -> Container {
        serde_json::from_value(json).unwrap()
    }

    fn pod_policy(policy: &str) -> Pod {
        let spec = k8s_openapi::api::core::v1::PodSpec {
            restart_policy: Some(policy.to_owned()),
            ..Default::default()
        };
        Pod {
            spec: Some(spec),
            ..Pod::default()
        }
    }

    fn should_restart(container: &Container, pod: &Pod, exit_code: i32) -> bool {
        super::should_restart(pod, ContainerKind::Regular, container, exit_code)
    }

    #[test]
    fn an_init_container_is_done_once_it_succeeded_and_a_sidecar_never_is() {
        let plain = container(serde_json::json!({"name": "c"}));
        let pod = pod_policy("Always");
        let init = |code| super::should_restart(&pod, ContainerKind::Init, &plain, code);
        assert!(!init(0) && init(1));
        let never = pod_policy("Never");
        let sidecar = |code| super::should_restart(&never, ContainerKind::Sidecar, &plain, code);
        assert!(sidecar(0) && sidecar(1));
    }

    #[test]
    fn the_pods_policy_decides_for_a_container_without_its_own() {
        let plain = container(serde_json::json!({"name": "c"}));
        for (policy, on_zero, on_one) in [
            ("Always", true, true),
            ("OnFailure", false, true),
            ("Never", false, false),
            ("", true, true),
        ] {
            let spec = pod_policy(policy);
            assert_eq!(should_restart(&plain, &spec, 0), on_zero, "{policy} 0");
            assert_eq!(should_restart(&plain, &spec, 1), on_one, "{policy} 1");
        }
    }

    #[test]
    fn the_containers_policy_outranks_the_pods() {
        let never = container(serde_json::json!({"name": "c", "restartPolicy": "Never"}));
        assert!(!should_restart(&never, &pod_policy("Always"), 1));
        let always = container(serde_json::json!({"name": "c", "restartPolicy": "Always"}));
        assert!(should_restart(&always, &pod_policy("Never"), 0));
    }

    #[test]
    fn the_first_rule_that_matches_outranks_the_policy() {
        let ruled = container(serde_json::json!({
            "name": "c",
            "restartPolicy": "Never",
            "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
                {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0, 1, 42]}},
            ],
        }));
        let spec = pod_policy("Never");
        assert!(should_restart(&ruled, &spec, 42));
        assert!(!should_restart(&ruled, &spec, 1));
        assert!(!should_restart(&ruled, &spec, 0));
        assert!(should_restart(&ruled, &spec, 7));
    }

    #[test]
    fn only_the_rule_that_matches_first_restarts_all() {
        let ruled = container(serde_json::json!({
            "name": "c",
            "restartPolicy": "Never",
            "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
                {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42, 43]}},
            ],
        }));
        assert!(!restarts_all(&ruled, 42), "the first rule has it");
        assert!(restarts_all(&ruled, 43));
        assert!(!restarts_all(&ruled, 0));
        let mut pod = pod_policy("Never");
        assert!(!may_restart_all(&pod));
        pod.spec.as_mut().unwrap().containers.push(ruled);
        assert!(may_restart_all(&pod));
    }

    #[test]
    fn a_probe_knows_policies_and_no_rules() {
        let ruled = container(serde_json::json!({
            "name": "c",
            "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": []}}],
        }));
        let plain = container(serde_json::json!({"name": "c"}));
        let after = |container, policy| {
            restarts_after_probe(&pod_policy(policy), ContainerKind::Regular, container)
        };
        assert!(!after(&ruled, "Always"));
        assert!(after(&plain, "Always") && after(&plain, "OnFailure") && !after(&plain, "Never"));
        let sidecar = |container| {
            restarts_after_probe(&pod_policy("Never"), ContainerKind::Sidecar, container)
        };
        assert!(sidecar(&plain));
    }

    #[test]
    fn an_ephemeral_container_is_never_restarted() {
        let plain = container(serde_json::json!({"name": "c"}));
        let pod = pod_policy("Always");
        assert!(!super::should_restart(
            &pod,
            ContainerKind::Ephemeral,
            &plain,
            1
        ));
    }

    #[test]
    fn rules_without_a_policy_of_the_containers_own_do_not_count() {
        let ruled = container(serde_json::json!({
            "name": "c",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
        }));
        assert!(!should_restart(&ruled, &pod_policy("Never"), 42));
    }
}
