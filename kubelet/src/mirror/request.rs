//! The requests this room makes, and what their answers mean.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, GetParams, PostParams, Preconditions};
use kube::core::{Request, Status};
use serde::{Deserialize, Serialize};

use super::plan::hash;
use crate::errors::error_chain;
use crate::pod::{CONFIG_MIRROR_ANNOTATION, InvalidPodUid, Pod, PodName, PodUid};
use crate::sources::MirrorPod;

/// A request without an answer after this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the API server did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// There is an object of this name.
    #[error("{0}")]
    Exists(String),
    /// There is none of this name, or not with this UID.
    #[error("{0}")]
    Gone(String),
    /// It will not, by quota, policy or validation.
    #[error("{message}")]
    Refused {
        /// In a word: `Forbidden`, `Invalid` …
        reason: String,
        /// In a sentence.
        message: String,
    },
    /// Another try may go well.
    #[error("{message}")]
    Busy {
        /// In a word.
        reason: String,
        /// In a sentence.
        message: String,
    },
    /// No answer.
    #[error("{0}")]
    Away(String),
}

/// The mirror pods of one node.
#[derive(Clone)]
pub(super) struct Mirrors {
    client: kube::Client,
    node: String,
}

/// What is there under a mirror's name.
pub(super) enum Present {
    /// A mirror of this node's.
    Mirror(MirrorPod),
    /// Another pod.
    Other,
}

impl Mirrors {
    pub(super) fn new(client: kube::Client, node: String) -> Self {
        Self { client, node }
    }

    /// Creates the mirror of `pod`, owned by the node object with `node_uid`.
    pub(super) async fn create(
        &self,
        pod: &Pod,
        node_uid: &str,
    ) -> Result<MirrorPod, RequestError> {
        let body = serde_json::to_vec(&mirror_of(pod, &self.node, node_uid))
            .map_err(|error| refused("Unserialisable", error_chain(&error)))?;
        let request = pods(&PodName::of(pod)).create(&PostParams::default(), body);
        let stub: Stub = self.ask(request).await?;
        stub.mirror(hash(pod))
    }

    /// What is there called `name`.
    pub(super) async fn get(&self, name: &PodName) -> Result<Present, RequestError> {
        let request = pods(name).get(&name.name, &GetParams::default());
        let stub: Stub = self.ask(request).await?;
        let mirror = stub.metadata.annotations.get(CONFIG_MIRROR_ANNOTATION);
        let here = stub.spec.node_name == self.node;
        match mirror.filter(|_| here).cloned() {
            Some(hash) => Ok(Present::Mirror(stub.mirror(&hash)?)),
            None => Ok(Present::Other),
        }
    }

    /// Deletes the pod called `name` at once, if it has `uid`.
    pub(super) async fn delete(&self, name: &PodName, uid: &PodUid) -> Result<(), RequestError> {
        let preconditions = Preconditions {
            uid: Some(uid.to_string()),
            ..Preconditions::default()
        };
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(preconditions);
        let request = pods(name).delete(&name.name, &params);
        match self.ask::<serde::de::IgnoredAny>(request).await {
            Ok(_) => Ok(()),
            // A UID that is another by now is a conflict.
            Err(RequestError::Refused { reason, message }) if reason == "Conflict" => {
                Err(RequestError::Gone(message))
            }
            Err(error) => Err(error),
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, RequestError> {
        let request = request.map_err(|error| refused("BadRequest", error_chain(&error)))?;
        let answer = self.client.request(request);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(of_status(*status)),
            Ok(Err(error)) => Err(RequestError::Away(error_chain(&error))),
            Err(_) => Err(RequestError::Away(format!("no answer in {PATIENCE:?}"))),
        }
    }
}

pub(super) fn refused(word: &str, message: String) -> RequestError {
    RequestError::Refused {
        reason: word.to_owned(),
        message,
    }
}

/// As [`refused`], for what another try may do.
pub(super) fn busy(word: &str, message: String) -> RequestError {
    RequestError::Busy {
        reason: word.to_owned(),
        message,
    }
}

fn of_status(status: Status) -> RequestError {
    let Status {
        code,
        reason,
        message,
        ..
    } = status;
    match (code, reason.as_str()) {
        (404, "NotFound") => RequestError::Gone(message),
        (409, "AlreadyExists") => RequestError::Exists(message),
        (401 | 408 | 429 | 500.., _) => RequestError::Busy { reason, message },
        _ => RequestError::Refused { reason, message },
    }
}

/// The collection that the pod called `name` is in.
fn pods(name: &PodName) -> Request {
    Request::new(format!("/api/v1/namespaces/{}/pods", name.namespace))
}

/// A mirror pod as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: ObjectMeta,
    spec: Option<&'a PodSpec>,
}

/// The mirror of `pod`: a copy that says what it is of, owned by its node, as the admission plugin `NodeRestriction` has
/// it (KEP-1314). What the API server sets itself is left out.
pub(super) fn mirror_of<'a>(pod: &'a Pod, node: &str, node_uid: &str) -> Body<'a> {
    let own = &pod.metadata;
    let mut annotations = own.annotations.clone().unwrap_or_default();
    annotations.insert(CONFIG_MIRROR_ANNOTATION.to_owned(), hash(pod).to_owned());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Body {
        api_version: "v1",
        kind: "Pod",
        metadata: ObjectMeta {
            name: own.name.clone(),
            namespace: Some(PodName::of(pod).namespace.to_string()),
            labels: own.labels.clone(),
            annotations: Some(annotations),
            finalizers: own.finalizers.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.as_ref(),
    }
}

/// What is read of a pod.
#[derive(Deserialize)]
struct Stub {
    metadata: StubMeta,
    #[serde(default)]
    spec: StubSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StubMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StubSpec {
    #[serde(default)]
    node_name: String,
}

impl Stub {
    fn mirror(&self, hash: &str) -> Result<MirrorPod, RequestError> {
        let unusable = |error: InvalidPodUid| RequestError::Busy {
            reason: "InvalidUid".to_owned(),
            message: error.to_string(),
        };
        Ok(MirrorPod {
            uid: PodUid::parse(&self.metadata.uid).map_err(unusable)?,
            hash: hash.to_owned(),
            deleting: self.metadata.deletion_timestamp.is_some(),
        })
    }
}
