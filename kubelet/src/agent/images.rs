//! What images are pulled with, and where they come from besides.

use std::path::PathBuf;
use std::sync::Arc;

use cri_proto::Connection;

use super::AgentError;
use crate::clock::Clock;
use crate::config::Config;
use crate::images::archives::ArchivesConfig;
use crate::images::{
    ImagePuller, NodeCredentials, Providers, PullConfig, PullRecords, VerificationPolicy,
};
use crate::objects::Objects;

pub(super) fn archives_config(config: &Config) -> ArchivesConfig {
    let own = &config.agent;
    ArchivesConfig {
        directory: own.image_archives.clone(),
        built_in: own.built_in_sandbox_image.unwrap_or(config.api.is_none()),
        scratch: config.paths.root.clone(),
    }
}

/// What pulls images, with all that knows credentials.
pub(super) fn image_puller(
    config: &Config,
    clock: &Clock,
    objects: &Objects,
    images: &Connection,
) -> Result<ImagePuller<cri_proto::ImageClient>, AgentError> {
    let pulls = PullConfig {
        serialize: config.images.parallel_pulls == Some(1),
        max_parallel: config.images.parallel_pulls,
        per_second: config.images.pull_rate.per_second.unwrap_or(0),
        burst: config.images.pull_rate.burst,
    };
    let mut puller = ImagePuller::new(images.images(), &pulls, credentials(config));
    if let Some(providers) = &config.images.credential_providers {
        puller = puller.with_providers(Providers::new(providers, objects.clone()));
    }
    if !config.gates.enabled("KubeletEnsureSecretPulledImages") {
        return Ok(puller);
    }
    let policy = VerificationPolicy::of(
        &config.images.credentials_verification,
        &config.images.preloaded_allowlist,
    );
    let records = PullRecords::open(&config.paths.root, policy, clock.clone());
    Ok(puller.with_records(Arc::new(records.map_err(AgentError::PullRecords)?)))
}

/// The node's own credentials at registries.
pub(super) fn credentials(config: &Config) -> NodeCredentials {
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    // Not `home_dir`: without the variable, as below systemd, it asks the C library, which loads modules of the host.
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    NodeCredentials::search(&config.paths.root, &here, home.as_deref())
}
