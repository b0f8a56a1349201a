//! Answers: the Prometheus text format, whole or in parts, and JSON.

use std::io::{self, Write};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::process;
use crate::server::text;

/// As upstream's registry says it.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
/// When the agent began, seconds since the epoch: upstream's scrapers tell a restart by it.
const PROCESS_START: &str = "process-start-time-unix";

/// Text that is there as a whole.
pub(super) fn metrics(headers: &HeaderMap, text: String) -> Response {
    streamed(headers, std::iter::once(text))
}

/// Text that is made a part at a time, while the client takes it.
pub(super) fn streamed(
    headers: &HeaderMap,
    parts: impl Iterator<Item = String> + Send + 'static,
) -> Response {
    let zipped = takes_gzip(headers);
    let body = match zipped {
        true => Body::from_stream(tokio_stream::iter(Zipped::new(parts))),
        false => Body::from_stream(tokio_stream::iter(parts.map(Ok::<_, io::Error>))),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if zipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(start) = process::start_seconds() {
        headers.insert(PROCESS_START, HeaderValue::from(start));
    }
    response
}

/// Indented by one space, as upstream's.
pub(super) fn json(value: &impl Serialize) -> Response {
    let mut body = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut body, form);
    if let Err(error) = value.serialize(&mut serializer) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    let mut response = body.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Whether the client has gzip among what it takes, and does not rule it out.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT_ENCODING).iter();
    values.any(|value| {
        let mut codings = value.to_str().unwrap_or_default().split(',');
        codings.any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|q| q > 0.0))
        })
    })
}

/// Parts, compressed as they come.
struct Zipped<I> {
    parts: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Zipped<I> {
    fn new(parts: I) -> Self {
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self {
            parts,
            encoder: Some(encoder),
        }
    }
}

impl<I: Iterator<Item = String>> Iterator for Zipped<I> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(part) = self.parts.next() else {
                return self.encoder.take().map(GzEncoder::finish);
            };
            if let Err(error) = encoder.write_all(part.as_bytes()) {
                return Some(Err(error));
            }
            let ready = std::mem::take(encoder.get_mut());
            if !ready.is_empty() {
                return Some(Ok(ready));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            takes_gzip(&headers)
        };
        assert!(takes("gzip"));
        assert!(takes("deflate, GZIP;q=0.5"));
        assert!(!takes("deflate"));
        assert!(!takes("gzip;q=0"));
        assert!(!takes("x-gzip"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn parts_come_out_as_they_went_in() {
        let parts: Vec<String> = (0..200)
            .map(|n| format!("part {n} {}\n", "x".repeat(n)))
            .collect();
        let zipped: Vec<Vec<u8>> = Zipped::new(parts.clone().into_iter())
            .collect::<io::Result<_>>()
            .unwrap();
        let bytes = zipped.concat();
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, parts.concat());
    }
}
