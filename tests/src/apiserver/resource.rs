//! The resources that the double serves, and how a URL names them.

use super::answer::Refusal;

/// One resource of one group and version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// Empty for the core group.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    /// Whether its status is written through `/status` alone.
    pub(super) has_status: bool,
    /// Whether an update may do without a resourceVersion.
    pub(super) unconditional: bool,
    /// Whether an update makes what is not there.
    pub(super) upserts: bool,
}

const fn namespaced(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        version,
        plural,
        kind,
        namespaced: true,
        has_status: false,
        unconditional: true,
        upserts: false,
    }
}

const fn global(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        namespaced: false,
        ..namespaced(group, version, plural, kind)
    }
}

const fn with_status(resource: Resource) -> Resource {
    Resource {
        has_status: true,
        ..resource
    }
}

/// Everything that is stored, by its position here.
pub(super) static RESOURCES: [Resource; 19] = [
    with_status(namespaced("", "v1", "pods", "Pod")),
    with_status(global("", "v1", "nodes", "Node")),
    namespaced("", "v1", "configmaps", "ConfigMap"),
    namespaced("", "v1", "secrets", "Secret"),
    with_status(namespaced("", "v1", "services", "Service")),
    namespaced("", "v1", "serviceaccounts", "ServiceAccount"),
    with_status(global("", "v1", "namespaces", "Namespace")),
    Resource {
        upserts: true,
        ..namespaced("", "v1", "events", "Event")
    },
    with_status(namespaced("", "v1", "resourcequotas", "ResourceQuota")),
    with_status(namespaced(
        "",
        "v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
    )),
    with_status(global("", "v1", "persistentvolumes", "PersistentVolume")),
    Resource {
        unconditional: false,
        upserts: true,
        ..namespaced("coordination.k8s.io", "v1", "leases", "Lease")
    },
    Resource {
        unconditional: false,
        ..global("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
    },
    with_status(global(
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
    )),
    global(
        "certificates.k8s.io",
        "v1beta1",
        "clustertrustbundles",
        "ClusterTrustBundle",
    ),
    with_status(namespaced(
        "certificates.k8s.io",
        "v1beta1",
        "podcertificaterequests",
        "PodCertificateRequest",
    )),
    global("storage.k8s.io", "v1", "csinodes", "CSINode"),
    global("storage.k8s.io", "v1", "csidrivers", "CSIDriver"),
    with_status(global(
        "storage.k8s.io",
        "v1",
        "volumeattachments",
        "VolumeAttachment",
    )),
];

impl Resource {
    /// `v1`, or `group/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As messages name it: `pods`, `leases.coordination.k8s.io`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(super) fn is(&self, plural: &str) -> bool {
        self.plural == plural
    }
}

/// The position of a resource that is stored.
pub(super) fn position(group: &str, plural: &str) -> Option<usize> {
    RESOURCES
        .iter()
        .position(|r| r.group == group && r.plural == plural)
}

/// What a URL names.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    /// Index into [`RESOURCES`]; none for what is answered and not stored (reviews).
    pub(super) resource: Option<usize>,
    pub(super) group: String,
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
    pub(super) query: Vec<(String, String)>,
    /// Asked for as `events.k8s.io`, and stored as an event of the core group.
    pub(super) new_events: bool,
}

impl Target {
    /// Reads a path below `/api` or `/apis`, and its query.
    pub(super) fn parse(path: &str, query: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::no_such_path();
        let mut parts = path.trim_matches('/').split('/');
        let mut target = Self {
            query: parse_query(query),
            ..Self::default()
        };
        let version = match parts.next() {
            Some("api") => parts.next(),
            Some("apis") => {
                parts
                    .next()
                    .ok_or_else(unknown)?
                    .clone_into(&mut target.group);
                parts.next()
            }
            _ => None,
        };
        let version = version.ok_or_else(unknown)?.to_owned();
        let rest: Vec<String> = parts.map(decode).collect();
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let rest = match rest.as_slice() {
            ["namespaces", namespace, tail @ ..]
                if !tail.is_empty() && !matches!(tail, ["status" | "finalize"]) =>
            {
                (*namespace).clone_into(&mut target.namespace);
                tail
            }
            all => all,
        };
        let mut rest = rest.iter();
        (*rest.next().ok_or_else(unknown)?).clone_into(&mut target.plural);
        if let Some(name) = rest.next() {
            (*name).clone_into(&mut target.name);
        }
        if let Some(subresource) = rest.next() {
            (*subresource).clone_into(&mut target.subresource);
        }
        if target.group == "events.k8s.io" {
            target.new_events = true;
            target.group.clear();
        }
        target.resource = position(&target.group, &target.plural);
        let reviews = ["tokenreviews", "subjectaccessreviews"];
        if target.resource.is_none() && !reviews.contains(&target.plural.as_str()) {
            return Err(unknown());
        }
        let served = target.resource.map_or("v1", |at| RESOURCES[at].version);
        if version != served {
            return Err(unknown());
        }
        Ok(target)
    }

    /// The value of a query parameter; empty without one.
    pub(super) fn param(&self, name: &str) -> &str {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.param(name), "true" | "1")
    }

    /// The resource as a thing that is stored.
    pub(super) fn stored(&self) -> Result<(usize, &'static Resource), Refusal> {
        let index = self.resource.ok_or_else(Refusal::no_such_path)?;
        let resource = RESOURCES.get(index).ok_or_else(Refusal::no_such_path)?;
        Ok((index, resource))
    }
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&key.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        })
        .collect()
}

/// Undoes percent-encoding; what is no encoding stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3);
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (plain, _) => {
                decoded.push(plain);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> (String, String, String, String) {
        let target = Target::parse(path, "").unwrap();
        let (_, resource) = target.stored().unwrap();
        (
            resource.qualified(),
            target.namespace,
            target.name,
            target.subresource,
        )
    }

    #[test]
    fn paths_name_resources() {
        let own = |all: [&str; 4]| {
            let [a, b, c, d] = all.map(str::to_owned);
            (a, b, c, d)
        };
        let cases = [
            ("/api/v1/pods", own(["pods", "", "", ""])),
            (
                "/api/v1/namespaces/a/pods/b/status",
                own(["pods", "a", "b", "status"]),
            ),
            ("/api/v1/namespaces/a", own(["namespaces", "", "a", ""])),
            (
                "/api/v1/namespaces/a/status",
                own(["namespaces", "", "a", "status"]),
            ),
            ("/api/v1/nodes/n", own(["nodes", "", "n", ""])),
            (
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
                own(["leases.coordination.k8s.io", "kube-node-lease", "n", ""]),
            ),
            (
                "/apis/events.k8s.io/v1/namespaces/a/events",
                own(["events", "a", "", ""]),
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(parts(path), expected, "{path}");
        }
        assert!(Target::parse("/api/v2/pods", "").is_err());
        assert!(Target::parse("/api/v1/volumes", "").is_err());
    }

    #[test]
    fn queries_are_decoded() {
        let query = "fieldSelector=spec.nodeName%3Da&watch=true&limit=";
        let target = Target::parse("/api/v1/pods", query).unwrap();
        assert_eq!(target.param("fieldSelector"), "spec.nodeName=a");
        assert!(target.flag("watch") && target.param("limit").is_empty());
    }
}
