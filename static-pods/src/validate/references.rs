//! What a static pod may not refer to: objects that only an API server could give it (KEP-5040 and upstream's
//! `PreventStaticPodAPIReferences`).

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVarSource, LocalObjectReference, Pod, PodSpec, Volume,
    VolumeProjection,
};

/// Why a pod that breaks no rule can still not be a static one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A field refers to an object of the API; upstream's message is `static pods may not reference <object>`.
    Reference {
        /// The field.
        path: String,
        /// Upstream's word for the object.
        object: &'static str,
    },
    /// A source of a projected volume says nothing.
    NoSource {
        /// The source.
        path: String,
        /// The volume.
        volume: String,
    },
}

/// The first thing of `pod` that a static pod cannot have. With `objects`, it may name ConfigMaps and Secrets wherever
/// the node itself reads them: in environments, for pulls, and in volumes of their own kind or projected ones.
#[must_use]
pub fn unfit(pod: &Pod, objects: bool) -> Option<Unfit> {
    let spec = pod.spec.as_ref()?;
    let claims = spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty());
    let reference = service_account(spec)
        .or_else(|| named_objects(spec, &SECRETS, objects))
        .or_else(|| named_objects(spec, &CONFIG_MAPS, objects))
        .or_else(|| claims.then(|| ("spec.resourceClaims".into(), "resourceclaims")));
    if let Some((path, object)) = reference {
        return Some(Unfit::Reference { path, object });
    }
    volumes(spec).find_map(|(path, volume)| {
        needs_api(&path, volume, objects).or_else(|| projected(&path, volume, objects))
    })
}

type Found = Option<(String, &'static str)>;

fn service_account(spec: &PodSpec) -> Found {
    let name = spec.service_account_name.as_deref().unwrap_or_default();
    // Defaulting copied it from the older name of the field.
    let field = match spec.service_account.as_deref() {
        Some(older) if older == name => "serviceAccount",
        _ => "serviceAccountName",
    };
    (!name.is_empty()).then(|| (format!("spec.{field}"), "serviceaccounts"))
}

/// All containers with their paths.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let regular = spec.containers.iter().enumerate();
    init.chain(regular.map(|(i, c)| (format!("spec.containers[{i}]"), c)))
}

/// All volumes with their paths.
fn volumes(spec: &PodSpec) -> impl Iterator<Item = (String, &Volume)> {
    let volumes = spec.volumes.iter().flatten().enumerate();
    volumes.map(|(i, v)| (format!("spec.volumes[{i}]"), v))
}

/// The sources of a projected volume with their paths.
fn sources<'a>(
    path: &str,
    volume: &'a Volume,
) -> impl Iterator<Item = (String, &'a VolumeProjection)> {
    let sources = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    sources
        .enumerate()
        .map(move |(i, s)| (format!("{path}.projected.sources[{i}]"), s))
}

/// A field, and the name of an object that it holds.
type Named<'a> = (&'static str, Option<&'a str>);

/// A kind of object, and where a pod can name one.
struct Kind {
    word: &'static str,
    /// The volume that is the object's own.
    own_volume: &'static str,
    pod: fn(&PodSpec) -> Vec<(String, &str)>,
    env_from: fn(&EnvFromSource) -> Named<'_>,
    env: fn(&EnvVarSource) -> Named<'_>,
    projected: fn(&VolumeProjection) -> Named<'_>,
    volume: fn(&Volume) -> Vec<Named<'_>>,
}

static SECRETS: Kind = Kind {
    word: "secrets",
    own_volume: "secret",
    pod: |spec| {
        let pull = spec.image_pull_secrets.iter().flatten().enumerate();
        pull.map(|(i, s)| (format!("spec.imagePullSecrets[{i}]"), s.name.as_str()))
            .collect()
    },
    env_from: |from| {
        (
            "secretRef",
            from.secret_ref.as_ref().map(|r| r.name.as_str()),
        )
    },
    env: |from| {
        (
            "secretKeyRef",
            from.secret_key_ref.as_ref().map(|r| r.name.as_str()),
        )
    },
    projected: |source| ("secret", source.secret.as_ref().map(|s| s.name.as_str())),
    volume: secrets_of,
};

static CONFIG_MAPS: Kind = Kind {
    word: "configmaps",
    own_volume: "configMap",
    pod: |_| Vec::new(),
    env_from: |from| {
        (
            "configMapRef",
            from.config_map_ref.as_ref().map(|r| r.name.as_str()),
        )
    },
    env: |from| {
        (
            "configMapKeyRef",
            from.config_map_key_ref.as_ref().map(|r| r.name.as_str()),
        )
    },
    projected: |source| {
        (
            "configMap",
            source.config_map.as_ref().map(|s| s.name.as_str()),
        )
    },
    volume: |v| vec![("configMap", v.config_map.as_ref().map(|s| s.name.as_str()))],
};

/// The fields of a volume that can name a secret.
fn secrets_of(v: &Volume) -> Vec<Named<'_>> {
    fn name(reference: Option<&LocalObjectReference>) -> Option<&str> {
        reference.map(|r| r.name.as_str())
    }
    let secret = v.secret.as_ref();
    let csi = v.csi.as_ref();
    vec![
        (
            "azureFile",
            v.azure_file.as_ref().map(|s| s.secret_name.as_str()),
        ),
        (
            "cephfs.secretRef",
            name(v.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        (
            "cinder.secretRef",
            name(v.cinder.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        (
            "flexVolume.secretRef",
            name(v.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        (
            "rbd.secretRef",
            name(v.rbd.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        ("secret", secret.and_then(|s| s.secret_name.as_deref())),
        (
            "scaleIO.secretRef",
            name(v.scale_io.as_ref().map(|s| &s.secret_ref)),
        ),
        (
            "iscsi.secretRef",
            name(v.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        (
            "storageos.secretRef",
            name(v.storageos.as_ref().and_then(|s| s.secret_ref.as_ref())),
        ),
        (
            "csi.nodePublishSecretRef",
            name(csi.and_then(|s| s.node_publish_secret_ref.as_ref())),
        ),
    ]
}

/// The first field that names an object of this kind: the pod's own, then containers', then volumes'. With `served`, only
/// fields that the node does not read for itself.
fn named_objects(spec: &PodSpec, kind: &Kind, served: bool) -> Found {
    let named = |name: Option<&str>| name.is_some_and(|n| !n.is_empty());
    let place = |path: String, (field, name): (&str, Option<&str>)| {
        named(name).then(|| format!("{path}.{field}"))
    };
    let of_pod = (kind.pod)(spec);
    let mut of_pod = of_pod.into_iter().filter(|(_, name)| named(Some(name)));
    let in_container = |(path, container): (String, &Container)| {
        let mut from = container.env_from.iter().flatten().enumerate();
        let mut env = container.env.iter().flatten().enumerate();
        from.find_map(|(i, f)| place(format!("{path}.envFrom[{i}]"), (kind.env_from)(f)))
            .or_else(|| {
                env.find_map(|(i, v)| {
                    let from = v.value_from.as_ref()?;
                    place(format!("{path}.env[{i}].valueFrom"), (kind.env)(from))
                })
            })
    };
    let in_volume = |(path, volume): (String, &Volume)| {
        let mut fields = (kind.volume)(volume).into_iter();
        let foreign = |field: &str| !(served && field == kind.own_volume);
        (sources(&path, volume).filter(|_| !served))
            .find_map(|(path, source)| place(path, (kind.projected)(source)))
            .or_else(|| {
                fields.find_map(|field| place(path.clone(), field).filter(|_| foreign(field.0)))
            })
    };
    (of_pod.next().filter(|_| !served).map(|(path, _)| path))
        .or_else(|| (containers(spec).filter(|_| !served)).find_map(in_container))
        .or_else(|| volumes(spec).find_map(in_volume))
        .map(|path| (path, kind.word))
}

/// A kind of volume that only an API server makes.
fn needs_api(path: &str, v: &Volume, objects: bool) -> Option<Unfit> {
    let kinds = [
        (
            v.config_map.is_some() && !objects,
            "configMap",
            "configmaps (via configmap volumes)",
        ),
        (
            v.secret.is_some() && !objects,
            "secret",
            "secrets (via secret volumes)",
        ),
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
    first_set(path, &kinds)
}

/// The first of `kinds` that is set: whether it is, its field, its object.
fn first_set(path: &str, kinds: &[(bool, &str, &'static str)]) -> Option<Unfit> {
    let (_, field, object) = *kinds.iter().find(|(set, ..)| *set)?;
    let path = format!("{path}.{field}");
    Some(Unfit::Reference { path, object })
}

fn projected(path: &str, volume: &Volume, objects: bool) -> Option<Unfit> {
    sources(path, volume).find_map(|(path, s)| {
        let kinds = [
            (
                s.config_map.is_some() && !objects,
                "configMap",
                "configmaps (via projected volumes)",
            ),
            (
                s.secret.is_some() && !objects,
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
        first_set(&path, &kinds).or_else(|| {
            let says = s.downward_api.is_some() || s.config_map.is_some() || s.secret.is_some();
            (!says).then(|| Unfit::NoSource {
                path,
                volume: volume.name.clone(),
            })
        })
    })
}
