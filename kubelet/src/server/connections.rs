//! Connections: accepted, bounded in number and in patience.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections that a listener serves at once; the next ones wait in the kernel's queue.
pub const MOST_CONNECTIONS: usize = 64;
/// From the connection to the end of the request's headers, and how long an idle connection is kept.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// After an accept that failed: the process is out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of buffer a connection may take for one request's head.
const MOST_HEAD: usize = 16 * 1024;

/// Serves `router` on `listener` until dropped.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_one(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection ended early");
    }
}
