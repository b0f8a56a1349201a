//! What the agent's own socket has of the node's API, for the commands of this program.

use std::sync::Arc;

use axum::Router;

use crate::config::Config;
use crate::server::ObservedRuntime;
use crate::server::container_logs::{self, ContainerLogs};
use crate::workers::Tools;

/// The routes; who asks was asked when he connected.
pub(super) fn routes(config: &Config, tools: &Tools) -> Router {
    let runtime = ObservedRuntime {
        observer: tools.observer.clone(),
        runtime: tools.runtime.clone(),
    };
    container_logs::routes(ContainerLogs {
        pods: Arc::new(tools.board.clone()),
        logs: tools.logs.clone(),
        runtime,
        clock: tools.clock.clone(),
        split_streams: config.gates.enabled("PodLogsQuerySplitStreams"),
        rotated: true,
    })
}
