//! The watch for a shutdown of the node, where one is configured.

use super::{Singletons, Surroundings};
use crate::clock::Clock;
use crate::config::Config;
use crate::shutdown::{NodeShutdown, ShutdownLink, ShutdownPlan, Windows};

/// How a shutdown of the node goes; none where none is configured, and pods end as the machine does.
pub(super) fn shutdown_plan(config: &Config, surroundings: &Surroundings) -> Option<ShutdownPlan> {
    let windows = Windows::of_config(&config.shutdown, &config.gates)?;
    Some(ShutdownPlan {
        windows,
        logind: surroundings.logind.clone(),
        root: config.paths.root.clone(),
        node: config.node.name.clone(),
    })
}

/// Begins to watch for a shutdown of the node. Without a plan there is no task and no connection.
pub(super) fn watch_shutdown(
    plan: Option<ShutdownPlan>,
    clock: &Clock,
    singletons: &mut Singletons,
) -> ShutdownLink {
    let Some(plan) = plan else {
        return ShutdownLink::idle();
    };
    let (room, link) = NodeShutdown::new(plan, clock.clone());
    singletons.spawn("node shutdown", async move { match room.run().await {} });
    link
}
