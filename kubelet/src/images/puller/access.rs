//! Whether a pod may use an image that is here, and with what it may pull one.

use tokio::sync::OnceCell;

use super::{ImagePuller, ImageRequest, ImageRuntime};
use crate::images::event::ImageEvent;
use crate::images::presence::Found;
use crate::images::pulled::Access;
use crate::images::{Credential, ImageName, PullPolicy};
use crate::metrics::kubelet;

/// A request and what it turned out to mean.
pub(super) struct Wish<'a> {
    pub(super) request: &'a ImageRequest<'a>,
    pub(super) name: &'a ImageName,
    /// Looked up once, and no earlier than they are needed: a credential provider is a process.
    credentials: OnceCell<Vec<Credential>>,
}

impl<'a> Wish<'a> {
    pub(super) fn new(request: &'a ImageRequest<'a>, name: &'a ImageName) -> Self {
        Self {
            request,
            name,
            credentials: OnceCell::new(),
        }
    }
}

/// What a request found, as far as it is counted.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Whether the image was here.
    pub(super) present: Option<bool>,
    /// Whether it had to be pulled.
    pub(super) required: Option<bool>,
}

impl Look {
    /// Counts it.
    pub(super) fn count(&self, policy: PullPolicy) {
        let word = |known: Option<bool>| match known {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        let policy = match policy {
            PullPolicy::Always => "always",
            PullPolicy::IfNotPresent => "ifnotpresent",
            PullPolicy::Never => "never",
        };
        let counter = &kubelet().ensured_images;
        counter.inc(&[word(self.present), policy, word(self.required)]);
    }
}

impl<R: ImageRuntime> ImagePuller<R> {
    /// The credentials to try, in this order: the pod's, the node's, those that programs know.
    pub(super) async fn credentials<'w>(&self, wish: &'w Wish<'_>) -> &'w [Credential] {
        let found = wish.credentials.get_or_init(|| async {
            let repository = wish.name.repository();
            let mut found = wish.request.pull_secrets.lookup(repository);
            found.extend(self.credentials.keyring().await.lookup(repository));
            if let Some(providers) = &self.providers {
                let (pod, claimant) = (wish.request.pod, &wish.request.claimant);
                found.extend(providers.lookup(repository, pod, claimant).await);
            }
            found
        });
        found.await
    }

    /// Whether the pod may use the image that is here as `found` without pulling it.
    pub(super) async fn admits(&self, wish: &Wish<'_>, found: &Found) -> bool {
        let Some(records) = &self.records else {
            return true;
        };
        let image = wish.request.image;
        match records.look(image, &found.id) {
            Access::Free => true,
            Access::Refused => false,
            Access::Depends(rights) => {
                let offered = self.credentials(wish).await.iter();
                let offered: Vec<_> = offered.map(Credential::pulled_with).collect();
                records.admits(image, &found.id, &rights, &offered)
            }
        }
    }

    /// The event of an image that is used as it is.
    pub(super) fn already_present(&self, image: &str) -> ImageEvent {
        let accessible = match self.records {
            Some(_) => " and can be accessed by the pod",
            None => "",
        };
        ImageEvent::normal(
            "Pulled",
            format!("Container image {image:?} already present on machine{accessible}"),
        )
    }
}
