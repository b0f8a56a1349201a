//! Tokens of service accounts (TokenRequest), and reviews of who somebody is and what they may do.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::AUDIENCE;
use super::answer::Refusal;
use super::faults::matches;
use super::identity::{Token, User, of_token};
use super::resource::{RESOURCES, Target, position};
use super::selector::text;
use super::state::Inside;
use super::strategy::seconds;
use super::verbs::Done;

/// `POST …/serviceaccounts/NAME/token`.
pub(super) fn request(inside: &mut Inside, user: &User, target: &Target, body: &Value) -> Done {
    let (index, accounts) = target.stored()?;
    let key = (index, target.namespace.clone(), target.name.clone());
    let account = inside.store.get(&key).cloned();
    let account = account.ok_or_else(|| Refusal::not_found(accounts, &target.name))?;
    let spec = &body["spec"];
    let lasts = spec["expirationSeconds"].as_u64().unwrap_or(3600);
    if lasts < 600 {
        let why = "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes";
        return Err(Refusal::new(
            422,
            "Invalid",
            format!("TokenRequest.authentication.k8s.io \"\" is invalid: {why}"),
        ));
    }
    let pod = bound_pod(inside, user, target, &spec["boundObjectRef"])?;
    let audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let audiences = if audiences.is_empty() {
        vec![AUDIENCE.to_owned()]
    } else {
        audiences
    };
    let life = Duration::from_secs(lasts).min(inside.longest_token);
    let now = Timestamp::now();
    let expires = now + life;
    let name = format!("system:serviceaccount:{}:{}", target.namespace, target.name);
    let namespaces = format!("system:serviceaccounts:{}", target.namespace);
    let id = inside.store.next_id();
    let claims = json!({
        "iss": AUDIENCE, "sub": name, "aud": audiences, "jti": id.to_string(),
        "iat": now.as_second(), "nbf": now.as_second(), "exp": expires.as_second(),
        "kubernetes.io": {
            "namespace": target.namespace,
            "serviceaccount": { "name": target.name, "uid": text(&account, "metadata.uid") },
            "pod": pod.as_ref().map(|(_, name, uid)| json!({ "name": name, "uid": uid })),
        },
    });
    let token = unsigned(&claims);
    let extra = pod.as_ref().map_or(Value::Null, |(_, name, uid)| {
        json!({
            "authentication.kubernetes.io/pod-name": [name],
            "authentication.kubernetes.io/pod-uid": [uid],
        })
    });
    inside.issued.insert(
        token.clone(),
        Token {
            user: User::new(&name, &["system:serviceaccounts", &namespaces]),
            audiences: audiences.clone(),
            expires,
            extra,
            pod,
        },
    );
    let mut answer = body.clone();
    answer["kind"] = json!("TokenRequest");
    answer["apiVersion"] = json!("authentication.k8s.io/v1");
    answer["metadata"] = json!({ "name": target.name, "namespace": target.namespace });
    answer["spec"]["audiences"] = json!(audiences);
    answer["spec"]["expirationSeconds"] = json!(life.as_secs());
    answer["status"] = json!({ "token": token, "expirationTimestamp": seconds(expires) });
    Ok((201, Arc::new(answer)))
}

/// The shape of a token, with a digest where a signature would be: who has the server's list of tokens needs none.
fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "RS256", "kid": "double" });
    let text = format!("{}.{}", part(&header), part(claims));
    let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&text));
    format!("{text}.{digest}")
}

type Bound = Option<(String, String, String)>;

/// The pod of the request: it must be there under this UID, and a node asks for those of its own pods alone.
fn bound_pod(
    inside: &Inside,
    user: &User,
    target: &Target,
    reference: &Value,
) -> Result<Bound, Refusal> {
    let pods = position("", "pods").unwrap_or_default();
    let resource = &RESOURCES[pods];
    if text(reference, "kind") != "Pod" {
        if user.node().is_some() {
            let why = format!("node requested token not bound to a pod: {:?}", user.name);
            return Err(Refusal::new(403, "Forbidden", why));
        }
        return Ok(None);
    }
    let name = text(reference, "name");
    let key = (pods, target.namespace.clone(), name.to_owned());
    let pod = inside.store.get(&key);
    let pod = pod.ok_or_else(|| Refusal::not_found(resource, name))?;
    let (asked, is) = (text(reference, "uid"), text(pod, "metadata.uid"));
    if !asked.is_empty() && asked != is {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(Refusal::conflict(resource, name, &why));
    }
    if text(pod, "spec.serviceAccountName") != target.name {
        let why = "cannot bind token for serviceaccount to pod running with different serviceaccount name";
        return Err(Refusal::bad_request(why));
    }
    if let Some(node) = user.node()
        && text(pod, "spec.nodeName") != node
    {
        let why =
            format!("node requested token bound to a pod scheduled on a different node: {node:?}");
        return Err(Refusal::new(403, "Forbidden", why));
    }
    Ok(Some((
        target.namespace.clone(),
        name.to_owned(),
        is.to_owned(),
    )))
}

/// `POST …/tokenreviews`.
pub(super) fn review(inside: &Inside, body: &Value) -> Done {
    let token = text(body, "spec.token");
    let wanted: Vec<&str> = body["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut answer = body.clone();
    answer["status"] = match of_token(token, &inside.issued, &inside.fixed, &inside.store) {
        Ok((user, audiences, extra)) => {
            let common: Vec<&String> = audiences
                .iter()
                .filter(|a| wanted.is_empty() || wanted.contains(&a.as_str()))
                .collect();
            let mut info = user.info();
            if let Some(groups) = info["groups"].as_array_mut() {
                groups.push(json!("system:authenticated"));
            }
            if !extra.is_null() {
                info["extra"] = extra;
            }
            if common.is_empty() {
                json!({ "user": {}, "error": "token audiences are not the ones asked for" })
            } else {
                json!({ "authenticated": true, "user": info, "audiences": common })
            }
        }
        Err(_) => json!({ "user": {}, "error": "invalid bearer token" }),
    };
    Ok((201, Arc::new(answer)))
}

/// `POST …/subjectaccessreviews`.
pub(super) fn access(inside: &Inside, body: &Value) -> Done {
    let spec = &body["spec"];
    let user = text(spec, "user");
    let masters = spec["groups"]
        .as_array()
        .is_some_and(|groups| groups.contains(&json!("system:masters")));
    let (verb, what) = match spec.get("resourceAttributes") {
        Some(resource) if resource.is_object() => {
            let subresource = text(resource, "subresource");
            let plural = text(resource, "resource");
            let what = if subresource.is_empty() {
                plural.to_owned()
            } else {
                format!("{plural}/{subresource}")
            };
            (text(resource, "verb"), what)
        }
        _ => (
            text(spec, "nonResourceAttributes.verb"),
            text(spec, "nonResourceAttributes.path").to_owned(),
        ),
    };
    let allowed = masters
        || inside.allowed.iter().any(|[own, verbs, whats]| {
            matches(own, user) && matches(verbs, verb) && matches(whats, &what)
        });
    let mut answer = body.clone();
    answer["status"] = json!({ "allowed": allowed });
    if !allowed {
        answer["status"]["reason"] = json!("no rule allows it");
    }
    Ok((201, Arc::new(answer)))
}
