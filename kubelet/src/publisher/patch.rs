//! A status as a patch of the object at the API server. Pure.
//!
//! A strategic merge patch (the Kubernetes document "Update API Objects in Place Using kubectl patch"): lists of
//! conditions and addresses are merged by key there, so that what is to go from them has to be said; all other lists are
//! replaced.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Map, Value, json};

use crate::pod::PodUid;
use crate::sources::ServerStatus;
use crate::status::is_written_by_node;

/// The fields that a patch always has: a value, or null for one that is to go.
const OWNED: [&str; 13] = [
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "resources",
    "startTime",
];
/// Lists that the server merges by their elements' address.
const BY_ADDRESS: [&str; 2] = ["hostIPs", "podIPs"];

/// What becomes of `status.reason` or `status.message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// It stays as it is.
    Keep,
    /// It says this.
    Set(&'a str),
    /// It goes.
    Clear,
}

impl<'a> Text<'a> {
    /// From what the node says, what the server shows, and what the node `sent` last. What somebody else has put there
    /// stays as long as the phase does.
    pub(super) fn of(
        ours: Option<&'a str>,
        shown: Option<&str>,
        sent: Option<&str>,
        same_phase: bool,
    ) -> Self {
        match (ours, shown) {
            (Some(ours), Some(shown)) if ours == shown => Self::Keep,
            (Some(ours), _) => Self::Set(ours),
            (None, None) => Self::Keep,
            (None, shown) if same_phase && shown != sent => Self::Keep,
            (None, Some(_)) => Self::Clear,
        }
    }

    fn put(self, key: &str, status: &mut Map<String, Value>) {
        match self {
            Self::Keep => status.remove(key),
            Self::Set(text) => status.insert(key.to_owned(), text.into()),
            Self::Clear => status.insert(key.to_owned(), Value::Null),
        };
    }
}

/// The patch that makes the object with `uid` show `ours`. The UID is in it as a condition: an object that has another by
/// now refuses it.
pub(super) fn patch(
    uid: &PodUid,
    ours: &api::PodStatus,
    server: &ServerStatus,
    reason: Text<'_>,
    message: Text<'_>,
) -> Value {
    // Types that are made for JSON always have one.
    let mut all = match serde_json::to_value(ours) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    };
    let mut status: Map<String, Value> = OWNED
        .iter()
        .map(|key| ((*key).to_owned(), all.remove(*key).unwrap_or_default()))
        .collect();
    for key in BY_ADDRESS {
        if let Some(Value::Array(list)) = status.get_mut(key) {
            list.push(json!({"$patch": "replace"}));
        }
    }
    reason.put("reason", &mut status);
    message.put("message", &mut status);
    put_conditions(ours, server, &mut status);
    json!({"metadata": {"uid": uid.as_str()}, "status": status})
}

/// The node's conditions behind those of others, and without those of its own that it does not have any more.
fn put_conditions(ours: &api::PodStatus, server: &ServerStatus, status: &mut Map<String, Value>) {
    let of_node = |type_: &str| is_written_by_node(type_) || type_ == "DisruptionTarget";
    let own: Vec<&api::PodCondition> = ours
        .conditions
        .iter()
        .flatten()
        .filter(|c| of_node(&c.type_))
        .collect();
    let has = |type_: &str| own.iter().any(|c| c.type_ == type_);
    let stale = server.conditions.iter();
    let stale = stale.filter(|type_| is_written_by_node(type_) && !has(type_));
    let gone = stale.map(|type_| json!({"$patch": "delete", "type": type_}));
    let list: Vec<Value> = own.iter().map(|c| whole(c)).chain(gone).collect();
    if list.is_empty() {
        return;
    }
    let theirs = server.conditions.iter().map(|type_| &**type_);
    let theirs = theirs.filter(|type_| !is_written_by_node(type_) && !has(type_));
    let order: Vec<Value> = theirs
        .chain(own.iter().map(|c| &*c.type_))
        .map(|type_| json!({"type": type_}))
        .collect();
    status.insert("$setElementOrder/conditions".to_owned(), order.into());
    status.insert("conditions".to_owned(), list.into());
}

/// A condition with all its fields: elements are merged one by one, and what is not said of one stays as it was, such as
/// the reason why a pod was not ready.
fn whole(condition: &api::PodCondition) -> Value {
    let mut whole = json!({"reason": null, "message": null});
    if let (Value::Object(whole), Ok(Value::Object(told))) =
        (&mut whole, serde_json::to_value(condition))
    {
        whole.extend(told);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> PodUid {
        PodUid::parse("u-1").unwrap()
    }

    fn ours(text: Value) -> api::PodStatus {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_patch_says_all_that_the_node_writes_and_nothing_else() {
        let ours = ours(json!({
            "phase": "Running",
            "qosClass": "BestEffort",
            "podIP": "10.0.0.7",
            "podIPs": [{"ip": "10.0.0.7"}],
            "nominatedNodeName": "other",
            "resourceClaimStatuses": [{"name": "claim"}],
            "conditions": [
                {"type": "example.com/gate", "status": "True"},
                {"type": "Ready", "status": "True"},
                {"type": "PodScheduled", "status": "False", "reason": "r", "message": "m"},
            ],
        }));
        let server = ServerStatus {
            conditions: ["PodResizePending", "example.com/late", "Ready"]
                .map(Into::into)
                .into(),
            ..ServerStatus::default()
        };
        let patch = patch(&uid(), &ours, &server, Text::Keep, Text::Clear);
        let expected = json!({
            "metadata": {"uid": "u-1"},
            "status": {
                "$setElementOrder/conditions": [
                    {"type": "example.com/late"}, {"type": "Ready"}, {"type": "PodScheduled"},
                ],
                "allocatedResources": null,
                "conditions": [
                    {"message": null, "reason": null, "status": "True", "type": "Ready"},
                    {"message": "m", "reason": "r", "status": "False", "type": "PodScheduled"},
                    {"$patch": "delete", "type": "PodResizePending"},
                ],
                "containerStatuses": null,
                "ephemeralContainerStatuses": null,
                "hostIP": null,
                "hostIPs": null,
                "initContainerStatuses": null,
                "message": null,
                "observedGeneration": null,
                "phase": "Running",
                "podIP": "10.0.0.7",
                "podIPs": [{"ip": "10.0.0.7"}, {"$patch": "replace"}],
                "qosClass": "BestEffort",
                "resources": null,
                "startTime": null,
            },
        });
        assert_eq!(patch, expected);
    }

    #[test]
    fn a_reason_of_somebody_else_stays_as_long_as_the_phase() {
        let of = |ours, shown, sent, same| Text::of(ours, shown, sent, same);
        assert_eq!(of(None, Some("theirs"), None, true), Text::Keep);
        assert_eq!(of(None, Some("theirs"), None, false), Text::Clear);
        assert_eq!(of(None, Some("old"), Some("old"), true), Text::Clear);
        assert_eq!(
            of(Some("new"), Some("old"), Some("old"), true),
            Text::Set("new")
        );
        assert_eq!(of(Some("new"), Some("new"), None, true), Text::Keep);
        assert_eq!(of(None, None, Some("old"), true), Text::Keep);
    }
}
