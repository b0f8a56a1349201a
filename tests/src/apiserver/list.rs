//! Lists, in pages that all show one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::events;
use super::resource::Target;
use super::selector::Selector;
use super::store::{Key, Store};

/// The list that a URL asks for.
pub(super) fn list(store: &Store, target: &Target, selector: &Selector) -> Result<Value, Refusal> {
    let (index, resource) = target.stored()?;
    let asked = target.param("resourceVersion");
    // The cache, which answers for version 0, knows no pages.
    let limit = match target.param("limit").parse::<usize>() {
        Ok(limit) if limit > 0 && asked != "0" => limit,
        _ => usize::MAX,
    };
    let page = target.param("continue");
    let (revision, after, objects) = if page.is_empty() {
        let exactly = target.param("resourceVersionMatch") == "Exact";
        let revision = match asked.parse::<u64>() {
            Ok(revision) if exactly => revision,
            _ => store.revision(),
        };
        let objects = store.snapshot(index, revision);
        let objects = objects.map_err(|oldest| Refusal::too_old(revision, oldest))?;
        (revision, None, objects)
    } else {
        let (revision, after) = read_token(index, page)
            .ok_or_else(|| Refusal::bad_request("continue key is not valid"))?;
        let objects = store.snapshot(index, revision);
        (
            revision,
            Some(after),
            objects.map_err(|_| Refusal::page_expired())?,
        )
    };
    let (items, next, remaining) = cut(objects, after.as_ref(), selector, limit);
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let Some((namespace, name)) = next {
        let token = json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": [namespace, name] });
        metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(token.to_string()));
        metadata["remainingItemCount"] = json!(remaining);
    }
    let version = if target.new_events {
        "events.k8s.io/v1".to_owned()
    } else {
        resource.api_version()
    };
    let items: Vec<Value> = items
        .into_iter()
        .map(|item| {
            let mut item = Value::clone(&item);
            if target.new_events {
                item = events::to_new(item);
            }
            // Items of a list carry neither.
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            item
        })
        .collect();
    Ok(json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": version,
        "metadata": metadata,
        "items": items,
    }))
}

type Place = (String, String);

fn read_token(index: usize, token: &str) -> Option<(u64, Key)> {
    let token = URL_SAFE_NO_PAD.decode(token).ok()?;
    let token: Value = serde_json::from_slice(&token).ok()?;
    let (namespace, name): Place = serde_json::from_value(token["start"].clone()).ok()?;
    Some((token["rv"].as_u64()?, (index, namespace, name)))
}

/// A page, where the next one begins after, and how many follow.
fn cut(
    objects: BTreeMap<Key, Arc<Value>>,
    after: Option<&Key>,
    selector: &Selector,
    limit: usize,
) -> (Vec<Arc<Value>>, Option<Place>, usize) {
    let mut fitting = objects
        .into_iter()
        .filter(|(key, object)| after.is_none_or(|a| key > a) && selector.matches(object));
    let mut page = Vec::new();
    let mut last = None;
    while page.len() < limit
        && let Some((key, object)) = fitting.next()
    {
        page.push(object);
        last = Some((key.1, key.2));
    }
    let remaining = fitting.count();
    (page, last.filter(|_| remaining > 0), remaining)
}
