//! Stats and metrics, from the tools that workers work with.

use std::sync::Arc;

use axum::Router;
use cri_proto::Connection;

use crate::config::Config;
use crate::node;
use crate::server::metrics::{self, MachineFacts, MetricsApi};
use crate::stats::{Stats, StatsInputs};
use crate::workers::Tools;

/// What reads all that the node and its pods take.
pub(super) fn stats(config: &Config, tools: &Tools, images: &Connection) -> Arc<Stats> {
    Stats::new(StatsInputs {
        node_name: config.node.name.clone(),
        board: tools.board.clone(),
        observer: tools.observer.clone(),
        cgroups: tools.cgroups.clone(),
        dirs: tools.dirs.clone(),
        quotas: tools.volumes.quotas().cloned(),
        logs: tools.logs.clone(),
        root: config.paths.root.clone(),
        runtime: tools.runtime.clone(),
        images: images.images(),
        clock: tools.clock.clone(),
        claims: tools.claims.clone(),
        csi: tools.csi.clone(),
        pulls: tools.images.records().cloned(),
        providers: config
            .images
            .credential_providers
            .as_ref()
            .map(|providers| providers.hash.clone()),
        volumes_every: config.node.volume_stats_every,
        proc: "/proc".into(),
        sys: "/sys".into(),
    })
}

/// The routes that every port has which tells anything of pods.
pub(super) fn routes(config: &Config, stats: Arc<Stats>) -> Router {
    let info = node::machine_info();
    metrics::routes(MetricsApi {
        stats,
        machine: MachineFacts {
            machine_id: info.machine_id,
            system_uuid: info.system_uuid,
            boot_id: info.boot_id,
            kernel_version: info.kernel_version,
            os_image: info.os_image,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        },
        gates: config.gates.clone(),
        joined: config.api.is_some(),
    })
}
