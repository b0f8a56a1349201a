//! What keeps the node from running short: evictions and the removal of unused images.

use std::sync::Arc;

use cri_proto::Connection;
use tokio::sync::watch;

use super::{AgentError, Singletons};
use crate::config::Config;
use crate::eviction::{self, EvictionLink, Evictor, EvictorInputs};
use crate::images::{CollectorInputs, ImageCollector, ImagePolicy};
use crate::sources::Desired;
use crate::stats::Stats;
use crate::workers::Tools;

/// Begins both; gives the registry's end of the line.
pub(super) fn begin(
    config: &Config,
    tools: &Tools,
    images: &Connection,
    stats: Arc<Stats>,
    desired: watch::Receiver<Arc<Desired>>,
    singletons: &mut Singletons,
) -> Result<EvictionLink, AgentError> {
    let policy = ImagePolicy {
        high: config.images.high_threshold_percent,
        low: config.images.low_threshold_percent,
        minimum_age: config.images.minimum_age,
        maximum_age: config.images.maximum_age,
    };
    let collector = ImageCollector::new(CollectorInputs {
        policy,
        node: config.node.name.clone(),
        images: images.images(),
        runtime: tools.runtime.clone(),
        stats: stats.clone(),
        desired,
        board: tools.board.clone(),
        archives: tools.archives.clone(),
        pulls: tools.images.records().cloned(),
        clock: tools.clock.clone(),
    });
    let levels = &config.cgroups.enforce_allocatable;
    let allocatable = levels.iter().any(|level| level == "pods");
    let thresholds = eviction::thresholds(&config.eviction, allocatable)?;
    let evictions = !thresholds.is_empty();
    if policy.is_on() || evictions || collector.is_unsettled() {
        singletons.spawn("removal of images", collector.clone().run(evictions));
    }
    let (evictor, link) = Evictor::new(EvictorInputs {
        thresholds,
        transition: config.eviction.pressure_transition,
        max_pod_grace_seconds: config.eviction.max_pod_grace_seconds,
        local_storage: config.node.local_storage_isolation,
        notice: config.cgroups.memory_notice,
        node: config.node.name.clone(),
        root: config.paths.root.clone(),
        stats,
        board: tools.board.clone(),
        observer: tools.observer.clone(),
        images: collector,
        reclaim: tools.reclaim.clone(),
        clock: tools.clock.clone(),
    });
    singletons.spawn("evictions", async move { match evictor.run().await {} });
    Ok(link)
}
