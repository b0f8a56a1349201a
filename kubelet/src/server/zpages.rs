//! `/flagz` and `/statusz`: what the process was started with, and what it is (KEP-4828, KEP-4827).
//!
//! As text, which is for people, or as an object of `config.k8s.io` where the client names it in `Accept`. Upstream's text
//! has another sign between name and value each time it is asked, so that nobody takes it apart; here it is the same.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::metrics::started_at;
use super::plain;
use crate::clock::Clock;
use crate::config::{FlagValues, KUBERNETES_VERSION};

const COMPONENT: &str = "kubelet";
const GROUP: &str = "config.k8s.io";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// What an answer is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json(Version),
    Yaml(Version),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1Alpha1,
    V1Beta1,
}

impl Version {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1Alpha1 => "v1alpha1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// `/flagz`.
pub(super) fn flagz(flags: FlagValues) -> Router {
    page("/flagz", "Flagz", move || {
        let flags = flags.all();
        let lines: String = flags.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        (lines, json!({ "flags": flags }))
    })
}

/// `/statusz`; `paths` are the first parts of the paths that it tells of, in their order.
pub(super) fn statusz(clock: Clock, paths: Vec<&'static str>) -> Router {
    page("/statusz", "Statusz", move || {
        let started = started_at().unwrap_or(Timestamp::UNIX_EPOCH);
        let up = (clock.wall().as_second() - started.as_second()).max(0);
        let version = KUBERNETES_VERSION.trim_start_matches('v');
        let emulated = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        let text = format!(
            "\nStarted= {}\nUp= {} hr {:02} min {:02} sec\nGo version= \nBinary version= {version}\nEmulation version= {emulated}\nPaths= {}\n",
            started.strftime("%a %b %e %H:%M:%S UTC %Y"),
            up / 3600,
            up / 60 % 60,
            up % 60,
            paths.join(" "),
        );
        let object = json!({
            "startTime": started,
            "uptimeSeconds": up,
            // This is no Go program, and the field has to be there.
            "goVersion": "",
            "binaryVersion": version,
            "emulationVersion": emulated,
            "paths": paths,
        });
        (text, object)
    })
}

/// A page of `kind`. `content` gives its text and the fields of its object.
fn page(
    path: &str,
    kind: &'static str,
    content: impl Fn() -> (String, Value) + Send + Sync + 'static,
) -> Router {
    let content = Arc::new(content);
    let answer = move |headers: HeaderMap| {
        let content = Arc::clone(&content);
        async move {
            let accept = headers.get(header::ACCEPT);
            let accept = accept.and_then(|value| value.to_str().ok());
            match form(accept.unwrap_or_default(), kind) {
                Some(form) => written(form, kind, content()),
                None => not_acceptable(),
            }
        }
    };
    Router::new().route(path, any(answer))
}

fn written(form: Form, kind: &str, (text, mut object): (String, Value)) -> Response {
    let name = kind.to_lowercase();
    let version = match form {
        Form::Text => {
            let page = format!("\n{COMPONENT} {name}\n{WARNING}\n{text}");
            return plain(StatusCode::OK, page);
        }
        Form::Json(version) | Form::Yaml(version) => version,
    };
    object["kind"] = kind.into();
    object["apiVersion"] = format!("{GROUP}/{}", version.as_str()).into();
    object["metadata"] = json!({ "name": COMPONENT });
    let (media, text) = match form {
        Form::Yaml(_) => ("yaml", serde_saphyr::to_string(&object).unwrap_or_default()),
        _ => ("json", format!("{object}\n")),
    };
    let mut response = text.into_response();
    let headers = response.headers_mut();
    let media = format!(
        "application/{media};g={GROUP};v={};as={kind}",
        version.as_str()
    );
    if let Ok(media) = HeaderValue::from_str(&media) {
        headers.insert(header::CONTENT_TYPE, media);
    }
    if version == Version::V1Alpha1 {
        let deprecated = format!(
            "299 - \"This version of the {name} endpoint is deprecated. Please use a newer version.\""
        );
        if let Ok(deprecated) = HeaderValue::from_str(&deprecated) {
            headers.insert(header::WARNING, deprecated);
        }
    }
    response
}

fn not_acceptable() -> Response {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "only the following media types are accepted: application/json, application/yaml, text/plain",
        "reason": "NotAcceptable",
        "code": 406,
    });
    let json = HeaderValue::from_static("application/json");
    let headers = [(header::CONTENT_TYPE, json)];
    (StatusCode::NOT_ACCEPTABLE, headers, status.to_string()).into_response()
}

/// What `accept` wants of a page: an object only where its group, version and kind are named (`g`, `v`, `as`), the text
/// where anything will do. None where there is nothing of the kind.
fn form(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<(f32, Vec<&str>)> = accept
        .split(',')
        .map(|clause| {
            let parts: Vec<&str> = clause.split(';').map(str::trim).collect();
            let weight = parts.iter().find_map(|part| part.strip_prefix("q="));
            (weight.and_then(|q| q.parse().ok()).unwrap_or(1.0), parts)
        })
        .collect();
    // Those of one weight keep their order.
    clauses.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    clauses.iter().find_map(|(_, parts)| of_clause(parts, kind))
}

fn of_clause(parts: &[&str], kind: &str) -> Option<Form> {
    let (media, parameters) = parts.split_first()?;
    let value = |name: &str| {
        let mut pairs = parameters.iter().filter_map(|part| part.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let refused = |name: &str| value(name).is_some_and(|value| !value.is_empty());
    if refused("stream") || refused("sv") {
        return None;
    }
    let object = ["g", "v", "as"].map(value);
    let version = match object {
        [Some(GROUP), Some("v1beta1"), Some(named)] if named == kind => Some(Version::V1Beta1),
        [Some(GROUP), Some("v1alpha1"), Some(named)] if named == kind => Some(Version::V1Alpha1),
        _ => None,
    };
    let fits = |one: &str| match media.split_once("/*") {
        Some(("*", _)) => true,
        Some((root, "")) => one
            .strip_prefix(root)
            .is_some_and(|rest| rest.starts_with('/')),
        _ => one == *media,
    };
    match version {
        Some(version) if fits("application/json") => Some(Form::Json(version)),
        Some(version) if fits("application/yaml") => Some(Form::Yaml(version)),
        None if object == [None; 3] && fits("text/plain") => Some(Form::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    const OBJECT: &str = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";

    #[test]
    fn what_is_wanted_is_what_upstream_gives() {
        let json = Some(Form::Json(Version::V1Beta1));
        for (accept, expected) in [
            ("", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("text/*", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("text/html, */*;q=0.5", Some(Form::Text)),
            ("application/json", None),
            ("application/json, text/plain;q=0.1", Some(Form::Text)),
            ("application/cbor", None),
            ("text/plain;as=Statusz", None),
            (OBJECT, json),
            (
                "text/plain;q=0.5, application/json; v=v1beta1; g=config.k8s.io; as=Statusz",
                json,
            ),
            ("*/*;v=v1beta1;g=config.k8s.io;as=Statusz", json),
            (
                "application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz",
                Some(Form::Yaml(Version::V1Alpha1)),
            ),
            ("application/json;v=v1;g=config.k8s.io;as=Statusz", None),
            ("application/json;v=v1beta1;g=config.k8s.io;as=Flagz", None),
            (
                "application/json;stream=watch;v=v1beta1;g=config.k8s.io;as=Statusz",
                None,
            ),
        ] {
            assert_eq!(form(accept, "Statusz"), expected, "{accept:?}");
        }
    }

    async fn ask(routes: Router, path: &str, accept: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::builder().uri(path).header("accept", accept);
        let request = request.body(Body::empty()).unwrap();
        let answer = routes.oneshot(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn status() -> Router {
        statusz(Clock::system(), vec!["/healthz", "/metrics"])
    }

    #[tokio::test]
    async fn the_status_is_text_or_an_object() {
        let (code, headers, text) = ask(status(), "/statusz", "*/*").await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        assert!(text.starts_with("\nkubelet statusz\nWarning: "), "{text}");
        assert!(text.contains("\nPaths= /healthz /metrics\n"), "{text}");

        let (code, headers, text) = ask(status(), "/statusz", OBJECT).await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(
            headers["content-type"],
            "application/json;g=config.k8s.io;v=v1beta1;as=Statusz"
        );
        assert!(!headers.contains_key("warning"));
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["kind"], "Statusz");
        assert_eq!(object["apiVersion"], "config.k8s.io/v1beta1");
        assert_eq!(object["metadata"]["name"], "kubelet");
        assert_eq!(object["paths"], json!(["/healthz", "/metrics"]));
        assert!(object["uptimeSeconds"].as_i64().unwrap() >= 0);
        assert!(object["startTime"].as_str().unwrap().ends_with('Z'));
        assert!(KUBERNETES_VERSION.ends_with(object["binaryVersion"].as_str().unwrap()));

        let old = OBJECT.replace("beta", "alpha");
        let (_, headers, _) = ask(status(), "/statusz", &old).await;
        assert!(headers["warning"].to_str().unwrap().starts_with("299 - \""));

        let (code, _, text) = ask(status(), "/statusz", "application/json").await;
        assert_eq!(code, StatusCode::NOT_ACCEPTABLE);
        assert!(text.contains("\"reason\":\"NotAcceptable\""), "{text}");
    }

    #[tokio::test]
    async fn flags_are_shown_with_their_values() {
        let routes = flagz(FlagValues::default());
        let (_, _, text) = ask(routes.clone(), "/flagz", "text/plain").await;
        assert!(text.starts_with("\nkubelet flagz\nWarning: "), "{text}");
        for line in ["\nmax-pods=110\n", "\nroot-dir=/var/lib/kubelet\n"] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
        let yaml = "application/yaml;v=v1beta1;g=config.k8s.io;as=Flagz";
        let (_, headers, text) = ask(routes, "/flagz", yaml).await;
        assert_eq!(
            headers["content-type"],
            "application/yaml;g=config.k8s.io;v=v1beta1;as=Flagz"
        );
        assert!(text.contains("kind: Flagz\n"), "{text}");
    }
}
