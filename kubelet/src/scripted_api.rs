//! For tests: a client of an API server that a closure plays, without sockets, so that time may stand still.

use std::sync::{Arc, Mutex};

use kube::client::Body;
use serde_json::{Value, json};

/// One request, as it came in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// `GET`, `POST` …
    pub(crate) method: String,
    /// The path, without the query.
    pub(crate) path: String,
    /// The media type of the body.
    pub(crate) content_type: String,
    /// The body; null where there is none.
    pub(crate) body: Value,
}

impl Asked {
    /// `METHOD path`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is answered.
pub(crate) enum Answer {
    /// A status code and an object.
    Json(u16, Value),
    /// The connection breaks.
    Broken,
    /// There is never an answer.
    Never,
}

impl Answer {
    /// The `Status` of a failure.
    pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Self {
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": code,
        });
        Self::Json(code, status)
    }
}

/// What has been asked so far.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Asked>>>);

impl Log {
    /// All that was asked since the last call.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The same, as lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take().iter().map(Asked::line).collect()
    }

    /// How many requests [`Log::take`] would give.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A client whose requests `answer` answers, and the log of them.
pub(crate) fn scripted(
    answer: impl FnMut(&Asked) -> Answer + Send + 'static,
) -> (kube::Client, Log) {
    let log = Log::default();
    let (kept, answer) = (log.clone(), Arc::new(Mutex::new(answer)));
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let (kept, answer) = (kept.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let header = parts.headers.get(hyper::header::CONTENT_TYPE);
            let asked = Asked {
                method: parts.method.to_string(),
                path: parts.uri.path().to_owned(),
                content_type: header.map_or("", |h| h.to_str().unwrap()).to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            kept.0.lock().unwrap().push(asked.clone());
            let answer = (answer.lock().unwrap())(&asked);
            match answer {
                Answer::Json(code, body) => Ok(hyper::Response::builder()
                    .status(code)
                    .body(Body::from(serde_json::to_vec(&body).unwrap()))
                    .unwrap()),
                Answer::Broken => Err(std::io::Error::other("connection reset by peer")),
                Answer::Never => std::future::pending().await,
            }
        }
    });
    (kube::Client::new(service, "default"), log)
}
