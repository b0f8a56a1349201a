//! Rules for annotations that mean something to the API: tolerations, deletion cost, and the profiles that were
//! annotations before they became fields.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SeccompProfile, Toleration};
use serde_json::Value;

use super::shown::quoted;
use super::{Errors, paths, scheduling, security};

const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
const RUNTIME_DEFAULT: &str = "runtime/default";
const DOCKER_DEFAULT: &str = "docker/default";
const UNCONFINED: &str = "unconfined";
const LOCALHOST: &str = "localhost/";

pub(super) fn check(pod: &Pod, spec: &PodSpec, errors: &mut Errors) {
    let Some(annotations) = &pod.metadata.annotations else {
        return;
    };
    for (key, value) in annotations {
        // Upstream writes some of these paths with a dot before the key, where no tree could find it.
        let at = format!("metadata.annotations[{key}]");
        errors.pointing(&at, |errors| match key.as_str() {
            TOLERATIONS => old_tolerations(value, errors),
            DELETION_COST => {
                if !is_deletion_cost(value) {
                    errors.invalid(at.as_str(), value.as_str(), "must be a 32bit integer");
                }
            }
            SECCOMP_POD => seccomp(key, value, errors),
            key if key.starts_with(SECCOMP_CONTAINER) => seccomp(key, value, errors),
            key => {
                if let Some(container) = key.strip_prefix(APP_ARMOR_CONTAINER) {
                    app_armor(&at, container, value, spec, errors);
                }
            }
        });
    }
    profiles_match(annotations, spec, errors);
}

/// A decimal number of 32 bits, without a plus or leading zeros.
fn is_deletion_cost(text: &str) -> bool {
    let first = text.starts_with(['-', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
    (first || text == "0") && text.parse::<i32>().is_ok()
}

fn old_tolerations(text: &str, errors: &mut Errors) {
    if text.is_empty() {
        return;
    }
    match decode_tolerations(text) {
        Ok(tolerations) => {
            scheduling::tolerations(
                &format!("metadata.annotations.{TOLERATIONS}"),
                &tolerations,
                errors,
            );
        }
        Err(detail) => errors.invalid("metadata.annotations", TOLERATIONS, &detail),
    }
}

/// The annotation holds JSON whose field names may be in any case.
fn decode_tolerations(text: &str) -> Result<Vec<Toleration>, String> {
    let fields = ["key", "operator", "value", "effect", "tolerationSeconds"];
    let mut list: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    for item in list.as_array_mut().into_iter().flatten() {
        if item.is_null() {
            *item = Value::Object(serde_json::Map::new());
        }
        if let Some(object) = item.as_object_mut() {
            *object = std::mem::take(object)
                .into_iter()
                .filter_map(|(key, value)| {
                    let field = fields.iter().find(|f| f.eq_ignore_ascii_case(&key))?;
                    Some(((*field).to_owned(), value))
                })
                .collect();
        }
    }
    let list: Option<_> = serde_json::from_value(list).map_err(|e| e.to_string())?;
    Ok(list.unwrap_or_default())
}

fn seccomp(key: &str, profile: &str, errors: &mut Errors) {
    let path = format!("metadata.annotations.{key}");
    match profile.strip_prefix(LOCALHOST) {
        Some(file) => paths::descending(&path, file, errors),
        None if matches!(profile, RUNTIME_DEFAULT | DOCKER_DEFAULT | UNCONFINED) => {}
        None => errors.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

fn app_armor(path: &str, container: &str, profile: &str, spec: &PodSpec, errors: &mut Errors) {
    let mut all = security::of_containers(spec).into_iter();
    if !all.any(|c| c.name == container) {
        errors.invalid(path, container, "container not found");
    }
    let known = matches!(profile, "" | RUNTIME_DEFAULT | UNCONFINED);
    if !known && !profile.starts_with(LOCALHOST) {
        let detail = format!("invalid AppArmor profile name: {}", quoted(profile));
        errors.invalid(path, profile, &detail);
    }
}

/// Where both an annotation and a field have a profile, they must say the same.
fn profiles_match(annotations: &BTreeMap<String, String>, spec: &PodSpec, errors: &mut Errors) {
    let of_pod = spec.security_context.as_ref();
    let pod_seccomp = of_pod.and_then(|c| c.seccomp_profile.as_ref());
    if let (Some(field), Some(annotation)) = (pod_seccomp, annotations.get(SECCOMP_POD)) {
        seccomp_matches("spec.securityContext", field, annotation, errors);
    }
    let on_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let pod_app_armor = of_pod.and_then(|c| c.app_armor_profile.as_ref());
    for container in security::of_containers(spec) {
        let context = container.context;
        let path = format!("{}.securityContext", container.path);
        let of = |prefix: &str| annotations.get(&format!("{prefix}{}", container.name));
        let field = context.and_then(|c| c.seccomp_profile.as_ref());
        if let (Some(field), Some(annotation)) = (field, of(SECCOMP_CONTAINER)) {
            seccomp_matches(&path, field, annotation, errors);
        }
        let own = context.and_then(|c| c.app_armor_profile.as_ref());
        if let (Some(field), Some(annotation), false) =
            (own.or(pod_app_armor), of(APP_ARMOR_CONTAINER), on_windows)
        {
            let at = match own {
                Some(_) => path.as_str(),
                None => "spec.securityContext",
            };
            errors.pointing(&format!("{at}.appArmorProfile"), |errors| {
                app_armor_matches(&path, field, annotation, errors);
            });
        }
    }
}

fn seccomp_matches(path: &str, field: &SeccompProfile, annotation: &str, errors: &mut Errors) {
    let profile = Profile {
        word: "seccomp",
        kind: &field.type_,
        file: field.localhost_profile.as_deref(),
        defaults: &[RUNTIME_DEFAULT, DOCKER_DEFAULT],
    };
    profile.must_match(&format!("{path}.seccompProfile"), annotation, errors);
}

fn app_armor_matches(path: &str, field: &AppArmorProfile, annotation: &str, errors: &mut Errors) {
    let profile = Profile {
        word: "apparmor",
        kind: &field.type_,
        file: field.localhost_profile.as_deref(),
        defaults: &[RUNTIME_DEFAULT],
    };
    profile.must_match(&format!("{path}.appArmorProfile"), annotation, errors);
}

/// What the two kinds of profiles have in common.
struct Profile<'a> {
    word: &'static str,
    kind: &'a str,
    file: Option<&'a str>,
    /// What an annotation may say for the runtime's default.
    defaults: &'static [&'static str],
}

impl Profile<'_> {
    fn must_match(&self, path: &str, annotation: &str, errors: &mut Errors) {
        let word = self.word;
        let file = annotation.strip_prefix(LOCALHOST);
        let same_kind = match self.kind {
            "Unconfined" => annotation == UNCONFINED,
            "RuntimeDefault" => self.defaults.contains(&annotation),
            "Localhost" => file.is_some(),
            _ => return,
        };
        if !same_kind {
            let detail = format!("{word} type in annotation and field must match");
            errors.forbidden(format!("{path}.type"), &detail);
        } else if self.kind == "Localhost" && file != self.file {
            let detail = format!("{word} profile in annotation and field must match");
            errors.forbidden(format!("{path}.localhostProfile"), &detail);
        }
    }
}
