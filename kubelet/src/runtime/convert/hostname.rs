//! How a pod is called on its own network.

use crate::pod::{self, Pod};

/// Bytes of a host name; the kernel has one more for the end.
const MAX_HOSTNAME: usize = 63;
/// Bytes of the kernel's node name.
const MAX_NODENAME: usize = 64;

/// The name of a pod, taken apart as the hosts file needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHostname {
    /// The first part.
    pub host: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`, of a pod with a subdomain.
    pub domain: Option<String>,
    /// What `hostname` says in the pod.
    pub nodename: String,
}

/// A pod that cannot be named as it asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing is left of a name that was cut.
    #[error("hostname for pod {pod:?} was invalid: {hostname:?}")]
    Invalid {
        /// The pod's name.
        pod: String,
        /// What it would be called.
        hostname: String,
    },
    /// `setHostnameAsFQDN`, and the name does not fit the kernel.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({MAX_NODENAME} characters is the max, {} characters requested)",
        .fqdn.len()
    )]
    TooLong {
        /// The name in full.
        fqdn: String,
    },
}

/// The host name of `pod`.
///
/// # Errors
/// When it is not one, or does not fit the kernel with its domain.
pub fn pod_hostname(pod: &Pod, cluster_domain: &str) -> Result<PodHostname, HostnameError> {
    let spec = pod::spec(pod);
    let name = pod::PodName::of(pod);
    let set = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if let Some(override_) = set(&spec.hostname_override) {
        let host = cut(&name.name, override_)?;
        return Ok(PodHostname {
            nodename: host.clone(),
            domain: None,
            host,
        });
    }
    let host = cut(
        &name.name,
        set(&spec.hostname).unwrap_or_else(|| name.name.to_string()),
    )?;
    let domain = set(&spec.subdomain)
        .map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", name.namespace));
    let nodename = match &domain {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => format!("{host}.{domain}"),
        _ => host.clone(),
    };
    if nodename.len() > MAX_NODENAME {
        return Err(HostnameError::TooLong { fqdn: nodename });
    }
    Ok(PodHostname {
        host,
        domain,
        nodename,
    })
}

fn cut(pod: &str, mut hostname: String) -> Result<String, HostnameError> {
    let end = (0..=MAX_HOSTNAME.min(hostname.len()))
        .rev()
        .find(|end| hostname.is_char_boundary(*end))
        .unwrap_or(0);
    let whole = end == hostname.len();
    let kept = match whole {
        true => end,
        false => hostname[..end].trim_end_matches(['-', '.']).len(),
    };
    if kept == 0 {
        return Err(HostnameError::Invalid {
            pod: pod.to_owned(),
            hostname,
        });
    }
    hostname.truncate(kept);
    Ok(hostname)
}
