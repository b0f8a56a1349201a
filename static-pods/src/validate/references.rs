//! What a static pod may not refer to: objects that only an API server could give it (KEP-5040 and upstream's
//! `PreventStaticPodAPIReferences`).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};

/// The first API object that `pod` refers to: the field, and upstream's word for the object. Upstream's message is
/// `static pods may not reference <word>`.
#[must_use]
pub fn api_reference(pod: &Pod) -> Option<(String, &'static str)> {
    let spec = pod.spec.as_ref()?;
    service_account(spec)
        .or_else(|| secrets(spec))
        .or_else(|| config_maps(spec))
        .or_else(|| {
            let claims = spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty());
            claims.then(|| ("spec.resourceClaims".into(), "resourceclaims"))
        })
        .or_else(|| {
            let volumes = spec.volumes.iter().flatten().enumerate();
            volumes
                .into_iter()
                .find_map(|(i, v)| volume(&format!("spec.volumes[{i}]"), v))
        })
}

type Found = Option<(String, &'static str)>;

fn service_account(spec: &PodSpec) -> Found {
    let named = |name: &Option<String>| name.as_ref().is_some_and(|n| !n.is_empty());
    let old = named(&spec.service_account) && !named(&spec.service_account_name);
    if old || spec.service_account == spec.service_account_name && named(&spec.service_account) {
        // Defaulting copied it from the older name of the field.
        return Some(("spec.serviceAccount".into(), "serviceaccounts"));
    }
    named(&spec.service_account_name).then(|| ("spec.serviceAccountName".into(), "serviceaccounts"))
}

/// All containers with their paths.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let regular = spec.containers.iter().enumerate();
    init.chain(regular.map(|(i, c)| (format!("spec.containers[{i}]"), c)))
}

fn secrets(spec: &PodSpec) -> Found {
    const WORD: &str = "secrets";
    let found = |path: String| Some((path, WORD));
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !secret.name.is_empty() {
            return found(format!("spec.imagePullSecrets[{i}]"));
        }
    }
    for (path, container) in containers(spec) {
        for (i, from) in container.env_from.iter().flatten().enumerate() {
            if from.secret_ref.as_ref().is_some_and(|r| !r.name.is_empty()) {
                return found(format!("{path}.envFrom[{i}].secretRef"));
            }
        }
        for (i, variable) in container.env.iter().flatten().enumerate() {
            let from = variable.value_from.as_ref();
            let key = from.and_then(|f| f.secret_key_ref.as_ref());
            if key.is_some_and(|k| !k.name.is_empty()) {
                return found(format!("{path}.env[{i}].valueFrom.secretKeyRef"));
            }
        }
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(field) = secret_of(volume) {
            return found(format!("spec.volumes[{i}].{field}"));
        }
    }
    None
}

/// The field of `volume` that names a secret.
fn secret_of(volume: &Volume) -> Option<String> {
    let named = |name: &str, field: &str| (!name.is_empty()).then(|| field.to_owned());
    let reference = |r: Option<&k8s_openapi::api::core::v1::LocalObjectReference>, field: &str| {
        r.and_then(|r| named(&r.name, field))
    };
    let v = volume;
    if let Some(projected) = &v.projected {
        let sources = projected.sources.iter().flatten().enumerate();
        for (i, source) in sources {
            if source.secret.as_ref().is_some_and(|s| !s.name.is_empty()) {
                return Some(format!("projected.sources[{i}].secret"));
            }
        }
    }
    None.or_else(|| {
        v.azure_file
            .as_ref()
            .and_then(|s| named(&s.secret_name, "azureFile"))
    })
    .or_else(|| reference(v.cephfs.as_ref()?.secret_ref.as_ref(), "cephfs.secretRef"))
    .or_else(|| reference(v.cinder.as_ref()?.secret_ref.as_ref(), "cinder.secretRef"))
    .or_else(|| {
        reference(
            v.flex_volume.as_ref()?.secret_ref.as_ref(),
            "flexVolume.secretRef",
        )
    })
    .or_else(|| reference(v.rbd.as_ref()?.secret_ref.as_ref(), "rbd.secretRef"))
    .or_else(|| {
        named(
            v.secret
                .as_ref()?
                .secret_name
                .as_deref()
                .unwrap_or_default(),
            "secret",
        )
    })
    .or_else(|| reference(Some(&v.scale_io.as_ref()?.secret_ref), "scaleIO.secretRef"))
    .or_else(|| reference(v.iscsi.as_ref()?.secret_ref.as_ref(), "iscsi.secretRef"))
    .or_else(|| {
        reference(
            v.storageos.as_ref()?.secret_ref.as_ref(),
            "storageos.secretRef",
        )
    })
    .or_else(|| {
        reference(
            v.csi.as_ref()?.node_publish_secret_ref.as_ref(),
            "csi.nodePublishSecretRef",
        )
    })
}

fn config_maps(spec: &PodSpec) -> Found {
    const WORD: &str = "configmaps";
    let found = |path: String| Some((path, WORD));
    for (path, container) in containers(spec) {
        for (i, from) in container.env_from.iter().flatten().enumerate() {
            if from
                .config_map_ref
                .as_ref()
                .is_some_and(|r| !r.name.is_empty())
            {
                return found(format!("{path}.envFrom[{i}].configMapRef"));
            }
        }
        for (i, variable) in container.env.iter().flatten().enumerate() {
            let from = variable.value_from.as_ref();
            let key = from.and_then(|f| f.config_map_key_ref.as_ref());
            if key.is_some_and(|k| !k.name.is_empty()) {
                return found(format!("{path}.env[{i}].valueFrom.configMapKeyRef"));
            }
        }
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        if volume
            .config_map
            .as_ref()
            .is_some_and(|c| !c.name.is_empty())
        {
            return found(format!("spec.volumes[{i}].configMap"));
        }
        let sources = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for (j, source) in sources.enumerate() {
            if source
                .config_map
                .as_ref()
                .is_some_and(|c| !c.name.is_empty())
            {
                return found(format!(
                    "spec.volumes[{i}].projected.sources[{j}].configMap"
                ));
            }
        }
    }
    None
}

fn volume(path: &str, v: &Volume) -> Found {
    let kinds = [
        (
            v.config_map.is_some(),
            "configMap",
            "configmaps (via configmap volumes)",
        ),
        (v.secret.is_some(), "secret", "secrets (via secret volumes)"),
        (v.csi.is_some(), "csi", "csidrivers (via CSI volumes)"),
        (
            v.glusterfs.is_some(),
            "glusterfs",
            "endpoints (via glusterFS volumes)",
        ),
        (
            v.persistent_volume_claim.is_some(),
            "persistentVolumeClaim",
            "persistentvolumeclaims",
        ),
        (
            v.ephemeral.is_some(),
            "ephemeral",
            "persistentvolumeclaims (via ephemeral volumes)",
        ),
        (
            v.azure_file.is_some(),
            "azureFile",
            "secrets (via azureFile volumes)",
        ),
    ];
    for (is, field, word) in kinds {
        if is {
            return Some((format!("{path}.{field}"), word));
        }
    }
    let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
    for (i, s) in sources.enumerate() {
        let kinds = [
            (
                s.config_map.is_some(),
                "configMap",
                "configmaps (via projected volumes)",
            ),
            (
                s.secret.is_some(),
                "secret",
                "secrets (via projected volumes)",
            ),
            (
                s.service_account_token.is_some(),
                "serviceAccountToken",
                "serviceaccounts (via projected volumes)",
            ),
            (
                s.cluster_trust_bundle.is_some(),
                "clusterTrustBundle",
                "clustertrustbundles",
            ),
            (
                s.pod_certificate.is_some(),
                "podCertificate",
                "podcertificates",
            ),
        ];
        for (is, field, word) in kinds {
            if is {
                return Some((format!("{path}.projected.sources[{i}].{field}"), word));
            }
        }
    }
    None
}
