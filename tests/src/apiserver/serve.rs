//! One request: who asks, what for, whether a fault meets it, and the answer.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request, Response, header};

use super::answer::{Refusal, answer, json_response};
use super::authorize;
use super::events;
use super::faults::{self, Effect};
use super::identity::{self, Shown, User};
use super::list;
use super::record::{self, BODY};
use super::resource::Target;
use super::selector::Selector;
use super::state::State;
use super::tokens;
use super::verbs;
use super::watch;

/// The largest body that is read (upstream's limit for resources is 3 MiB).
const LARGEST: usize = 3 << 20;

/// Answers one request of a connection whose certificate says who is there.
pub(super) async fn serve(
    state: Arc<State>,
    certificate: Option<Shown>,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let text = |name: header::HeaderName| {
        let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let content_type = text(header::CONTENT_TYPE);
    let bearer = text(header::AUTHORIZATION);
    let bearer = bearer.strip_prefix("Bearer ").map(str::to_owned);
    let body = match to_bytes(Body::new(body), LARGEST).await {
        Ok(body) => body,
        Err(error) => return Refusal::bad_request(format!("the body: {error}")).response(),
    };
    let serial = certificate.as_ref().map(|shown| shown.serial.clone());
    let user = authenticate(&state, certificate, bearer.as_deref());
    let verb = verb(&parts.method, &path, &query);
    let sent: Value = if body.len() <= BODY {
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    } else {
        Value::Null
    };
    let name = user.as_ref().map_or("", |user| user.name.as_str());
    let (place, effect) = {
        let mut inside = state.lock();
        inside.requests.push(record::Request {
            verb: verb.to_owned(),
            path: path.clone(),
            query: query.clone(),
            user: name.to_owned(),
            agent: text(header::USER_AGENT),
            serial: serial.unwrap_or_default(),
            at: Timestamp::now(),
            body: sent,
            code: None,
        });
        let effect = faults::take(&mut inside.faults, verb, &path, name);
        (inside.requests.len() - 1, effect)
    };
    match &effect {
        Some(Effect::Hangs) => return std::future::pending().await,
        Some(Effect::Takes(time)) => tokio::time::sleep(*time).await,
        Some(Effect::Refuses(refusal)) => return logged(&state, place, refusal.response()),
        Some(Effect::HangsAfterwards) | None => {}
    }
    let asked = Asked {
        verb,
        path: &path,
        query: &query,
        content_type: &content_type,
        body: &body,
    };
    let answered = user.and_then(|user| asked.answer(&state, &user));
    let response = answered.unwrap_or_else(|refusal| refusal.response());
    if matches!(effect, Some(Effect::HangsAfterwards)) {
        return std::future::pending().await;
    }
    logged(&state, place, response)
}

fn logged(state: &State, place: usize, response: Response<Body>) -> Response<Body> {
    // A test may have emptied the log meanwhile.
    if let Some(request) = state.lock().requests.get_mut(place) {
        request.code = Some(response.status().as_u16());
    }
    response
}

fn authenticate(
    state: &State,
    certificate: Option<Shown>,
    bearer: Option<&str>,
) -> Result<User, Refusal> {
    // As the real one, which judges a certificate with each request over a connection.
    if let Some(shown) = certificate {
        return match Timestamp::now() < shown.not_after {
            true => Ok(shown.user),
            false => Err(Refusal::unauthorized()),
        };
    }
    let Some(token) = bearer else {
        return Ok(User::anonymous());
    };
    let inside = state.lock();
    let (user, audiences, _) =
        identity::of_token(token, &inside.issued, &inside.fixed, &inside.store)?;
    if audiences.iter().any(|a| a == super::AUDIENCE) {
        Ok(user)
    } else {
        Err(Refusal::unauthorized())
    }
}

/// The verb, as upstream's request info has it.
fn verb(method: &Method, path: &str, query: &str) -> &'static str {
    match *method {
        Method::GET => {
            let Ok(target) = Target::parse(path, query) else {
                return "get";
            };
            match (target.name.is_empty(), target.flag("watch")) {
                (true, true) => "watch",
                (true, false) => "list",
                (false, _) => "get",
            }
        }
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

struct Asked<'r> {
    verb: &'static str,
    path: &'r str,
    query: &'r str,
    content_type: &'r str,
    body: &'r [u8],
}

impl Asked<'_> {
    fn answer(&self, state: &Arc<State>, user: &User) -> Result<Response<Body>, Refusal> {
        match self.path {
            "/healthz" | "/livez" | "/readyz" => {
                return Ok(answer(200, "text/plain", Body::from("ok")));
            }
            "/version" => {
                let version = json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64" });
                return Ok(json_response(200, &version));
            }
            _ => {}
        }
        let target = Target::parse(self.path, self.query)?;
        let mut inside = state.lock();
        if ["list", "watch"].contains(&self.verb) {
            let (_, resource) = target.stored()?;
            let selector = Selector::new(
                resource,
                &target.namespace,
                target.param("fieldSelector"),
                target.param("labelSelector"),
            )?;
            authorize::check(&inside.store, user, self.verb, &target, Some(&selector))?;
            if self.verb == "list" {
                let list = list::list(&inside.store, &target, &selector)?;
                return Ok(json_response(200, &list));
            }
            drop(inside);
            return watch::start(state, &target, selector);
        }
        authorize::check(&inside.store, user, self.verb, &target, None)?;
        let reads = self.verb == "get" || self.verb == "delete" && self.body.is_empty();
        let body: Value = if reads {
            Value::Null
        } else {
            serde_json::from_slice(self.body).map_err(|error| {
                Refusal::bad_request(format!("the object provided is unrecognized: {error}"))
            })?
        };
        let place = (target.plural.as_str(), target.subresource.as_str());
        let (code, object) = match (self.verb, place) {
            ("create", ("tokenreviews", "")) => tokens::review(&inside, &body)?,
            ("create", ("subjectaccessreviews", "")) => tokens::access(&inside, &body)?,
            ("create", ("serviceaccounts", "token")) => {
                tokens::request(&mut inside, user, &target, &body)?
            }
            ("create", ("pods", "binding")) => verbs::bind(&mut inside, &target, &body)?,
            ("get", _) => verbs::get(&inside, &target)?,
            ("create", (_, "")) => verbs::create(&mut inside, user, &target, body)?,
            ("update", _) => verbs::update(&mut inside, user, &target, body)?,
            ("patch", _) => verbs::patch(&mut inside, user, &target, self.content_type, &body)?,
            ("delete", (_, "")) => verbs::delete(&mut inside, user, &target, &body)?,
            _ => return Err(Refusal::method_not_allowed()),
        };
        drop(inside);
        if target.new_events {
            return Ok(json_response(code, &events::to_new(Value::clone(&object))));
        }
        Ok(json_response(code, &object))
    }
}
