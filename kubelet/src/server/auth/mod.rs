//! Who may use the node's API.
//!
//! Owns: what is believed of clients (the authorities' file, answers of the API server for as long as they hold).
//! Inputs: a request, the certificates its client has shown, the API server. Outputs: the request goes on, or is answered
//! with 401, 403 or 500 in upstream's words, before anybody looks at its path.
//! Tasks: one for each question to the API server, of 30 seconds at most.
//! Does not: know what a path does, or listen.

mod answers;
mod attributes;
mod bearer;
mod certificate;
mod review;
#[cfg(test)]
mod tests;
mod user;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use kube::Client;
use tokio::sync::watch;

use self::answers::{Answers, Why};
use self::bearer::Tokens;
use self::review::{AccessSpec, Attributes, Reviewer};
use super::text;
use crate::clock::Clock;
use crate::config::{Authorization, ExecVerb};

pub use self::certificate::{ClientAuthority, ShownCertificates};
pub use self::user::User;

/// Who may use the node's API, as it is configured.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// The node's name: leave is for this node.
    pub node: String,
    /// Whether who shows nothing is `system:anonymous`.
    pub anonymous: bool,
    /// Who has signed certificates of clients; none where these do not count.
    pub authority: Option<Arc<ClientAuthority>>,
    /// How long it holds whose a token is; none where tokens do not count.
    pub tokens: Option<Duration>,
    /// Who decides what a user may do; none where nobody does, and nothing is allowed.
    pub authorization: Option<Authorization>,
    /// The verb of what enters a container.
    pub exec_verb: ExecVerb,
}

/// Judges requests.
pub struct Access {
    node: String,
    anonymous: bool,
    authority: Option<Arc<ClientAuthority>>,
    tokens: Option<Tokens>,
    authorization: Option<Authorization>,
    exec_verb: ExecVerb,
    reviewer: Reviewer,
    allowed: Answers<bool>,
}

impl Access {
    /// Judges by `settings`; `client` is how the API server is asked, once the node has joined.
    #[must_use]
    pub fn new(
        settings: AccessSettings,
        client: watch::Receiver<Option<Client>>,
        clock: &Clock,
    ) -> Self {
        let reviewer = Reviewer { client };
        Self {
            node: settings.node,
            anonymous: settings.anonymous,
            authority: settings.authority,
            tokens: settings
                .tokens
                .map(|holds| Tokens::new(reviewer.clone(), holds, clock.clone())),
            authorization: settings.authorization,
            exec_verb: settings.exec_verb,
            reviewer,
            allowed: Answers::new(clock.clone()),
        }
    }

    /// Who asks. A credential that counts is enough, whatever is wrong with another; with none that counts, one that is
    /// wrong is worse than none.
    async fn authenticate(&self, request: &mut Request) -> Result<Option<User>, Why> {
        let mut wrong = Vec::new();
        let shown = request.extensions().get::<ShownCertificates>();
        if let (Some(authority), Some(shown)) = (&self.authority, shown) {
            match authority.user(shown) {
                Ok(Some(user)) => return Ok(Some(user.authenticated())),
                Ok(None) => {}
                Err(why) => wrong.push(why),
            }
        }
        if let Some(tokens) = &self.tokens {
            match tokens.user(request).await {
                Ok(Some(user)) => return Ok(Some(user.authenticated())),
                Ok(None) => {}
                Err(why) => wrong.push(why.to_string()),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; ").into());
        }
        Ok(self.anonymous.then(User::anonymous))
    }

    /// Whether `user` may do `verb` to a subresource of the node.
    async fn may(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Why> {
        let (authorized_for, unauthorized_for) = match self.authorization {
            None => return Ok(false),
            Some(Authorization::AlwaysAllow) => return Ok(true),
            Some(Authorization::Webhook {
                authorized_for,
                unauthorized_for,
            }) => (authorized_for, unauthorized_for),
        };
        let question = serde_json::to_vec(&(user, verb, subresource));
        let question = question.map_err(|error| Why::from(error.to_string()))?;
        let (reviewer, user, node) = (self.reviewer.clone(), user.clone(), self.node.clone());
        let ask = async move {
            let spec = AccessSpec {
                resource_attributes: Attributes {
                    verb,
                    version: "v1",
                    resource: "nodes",
                    subresource,
                    name: &node,
                },
                user: &user,
            };
            let allowed = reviewer.access(spec).await?;
            let holds = match allowed {
                true => authorized_for,
                false => unauthorized_for,
            };
            Ok((allowed, holds))
        };
        self.allowed.get(&question, ask).await
    }

    /// Says no, where that is the answer.
    async fn judge(&self, request: &mut Request) -> Result<(), Response> {
        let user = match self.authenticate(request).await {
            Ok(Some(user)) => user,
            Ok(None) => return Err(unauthorized()),
            Err(why) => {
                tracing::warn!(%why, "Unable to authenticate the request due to an error");
                return Err(unauthorized());
            }
        };
        let path = request.uri().path();
        let verb = attributes::verb(request.method(), path, self.exec_verb);
        let subresources = attributes::subresources(path);
        let name = &user.name;
        for subresource in subresources {
            match self.may(&user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => {
                    tracing::error!(user = name, verb, subresource, %why, "Authorization error");
                    let said = format!(
                        "Authorization error (user={name}, verb={verb}, resource=nodes, subresource={subresource})"
                    );
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, said));
                }
            }
        }
        let tried = subresources.join(" ");
        tracing::debug!(user = name, verb, subresources = tried, "Forbidden");
        let said = format!(
            "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{tried}])\n"
        );
        Err(text(StatusCode::FORBIDDEN, said))
    }
}

fn unauthorized() -> Response {
    text(StatusCode::UNAUTHORIZED, "Unauthorized")
}

/// `routes`, for those who may. What is not there is told to nobody else either.
pub fn guarded(routes: Router, access: Arc<Access>) -> Router {
    routes.layer(middleware::from_fn_with_state(access, guard))
}

async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    match access.judge(&mut request).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal,
    }
}
