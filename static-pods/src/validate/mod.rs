//! Whether a pod is one the API would take, in upstream's words, by rule family.
//!
//! Owns: the rules and their wording. Inputs: a defaulted, identified pod. Outputs: every [`FieldError`] there is, by
//! field path; whoever holds the tree turns paths into lines. Spawns nothing; pure.
//!
//! Deliberately not here yet: the families affinity, sysctls, DNS configuration, and the operating system's.

mod containers;
mod handlers;
mod metadata;
mod names;
mod os;
mod references;
mod resources;
mod security;
mod shown;
mod sysctls;
mod volumes;
mod windows;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use shown::{Bare, Shown, json, quoted};

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
    metadata::check(&pod.metadata, &mut errors);
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    let spec = pod.spec.as_ref().unwrap_or(&EMPTY);
    let volumes = volumes::check(spec, &mut errors);
    containers::check(spec, &volumes, &mut errors);
    resources::check_pod(spec, &mut errors);
    spec_fields(spec, &mut errors);
    security::check_pod(spec, &mut errors);
    windows::check_host_process(spec, &mut errors);
    os::check(spec, &mut errors);
    errors.0
}

pub use references::api_reference;

fn spec_fields(spec: &PodSpec, errors: &mut Errors) {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    errors.one_of(
        "spec.restartPolicy",
        &text(&spec.restart_policy),
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of(
        "spec.dnsPolicy",
        &text(&spec.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let node = text(&spec.node_name);
    errors.all("spec.nodeName", &node, names::subdomain(&node));
    let labels = [
        ("spec.hostname", &spec.hostname),
        ("spec.subdomain", &spec.subdomain),
    ];
    for (path, field) in labels {
        let value = text(field);
        if !value.is_empty() {
            errors.all(path, &value, names::label(&value));
        }
    }
    let names = [
        ("spec.serviceAccountName", &spec.service_account_name),
        ("spec.priorityClassName", &spec.priority_class_name),
        ("spec.runtimeClassName", &spec.runtime_class_name),
    ];
    for (path, field) in names {
        let value = text(field);
        if !value.is_empty() {
            errors.all(path, &value, names::subdomain(&value));
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.invalid("spec.activeDeadlineSeconds", seconds, &detail);
    }
    metadata::labels("spec.nodeSelector", spec.node_selector.as_ref(), errors);
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|c| !c.is_empty())
    {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if spec
        .scheduling_gates
        .as_ref()
        .is_some_and(|g| !g.is_empty())
    {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden("spec.nodeName", detail);
    }
}
