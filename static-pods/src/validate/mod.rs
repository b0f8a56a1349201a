//! Whether a pod is one the API would take, in upstream's words, by rule family.
//!
//! Owns: the rules and their wording. Inputs: a defaulted, identified pod, or a ConfigMap or Secret. Outputs: every
//! [`FieldError`] there is, by field path; whoever holds the tree turns paths into lines. Spawns nothing; pure.
//!
//! Feature gates count as 1.36 has them by default. Rules see fields, not the file: upstream's path of an error is kept as
//! it is, and [`FieldError::at`] leads to the line where that path does not.
//!
//! Deliberately not here: whether a field is built, which is for whoever runs the pod to say.

mod affinity;
mod annotations;
mod containers;
mod dns;
mod fields;
mod handlers;
mod metadata;
mod names;
mod objects;
mod os;
mod paths;
mod pod_resources;
mod references;
mod resources;
mod scheduling;
mod security;
mod selectors;
mod shown;
mod spec;
mod sysctls;
mod values;
mod volumes;
mod windows;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use shown::{Shown, json, quoted};

/// A field with an illegal value. Shown as upstream shows it: `spec.containers[0].image: Required value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {body}")]
pub struct FieldError {
    /// The field.
    pub path: String,
    /// What is wrong with it.
    pub body: String,
    /// Where to point instead, when upstream's path does not lead there.
    pub at: Option<String>,
}

/// Collects errors; the methods are upstream's kinds of them.
#[derive(Debug, Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: impl Into<String>, kind: &str, detail: &str) {
        let body = match detail {
            "" => kind.to_owned(),
            detail => format!("{kind}: {detail}"),
        };
        let path = path.into();
        let at = None;
        self.0.push(FieldError { path, body, at });
    }

    /// Everything that `add` finds is at `at` in the tree, whatever its path says.
    fn pointing(&mut self, at: &str, add: impl FnOnce(&mut Self)) {
        let before = self.0.len();
        add(self);
        for error in self.0.iter_mut().skip(before) {
            error.at = Some(at.to_owned());
        }
    }

    fn required(&mut self, path: impl Into<String>, detail: &str) {
        self.push(path, "Required value", detail);
    }

    fn forbidden(&mut self, path: impl Into<String>, detail: &str) {
        self.push(path, "Forbidden", detail);
    }

    fn invalid(&mut self, path: impl Into<String>, value: impl Shown, detail: &str) {
        self.push(path, &format!("Invalid value: {}", value.shown()), detail);
    }

    fn duplicate(&mut self, path: impl Into<String>, value: &str) {
        self.push(path, &format!("Duplicate value: {}", quoted(value)), "");
    }

    fn not_found(&mut self, path: impl Into<String>, value: &str) {
        self.push(path, &format!("Not found: {}", quoted(value)), "");
    }

    /// `most` in bytes.
    fn too_long(&mut self, path: impl Into<String>, most: usize) {
        self.push(
            path,
            "Too long",
            &format!("may not be more than {most} bytes"),
        );
    }

    /// `supported` in the order of the message. An empty value is a missing one.
    fn one_of(&mut self, path: impl Into<String>, value: &str, supported: &[&str]) {
        if value.is_empty() && !supported.contains(&value) {
            return self.required(path, "");
        }
        self.unsupported(path, value, supported);
    }

    /// `supported` in the order of the message. An empty value is as wrong as any other.
    fn unsupported(&mut self, path: impl Into<String>, value: &str, supported: &[&str]) {
        if supported.contains(&value) {
            return;
        }
        let quoted: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        self.push(
            path,
            &format!("Unsupported value: {}", json(value)),
            &detail,
        );
    }

    /// Each of `messages` about one value.
    fn all(&mut self, path: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, &message);
        }
    }
}

/// Every rule that `pod`, defaulted and identified, breaks.
#[must_use]
pub fn validate(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Errors::default();
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    let spec = pod.spec.as_ref().unwrap_or(&EMPTY);
    metadata::check(&pod.metadata, &mut errors);
    annotations::check(pod, spec, &mut errors);
    let volumes = volumes::check(&pod.metadata, spec, &mut errors);
    containers::check(spec, &volumes, &mut errors);
    pod_resources::check(spec, &mut errors);
    spec::check(spec, &mut errors);
    security::check_pod(spec, &mut errors);
    affinity::check(spec.affinity.as_ref(), &mut errors);
    dns::check(spec, &mut errors);
    scheduling::check(spec, &mut errors);
    windows::check_host_process(spec, &mut errors);
    os::check(spec, &mut errors);
    errors.0
}

pub(crate) use objects::{REDACTED, validate_object};
pub use references::{Unfit, unfit};
