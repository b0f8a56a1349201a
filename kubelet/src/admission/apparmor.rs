//! Which AppArmor profile a container runs under, and whether the node can enforce it.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container};

use super::Rejection;
use crate::pod::{self, Pod};

/// Prefix of the annotation that named a container's profile before there was a field; static pods may still use it.
const ANNOTATION_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Prefix of a profile that the node's administrator loaded, in the annotation and in CRI's older field.
pub const LOCALHOST_PREFIX: &str = "localhost/";
/// The runtime's own profile, in the annotation and in CRI's older field.
pub const RUNTIME_DEFAULT: &str = "runtime/default";
/// No confinement, in the annotation and in CRI's older field.
pub const UNCONFINED: &str = "unconfined";

/// The profile of `container`: of its own security context, else of its annotation, else of the pod.
#[must_use]
pub fn profile<'a>(pod: &'a Pod, container: &'a Container) -> Option<Cow<'a, AppArmorProfile>> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|sc| sc.app_armor_profile.as_ref());
    let of_pod = || {
        pod::spec(pod)
            .security_context
            .as_ref()
            .and_then(|sc| sc.app_armor_profile.as_ref())
            .map(Cow::Borrowed)
    };
    own.map(Cow::Borrowed)
        .or_else(|| annotated(pod, &container.name).map(Cow::Owned))
        .or_else(of_pod)
}

fn annotated(pod: &Pod, container: &str) -> Option<AppArmorProfile> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let value = annotations.get(&format!("{ANNOTATION_PREFIX}{container}"))?;
    let of_type = |type_: &str, localhost_profile| AppArmorProfile {
        type_: type_.to_owned(),
        localhost_profile,
    };
    match value.as_str() {
        RUNTIME_DEFAULT => Some(of_type("RuntimeDefault", None)),
        UNCONFINED => Some(of_type("Unconfined", None)),
        other => other
            .strip_prefix(LOCALHOST_PREFIX)
            .map(|name| of_type("Localhost", Some(name.to_owned()))),
    }
}

pub(super) fn admit(pod: &Pod, enabled: bool) -> Result<(), Rejection> {
    let cannot = |why: &str| {
        Err(Rejection::new(
            "AppArmor",
            format!("Cannot enforce AppArmor: {why}"),
        ))
    };
    let mut required = pod
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, value)| key.starts_with(ANNOTATION_PREFIX) && value != UNCONFINED);
    for (_, container) in pod::containers(pod) {
        let Some(profile) = profile(pod, container) else {
            continue;
        };
        required |= profile.type_ != "Unconfined";
        let named = profile
            .localhost_profile
            .as_deref()
            .is_some_and(|name| !name.trim().is_empty());
        if enabled && profile.type_ == "Localhost" && !named {
            return cannot(&format!(
                "container {:?} has a Localhost AppArmor profile without a name",
                container.name
            ));
        }
    }
    if required && !enabled {
        return cannot("AppArmor is not enabled on the host");
    }
    Ok(())
}
