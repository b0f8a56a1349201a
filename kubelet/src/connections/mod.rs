//! Connections that the agent makes to what runs in pods: TCP, TLS and HTTP GET, for probes and for hooks; and the first
//! two to the runtime's streaming server.
//!
//! Owns: how a host is found (`resolve`), dialled (`dial`) and believed whoever it is (`tls`); what an `httpGet` of a
//! manifest becomes on the wire (`request`, `url`, pure), and one client for it (`http`). Texts are those of Go's client,
//! which upstream's messages show.
//! Inputs: a handler of a manifest, its container, the pod's address; in which [`Manner`] to ask. Outputs: a connection,
//! an answer, or an error.
//! Tasks: none: a connection lives within the future of whoever asks, and ends with it.
//! Does not: decide what an answer means (that is `probes/` and `hooks/`), verify certificates, use proxies, keep
//! connections, or speak HTTP/2 (gRPC is tonic's, over a connection of `dial`).

mod dial;
mod http;
mod port;
mod request;
mod resolve;
mod tls;
mod url;
mod wire;

use std::time::Duration;

pub(crate) use self::dial::{Dialer, joined};
pub(crate) use self::http::{HttpError, get};
pub(crate) use self::port::{PortError, port_of};
pub(crate) use self::request::{HttpRequest, host_of};
pub(crate) use self::resolve::resolve;
pub(crate) use self::tls::{believe_anybody, believing};
pub(crate) use self::url::{escaped, unescaped};

/// How somebody asks over HTTP, beside what the manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// `User-Agent`, where the manifest sets none.
    pub(crate) user_agent: &'static str,
    /// `Accept-Encoding: gzip` is sent, where the manifest sets none.
    pub(crate) gzip: bool,
    /// `Connection: close` is sent.
    pub(crate) close: bool,
    /// How the server is dialled.
    pub(crate) dialer: Dialer,
}

/// How long a TLS handshake may take, whatever the time for the whole (Go's default transport, which upstream's clients
/// are made from).
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
