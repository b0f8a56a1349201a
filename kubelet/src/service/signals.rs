//! The signals that a service gets.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that cannot be listened for.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for {0}")]
pub struct SignalError(&'static str, #[source] io::Error);

fn listen(kind: SignalKind, name: &'static str) -> Result<Signal, SignalError> {
    signal(kind).map_err(|error| SignalError(name, error))
}

/// Resolves at the first SIGTERM or SIGINT; the second one ends the process at once, with status 1.
///
/// # Errors
/// When they cannot be listened for.
pub fn stop() -> Result<impl Future<Output = ()>, SignalError> {
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    Ok(async move {
        next(&mut terminate, &mut interrupt).await;
        tracing::info!("told to stop; pods go on running");
        tokio::spawn(async move {
            next(&mut terminate, &mut interrupt).await;
            std::process::exit(1);
        });
    })
}

/// SIGHUPs. From here on none ends the process.
///
/// # Errors
/// When they cannot be listened for.
pub fn hangups() -> Result<Signal, SignalError> {
    listen(SignalKind::hangup(), "SIGHUP")
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    // Cancel-safe: a signal that arrives while the other is waited for stays pending.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
