//! One question to the runtime for many pods that start with the same image at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cri_proto::{CriError, v1};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{ImageReady, ImageUser};

/// For how long an image that was found is taken to be still there. An image that was not found, or a question that
/// failed, is shared only by those who were waiting for the answer.
const FRESH: Duration = Duration::from_secs(1);

/// An image the runtime holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) user: ImageUser,
    pub(super) size_bytes: u64,
}

impl From<v1::Image> for Found {
    fn from(image: v1::Image) -> Self {
        let user = match (image.uid, image.username) {
            (Some(uid), _) => ImageUser::Uid(uid.value),
            (None, name) if !name.is_empty() => ImageUser::Name(name),
            (None, _) => ImageUser::default(),
        };
        Self {
            id: image.id,
            user,
            size_bytes: image.size,
        }
    }
}

impl From<Found> for ImageReady {
    fn from(found: Found) -> Self {
        Self {
            image_ref: found.id.into(),
            user: found.user,
            size_bytes: found.size_bytes,
        }
    }
}

type Answer = Result<Option<Found>, CriError>;
type Slot = OnceCell<(Answer, Instant)>;

/// The questions under way and the answers of the last second, by image.
#[derive(Debug, Default)]
pub(super) struct Presence {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Presence {
    /// The answer of `ask` for `image`, or that of somebody who asks or has just asked the same.
    ///
    /// Cancel-safe: if the one who asks is dropped, one of those who wait asks in its place.
    pub(super) async fn look<F>(&self, image: &str, ask: impl FnOnce() -> F + Send) -> Answer
    where
        F: Future<Output = Answer> + Send,
    {
        let slot = self.slot(image);
        let (answer, _) = slot
            .get_or_init(|| async {
                let answer = ask().await;
                (answer, Instant::now())
            })
            .await;
        if !matches!(answer, Ok(Some(_))) {
            self.remove(image, &slot);
        }
        answer.clone()
    }

    /// What was known of `image` is out of date.
    pub(super) fn invalidate(&self, image: &str) {
        self.lock().remove(image);
    }

    fn slot(&self, image: &str) -> Arc<Slot> {
        let mut slots = self.lock();
        slots.retain(|_, slot| slot.get().is_none_or(|(_, at)| at.elapsed() < FRESH));
        Arc::clone(slots.entry(image.to_owned()).or_default())
    }

    fn remove(&self, image: &str, slot: &Arc<Slot>) {
        let mut slots = self.lock();
        if slots.get(image).is_some_and(|held| Arc::ptr_eq(held, slot)) {
            slots.remove(image);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        // Nothing panics under this lock; were it to, the map is still whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
