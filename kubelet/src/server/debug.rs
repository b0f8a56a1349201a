//! `/debug`: what is there for people who look for a fault. Upstream's profiles are of the Go runtime, which this agent
//! does not have: `/debug/pprof` is not there.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use axum::routing::any;

use super::text;

/// What upstream asks for all of these with, where they are off.
const DISABLED: &str = "Debug endpoints are disabled.\n";
/// More than any level has.
const MOST_BYTES: usize = 64;

/// Sets `--v`; false where there is no log to set it of.
pub type SetVerbosity = std::sync::Arc<dyn Fn(u32) -> bool + Send + Sync>;

/// `/debug/flags/v`: PUT sets the verbosity of the log.
pub(super) fn flags(set: SetVerbosity) -> Router {
    let answer = move |request: Request<Body>| put(set.clone(), request);
    Router::new().route("/debug/flags/v", any(answer))
}

async fn put(set: SetVerbosity, request: Request<Body>) -> Response {
    if request.method() != Method::PUT {
        return text(StatusCode::NOT_ACCEPTABLE, "unsupported http method");
    }
    let value = match to_bytes(request.into_body(), MOST_BYTES).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let why = format!("error reading request body: {error}");
            return text(StatusCode::BAD_REQUEST, why);
        }
    };
    let failed = |why: &str| {
        let said = format!("failed set klog.logging.verbosity {value}: {why}");
        text(StatusCode::BAD_REQUEST, said)
    };
    match value.parse() {
        Ok(verbosity) if set(verbosity) => text(
            StatusCode::OK,
            format!("successfully set klog.logging.verbosity to {value}"),
        ),
        Ok(_) => failed("there is no log"),
        Err(error) => failed(&error.to_string()),
    }
}

/// `path`, switched off: upstream's answer to every method, with `message`.
pub(super) fn disabled(path: &str, message: &'static str) -> Router {
    let answer = move || async move { text(StatusCode::METHOD_NOT_ALLOWED, message) };
    let base = path.trim_end_matches('/');
    let all = Router::new().route(path, any(answer));
    match path.ends_with('/') {
        true => all.route(&format!("{base}/{{*below}}"), any(answer)),
        false => all,
    }
}

/// All that `enableDebuggingHandlers: false` switches off.
pub(super) fn all_disabled() -> Router {
    const PATHS: [&str; 8] = [
        "/run/",
        "/exec/",
        "/attach/",
        "/portForward/",
        "/containerLogs/",
        "/runningpods/",
        "/debug/pprof/",
        "/logs/",
    ];
    let off = PATHS.into_iter().map(|path| disabled(path, DISABLED));
    off.fold(Router::new(), Router::merge)
}
