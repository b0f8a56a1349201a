//! What was asked of the server.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::faults::matches;

/// Bodies larger than this are not kept.
pub(super) const BODY: usize = 64 << 10;

/// One request, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The path, without the query.
    pub path: String,
    /// The query, as it was sent.
    pub query: String,
    /// Who asked: `system:node:n`, `system:anonymous`.
    pub user: String,
    /// The client's `User-Agent`.
    pub agent: String,
    /// The serial number of the certificate that the client has shown, hexadecimal; empty where it has shown none, and of a
    /// real server.
    pub serial: String,
    /// When it came.
    pub at: Timestamp,
    /// What was sent, up to 64 KiB of JSON.
    pub body: Value,
    /// How it was answered; none while it runs, and when the client went away before.
    pub code: Option<u16>,
}

impl Request {
    /// Whether it is one of this verb (`*` for any) with a path like this one, `*` standing for any text.
    #[must_use]
    pub fn is(&self, verb: &str, path: &str) -> bool {
        (verb == "*" || verb == self.verb) && matches(path, &self.path)
    }
}
