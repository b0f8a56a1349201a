//! Scripted failures of requests. What becomes of whole connections is for the line before the server.

use std::time::Duration;

use super::answer::Refusal;

/// Makes requests fail, take long or get no answer. Made with [`Fault::on`], narrowed down, and given what to do last.
#[derive(Clone, Debug)]
pub struct Fault {
    verb: String,
    path: String,
    user: Option<String>,
    left: Option<usize>,
    effect: Effect,
}

/// What becomes of the request.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Refuses(Refusal),
    Takes(Duration),
    Hangs,
    /// Done, and never answered.
    HangsAfterwards,
}

impl Fault {
    /// Meets requests of this verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, or `*`) whose path is
    /// this one, `*` standing for any text. They hang, unless said otherwise.
    #[must_use]
    pub fn on(verb: &str, path: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            path: path.to_owned(),
            user: None,
            left: None,
            effect: Effect::Hangs,
        }
    }

    /// Only the requests of this user.
    #[must_use]
    pub fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Only the first `count` requests that it meets; without this, all of them.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.left = Some(count);
        self
    }

    fn does(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// Nothing is done, and the answer is a `Status` with this code and reason.
    #[must_use]
    pub fn answers(self, code: u16, reason: &str, message: &str) -> Self {
        self.does(Effect::Refuses(Refusal::new(code, reason, message)))
    }

    /// 429 with `Retry-After`, as the server answers that has too much to do.
    #[must_use]
    pub fn too_many(self, retry_after_seconds: u64) -> Self {
        let message =
            "the server has received too many requests and has asked us to try again later";
        let mut refusal = Refusal::new(429, "TooManyRequests", message);
        refusal.retry_after = Some(retry_after_seconds);
        self.does(Effect::Refuses(refusal))
    }

    /// 500.
    #[must_use]
    pub fn breaks(self) -> Self {
        let message = "Internal error occurred: etcdserver: request timed out";
        self.answers(500, "InternalError", message)
    }

    /// 409, as if somebody else had been quicker.
    #[must_use]
    pub fn conflicts(self) -> Self {
        let message = "Operation cannot be fulfilled: the object has been modified; please apply your changes \
                       to the latest version and try again";
        self.answers(409, "Conflict", message)
    }

    /// It is done after `time`, unless the client gives up before.
    #[must_use]
    pub fn takes(self, time: Duration) -> Self {
        self.does(Effect::Takes(time))
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

    fn meets(&self, verb: &str, path: &str, user: &str) -> bool {
        (self.verb == "*" || self.verb == verb)
            && self.left != Some(0)
            && self.user.as_ref().is_none_or(|own| own == user)
            && matches(&self.path, path)
    }
}

/// The effect of the first fault that meets a request; counts it.
pub(super) fn take(faults: &mut [Fault], verb: &str, path: &str, user: &str) -> Option<Effect> {
    let fault = faults.iter_mut().find(|f| f.meets(verb, path, user))?;
    fault.left = fault.left.map(|left| left - 1);
    Some(fault.effect.clone())
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
#[must_use]
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        assert!(matches("*", "/x"));
        assert!(matches(
            "/api/v1/namespaces/*/pods/*/status",
            "/api/v1/namespaces/a/pods/b/status"
        ));
        assert!(!matches("/api/v1/nodes/*/status", "/api/v1/nodes/n"));
        assert!(matches("/api/v1/pods", "/api/v1/pods"));
        assert!(!matches("/api/v1/pods", "/api/v1/pods/x"));
    }

    #[test]
    fn a_fault_is_counted_and_then_over() {
        let mut faults = [Fault::on("patch", "*").by("a").times(2).breaks()];
        assert!(take(&mut faults, "get", "/x", "a").is_none());
        assert!(take(&mut faults, "patch", "/x", "b").is_none());
        assert!(take(&mut faults, "patch", "/x", "a").is_some());
        assert!(take(&mut faults, "patch", "/y", "a").is_some());
        assert!(take(&mut faults, "patch", "/z", "a").is_none());
    }
}
