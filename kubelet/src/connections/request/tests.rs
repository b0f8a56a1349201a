use k8s_openapi::api::core::v1::HTTPHeader;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::connections::Dialer;

const DIALER: Dialer = Dialer {
    linger: None,
    patience: None,
};
const GO: Manner = Manner {
    user_agent: "me/1",
    gzip: true,
    close: false,
    dialer: DIALER,
};
const BARE: Manner = Manner {
    gzip: false,
    close: true,
    ..GO
};

fn request(headers: &[(&str, &str)], manner: &'static Manner) -> HttpRequest {
    let header = |(name, value): &(&str, &str)| HTTPHeader {
        name: (*name).into(),
        value: (*value).into(),
    };
    let action = HTTPGetAction {
        scheme: Some("HTTPS".into()),
        path: Some("/x".into()),
        port: IntOrString::Int(8080),
        http_headers: Some(headers.iter().map(header).collect()),
        ..HTTPGetAction::default()
    };
    HttpRequest::new(&action, &Container::default(), "10.0.0.1", manner).unwrap()
}

fn sent(request: &HttpRequest) -> Result<Vec<String>, String> {
    let headers = request.headers().map_err(|error| error.to_string())?;
    let fields = headers.with(&request.url, None);
    let fields = fields.map_err(|error| error.to_string())?;
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    let mut lines: Vec<String> = fields.iter().map(line).collect();
    lines[1..].sort_unstable();
    Ok(lines)
}

#[test]
fn a_handlers_host_comes_before_the_pods_address() {
    assert_eq!(host_of(Some("h"), "10.0.0.1"), "h");
    assert_eq!(host_of(Some(""), "10.0.0.1"), "10.0.0.1");
    assert_eq!(host_of(None, ""), "");
}

#[test]
fn schemes_are_http_unless_they_are_said() {
    let to = |scheme: Option<&str>| {
        let action = HTTPGetAction {
            scheme: scheme.map(str::to_owned),
            port: IntOrString::Int(80),
            ..HTTPGetAction::default()
        };
        let request = HttpRequest::new(&action, &Container::default(), "h", &GO).unwrap();
        request.url.to_string()
    };
    assert_eq!(to(None), "http://h:80");
    assert_eq!(to(Some("")), "http://h:80");
    assert_eq!(to(Some("HTTPS")), "https://h:80");
}

#[test]
fn headers_have_defaults_and_may_be_taken_away() {
    let go = |headers: &[_]| sent(&request(headers, &GO)).unwrap();
    let host = "host: 10.0.0.1:8080";
    let gzip = "accept-encoding: gzip";
    assert_eq!(go(&[]), [host, gzip, "accept: */*", "user-agent: me/1"]);
    assert_eq!(
        go(&[("x", "1"), ("X", "2"), ("accept", ""), ("User-Agent", "")]),
        [host, gzip, "x: 1", "x: 2"]
    );
    let own = [
        ("host", "example.test"),
        ("User-Agent", "me"),
        ("Accept", "a"),
        ("X-Empty", ""),
        ("Content-Length", "7"),
        ("transfer-encoding", "chunked"),
    ];
    assert_eq!(
        go(&own),
        [
            "host: example.test",
            gzip,
            "accept: a",
            "user-agent: me",
            "x-empty: "
        ]
    );
    let ranges = go(&[("Range", "bytes=0-1")]);
    assert!(!ranges.iter().any(|line| line == gzip), "{ranges:?}");
    let bare = sent(&request(&[], &BARE)).unwrap();
    let close = "connection: close";
    assert_eq!(bare, [host, "accept: */*", close, "user-agent: me/1"]);
}

#[test]
fn what_cannot_be_sent_is_named_and_its_value_is_not() {
    let error = |name, value| sent(&request(&[(name, value)], &GO)).unwrap_err();
    assert_eq!(
        error("x-bad", "secret\nb"),
        "net/http: invalid header field value for \"X-Bad\""
    );
    assert_eq!(
        error("X Y", "z"),
        "net/http: invalid header field name \"X Y\""
    );
}

#[test]
fn plain_http_carries_no_authorization() {
    let secured = request(&[("authorization", "secret"), ("x", "y")], &GO);
    assert_eq!(secured.url.to_string(), "https://10.0.0.1:8080/x");
    let plain = secured.over_plain_http();
    assert_eq!(plain.url.to_string(), "http://10.0.0.1:8080/x");
    let lines = sent(&plain).unwrap();
    assert!(lines.contains(&"x: y".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains("secret")), "{lines:?}");
}
