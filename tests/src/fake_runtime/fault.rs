//! Scripted failures of calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use super::program::names;
use super::record::Call;

type Predicate = Arc<dyn Fn(&Call) -> bool + Send + Sync>;

/// Makes calls fail, take long or get no answer. Made with [`Fault::on`], narrowed down, and given what to do last.
#[derive(Clone)]
pub struct Fault {
    method: String,
    about: Option<String>,
    when: Option<Predicate>,
    left: Option<usize>,
    pub(super) effect: Effect,
}

/// What becomes of the call.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Fails(Code, String),
    /// Done as asked, and answered with an error.
    FailsAfterwards(Code, String),
    Takes(Duration),
    /// Done even if the client has gone in the meantime.
    TakesRegardless(Duration),
    Hangs,
    HangsAfterwards,
    CutsOff,
    CutsOffAfterwards,
}

impl Fault {
    /// Meets every call of `method` (`CreateContainer`), or with `*` every call, and cuts the connections.
    #[must_use]
    pub fn on(method: &str) -> Self {
        Self {
            method: method.into(),
            about: None,
            when: None,
            left: None,
            effect: Effect::CutsOff,
        }
    }

    /// Only calls about `subject`: `namespace/pod/container`, `namespace/pod` or an image, or the end of it from a slash.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        self.about = Some(subject.into());
        self
    }

    /// Only calls that `predicate` agrees to.
    #[must_use]
    pub fn when(mut self, predicate: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(predicate));
        self
    }

    /// Only the first `count` calls it meets; without this, all of them.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.left = Some(count);
        self
    }

    fn does(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Nothing is done, and the answer is this error.
    #[must_use]
    pub fn fails(self, code: Code, message: &str) -> Self {
        self.does(Effect::Fails(code, message.into()))
    }

    /// It is done, and the answer is this error.
    #[must_use]
    pub fn fails_afterwards(self, code: Code, message: &str) -> Self {
        self.does(Effect::FailsAfterwards(code, message.into()))
    }

    /// It is done after `time`, unless the client gives up before. A name it wants is reserved meanwhile.
    #[must_use]
    pub fn takes(self, time: Duration) -> Self {
        self.does(Effect::Takes(time))
    }

    /// It is done after `time`, even if the client gives up before. A name it wants is reserved meanwhile.
    #[must_use]
    pub fn takes_regardless(self, time: Duration) -> Self {
        self.does(Effect::TakesRegardless(time))
    }

    /// Nothing is done, and there is no answer until the client gives up.
    #[must_use]
    pub fn hangs(self) -> Self {
        self.does(Effect::Hangs)
    }

    /// It is done, and there is no answer.
    #[must_use]
    pub fn hangs_afterwards(self) -> Self {
        self.does(Effect::HangsAfterwards)
    }

    /// Nothing is done, and every connection breaks; the server goes on listening.
    #[must_use]
    pub fn cuts_off(self) -> Self {
        self.does(Effect::CutsOff)
    }

    /// It is done, and every connection breaks before the answer; the server goes on listening.
    #[must_use]
    pub fn cuts_off_afterwards(self) -> Self {
        self.does(Effect::CutsOffAfterwards)
    }

    fn meets(&self, call: &Call) -> bool {
        (self.method == "*" || self.method == call.method)
            && self.left != Some(0)
            && self.about.as_ref().is_none_or(|a| names(a, &call.subject))
            && self.when.as_ref().is_none_or(|when| when(call))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("method", &self.method)
            .field("about", &self.about)
            .field("left", &self.left)
            .field("effect", &self.effect)
            .finish_non_exhaustive()
    }
}

/// The effect of the first fault that meets `call`; counts it.
pub(super) fn take(faults: &mut [Fault], call: &Call) -> Option<Effect> {
    let fault = faults.iter_mut().find(|fault| fault.meets(call))?;
    fault.left = fault.left.map(|left| left - 1);
    Some(fault.effect.clone())
}

impl Effect {
    /// What happens before the call is done. `cut` breaks every connection.
    pub(super) async fn before(&self, cut: impl FnOnce()) -> Result<(), Status> {
        match self {
            Self::Fails(code, message) => Err(Status::new(*code, message.clone())),
            Self::Takes(time) | Self::TakesRegardless(time) => {
                tokio::time::sleep(*time).await;
                Ok(())
            }
            Self::Hangs => std::future::pending().await,
            Self::CutsOff => {
                cut();
                std::future::pending().await
            }
            Self::FailsAfterwards(..) | Self::HangsAfterwards | Self::CutsOffAfterwards => Ok(()),
        }
    }

    /// What happens between the deed and the answer.
    pub(super) async fn after(&self, cut: impl FnOnce()) -> Result<(), Status> {
        match self {
            Self::FailsAfterwards(code, message) => Err(Status::new(*code, message.clone())),
            Self::HangsAfterwards => std::future::pending().await,
            Self::CutsOffAfterwards => {
                cut();
                std::future::pending().await
            }
            _ => Ok(()),
        }
    }
}
