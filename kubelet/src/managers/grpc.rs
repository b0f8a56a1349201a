//! gRPC services on unix sockets: nothing but a listening socket until somebody connects.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once; further ones wait.
const MOST_CONNECTIONS: usize = 64;
/// Calls of one connection at once.
const MOST_CALLS: u32 = 16;
/// Bytes that one call may send before somebody reads them, and that are held for one that does not read.
const WINDOW: u32 = 64 << 10;
/// After a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers whoever connects to `listener` by `routes`. Never ends; its connections end with it.
pub(super) async fn serve(listener: UnixListener, routes: Router) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // It is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = routes.clone();
                connections.spawn(async move {
                    answer(stream, routes).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot take a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, routes: Router) {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MOST_CALLS)
        .max_send_buf_size(WINDOW as usize);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A client that goes away in the middle is its own business.
    let _ = connection.await;
}
