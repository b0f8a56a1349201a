//! `httpGet`: a server answers with a status from 200 to 399.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::time::Instant;

use super::{Answer, DIALER, MAX_OUTPUT, USER_AGENT, Unasked, bounded_text};
use crate::connections::{self, HttpRequest, Manner};

/// How probes ask: a connection for each question, and bodies as they are.
const MANNER: Manner = Manner {
    user_agent: USER_AGENT,
    gzip: false,
    close: true,
    dialer: DIALER,
};

pub(super) async fn get(
    action: &HTTPGetAction,
    container: &Container,
    ip: &str,
    timeout: Duration,
) -> Result<Answer, Unasked> {
    let request = HttpRequest::new(action, container, ip, &MANNER)?;
    let deadline = Instant::now() + timeout;
    let answer = match connections::get(&request, Some(deadline)).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Answer::Failure(error.to_string())),
    };
    let status = answer.status();
    let body = answer.body(MAX_OUTPUT).await.map_err(|error| Unasked {
        // Upstream's words: it takes a body that breaks off for an error of its own.
        state: "failure",
        text: error.to_string(),
    })?;
    Ok(match status {
        200..300 => Answer::Success,
        300..400 => {
            let body = bounded_text(&body);
            Answer::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        status => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
    })
}

#[cfg(test)]
mod tests;
