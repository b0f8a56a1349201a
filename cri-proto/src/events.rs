//! The runtime's own event stream.

use std::future::Future;
use std::pin::Pin;

use tonic::{Response, Status, Streaming};

use crate::CriError;
use crate::v1::ContainerEventResponse;

const METHOD: &str = "GetContainerEvents";

type Opening =
    dyn Future<Output = Result<Response<Streaming<ContainerEventResponse>>, Status>> + Send;

/// Container events as the runtime sends them. Dropping it ends the stream.
///
/// A runtime may hold back its answer until there is a first event, so an idle stream and one that is still being opened
/// look alike. A runtime without the call says so with the first [`ContainerEvents::next`].
pub struct ContainerEvents(State);

enum State {
    Opening(Pin<Box<Opening>>),
    Open(Box<Streaming<ContainerEventResponse>>),
    Ended,
}

impl ContainerEvents {
    pub(crate) fn new(
        opening: impl Future<Output = Result<Response<Streaming<ContainerEventResponse>>, Status>>
        + Send
        + 'static,
    ) -> Self {
        Self(State::Opening(Box::pin(opening)))
    }

    /// The next event; none once the stream ended. Cancel-safe: what was not returned is not lost.
    ///
    /// # Errors
    /// When the stream cannot be opened or breaks; it has ended then. There is no deadline.
    pub async fn next(&mut self) -> Result<Option<ContainerEventResponse>, CriError> {
        let result = loop {
            match &mut self.0 {
                State::Opening(opening) => match opening.await {
                    Ok(response) => self.0 = State::Open(Box::new(response.into_inner())),
                    Err(status) => break Err(status),
                },
                State::Open(stream) => break stream.message().await,
                State::Ended => break Ok(None),
            }
        };
        if !matches!(result, Ok(Some(_))) {
            self.0 = State::Ended;
        }
        result.map_err(|status| CriError::from_status(METHOD, &status))
    }
}
