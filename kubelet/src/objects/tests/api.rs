//! An API server that is a function: lists and watches of one namespace, and what a test adds.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Line = Result<Vec<u8>, io::Error>;
type Answer = dyn Fn(&str, Value) -> Response<Body> + Send + Sync;

/// Cheap to clone; clones are the same server.
#[derive(Clone, Default)]
pub(in crate::objects) struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    watches: Vec<Watch>,
    requests: Vec<String>,
    /// Answers what is posted.
    post: Option<Arc<Answer>>,
}

struct Watch {
    plural: String,
    name: Option<String>,
    lines: mpsc::Sender<Line>,
}

impl Api {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(in crate::objects) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Answers all that is posted with `answer`, which gets the path and the body.
    pub(in crate::objects) fn on_post(
        &self,
        answer: impl Fn(&str, Value) -> Response<Body> + Send + Sync + 'static,
    ) {
        self.state().post = Some(Arc::new(answer));
    }

    /// Makes or changes an object of the namespace `ns`.
    pub(in crate::objects) fn put(&self, plural: &str, name: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"] =
            json!({"name": name, "namespace": "ns", "resourceVersion": state.version.to_string()});
        let key = (plural.to_owned(), name.to_owned());
        let known = state.objects.insert(key, object.clone()).is_some();
        state.tell(
            if known { "MODIFIED" } else { "ADDED" },
            plural,
            name,
            &object,
        );
    }

    pub(in crate::objects) fn remove(&self, plural: &str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let removed = state.objects.remove(&(plural.to_owned(), name.to_owned()));
        let mut removed = removed.expect("there is no such object");
        removed["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.tell("DELETED", plural, name, &removed);
    }

    /// How many watches somebody listens to.
    pub(in crate::objects) fn watches(&self) -> usize {
        let state = self.state();
        state
            .watches
            .iter()
            .filter(|watch| !watch.lines.is_closed())
            .count()
    }

    /// How many requests there were whose path has `part`.
    pub(in crate::objects) fn requests(&self, part: &str) -> usize {
        self.state()
            .requests
            .iter()
            .filter(|path| path.contains(part))
            .count()
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let uri = request.uri().clone();
        let posted = request.method() == "POST";
        let body = request.into_body().collect_bytes().await.unwrap();
        let mut state = self.state();
        state.requests.push(uri.to_string());
        if posted {
            let answer = state.post.clone().expect("nothing answers a POST");
            drop(state);
            return answer(uri.path(), serde_json::from_slice(&body).unwrap());
        }
        let plural = uri.path().rsplit('/').next().unwrap().to_owned();
        let query = uri.query().unwrap_or_default();
        let name = query
            .split('&')
            .find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D"))
            .map(str::to_owned);
        if query.split('&').any(|part| part == "watch=true") {
            let (lines, stream) = mpsc::channel(64);
            state.watches.push(Watch {
                plural,
                name,
                lines,
            });
            return Response::new(Body::from_stream(ReceiverStream::new(stream)));
        }
        let of_kind =
            |key: &(String, String)| key.0 == plural && name.as_ref().is_none_or(|n| *n == key.1);
        let items: Vec<_> = state
            .objects
            .iter()
            .filter(|(key, _)| of_kind(key))
            .map(|(_, v)| v)
            .collect();
        let list =
            json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items});
        Response::new(Body::from(list.to_string()))
    }
}

impl State {
    fn tell(&mut self, kind: &str, plural: &str, name: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        for watch in &self.watches {
            if watch.plural == plural && watch.name.as_deref().is_none_or(|n| n == name) {
                // Whoever listens no more hears no more.
                let _ = watch.lines.try_send(Ok(line.clone().into_bytes()));
            }
        }
    }
}
