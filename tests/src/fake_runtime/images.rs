//! The images of the fake, and its ImageService. Any image can be pulled unless a fault says otherwise.

use std::collections::BTreeMap;

use cri_proto::v1;
use cri_proto::v1::image_service_server::ImageService;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::service::Service;

/// Bytes of an image, unless a test says otherwise.
const IMAGE_BYTES: u64 = 4_000_000;

/// Images by id.
#[derive(Debug, Default)]
pub(super) struct Images(BTreeMap<String, v1::Image>);

impl Images {
    /// The image called `name`: a reference however short, or an id.
    pub(super) fn find(&self, name: &str) -> Option<&v1::Image> {
        let id = name.strip_prefix("sha256:").unwrap_or(name);
        let reference = familiar(name);
        self.0.values().find(|image| {
            image.id.strip_prefix("sha256:") == Some(id)
                || image.repo_tags.contains(&reference)
                || image.repo_digests.contains(&reference)
        })
    }

    /// Adds the image called `name`; its id follows from the name.
    pub(super) fn add(&mut self, name: &str) -> &mut v1::Image {
        let reference = familiar(name);
        let digest = Sha256::digest(reference.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let (repository, is_tag) = match reference.split_once('@') {
            Some((repository, _)) => (repository, false),
            None => (
                reference
                    .rsplit_once(':')
                    .map_or(reference.as_str(), |r| r.0),
                true,
            ),
        };
        let id = format!("sha256:{digest}");
        let image = v1::Image {
            id: id.clone(),
            repo_tags: is_tag.then(|| reference.clone()).into_iter().collect(),
            repo_digests: if is_tag {
                // The digest of the manifest, which is not that of the configuration.
                vec![format!(
                    "{repository}@sha256:{}{}",
                    &digest[32..],
                    &digest[..32]
                )]
            } else {
                vec![reference.clone()]
            },
            size: IMAGE_BYTES,
            ..Default::default()
        };
        self.0.entry(id).or_insert(image)
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(id) = self.find(name).map(|image| image.id.clone()) {
            self.0.remove(&id);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &v1::Image> {
        self.0.values()
    }
}

/// A reference in full, as containerd keeps it: `busybox` is `docker.io/library/busybox:latest`.
fn familiar(name: &str) -> String {
    let has_host = name
        .split_once('/')
        .is_some_and(|(host, _)| host.contains('.') || host.contains(':') || host == "localhost");
    let hosted = match (has_host, name.contains('/')) {
        (true, _) => name.to_owned(),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    let last = hosted.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || last.contains('@') {
        hosted
    } else {
        format!("{hosted}:latest")
    }
}

fn asked_for(image: Option<v1::ImageSpec>) -> String {
    image.unwrap_or_default().image
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let wanted = asked_for(filter.image);
        self.perform("ListImages", "", wanted.clone(), |service, _| async move {
            let store = service.lock();
            let images = if wanted.is_empty() {
                store.images.all().cloned().collect()
            } else {
                store.images.find(&wanted).into_iter().cloned().collect()
            };
            Ok(v1::ListImagesResponse { images })
        })
        .await
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let wanted = asked_for(request.into_inner().image);
        self.perform("ImageStatus", "", wanted.clone(), |service, _| async move {
            Ok(v1::ImageStatusResponse {
                image: service.lock().images.find(&wanted).cloned(),
                ..Default::default()
            })
        })
        .await
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<v1::PullImageResponse>, Status> {
        let v1::PullImageRequest { image, auth, .. } = request.into_inner();
        let wanted = asked_for(image);
        let user = auth.map(|auth| auth.username).unwrap_or_default();
        self.perform("PullImage", "", wanted.clone(), |service, _| async move {
            let image_ref = service.change(|store| {
                store.pulls.push((wanted.clone(), user));
                store.images.add(&wanted).id.clone()
            });
            Ok(v1::PullImageResponse { image_ref })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let wanted = asked_for(request.into_inner().image);
        self.perform("RemoveImage", "", wanted.clone(), |service, _| async move {
            service.change(|store| store.images.remove(&wanted));
            Ok(v1::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        self.perform("ImageFsInfo", "", String::new(), |service, _| async move {
            let mut store = service.lock();
            let used = store.images.all().map(|image| image.size).sum();
            let own = || service.directory().to_owned();
            let directory = store.image_directory.clone().unwrap_or_else(own);
            let usage = v1::FilesystemUsage {
                timestamp: store.now(),
                fs_id: Some(v1::FilesystemIdentifier {
                    mountpoint: directory.display().to_string(),
                }),
                used_bytes: Some(v1::UInt64Value { value: used }),
                inodes_used: Some(v1::UInt64Value { value: 0 }),
            };
            Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![usage],
                container_filesystems: Vec::new(),
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_full() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("library/busybox:1", "docker.io/library/busybox:1"),
            ("localhost/a", "localhost/a:latest"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("a@sha256:12", "docker.io/library/a@sha256:12"),
        ] {
            assert_eq!(familiar(short), full);
        }
    }

    #[test]
    fn an_image_is_found_under_each_of_its_names() {
        let mut images = Images::default();
        let image = images.add("busybox:1.36").clone();
        let bare = image.id.strip_prefix("sha256:").unwrap();
        for name in ["busybox:1.36", &image.id, bare, &image.repo_digests[0]] {
            assert_eq!(images.find(name), Some(&image), "{name}");
        }
        assert_eq!(images.find("busybox"), None);
        images.remove(bare);
        assert_eq!(images.all().count(), 0);
    }
}
