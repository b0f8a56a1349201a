//! What the agent listens on.

use std::sync::Arc;

use axum::Router;

use super::{AgentError, Singletons};
use crate::config::{Config, SOCKET_NAME, SocketSetting};
use crate::errors::error_chain;
use crate::events;
use crate::server::{
    self, HealthChecks, Heartbeat, NodeApi, Server, ServerType, SocketError, SocketFile, counted,
};
use crate::workers::Tools;

/// Opens the ports that are configured, before anything else happens: a port that is taken is an error of the start.
pub(super) async fn serve(
    config: &Config,
    tools: &Tools,
    reading: &Router,
    heartbeat: Heartbeat,
    singletons: &mut Singletons,
) -> Result<(), AgentError> {
    let checks = HealthChecks::new(heartbeat, config.sources.sync_every);
    if let Some(address) = config.server.healthz {
        let routes = server::healthz_routes(checks.clone());
        let server = Server::bind(address, "healthz", routes).await?;
        singletons.spawn("healthz server", async move { match server.run().await {} });
    }
    if let Some(address) = config.server.main {
        tracing::info!(
            "port: {address} is not served in this version: there are no logs, exec and metrics over it yet"
        );
    }
    if let Some(address) = config.server.read_only {
        let routes = server::read_only_routes(node_api(tools, checks, reading));
        let routes = counted(routes, ServerType::ReadOnly);
        let server = Server::bind(address, "the read-only port", routes).await?;
        singletons.spawn(
            "read-only server",
            async move { match server.run().await {} },
        );
    }
    Ok(())
}

/// Opens the agent's own socket, as it is configured. Where nobody asked for one, going without is no error: pods come
/// first.
pub(super) fn serve_socket(
    config: &Config,
    tools: &Tools,
    reading: &Router,
    heartbeat: Heartbeat,
    singletons: &mut Singletons,
) -> Result<Option<SocketFile>, SocketError> {
    let path = match &config.agent.socket {
        SocketSetting::None => return Ok(None),
        // What upstream does not have, a node of a cluster has only where it was asked for.
        SocketSetting::Unset if config.api.is_some() => return Ok(None),
        SocketSetting::Unset => config.paths.root.join(SOCKET_NAME),
        SocketSetting::At(path) => path.clone(),
    };
    let checks = HealthChecks::new(heartbeat, config.sources.sync_every);
    let pods = Arc::new(tools.board.clone());
    let routes = server::socket_routes(checks, pods, events::recorder(), reading.clone());
    match Server::bind_socket(&path, routes) {
        Ok((server, file)) => {
            singletons.spawn("socket", async move { match server.run().await {} });
            Ok(Some(file))
        }
        Err(error) if config.agent.socket == SocketSetting::Unset => {
            tracing::warn!(
                "{}; 'kubelet events' cannot be answered",
                error_chain(&error)
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the node's API is made of: here the routers of the rooms are put together.
fn node_api(tools: &Tools, checks: HealthChecks, reading: &Router) -> NodeApi {
    NodeApi {
        checks,
        pods: Arc::new(tools.board.clone()),
        reading: reading.clone(),
        debugging: Router::new(),
    }
}
