//! The interfaces between a node agent and what it works with by gRPC: CRI v1 (a container runtime), CSI v1 (storage
//! drivers), the registration of plugins, device plugins, and what the agent tells of the devices that pods have.
//!
//! Owns: the wire types ([`v1`], generated from `proto/runtime/v1/api.proto`), the connection to the runtime's unix
//! socket ([`Connection`]), one method per call with its deadline ([`RuntimeClient`], [`ImageClient`]), and the one error
//! type of them all ([`CriError`]). Of CSI ([`csi`]), of plugins ([`pluginregistration`], [`deviceplugin`]) and of
//! `PodResources` ([`podresources`], [`podresources_alpha`]) the wire types, and the channel to a plugin's socket
//! ([`plugin_channel`]).
//!
//! Inputs: an endpoint and [`ConnectOptions`]. Outputs: answers and `CriError`s; no gRPC type is needed to use them.
//!
//! Tasks: each [`Connection`] has one, spawned by the channel, that owns the socket and dies with the last clone.
//!
//! Does not: retry a call, cache an answer, or know what a pod is. A call fails at once while the runtime is away; who
//! called decides when to ask again (see [`Retry`] and [`Connection::next_attempt_in`]).

mod call;
mod connection;
mod endpoint;
mod error;
mod events;
mod images;
mod plugin;
mod redact;
mod runtime;

pub use call::CallObserver;
pub use connection::{ConnectOptions, Connection, MAX_RECEIVE_BYTES, REQUEST_TIMEOUT};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{CriError, CriErrorKind, MAX_MESSAGE_BYTES, Retry, code_name};
pub use events::ContainerEvents;
pub use images::ImageClient;
pub use plugin::plugin_channel;
pub use runtime::RuntimeClient;

/// The generated messages, clients and server traits of `runtime.v1`.
///
/// Maps are `BTreeMap`s. An enumeration is an `i32` in a message, since a newer runtime may send a number this list does
/// not have. The messages that carry secrets have a Debug that does not show them.
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The generated messages, client and server trait of `csi.v1`'s Node service.
///
/// The messages that carry secrets or tokens have a Debug that does not show them.
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The generated messages, client and server trait of `pluginregistration`.
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The generated messages, clients and server traits of device plugins (package `v1beta1`).
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// The generated messages, client and server trait of `PodResources` (package `v1`).
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod podresources {
    tonic::include_proto!("v1");
}

/// The same in its first form (package `v1alpha1`).
#[expect(
    missing_docs,
    reason = "generated: what there is to say of a field stands in the proto file"
)]
pub mod podresources_alpha {
    tonic::include_proto!("v1alpha1");
}
