//! The connection to the API server: from a kubeconfig to [`kube::Client`]s, and watches over them.
//!
//! Owns: the sockets to the API server, the TLS with which they are opened (certificates are read again when their files
//! change), how often requests are made, for how long a busy server is left alone, how long is waited for an answer, and
//! the word that the server is back ([`pause`]).
//! Inputs: a kubeconfig, rates. Outputs: [`Clients`]; an endless stream of changes ([`watch_objects`]).
//! Tasks: [`run_return`], which asks an API server that has gone whether it is back; it sleeps otherwise. (hyper has one
//! for each open connection.)
//! Does not: know any object, decide what a failed request means to who made it, or make kubeconfigs (`join/`).

mod clients;
mod connector;
mod hold;
mod kubeconfig;
mod rate;
mod retry;
mod returned;
mod service;
mod sockets;
mod tls;
mod token;
mod watch;

pub use self::clients::{ClientOptions, Clients, Rates};
pub(crate) use self::hold::MOST_WISHED;
pub(crate) use self::kubeconfig::identity as identity_of;
pub use self::kubeconfig::{ApiError, Endpoint, Identity, Pem};
pub use self::retry::Retry;
pub(crate) use self::retry::{random, spread};
pub use self::returned::{pause, run_return};
pub use self::watch::watch_objects;

#[cfg(test)]
mod tests;
