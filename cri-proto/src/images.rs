//! The ImageService, a method a call.

use std::time::Duration;

use tonic::transport::Channel;

use crate::call::{CallObserver, gone_is_fine, rpc};
use crate::v1::image_service_client::ImageServiceClient;
use crate::{Connection, CriError, v1};

/// A client of the ImageService; a clone is a few pointers and shares the connection.
///
/// Each call has the request timeout as its deadline, unless it says otherwise, and fails with a [`CriError`].
#[derive(Clone, Debug)]
pub struct ImageClient {
    client: ImageServiceClient<Channel>,
    request_timeout: Duration,
    observer: Option<CallObserver>,
}

impl ImageClient {
    pub(crate) fn new(connection: &Connection) -> Self {
        let options = connection.options();
        Self {
            client: ImageServiceClient::new(connection.channel())
                .max_decoding_message_size(options.max_receive_bytes),
            request_timeout: options.request_timeout,
            observer: options.observer,
        }
    }

    fn deadline(&self) -> Option<Duration> {
        Some(self.request_timeout)
    }

    /// The images the runtime holds; all of them without a filter.
    pub async fn list_images(
        &self,
        filter: Option<v1::ImageFilter>,
    ) -> Result<Vec<v1::Image>, CriError> {
        let message = v1::ListImagesRequest { filter };
        let answer = rpc!(self, "ListImages", list_images, self.deadline(), message)?;
        Ok(answer.images)
    }

    /// The image, or none when the runtime does not hold it.
    pub async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>, CriError> {
        let message = v1::ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let answer = rpc!(self, "ImageStatus", image_status, self.deadline(), message)?;
        match answer.image {
            Some(image) if image.id.is_empty() => {
                Err(CriError::malformed("ImageStatus", "image id"))
            }
            image => Ok(image),
        }
    }

    /// Pulls an image, and returns the reference the runtime then knows it by. No deadline: the runtime watches the
    /// progress itself. Dropping the future cancels the pull.
    pub async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, CriError> {
        let message = v1::PullImageRequest {
            image: Some(image),
            auth,
            sandbox_config: sandbox,
        };
        let answer = rpc!(self, "PullImage", pull_image, None, message)?;
        if answer.image_ref.is_empty() {
            return Err(CriError::malformed("PullImage", "image reference"));
        }
        Ok(answer.image_ref)
    }

    /// Removes an image. One that is not there is fine.
    pub async fn remove_image(&self, image: v1::ImageSpec) -> Result<(), CriError> {
        let message = v1::RemoveImageRequest { image: Some(image) };
        gone_is_fine(rpc!(
            self,
            "RemoveImage",
            remove_image,
            self.deadline(),
            message
        ))
    }

    /// The filesystems that hold images and containers, and how full they are with them.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, CriError> {
        let message = v1::ImageFsInfoRequest {};
        rpc!(self, "ImageFsInfo", image_fs_info, self.deadline(), message)
    }
}
