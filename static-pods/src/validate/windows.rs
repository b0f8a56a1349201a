//! Rules for Windows options of security contexts. No pod with any runs here, but what is wrong with one is said in
//! upstream's words first.

use k8s_openapi::api::core::v1::{PodSpec, WindowsSecurityContextOptions};

use super::shown::{Json, Shown as _};
use super::{Errors, names, security};

/// Largest credential spec, in KiB.
const CREDENTIAL_SPEC_KIB: usize = 64;
/// A user's domain is shorter than this many bytes.
const DOMAIN: usize = 256;
/// Longest name of a user, in bytes.
const USER: usize = 104;

/// The options of a pod or a container.
pub(super) fn options(
    path: &str,
    options: Option<&WindowsSecurityContextOptions>,
    errors: &mut Errors,
) {
    let Some(options) = options else {
        return;
    };
    if let Some(name) = &options.gmsa_credential_spec_name {
        for message in names::subdomain(name) {
            errors.invalid(
                format!("{path}.gmsaCredentialSpecName"),
                Json(name),
                &message,
            );
        }
    }
    if let Some(spec) = &options.gmsa_credential_spec {
        let path = format!("{path}.gmsaCredentialSpec");
        if spec.is_empty() {
            let detail = "gmsaCredentialSpec cannot be an empty string";
            errors.invalid(path, Json(spec), detail);
        } else if spec.len() > CREDENTIAL_SPEC_KIB << 10 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB} KiB");
            errors.invalid(path, Json(spec), &detail);
        }
    }
    if let Some(user) = &options.run_as_user_name {
        for message in wrong_with_user(user) {
            errors.invalid(format!("{path}.runAsUserName"), Json(user), &message);
        }
    }
}

fn wrong_with_user(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if text.bytes().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let (domain, user) = match text.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash".into()];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, text),
    };
    let mut messages = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN {
            messages.push(format!(
                "runAsUserName's Domain length must be under {DOMAIN} characters"
            ));
        }
        if !is_netbios(domain) && !domain.split('.').all(is_dns_label) {
            messages
                .push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        messages.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > USER {
        messages.push(format!(
            "runAsUserName's User length must not be longer than {USER} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        messages.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        let message =
            r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
        messages.push(message.into());
    }
    messages
}

/// One to fifteen characters, the first no dot.
fn is_netbios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c| r#"\/:*?"<>|"#.contains(c))
}

fn is_dns_label(label: &str) -> bool {
    let end = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = label.as_bytes();
    (1..=63).contains(&bytes.len())
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|c| end(Some(c)) || *c == b'-')
}

/// Host processes: all containers are, or none is, and they use the node's network.
pub(super) fn check_host_process(spec: &PodSpec, errors: &mut Errors) {
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|c| c.windows_options.as_ref())
        .and_then(|w| w.host_process);
    let containers = security::of_containers(spec);
    let mut count = 0;
    for container in &containers {
        let own = container
            .context
            .and_then(|c| c.windows_options.as_ref())
            .and_then(|w| w.host_process);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!(
                "pod hostProcess value must be identical if both are specified, was {}",
                pod.shown()
            );
            let path = format!(
                "{}.securityContext.windowsOptions.hostProcess",
                container.path
            );
            errors.invalid(path, own, &detail);
        }
        if own.or(of_pod) == Some(true) {
            count += 1;
        }
    }
    if count == 0 {
        return;
    }
    if count != containers.len() {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid("spec", "", detail);
    }
    if spec.host_network != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid("spec.hostNetwork", false, detail);
    }
}
