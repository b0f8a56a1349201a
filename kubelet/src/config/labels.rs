//! The rules for names, labels and taints of the node.

/// A reason why `key` is no qualified name (`[prefix/]name`), if it is none.
pub(super) fn qualified_name_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && !is_dns_subdomain(prefix)
    {
        return Some("prefix part must be a DNS subdomain (e.g. 'example.com')");
    }
    if name.is_empty() {
        return Some("name part must be non-empty");
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 characters");
    }
    (!is_word(name)).then_some(
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    )
}

/// A reason why `value` is no label value, if it is none.
fn label_value_fault(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters");
    }
    (!value.is_empty() && !is_word(value)).then_some(
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    )
}

fn is_word(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// Whether `text` is a DNS subdomain (RFC 1123): what a node may be called.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let label = |label: &str| {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Labels in the name space of Kubernetes that a kubelet may give its own node.
/// Source: `k8s.io/kubelet/pkg/apis/well_known_labels.go`, in the order upstream prints them.
const ALLOWED: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Prefixes, subdomains of them included, that a kubelet may use.
const ALLOWED_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

fn within(domain: &str, of: &str) -> bool {
    domain == of
        || domain
            .strip_suffix(of)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a kubelet may give its own node the label `key`.
fn allowed_on_node(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return true;
    };
    let reserved = within(domain, "kubernetes.io") || within(domain, "k8s.io");
    !reserved
        || ALLOWED.contains(&key)
        || ALLOWED_PREFIXES.iter().any(|prefix| within(domain, prefix))
}

/// What is wrong with the labels of `--node-labels`, one message a rule.
pub(crate) fn check_node_labels<'a>(
    labels: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut invalid = Vec::new();
    for (key, value) in labels {
        if !allowed_on_node(key) {
            unknown.push(key);
        }
        if let Some(fault) = qualified_name_fault(key) {
            invalid.push(format!("'{key}' - {fault}"));
        }
        if let Some(fault) = label_value_fault(value) {
            invalid.push(format!("'{value}' - {fault}"));
        }
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{}]\n--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix ({}) or be in the specifically allowed set ({})",
            unknown.join(" "),
            ALLOWED_PREFIXES.join(", "),
            ALLOWED.join(", ")
        ));
    }
    if !invalid.is_empty() {
        messages.push(format!("invalid node labels: {}", invalid.join("; ")));
    }
    messages
}

/// Checks one taint.
///
/// # Errors
/// With what is wrong with it.
pub(crate) fn check_taint(key: &str, value: &str, effect: &str) -> Result<(), String> {
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!(
            "unsupported taint effect {effect:?}, write NoSchedule, PreferNoSchedule or NoExecute"
        ));
    }
    if let Some(fault) = qualified_name_fault(key) {
        return Err(fault.to_owned());
    }
    label_value_fault(value).map_or(Ok(()), |fault| Err(fault.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_a_kubelet_may_set() {
        let good = [
            ("kubernetes.io/os", "linux"),
            ("topology.kubernetes.io/zone", "a"),
            ("gpu.node.kubernetes.io/kind", ""),
            ("node.kubernetes.io/anything", "x"),
            ("example.com/role", "db"),
            ("plain", "1.2_3-x"),
        ];
        assert_eq!(check_node_labels(good.into_iter()), Vec::<String>::new());
    }

    #[test]
    fn labels_a_kubelet_may_not_set() {
        let bad = [
            ("node-role.kubernetes.io/control-plane", ""),
            ("x.k8s.io/y", "z"),
            ("-a", "b c"),
        ];
        let messages = check_node_labels(bad.into_iter());
        assert_eq!(messages.len(), 2);
        assert!(messages[0].starts_with(
            "unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [node-role.kubernetes.io/control-plane x.k8s.io/y]\n"
        ));
        assert!(
            messages[1].contains("'-a' - name part must"),
            "{}",
            messages[1]
        );
        assert!(
            messages[1].contains("'b c' - a valid label"),
            "{}",
            messages[1]
        );
    }

    #[test]
    fn a_domain_that_only_ends_alike_is_no_subdomain() {
        assert!(allowed_on_node("notkubernetes.io/x"));
        assert!(!allowed_on_node("a.kubernetes.io/x"));
        assert!(!allowed_on_node("mynode.kubernetes.io/x"));
    }

    #[test]
    fn taints() {
        assert_eq!(check_taint("dedicated", "gpu", "NoSchedule"), Ok(()));
        assert!(
            check_taint("dedicated", "gpu", "Sometimes")
                .unwrap_err()
                .contains("NoExecute")
        );
        assert!(check_taint("/x", "", "NoSchedule").is_err());
        assert!(check_taint("x", "a b", "NoSchedule").is_err());
    }

    #[test]
    fn node_names() {
        for name in ["node-1", "a.b.c", "10"] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in ["", "Node", "a_b", "-a", "a..b", "a."] {
            assert!(!is_dns_subdomain(name), "{name}");
        }
    }
}
