//! Watches that never end.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_stream::Stream;

use super::retry::{Retry, random};
use super::returned::returns_within;
use crate::errors::error_chain;

/// Objects a page of a list: what is held at once while they are read.
const PAGE: u32 = 50;
/// The server ends a watch after this time, and up to [`SPREAD`] more, so that those of a node do not end together.
const LASTS: u32 = 230;
/// See [`LASTS`].
const SPREAD: f64 = 60.0;
/// A failure so long after the one before is a first one (client-go's reflectors).
const FORGIVEN: Duration = Duration::from_secs(120);

/// Lists the objects of `api`, then says what changes, for ever: after an error it goes on where it was, or lists them anew
/// (from [`Event::Init`]) where the server no longer knows what was since. `config` gives the selectors; how lists are
/// paged and how long a watch lasts is decided here. `metadata.managedFields` is dropped.
///
/// Between two attempts it waits 0.8 to 30 s, less where the server returns; it says once what is wrong, and again when
/// something else is.
pub fn watch_objects<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Event<K>> + Send + Unpin
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "less than a minute"
    )]
    let spread = (random() * SPREAD) as u32;
    let config = config.page_size(PAGE).timeout(LASTS + spread);
    Endless {
        what: api.resource_url().to_owned(),
        events: Box::pin(watcher(api, config)),
        retry: Retry::of_watches(),
        pause: None,
        failed: None,
        said: None,
    }
}

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

struct Endless<K> {
    what: String,
    events: Events<K>,
    retry: Retry,
    pause: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    failed: Option<Instant>,
    said: Option<String>,
}

impl<K> Endless<K> {
    fn failed(&mut self, error: &watcher::Error) -> Duration {
        let text = error_chain(error);
        if self.said.as_ref() != Some(&text) {
            match is_expiry(error) {
                true => tracing::debug!("{}: {text}", self.what),
                false => tracing::warn!("{}: {text}; it is tried again until it works", self.what),
            }
            self.said = Some(text);
        }
        // A watch that went on says nothing until something changes.
        let last = self.failed.replace(Instant::now());
        if last.is_some_and(|last| last.elapsed() > FORGIVEN) {
            self.retry.reset();
        }
        self.retry.delay()
    }

    fn works(&mut self) {
        self.retry.reset();
        if self.said.take().is_some() {
            tracing::info!("{}: watched again", self.what);
        }
    }
}

/// Whether the server no longer knows what was since: it is listed anew, and nothing is wrong.
fn is_expiry(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

impl<K: Resource + Send + 'static> Stream for Endless<K> {
    type Item = Event<K>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event<K>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                let returned = ready!(pause.as_mut().poll(context));
                self.pause = None;
                // A server that has just begun may end at once what it accepts: that is a first failure.
                if returned {
                    self.retry.reset();
                }
            }
            match ready!(self.events.as_mut().poll_next(context)) {
                Some(Ok(mut event)) => {
                    // That a list begins is said before anybody is asked.
                    if !matches!(event, Event::Init) {
                        self.works();
                    }
                    if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) =
                        &mut event
                    {
                        object.meta_mut().managed_fields = None;
                    }
                    return Poll::Ready(Some(event));
                }
                Some(Err(error)) => {
                    let delay = self.failed(&error);
                    self.pause = Some(Box::pin(returns_within(delay)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;
    use crate::api::returned::tell_return;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_just_returned_is_not_waited_for_as_one_that_is_away() {
        let (errors, events) = mpsc::unbounded_channel();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let events = UnboundedReceiverStream::new(events).map(move |event| {
            count.fetch_add(1, Ordering::Relaxed);
            event
        });
        let mut watch = Endless::<ConfigMap> {
            what: "/api/v1/configmaps".to_owned(),
            events: Box::pin(events),
            retry: Retry::of_watches(),
            pause: None,
            failed: None,
            said: None,
        };
        for _ in 0..20 {
            let error = watcher::Error::NoResourceVersion;
            errors.send(Err(error)).unwrap();
        }
        let away = timeout(Duration::from_secs(60), watch.next()).await;
        assert!(away.is_err());
        // By now it waits for 13 s at least, each time.
        let before = taken.load(Ordering::Relaxed);
        tell_return();
        let back = timeout(Duration::from_secs(8), watch.next()).await;
        assert!(back.is_err());
        let tries = taken.load(Ordering::Relaxed) - before;
        assert!(tries >= 3, "{tries}");
    }
}
