//! From the name of a host to its addresses: the only place that asks for them.

use std::io;
use std::net::SocketAddr;

/// The addresses of the host of this name, with `port`, in the order in which they are to be tried.
///
/// # Errors
/// When the name has none, or nobody could be asked.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    Ok(found.collect())
}
