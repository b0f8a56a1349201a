//! What a credential provider may be set to, in upstream's words (`validateCredentialProviderConfig`).

use super::{Written, WrittenToken};
use crate::config::durations::GoDuration;
use crate::config::labels::qualified_name_fault;

const ASKED_WITH: &str = "credentialprovider.kubelet.k8s.io/v1";
const ASKED: [&str; 3] = [
    ASKED_WITH,
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
const CACHED_BY_ACCOUNT: &str = "ServiceAccount";
pub(super) const CACHED_BY_TOKEN: &str = "Token";
/// Characters that Go's `url.Parse` takes in no host, besides controls.
const NO_HOST: &str = " \"<>\\^`{|}";

/// Tells what is wrong with a provider: the field, below the provider's, and the message.
pub(super) fn check(written: &Written, tokens: bool, mut tell: impl FnMut(&str, String)) {
    let name = &written.name;
    for (wrong, why) in [
        (name.contains('/'), "cannot contain '/'"),
        (name.contains(' '), "cannot contain spaces"),
        (name == ".", "cannot be '.'"),
        (name == "..", "cannot be '..'"),
    ] {
        if wrong {
            tell(
                ".name",
                format!("Invalid value: {name:?}: provider name {why}"),
            );
        }
    }
    let version = written.api_version.as_str();
    if version.is_empty() {
        tell(".apiVersion", "Required value".to_owned());
    } else if !ASKED.contains(&version) {
        tell(".apiVersion", unsupported(version, &ASKED));
    }
    if written.match_images.is_empty() {
        tell(
            ".matchImages",
            "Required value: at least 1 item in matchImages is required".to_owned(),
        );
    }
    for (index, image) in written.match_images.iter().enumerate() {
        if let Some(why) = no_url(image) {
            tell(
                &format!(".matchImages[{index}]"),
                format!(
                    "Invalid value: {image:?}: match image is invalid: parse {:?}: {why}",
                    format!("https://{image}")
                ),
            );
        }
    }
    match written.default_cache_duration.as_deref() {
        None => tell(".defaultCacheDuration", "Required value".to_owned()),
        Some(text) => match GoDuration::parse(text) {
            Ok(span) if span < GoDuration::ZERO => tell(
                ".defaultCacheDuration",
                format!("Invalid value: {text:?}: must be greater than or equal to 0"),
            ),
            Ok(_) => {}
            Err(error) => tell(".defaultCacheDuration", error.to_string()),
        },
    }
    if let Some(token) = &written.token_attributes {
        check_token(token, version, tokens, |field, message| {
            tell(&format!(".tokenAttributes{field}"), message);
        });
    }
}

fn check_token(
    token: &WrittenToken,
    version: &str,
    tokens: bool,
    mut tell: impl FnMut(&str, String),
) {
    if !tokens {
        tell(
            "",
            "Forbidden: tokenAttributes is not supported when KubeletServiceAccountTokenForCredentialProviders feature gate is disabled".to_owned(),
        );
    }
    if token.service_account_token_audience.is_empty() {
        tell(".serviceAccountTokenAudience", "Required value".to_owned());
    }
    if token.require_service_account.is_none() {
        tell(".requireServiceAccount", "Required value".to_owned());
    }
    if version != ASKED_WITH {
        tell(
            "",
            format!("Forbidden: tokenAttributes is only supported for {ASKED_WITH} API version"),
        );
    }
    let required = &token.required_service_account_annotation_keys;
    let optional = &token.optional_service_account_annotation_keys;
    if token.require_service_account == Some(false) && !required.is_empty() {
        tell(
            ".requiredServiceAccountAnnotationKeys",
            "Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set".to_owned(),
        );
    }
    for (field, keys) in [
        (".requiredServiceAccountAnnotationKeys", required),
        (".optionalServiceAccountAnnotationKeys", optional),
    ] {
        for (index, key) in keys.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if let Some(fault) = qualified_name_fault(&key.to_lowercase()) {
                tell(&field, format!("Invalid value: {key:?}: {fault}"));
            }
            if keys[..index].contains(key) {
                tell(&field, format!("Duplicate value: {key:?}"));
            }
        }
    }
    let mut both: Vec<_> = required
        .iter()
        .filter(|key| optional.contains(key))
        .collect();
    both.sort();
    both.dedup();
    if !both.is_empty() {
        tell(
            "",
            format!(
                "Invalid value: {both:?}: annotation keys cannot be both required and optional"
            ),
        );
    }
    let kinds = [CACHED_BY_ACCOUNT, CACHED_BY_TOKEN];
    match token.cache_type.as_str() {
        "" => tell(
            ".cacheType",
            format!(
                "Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: {}",
                kinds.join(", ")
            ),
        ),
        kind if kinds.contains(&kind) => {}
        other => tell(".cacheType", unsupported(other, &kinds)),
    }
}

fn unsupported(found: &str, known: &[&str]) -> String {
    let known: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
    format!(
        "Unsupported value: {found:?}: supported values: {}",
        known.join(", ")
    )
}

/// Why `https://` and `image` are no URL to Go, if they are none.
fn no_url(image: &str) -> Option<String> {
    if image.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Some("net/url: invalid control character in URL".to_owned());
    }
    let (host, path) = image.split_at(image.find(['/', '?', '#']).unwrap_or(image.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    for part in [host, path] {
        if let Some(escape) = bad_escape(part) {
            return Some(format!("invalid URL escape {escape:?}"));
        }
    }
    if let Some(bad) = host.chars().find(|&c| NO_HOST.contains(c)) {
        return Some(format!(
            "invalid character {:?} in host name",
            bad.to_string()
        ));
    }
    let port = match host.rfind(']') {
        Some(end) => &host[end + 1..],
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let wrong = !digits.bytes().all(|byte| byte.is_ascii_digit());
    wrong.then(|| format!("invalid port {port:?} after host"))
}

fn bad_escape(text: &str) -> Option<&str> {
    let escapes = text.match_indices('%').map(|(at, _)| {
        let end = (at + 3).min(text.len());
        text.get(at..end).unwrap_or(&text[at..])
    });
    let mut bad = escapes.filter(|escape| {
        escape.len() < 3 || !escape[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    bad.next()
}
