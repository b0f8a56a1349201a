//! What the API server has of a volume besides its object: secrets, tokens, whether it is attached.

use std::collections::BTreeMap;

use kube::core::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::CsiError;
use super::in_use::User;
use super::object::TokenRequest;
use super::volume::{CsiVolume, SecretRef};
use super::{Csi, names};
use crate::errors::error_chain;
use crate::node::OwnNode;
use crate::objects::{TokenWish, base64_values, request_token};
use crate::pod::{Pod, PodUid};

/// Where VolumeAttachments are.
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
/// What a token is good for where the driver does not say, seconds (upstream's default).
const TOKEN_SECONDS: i64 = 3600;
/// Where a driver finds the tokens.
pub(super) const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// `storage.k8s.io/v1` `VolumeAttachment`, as far as a node looks at it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Attachment {
    metadata: Metadata,
    status: AttachmentStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AttachmentStatus {
    attached: bool,
    attachment_metadata: Option<BTreeMap<String, String>>,
    attach_error: Option<AttachError>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AttachError {
    message: String,
}

impl Attachment {
    /// What the driver's controller has said of it, once it is attached.
    ///
    /// # Errors
    /// Upstream's words while it is not.
    fn verified(self, handle: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        if self.metadata.deletion_timestamp.is_some() {
            return Err("volume attachment is being deleted".to_owned());
        }
        if self.status.attached {
            return Ok(self.status.attachment_metadata.unwrap_or_default());
        }
        Err(match self.status.attach_error {
            Some(error) => error.message,
            None => format!("volume {handle} is not attached for volume attachment {name}"),
        })
    }
}

impl Csi {
    pub(super) fn client(&self) -> Result<kube::Client, CsiError> {
        let link = self.link.borrow();
        let link = link.as_ref().ok_or(CsiError::NoApiServer)?;
        Ok(link.client.clone())
    }

    /// What a secret holds, for the driver; nothing where none is named.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) async fn secret(
        &self,
        what: &'static str,
        secret: Option<&SecretRef>,
    ) -> Result<BTreeMap<String, String>, CsiError> {
        let Some(secret) = secret else {
            return Ok(BTreeMap::new());
        };
        let (namespace, name) = (&secret.namespace, &secret.name);
        let failed = |error: kube::Error| CsiError::Secret {
            what,
            namespace: namespace.clone(),
            name: name.clone(),
            why: match error {
                kube::Error::Api(status) => status.message,
                other => error_chain(&other),
            },
        };
        let client = self.client()?;
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        let request = Request::new(path).get(name, &kube::api::GetParams::default());
        let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
        // Read here: the client would write an answer that it cannot read to its log.
        let text = client.request_text(request).await.map_err(failed)?;
        let values = base64_values(&text).into_iter();
        let text = |bytes: Box<[u8]>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(values
            .map(|(key, value)| (key.into(), text(value)))
            .collect())
    }

    /// The tokens of the pod's service account that the driver wants, as it reads them; none where it wants none.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(super) async fn tokens(
        &self,
        pod: &Pod,
        uid: &PodUid,
        wanted: &[TokenRequest],
    ) -> Result<Option<String>, CsiError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let client = self.client()?;
        let mut tokens = Map::new();
        for request in wanted {
            let wish = TokenWish {
                audience: request.audience.as_str().into(),
                expiration_seconds: request.expiration_seconds.unwrap_or(TOKEN_SECONDS),
            };
            let (token, expires) = request_token(&client, pod, uid, &wish)
                .await
                .map_err(CsiError::Token)?;
            let token = String::from_utf8_lossy(token.reveal()).into_owned();
            tokens.insert(
                request.audience.clone(),
                json!({"token": token, "expirationTimestamp": expires}),
            );
        }
        Ok(Some(Value::from(tokens).to_string()))
    }

    /// Waits for nothing: whether the volume is attached to this node, and what the driver's controller has said of it
    /// (the publish context). What is not yet so is news when it is ([`Csi::changes`]).
    ///
    /// # Errors
    /// When it is not, or nobody says.
    pub(super) async fn attached(
        &self,
        volume: &CsiVolume,
        uid: &PodUid,
    ) -> Result<BTreeMap<String, String>, CsiError> {
        let not_yet = |why: &str| Err(CsiError::Attach(why.to_owned()));
        if !self.controller_attaches {
            return not_yet(
                "kubernetes.io/csi: attaching volumes from the kubelet is not supported",
            );
        }
        let unique = names::unique(&volume.driver, &volume.handle);
        self.in_use.begin(&unique, User::Pod(uid.clone()));
        let own = {
            let link = self.link.borrow();
            let link = link.as_ref().ok_or(CsiError::NoApiServer)?;
            link.own.borrow().clone()
        };
        let OwnNode::There(node) = own else {
            return not_yet("the node's object is not known");
        };
        // So that the controller never detaches what is being mounted.
        if !node.status.volumes_in_use.contains(&unique) {
            return not_yet(
                "Volume has not been added to the list of VolumesInUse in the node's volume status",
            );
        }
        let mut attached = node.status.volumes_attached.iter();
        if !attached.any(|one| one.name == unique) {
            return not_yet("Volume not attached according to node status");
        }
        let name = names::attachment(&volume.handle, &volume.driver, &self.node);
        let client = self.client()?;
        let request = Request::new(ATTACHMENTS).get(&name, &kube::api::GetParams::default());
        let found = match request {
            Ok(request) => client.request::<Attachment>(request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        let attachment = found.map_err(|error| {
            let why = match error {
                kube::Error::Api(status) => status.message,
                other => error_chain(&other),
            };
            let handle = &volume.handle;
            CsiError::Attach(format!(
                "volume {handle} has GET error for volume attachment {name}: {why}"
            ))
        })?;
        let verified = attachment.verified(&volume.handle, &name);
        verified.map_err(CsiError::Attach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_says_whether_it_is_done() {
        let verified = |object: Value| {
            let attachment: Attachment = serde_json::from_value(object).unwrap();
            attachment.verified("vol", "csi-1")
        };
        let done = verified(
            json!({"status": {"attached": true, "attachmentMetadata": {"path": "/dev/x"}}}),
        );
        assert_eq!(done.unwrap()["path"], "/dev/x");
        let cases = [
            (
                json!({"status": {"attached": false}}),
                "volume vol is not attached for volume attachment csi-1",
            ),
            (
                json!({"status": {"attached": false, "attachError": {"message": "no room"}}}),
                "no room",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {"attached": true}}),
                "volume attachment is being deleted",
            ),
        ];
        for (object, expected) in cases {
            assert_eq!(verified(object).unwrap_err(), expected);
        }
    }
}
