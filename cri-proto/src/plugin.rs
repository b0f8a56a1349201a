//! Channels to the sockets of plugins.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Channel;

/// How long a plugin that listens may take to accept a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel to the plugin that listens on the unix socket at `path`: opened by its first call, closed when it is dropped.
/// Must be called within a tokio runtime.
#[must_use]
pub fn plugin_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let dialled = tokio::time::timeout(DIAL_TIMEOUT, UnixStream::connect(path)).await;
            let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            dialled.map(TokioIo::new)
        }
    });
    // The authority is sent along and means nothing on a unix socket; gRPC clients use localhost.
    tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector_lazy(connector)
}
