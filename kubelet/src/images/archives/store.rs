//! Images into containerd by its own API: the CRI has no call for that.
//!
//! Source: containerd, `api/services/{content,images,leases}/v1`; "Garbage Collection", "Leases".

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image, Info, InfoRequest,
    UpdateImageRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use containerd_client::tonic::metadata::MetadataValue;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status};
use containerd_client::types::Descriptor as ContainerdDescriptor;
use tokio_stream::wrappers::ReceiverStream;

use super::parts::{ArchivedImage, Blob, Descriptor};

/// Where the CRI of containerd has its images.
const NAMESPACE: &str = "k8s.io";
/// Bytes of a blob in one message.
const CHUNK: usize = 1 << 20;
/// Messages that are read ahead.
const AHEAD: usize = 1;
/// What is left over of an import that was cut off is collected after this long.
const LEASE_HOURS: i64 = 24;

/// The labels of images that the CRI of containerd takes for its own, and that no garbage collection removes (containerd
/// 1.7 and later heeds the second).
const LABELS: [(&str, &str); 2] = [
    ("io.cri-containerd.image", "managed"),
    ("io.cri-containerd.pinned", "pinned"),
];

/// An image that containerd does not take.
#[derive(Debug, thiserror::Error)]
#[error("containerd: {what}: {why}")]
pub(super) struct StoreError {
    what: String,
    why: String,
    /// Whether it was containerd that could not be asked, rather than the image.
    pub(super) is_away: bool,
}

fn failed(what: impl Into<String>) -> impl FnOnce(Status) -> StoreError {
    let what = what.into();
    move |status| StoreError {
        what,
        why: status.message().to_owned(),
        is_away: matches!(
            status.code(),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown
        ),
    }
}

/// containerd's images and their content.
#[derive(Clone, Debug)]
pub(super) struct Store {
    channel: Channel,
}

impl Store {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Whether containerd has the image `name`, pinned, with the content `target`.
    pub(super) async fn has(&self, name: &str, target: &Descriptor) -> Result<bool, StoreError> {
        let request = of_cri(GetImageRequest {
            name: name.to_owned(),
        });
        let found = ImagesClient::new(self.channel.clone()).get(request).await;
        let image = match found {
            Err(status) if status.code() == Code::NotFound => return Ok(false),
            other => other.map_err(failed(format!("get image {name}")))?,
        };
        let image = image.into_inner().image.unwrap_or_default();
        let same = image.target.is_some_and(|t| t.digest == target.digest);
        let labelled = |(key, value): &(&str, &str)| {
            image.labels.get(*key).map(String::as_str) == Some(*value)
        };
        Ok(same && LABELS.iter().all(labelled))
    }

    /// Puts `image` of `archive` into containerd, pinned. What is there already is not written again.
    pub(super) async fn put(
        &self,
        archive: &Arc<File>,
        image: &ArchivedImage,
    ) -> Result<(), StoreError> {
        let mut leases = LeasesClient::new(self.channel.clone());
        let id = format!("kubelet-import-{}", image.target.digest);
        let expires = crate::clock::system_wall().as_second() + LEASE_HOURS * 60 * 60;
        let expires = jiff::Timestamp::from_second(expires).unwrap_or_default();
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), expires.to_string())]);
        let lease = CreateRequest {
            id: id.clone(),
            labels,
        };
        match leases.create(of_cri(lease)).await {
            // Of an import that was cut off.
            Err(status) if status.code() == Code::AlreadyExists => {}
            other => other.map(drop).map_err(failed("create a lease"))?,
        }
        let done = self.put_leased(archive, image, &id).await;
        let lease = DeleteRequest { id, sync: false };
        // It has a time of its own.
        let _ = leases.delete(of_cri(lease)).await;
        done
    }

    async fn put_leased(
        &self,
        archive: &Arc<File>,
        image: &ArchivedImage,
        lease: &str,
    ) -> Result<(), StoreError> {
        for blob in &image.blobs {
            self.put_blob(archive, blob, lease).await?;
        }
        for name in &image.names {
            self.put_name(name, &image.target).await?;
        }
        Ok(())
    }

    async fn put_blob(
        &self,
        archive: &Arc<File>,
        blob: &Blob,
        lease: &str,
    ) -> Result<(), StoreError> {
        let mut content = ContentClient::new(self.channel.clone());
        let digest = blob.descriptor.digest.clone();
        let labels: HashMap<_, _> = blob.refers_to.iter().cloned().collect();
        let info = InfoRequest {
            digest: digest.clone(),
        };
        match content.info(leased(info, lease)).await {
            Ok(found) => {
                let has = found.into_inner().info.unwrap_or_default().labels;
                let is_labelled = labels
                    .iter()
                    .all(|(key, value)| has.get(key) == Some(value));
                return match is_labelled {
                    true => Ok(()),
                    false => self.label(&digest, labels, lease).await,
                };
            }
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(failed(format!("look for {digest}"))(status)),
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
        let (archive, blob) = (archive.clone(), blob.clone());
        let reading = tokio::task::spawn_blocking(move || {
            for message in messages(&archive, &blob, &labels) {
                let is_last = message.is_err();
                // Whoever does not want them any more has an answer of containerd's.
                if sender.blocking_send(message).is_err() || is_last {
                    return;
                }
            }
        });
        let broken = Arc::new(std::sync::Mutex::new(None));
        let noted = broken.clone();
        let messages = tokio_stream::StreamExt::map_while(
            ReceiverStream::new(receiver),
            move |message: std::io::Result<WriteContentRequest>| match message {
                Ok(message) => Some(message),
                Err(error) => {
                    *noted
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    None
                }
            },
        );
        let answer = write(content, leased(messages, lease)).await;
        reading.abort();
        let broken = broken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(error) = broken {
            return Err(StoreError {
                what: format!("read {digest}"),
                why: error.to_string(),
                is_away: false,
            });
        }
        match answer {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            other => other.map_err(failed(format!("write {digest}"))),
        }
    }

    async fn label(
        &self,
        digest: &str,
        labels: HashMap<String, String>,
        lease: &str,
    ) -> Result<(), StoreError> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info {
            digest: digest.to_owned(),
            labels,
            ..Info::default()
        };
        let request = UpdateRequest {
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let mut content = ContentClient::new(self.channel.clone());
        let done = content.update(leased(request, lease)).await;
        done.map(drop).map_err(failed(format!("label {digest}")))
    }

    async fn put_name(&self, name: &str, target: &Descriptor) -> Result<(), StoreError> {
        let labels = LABELS.iter();
        let labels = labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let image = Image {
            name: name.to_owned(),
            labels: labels.collect(),
            target: Some(ContainerdDescriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            }),
            ..Image::default()
        };
        let mut images = ImagesClient::new(self.channel.clone());
        let request = CreateImageRequest {
            image: Some(image.clone()),
            ..CreateImageRequest::default()
        };
        match images.create(of_cri(request)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = UpdateImageRequest {
                    image: Some(image),
                    ..UpdateImageRequest::default()
                };
                let updated = images.update(of_cri(request)).await;
                updated
                    .map(drop)
                    .map_err(failed(format!("update image {name}")))
            }
            other => other
                .map(drop)
                .map_err(failed(format!("create image {name}"))),
        }
    }
}

/// Writes a blob and waits until it is there whole.
async fn write(
    mut content: ContentClient<Channel>,
    messages: Request<impl tokio_stream::Stream<Item = WriteContentRequest> + Send + 'static>,
) -> Result<(), Status> {
    let mut answers = content.write(messages).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        if answer.action == WriteAction::Commit as i32 {
            return Ok(());
        }
    }
    Err(Status::unknown(
        "containerd ended the write before its time",
    ))
}

/// The messages that write `blob`.
fn messages<'a>(
    archive: &'a File,
    blob: &'a Blob,
    labels: &'a HashMap<String, String>,
) -> impl Iterator<Item = std::io::Result<WriteContentRequest>> + 'a {
    let size = blob.source.size();
    let message = move |action: WriteAction, offset: u64, data: Vec<u8>| WriteContentRequest {
        action: action as i32,
        r#ref: format!("kubelet-import-{}", blob.descriptor.digest),
        total: i64::try_from(size).unwrap_or(i64::MAX),
        expected: blob.descriptor.digest.clone(),
        offset: i64::try_from(offset).unwrap_or(i64::MAX),
        data,
        labels: HashMap::new(),
    };
    let mut offset = 0;
    let data = std::iter::from_fn(move || {
        if offset >= size {
            return None;
        }
        let mut data = vec![0; CHUNK];
        match blob.source.read(archive, offset, &mut data) {
            Ok(0) => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                data.truncate(read);
                let written = message(WriteAction::Write, offset, data);
                offset += read as u64;
                Some(Ok(written))
            }
            Err(error) => Some(Err(error)),
        }
    });
    let commit = std::iter::once_with(move || {
        Ok(WriteContentRequest {
            labels: labels.clone(),
            ..message(WriteAction::Commit, size, Vec::new())
        })
    });
    data.chain(commit)
}

/// `message` as one about what the CRI has.
fn of_cri<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = MetadataValue::from_static(NAMESPACE);
    request
        .metadata_mut()
        .insert("containerd-namespace", namespace);
    request
}

/// The same, of content that nothing refers to yet.
fn leased<T>(message: T, lease: &str) -> Request<T> {
    let mut request = of_cri(message);
    if let Ok(lease) = MetadataValue::try_from(lease) {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}
