//! What the API server is asked: whose a token is (TokenReview), and what a user may do (SubjectAccessReview).

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Request;
use hyper::header::CONTENT_TYPE;
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::answers::Why;
use super::user::User;
use crate::api::spread;
use crate::errors::error_chain;

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// How often an API server that has trouble is asked, and the pause after the first time
/// (`DefaultAuthWebhookRetryBackoff`: 500 ms, half as much more each time, a fifth of it by chance).
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Who asks the API server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reviewer {
    /// None while the node has not joined.
    pub(super) client: watch::Receiver<Option<Client>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<S> {
    api_version: &'static str,
    kind: &'static str,
    metadata: BTreeMap<(), ()>,
    spec: S,
}

#[derive(Serialize)]
struct TokenSpec<'a> {
    token: &'a str,
}

/// What a user wants to do, as a SubjectAccessReview says it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessSpec<'a> {
    pub(super) resource_attributes: Attributes<'a>,
    #[serde(flatten)]
    pub(super) user: &'a User,
}

/// On what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Attributes<'a> {
    pub(super) verb: &'a str,
    pub(super) version: &'a str,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    pub(super) name: &'a str,
}

#[derive(Deserialize)]
struct Answered<S> {
    status: S,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenStatus {
    authenticated: bool,
    user: TokenUser,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenUser {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AccessStatus {
    allowed: bool,
    denied: bool,
}

impl Reviewer {
    /// Whose `token` is; none for nobody's.
    ///
    /// # Errors
    /// When the API server cannot say, or says what is wrong with the token.
    pub(super) async fn token(&self, token: &str) -> Result<Option<User>, Why> {
        let review = Review {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            metadata: BTreeMap::new(),
            spec: TokenSpec { token },
        };
        let status: TokenStatus = self.ask(TOKENS, &review).await?;
        match status.authenticated {
            true => Ok(Some(User {
                name: status.user.username,
                uid: status.user.uid,
                groups: status.user.groups,
                extra: status.user.extra,
            })),
            false if status.error.is_empty() => Ok(None),
            false => Err(status.error.into()),
        }
    }

    /// Whether a user may do something.
    ///
    /// # Errors
    /// When the API server cannot say.
    pub(super) async fn access(&self, spec: AccessSpec<'_>) -> Result<bool, Why> {
        let review = Review {
            api_version: "authorization.k8s.io/v1",
            kind: "SubjectAccessReview",
            metadata: BTreeMap::new(),
            spec,
        };
        let status: AccessStatus = self.ask(ACCESS, &review).await?;
        Ok(status.allowed && !status.denied)
    }

    async fn ask<S: for<'d> Deserialize<'d> + 'static>(
        &self,
        path: &str,
        review: &impl Serialize,
    ) -> Result<S, Why> {
        let body = serde_json::to_vec(review).map_err(|error| why(&error))?;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            // Who is joined anew is asked by the client that is there then.
            let client = self.client.borrow().clone();
            let client = client.ok_or("there is no API server to ask yet")?;
            let request = Request::post(path)
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
            let request = request.map_err(|error| why(&error))?;
            match client.request::<Answered<S>>(request).await {
                Ok(answer) => return Ok(answer.status),
                Err(error) if attempt < ATTEMPTS && is_passing(&error, attempt) => {
                    tokio::time::sleep(spread(pause)).await;
                    pause = pause * 3 / 2;
                }
                Err(error) => return Err(why(&error)),
            }
        }
        Err("it was never asked".into())
    }
}

fn why(error: &dyn std::error::Error) -> Why {
    error_chain(error).into()
}

/// Whether another try may do better: the server is busy, or a connection broke just then (the next is a new one).
fn is_passing(error: &kube::Error, attempt: u32) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 503 | 504),
        kube::Error::HyperError(_) | kube::Error::Service(_) => attempt == 1,
        _ => false,
    }
}
