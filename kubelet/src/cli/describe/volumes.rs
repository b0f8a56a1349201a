//! The volumes of a description: kubectl's words for each kind, and what tells where its files come from.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, ProjectedVolumeSource,
    SecretVolumeSource, Volume,
};
use serde_json::Value;

use super::{Lines, NONE};

pub(super) fn write(lines: &mut Lines, volumes: &[Volume]) {
    if volumes.is_empty() {
        lines.entry(0, "Volumes", NONE);
        return;
    }
    lines.title(0, "Volumes");
    for volume in volumes {
        lines.title(1, &volume.name);
        one(lines, volume);
    }
}

fn one(lines: &mut Lines, volume: &Volume) {
    if let Some(path) = &volume.host_path {
        host_path(lines, path);
    } else if let Some(directory) = &volume.empty_dir {
        empty_dir(lines, directory);
    } else if let Some(secret) = &volume.secret {
        of_secret(lines, secret);
    } else if let Some(map) = &volume.config_map {
        of_config_map(lines, map);
    } else if volume.downward_api.is_some() {
        lines.entry(
            2,
            "Type",
            "DownwardAPI (a volume populated by information about the pod)",
        );
    } else if let Some(projected) = &volume.projected {
        of_projected(lines, projected);
    } else if let Some(claim) = &volume.persistent_volume_claim {
        lines.entry(
            2,
            "Type",
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        );
        lines.entry(2, "ClaimName", &claim.claim_name);
        lines.entry(
            2,
            "ReadOnly",
            claim.read_only.unwrap_or_default().to_string(),
        );
    } else {
        lines.entry(2, "Type", kind(volume));
    }
}

fn host_path(lines: &mut Lines, path: &HostPathVolumeSource) {
    lines.entry(2, "Type", "HostPath (bare host directory volume)");
    lines.entry(2, "Path", &path.path);
    lines.entry(2, "HostPathType", path.type_.as_deref().unwrap_or_default());
}

fn empty_dir(lines: &mut Lines, directory: &EmptyDirVolumeSource) {
    lines.entry(
        2,
        "Type",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
    );
    lines.entry(2, "Medium", directory.medium.as_deref().unwrap_or_default());
    let limit = directory
        .size_limit
        .as_ref()
        .map_or("<unset>", |limit| limit.0.as_str());
    lines.entry(2, "SizeLimit", limit);
}

fn of_secret(lines: &mut Lines, secret: &SecretVolumeSource) {
    lines.entry(2, "Type", "Secret (a volume populated by a Secret)");
    lines.entry(
        2,
        "SecretName",
        secret.secret_name.as_deref().unwrap_or_default(),
    );
    lines.entry(
        2,
        "Optional",
        secret.optional.unwrap_or_default().to_string(),
    );
}

fn of_config_map(lines: &mut Lines, map: &ConfigMapVolumeSource) {
    lines.entry(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
    lines.entry(2, "Name", &map.name);
    lines.entry(2, "Optional", map.optional.unwrap_or_default().to_string());
}

fn of_projected(lines: &mut Lines, projected: &ProjectedVolumeSource) {
    lines.entry(
        2,
        "Type",
        "Projected (a volume that contains injected data from multiple sources)",
    );
    for source in projected.sources.iter().flatten() {
        if let Some(secret) = &source.secret {
            lines.entry(2, "SecretName", &secret.name);
        } else if let Some(map) = &source.config_map {
            lines.entry(2, "ConfigMapName", &map.name);
        } else if source.downward_api.is_some() {
            lines.entry(2, "DownwardAPI", "true");
        } else if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(3600);
            lines.entry(2, "TokenExpirationSeconds", seconds.to_string());
        }
    }
}

/// The field that says where its files come from.
fn kind(volume: &Volume) -> String {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let Value::Object(fields) = fields else {
        return "<unknown>".to_owned();
    };
    let kind = fields.keys().find(|key| *key != "name");
    kind.map_or_else(|| "<unknown>".to_owned(), String::clone)
}
