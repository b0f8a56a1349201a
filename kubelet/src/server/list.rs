//! Lists of the API as answers, one item at a time, so that none is ever in memory as a whole.

use std::io;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// A `v1` list of `kind`, of items written as JSON.
pub(super) fn json_list(
    kind: &str,
    items: impl ExactSizeIterator<Item = io::Result<Vec<u8>>> + Send + 'static,
) -> Response {
    let last = items.len();
    let head = format!(r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{}},"items":"#);
    // An empty list is null, as Go writes a slice that was never made.
    let head = if last == 0 {
        format!("{head}null}}\n")
    } else {
        format!("{head}[")
    };
    let items = items.enumerate().map(move |(index, item)| {
        let mut text = item?;
        text.extend_from_slice(if index + 1 == last { b"]}\n" } else { b"," });
        Ok(text)
    });
    let chunks = std::iter::once(Ok::<_, io::Error>(head.into_bytes())).chain(items);
    let mut response = Body::from_stream(tokio_stream::iter(chunks)).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
