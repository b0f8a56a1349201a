//! What is wrong with the node's certificates, in words for people.

use std::sync::Arc;

use tokio::sync::watch;

use super::request::Purpose;

/// What is wrong with the node's certificates; nothing, where there is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// With the one by which the API server knows the node.
    pub client: Option<Arc<str>>,
    /// With the one of the node's API.
    pub serving: Option<Arc<str>>,
}

impl Troubles {
    fn about(&self, purpose: Purpose) -> Option<&str> {
        match purpose {
            Purpose::Client => self.client.as_deref(),
            Purpose::Serving => self.serving.as_deref(),
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let all = [&self.client, &self.serving];
        all.into_iter().filter_map(Option::as_deref)
    }
}

/// Who finds out.
#[derive(Clone, Debug, Default)]
pub struct Complaints(watch::Sender<Troubles>);

impl Complaints {
    /// What is said, as it changes.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<Troubles> {
        self.0.subscribe()
    }

    /// Whether that is what was said last.
    pub(super) fn is(&self, about: Purpose, trouble: &str) -> bool {
        self.0.borrow().about(about) == Some(trouble)
    }

    /// Says what is wrong with a certificate, or (none) that nothing is.
    pub(super) fn say(&self, about: Purpose, trouble: Option<&str>) {
        self.0.send_if_modified(|troubles| {
            let differs = troubles.about(about) != trouble;
            let trouble = trouble.map(Arc::from);
            match about {
                Purpose::Client => troubles.client = trouble,
                Purpose::Serving => troubles.serving = trouble,
            }
            differs
        });
    }
}
