//! What a credential provider is asked and answers: `CredentialProviderRequest` and `CredentialProviderResponse` of
//! `credentialprovider.kubelet.k8s.io`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Account;
use crate::config::GoDuration;

const RESPONSE: &str = "CredentialProviderResponse";

/// The question, as it is written to the program.
pub(super) fn question(api_version: &str, image: &str, account: Option<&Account>) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Request<'a> {
        kind: &'a str,
        api_version: &'a str,
        image: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        service_account_token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        service_account_annotations: Option<&'a BTreeMap<String, String>>,
    }
    let annotations = account.map(|account| &account.annotations);
    let request = Request {
        kind: "CredentialProviderRequest",
        api_version,
        image,
        service_account_token: account.map(Account::token),
        service_account_annotations: annotations.filter(|annotations| !annotations.is_empty()),
    };
    // Strings and a map of strings are always JSON.
    let mut text = serde_json::to_vec(&request).unwrap_or_default();
    text.push(b'\n');
    text
}

/// For what an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheKey {
    /// This image.
    Image,
    /// All images of its registry.
    Registry,
    /// All images.
    Global,
}

/// User and password. Its Debug shows neither.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default)]
    pub(super) username: String,
    #[serde(default)]
    pub(super) password: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry { .. }")
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kept_for: CacheKey,
    /// For how long it holds; none where it does not say.
    pub(super) holds: Option<Duration>,
    /// By the place that they are for.
    pub(super) auth: Vec<(String, Entry)>,
}

/// Reads what the program has said, which is to be of `api_version`. An error says nothing of its content.
pub(super) fn answer(api_version: &str, bytes: &[u8]) -> Result<Answer, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        #[serde(default)]
        api_version: String,
        #[serde(default)]
        kind: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Response {
        #[serde(rename = "apiVersion")]
        _api_version: String,
        #[serde(rename = "kind")]
        _kind: String,
        #[serde(default)]
        cache_key_type: String,
        #[serde(default)]
        cache_duration: Option<String>,
        #[serde(default)]
        auth: Option<BTreeMap<String, Entry>>,
    }
    const UNREADABLE: &str = "error decoding credential provider plugin response from stdout";
    let kind: Kind = serde_json::from_slice(bytes)
        .map_err(|_| "error reading GVK from response: it is no JSON object".to_owned())?;
    if kind.api_version != api_version {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion:{api_version}, actual apiVersion:{}",
            kind.api_version
        ));
    }
    if kind.kind != RESPONSE {
        return Err(UNREADABLE.to_owned());
    }
    let response: Response = serde_json::from_slice(bytes).map_err(|_| UNREADABLE.to_owned())?;
    let kept_for = match response.cache_key_type.as_str() {
        "Image" => CacheKey::Image,
        "Registry" => CacheKey::Registry,
        "Global" => CacheKey::Global,
        other => {
            return Err(format!(
                "credential provider plugin did not return a valid cacheKeyType: {other}"
            ));
        }
    };
    let holds = response.cache_duration.as_deref().map(GoDuration::parse);
    let holds = holds.transpose().map_err(|_| UNREADABLE.to_owned())?;
    Ok(Answer {
        kept_for,
        holds: holds.map(GoDuration::positive),
        auth: response.auth.into_iter().flatten().collect(),
    })
}
