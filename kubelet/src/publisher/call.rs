//! One call to the API server, and what came of it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client, Error};
use serde_json::Value;

use crate::api::MOST_WISHED;
use crate::errors::error_chain;
use crate::pod::{PodName, PodUid};
use crate::sources::ServerStatus;

/// The longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same while the API server is away: its return must not be missed for a connection that leads nowhere.
const LITTLE_PATIENCE: Duration = Duration::from_secs(2);

/// One thing to do at the API server.
#[derive(Debug)]
pub(super) struct Job {
    /// The object's UID, which it must have.
    pub(super) uid: PodUid,
    /// Where it is.
    pub(super) name: PodName,
    /// What to do.
    pub(super) errand: Errand,
    /// The API server did not answer before.
    pub(super) probes: bool,
}

/// What to do with an object.
#[derive(Debug)]
pub(super) enum Errand {
    /// Patch its status.
    Patch(Value),
    /// Remove it: nothing of the pod is left.
    Delete,
}

/// A job that is done, or failed.
#[derive(Debug)]
pub(super) struct Done {
    /// The object.
    pub(super) uid: PodUid,
    /// What came of it.
    pub(super) outcome: Outcome,
}

/// What came of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The status is patched; this is what the API server shows now.
    Patched(Box<ServerStatus>),
    /// The object is removed, or will be when its finalizers are gone.
    Deleted,
    /// There is no such object any more.
    Gone,
    /// The API server did not answer, or cannot do anything now; not before this time has passed, where it says so.
    Away(String, Duration),
    /// The object has just been changed by somebody else, or is another one by now.
    Conflict,
    /// The API server does not want it so.
    Refused(String),
}

/// Does `job`.
pub(super) async fn carry_out(client: Client, job: Job) -> Done {
    let patience = match job.probes {
        true => LITTLE_PATIENCE,
        false => PATIENCE,
    };
    let api = Api::<Pod>::namespaced(client, &job.name.namespace);
    let call = async {
        match &job.errand {
            Errand::Patch(body) => {
                let (params, patch) = (PatchParams::default(), Patch::Strategic(body));
                let patched = api.patch_status(&job.name.name, &params, &patch).await?;
                Ok(Outcome::Patched(Box::new(ServerStatus::of(&patched))))
            }
            Errand::Delete => {
                let params = DeleteParams {
                    grace_period_seconds: Some(0),
                    preconditions: Some(Preconditions {
                        uid: Some(job.uid.to_string()),
                        ..Preconditions::default()
                    }),
                    ..DeleteParams::default()
                };
                api.delete(&job.name.name, &params).await?;
                Ok(Outcome::Deleted)
            }
        }
    };
    let outcome = match tokio::time::timeout(patience, call).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => judge(&error),
        Err(_) => Outcome::Away(format!("no answer for {patience:?}"), Duration::ZERO),
    };
    Done {
        uid: job.uid,
        outcome,
    }
}

fn judge(error: &Error) -> Outcome {
    let Error::Api(status) = error else {
        return Outcome::Away(error_chain(error), Duration::ZERO);
    };
    let text = || format!("{} ({})", status.message, status.code);
    let wished = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    let wished = Duration::from_secs(wished.into()).min(MOST_WISHED);
    match status.code {
        404 => Outcome::Gone,
        409 => Outcome::Conflict,
        422 if is_of_another(status) => Outcome::Conflict,
        // Credentials are renewed by others; everything else of these is the server's own trouble.
        401 | 408 | 425 | 429 | 500.. => Outcome::Away(text(), wished),
        _ => Outcome::Refused(text()),
    }
}

/// Whether a patch was meant for a pod that had the name before: its UID is in the patch, and a UID cannot be changed.
fn is_of_another(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.field == "metadata.uid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let judged = |code: u16, wished: u32| {
            let mut status = Status::failure("said so", "Why").with_code(code);
            let details = serde_json::json!({"retryAfterSeconds": wished});
            status.details = serde_json::from_value(details).unwrap();
            match judge(&Error::Api(Box::new(status))) {
                Outcome::Away(text, wished) => format!("away {wished:?}: {text}"),
                Outcome::Gone => "gone".to_owned(),
                Outcome::Conflict => "conflict".to_owned(),
                Outcome::Refused(text) => format!("refused: {text}"),
                Outcome::Patched(_) | Outcome::Deleted => "done".to_owned(),
            }
        };
        assert_eq!(judged(404, 0), "gone");
        assert_eq!(judged(409, 0), "conflict");
        assert_eq!(judged(422, 0), "refused: said so (422)");
        let mut other = Status::failure("field is immutable", "Invalid").with_code(422);
        let details = serde_json::json!({"causes": [{"field": "metadata.uid", "reason": "FieldValueInvalid", "message": "m"}]});
        other.details = serde_json::from_value(details).unwrap();
        assert!(matches!(
            judge(&Error::Api(Box::new(other))),
            Outcome::Conflict
        ));
        assert_eq!(judged(403, 0), "refused: said so (403)");
        assert_eq!(judged(429, 3), "away 3s: said so (429)");
        assert_eq!(judged(503, 900), "away 30s: said so (503)");
        assert_eq!(judged(500, 0), "away 0ns: said so (500)");
    }
}
