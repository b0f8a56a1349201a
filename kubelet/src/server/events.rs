//! `/events`: what has happened on this node, as a v1 EventList.

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;

use super::list::json_list;
use super::text;
use crate::events::{Event, Kind, Recorder};

/// What is asked for; all, without parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    namespace: Option<String>,
    pod: Option<String>,
}

impl Wanted {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            // Neither name has a character that would come as `%XX`.
            let value = Some(value.to_owned());
            match name {
                "namespace" => wanted.namespace = value,
                "pod" => wanted.pod = value,
                _ => {
                    return Err(format!(
                        "unknown parameter {name:?}: there are namespace and pod\n"
                    ));
                }
            }
        }
        Ok(wanted)
    }

    pub(super) fn is(&self, event: &Event) -> bool {
        let namespace = self.namespace.as_deref();
        namespace.is_none_or(|namespace| namespace == event.namespace())
            && self.pod.as_deref().is_none_or(|pod| is_of(event, pod))
    }
}

/// Whether `event` is of the pod called `name`, with the node's name behind it or without.
fn is_of(event: &Event, name: &str) -> bool {
    let object = &event.object;
    let in_manifest = object.name.strip_suffix(&*object.host);
    let in_manifest = in_manifest.and_then(|name| name.strip_suffix('-'));
    object.kind == Kind::Pod && (*object.name == *name || in_manifest == Some(name))
}

/// `/events`, with `?namespace=NAME` and `?pod=NAME`; what happened last comes last.
pub(super) async fn list(recorder: &'static Recorder, RawQuery(query): RawQuery) -> Response {
    let wanted = match Wanted::parse(query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let events = recorder.list(|event| wanted.is(event)).into_iter();
    let written = events.map(|event| {
        let mut item = Vec::with_capacity(1024);
        event.write_json(&mut item)?;
        Ok(item)
    });
    json_list("EventList", written)
}
