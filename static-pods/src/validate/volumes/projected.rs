//! Volumes put together from several sources.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, KeyToPath, PodCertificateProjection, ProjectedVolumeSource,
    ServiceAccountTokenProjection, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::super::shown::{Shown as _, json, quoted};
use super::super::values::{bare_or_null, json_object, json_or_null};
use super::super::{Errors, metadata, names, paths, selectors};
use super::files;

/// The files that the sources make so far.
struct Files<'a> {
    taken: BTreeSet<&'a str>,
    /// Upstream reports a conflict at the volume.
    volume: &'a str,
}

impl<'a> Files<'a> {
    /// Takes `file`. A conflict shows `value`, which is the object for files of a secret or config map.
    fn take(&mut self, file: &'a str, value: &str, errors: &mut Errors) {
        if !self.taken.insert(file) {
            errors.invalid(self.volume, value, "conflicting duplicate paths");
        }
    }
}

pub(super) fn check(path: &str, volume: &ProjectedVolumeSource, errors: &mut Errors) {
    paths::mode(&format!("{path}.defaultMode"), volume.default_mode, errors);
    let mut files = Files {
        taken: BTreeSet::new(),
        volume: path,
    };
    for (i, projection) in volume.sources.iter().flatten().enumerate() {
        let real = format!("{path}.sources[{i}]");
        let before = errors.0.len();
        source(&real, projection, &mut files, errors);
        for error in errors.0.iter_mut().skip(before) {
            if !error.path.starts_with(&real) {
                error.at.get_or_insert_with(|| real.clone());
            }
        }
    }
}

fn source<'a>(
    path: &str,
    source: &'a VolumeProjection,
    files: &mut Files<'a>,
    errors: &mut Errors,
) {
    let mut kinds = 0;
    if let Some(secret) = &source.secret {
        kinds += 1;
        let items = secret.items.as_deref();
        object(
            &format!("{path}.secret"),
            &secret.name,
            items,
            files,
            errors,
        );
    }
    if let Some(map) = &source.config_map {
        kinds += 1;
        let items = map.items.as_deref();
        object(
            &format!("{path}.configMap"),
            &map.name,
            items,
            files,
            errors,
        );
    }
    if let Some(downward) = &source.downward_api {
        kinds += 1;
        let items = downward.items.as_deref();
        files::downward_files(&format!("{path}.downwardAPI"), items, errors);
        for file in items.into_iter().flatten().filter(|f| !f.path.is_empty()) {
            files.take(&file.path, &file.path, errors);
        }
    }
    if let Some(token) = &source.service_account_token {
        kinds += 1;
        service_account_token(path, token, files.volume, errors);
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        kinds += 1;
        trust_bundle(&format!("{path}.clusterTrustBundle"), bundle, errors);
        files.take(&bundle.path, &bundle.path, errors);
    }
    if let Some(certificate) = &source.pod_certificate {
        kinds += 1;
        pod_certificate(
            &format!("{path}.podCertificate"),
            certificate,
            files,
            errors,
        );
    }
    if kinds > 1 {
        errors.forbidden(path, "may not specify more than 1 volume type per source");
    }
}

fn object<'a>(
    path: &str,
    name: &str,
    items: Option<&'a [KeyToPath]>,
    files: &mut Files<'a>,
    errors: &mut Errors,
) {
    errors.present(path, "name", name);
    files::items(path, items, errors);
    for item in items.into_iter().flatten().filter(|i| !i.path.is_empty()) {
        files.take(&item.path, name, errors);
    }
}

fn service_account_token(
    path: &str,
    token: &ServiceAccountTokenProjection,
    volume: &str,
    errors: &mut Errors,
) {
    /// Shortest and longest life of a token, in seconds.
    const LIFE: std::ops::RangeInclusive<i64> = 600..=1 << 32;
    let seconds = token.expiration_seconds.unwrap_or_default();
    let path = format!("{path}.serviceAccountToken.expirationSeconds");
    if seconds < *LIFE.start() {
        let detail = "may not specify a duration less than 10 minutes";
        errors.invalid(path, seconds, detail);
    } else if seconds > *LIFE.end() {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(path, seconds, detail);
    }
    errors.present(volume, "path", &token.path);
    paths::unreserved(&format!("{volume}.path"), &token.path, errors);
}

fn trust_bundle(path: &str, bundle: &ClusterTrustBundleProjection, errors: &mut Errors) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.invalid_json(path, trust_bundle_json(bundle), detail);
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(format!("{path}.name"), "must be a valid object name");
            }
            for message in bundle_name(name) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.invalid(format!("{path}.name"), name.as_str(), &detail);
            }
            if let Some(selector) = &bundle.label_selector {
                let detail = "labelSelector must be unset if name is specified";
                let path = format!("{path}.labelSelector");
                errors.invalid_json(path, selector_json(selector), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                let detail = "must be a valid signer name";
                errors.required(format!("{path}.signerName"), detail);
            }
            signer_name(&format!("{path}.signerName"), signer, errors);
            if let Some(selector) = &bundle.label_selector {
                selectors::check(&format!("{path}.labelSelector"), Some(selector), errors);
            }
        }
        (None, None) => {
            errors.required(path, "either name or signerName must be specified");
        }
    }
    errors.present(path, "path", &bundle.path);
    paths::unreserved(&format!("{path}.path"), &bundle.path, errors);
}

/// What is wrong with the name of a bundle: `name`, or `domain:path:name` when it is of the signer `domain/path`.
fn bundle_name(name: &str) -> Vec<String> {
    let own = match name.rsplit_once(':') {
        None => name,
        Some(("", _)) => {
            let message = "ClusterTrustBundle without signer name must not have \":\" in its name";
            return vec![message.to_owned()];
        }
        Some((signer, _)) if signer.contains('/') => {
            let signer = signer.replace(':', "/");
            let prefix = signer.replace('/', ":");
            return vec![format!(
                "ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}:"
            )];
        }
        Some((_, own)) => own,
    };
    names::subdomain(own)
}

/// A signer: `domain/path`.
fn signer_name(path: &str, signer: &str, errors: &mut Errors) {
    /// Longest domain (RFC 1123).
    const DOMAIN: usize = 253;
    /// The path has room for a label, a dot and a domain.
    const LONGEST: usize = DOMAIN + 1 + DOMAIN + 1 + 63;
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let parts = signer.split_once('/');
    let Some((domain, own)) = parts.filter(|(_, own)| !own.contains('/')) else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, signer, detail);
    };
    if domain.len() > DOMAIN {
        errors.too_long(path, DOMAIN);
    }
    first_bad_label(path, domain, names::label, errors);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, detail);
    }
    first_bad_label(path, own, names::subdomain, errors);
    if signer.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
}

fn first_bad_label(path: &str, text: &str, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let mut labels = text.split('.').map(|label| (label, rule(label)));
    if let Some((label, messages)) = labels.find(|(_, messages)| !messages.is_empty()) {
        for message in messages {
            let detail = format!("validating label {}: {message}", quoted(label));
            errors.invalid(path, text, &detail);
        }
    }
}

/// In the order of the message.
const KEY_TYPES: &[&str] = &[
    "RSA3072",
    "RSA4096",
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
];

fn pod_certificate<'a>(
    path: &str,
    certificate: &'a PodCertificateProjection,
    files: &mut Files<'a>,
    errors: &mut Errors,
) {
    let signer = certificate.signer_name.as_str();
    signer_name(&format!("{path}.signerName"), signer, errors);
    let annotations = format!("{path}.userAnnotations");
    let mut bytes = 0;
    for (key, value) in certificate.user_annotations.iter().flatten() {
        user_annotation(&annotations, &key.to_lowercase(), errors);
        bytes += key.len() + value.len();
    }
    if bytes > metadata::ANNOTATION_BYTES {
        errors.too_long(annotations, metadata::ANNOTATION_BYTES);
    }
    let key_type = certificate.key_type.as_str();
    if !KEY_TYPES.contains(&key_type) {
        errors.unsupported_text(format!("{path}.keyType"), key_type, KEY_TYPES);
    }
    if let Some(seconds) = certificate.max_expiration_seconds {
        life(path, signer, seconds, errors);
    }
    let named = [
        ("credentialBundlePath", &certificate.credential_bundle_path),
        ("keyPath", &certificate.key_path),
        ("certificateChainPath", &certificate.certificate_chain_path),
    ];
    let named = named.map(|(field, file)| (field, file.as_deref().unwrap_or_default()));
    for (field, file) in named.iter().filter(|(_, file)| !file.is_empty()) {
        paths::unreserved(&format!("{path}.{field}"), file, errors);
        files.take(file, file, errors);
    }
    if named.iter().all(|(_, file)| file.is_empty()) {
        let detail =
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, detail);
    }
}

/// Other than an annotation's, the key must have a domain.
fn user_annotation(path: &str, key: &str, errors: &mut Errors) {
    if key.is_empty() {
        return errors.required(path, "");
    }
    let messages = names::qualified(key);
    if messages.is_empty() && !key.contains('/') {
        let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
        errors.invalid(path, key, detail);
    }
    errors.all(path, key, messages);
}

/// How long a certificate may live, in seconds (KEP-4317).
fn life(path: &str, signer: &str, seconds: i32, errors: &mut Errors) {
    const HOUR: i32 = 3600;
    let domain = signer.split('/').next().unwrap_or_default();
    let ours = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if ours { 24 * HOUR } else { 91 * 24 * HOUR };
    let relation = match seconds {
        s if s < HOUR => format!(">= {HOUR}"),
        s if s > most => format!("<= {most}"),
        _ => return,
    };
    let detail = format!("if provided, maxExpirationSeconds must be {relation}");
    errors.invalid(format!("{path}.maxExpirationSeconds"), seconds, &detail);
}

fn trust_bundle_json(bundle: &ClusterTrustBundleProjection) -> String {
    let selector = bundle.label_selector.as_ref();
    json_object(&[
        ("Name", json_or_null(bundle.name.as_deref())),
        ("SignerName", json_or_null(bundle.signer_name.as_deref())),
        (
            "LabelSelector",
            selector.map_or_else(|| "null".into(), selector_json),
        ),
        ("Optional", bare_or_null(bundle.optional)),
        ("Path", json(&bundle.path)),
    ])
}

fn selector_json(selector: &LabelSelector) -> String {
    let mut fields = Vec::new();
    if let Some(labels) = selector.match_labels.as_ref().filter(|l| !l.is_empty()) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{}:{}", json(key), json(value)))
            .collect();
        fields.push(("matchLabels", format!("{{{}}}", labels.join(","))));
    }
    let expressions = selector.match_expressions.as_ref();
    if let Some(expressions) = expressions.filter(|e| !e.is_empty()) {
        let expressions: Vec<_> = expressions
            .iter()
            .map(|e| {
                let mut fields = vec![("key", json(&e.key)), ("operator", json(&e.operator))];
                let values = e.values.as_deref().unwrap_or_default();
                if !values.is_empty() {
                    fields.push(("values", values.shown()));
                }
                json_object(&fields)
            })
            .collect();
        fields.push(("matchExpressions", format!("[{}]", expressions.join(","))));
    }
    json_object(&fields)
}
