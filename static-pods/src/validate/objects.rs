//! Rules for ConfigMaps and Secrets: names, keys, sizes, and what each type of Secret has to hold.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::shown::Bare;
use super::{Errors, FieldError, metadata, names};
use crate::object::{Content, ObjectKind};

/// Most bytes of all values together (`MaxSecretSize` of the v1 API, for ConfigMaps too).
const MOST_BYTES: usize = 1 << 20;
/// What stands for a value that no message shows, in upstream's words.
pub(crate) const REDACTED: &str = "\"<secret contents redacted>\"";
/// The service account that a Secret with a token belongs to.
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// Every rule that an object of `kind` breaks.
pub(crate) fn validate_object(
    kind: ObjectKind,
    meta: &ObjectMeta,
    content: &Content,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::check(meta, &mut errors);
    for key in content.data.keys() {
        check_key("data", key, &mut errors);
        if content.binary.contains_key(key) {
            let path = format!("data[{key}]");
            errors.invalid(path, &**key, "duplicate of key present in binaryData");
        }
    }
    for key in content.binary.keys() {
        check_key("binaryData", key, &mut errors);
    }
    let values = content.data.values().chain(content.binary.values());
    if values.map(|value| value.len()).sum::<usize>() > MOST_BYTES {
        errors.too_long("data", MOST_BYTES);
    }
    if kind == ObjectKind::Secret {
        check_type(meta, content, &mut errors);
    }
    errors.0
}

fn check_key(field: &str, key: &str, errors: &mut Errors) {
    // The key may be one of `stringData`, in which case the document itself is pointed at.
    errors.all(&format!("{field}[{key}]"), key, names::config_key(key));
}

fn check_type(meta: &ObjectMeta, content: &Content, errors: &mut Errors) {
    let has = |key: &str| content.data.contains_key(key);
    let needs = |keys: &[&str], errors: &mut Errors| {
        for key in keys.iter().filter(|key| !has(key)) {
            errors.required(format!("data[{key}]"), "");
        }
    };
    match content.secret_type.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotations = meta.annotations.as_ref();
            let account = annotations.and_then(|all| all.get(ACCOUNT_ANNOTATION));
            if account.is_none_or(String::is_empty) {
                let path = format!("metadata.annotations[{ACCOUNT_ANNOTATION}]");
                errors.required(path, "");
            }
        }
        "kubernetes.io/dockercfg" => check_json(".dockercfg", content, errors),
        "kubernetes.io/dockerconfigjson" => check_json(".dockerconfigjson", content, errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            needs(&["username", "password"], errors);
        }
        "kubernetes.io/ssh-auth" => {
            let key = content.data.get("ssh-privatekey");
            if key.is_none_or(|key| key.is_empty()) {
                errors.required("data[ssh-privatekey]", "");
            }
        }
        "kubernetes.io/tls" => needs(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}

/// Registry credentials are a JSON object. Where it is none, what the reader of JSON says is left out: it may quote the text.
fn check_json(key: &str, content: &Content, errors: &mut Errors) {
    let path = format!("data[{key}]");
    let Some(value) = content.data.get(key) else {
        return errors.required(path, "");
    };
    let read: Result<Option<BTreeMap<String, serde::de::IgnoredAny>>, _> =
        serde_json::from_slice(value);
    if let Err(error) = read {
        let detail = format!(
            "must be a JSON object (line {}, column {})",
            error.line(),
            error.column()
        );
        errors.invalid(path, Bare(REDACTED), &detail);
    }
}
