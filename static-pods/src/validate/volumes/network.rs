//! Volumes that a storage system serves over a network, and the drivers that plug in for one.

use k8s_openapi::api::core::v1::{
    CSIVolumeSource, CephFSVolumeSource, FCVolumeSource, FlexVolumeSource, FlockerVolumeSource,
    GlusterfsVolumeSource, ISCSIVolumeSource, LocalObjectReference, NFSVolumeSource,
    QuobyteVolumeSource, RBDVolumeSource, ScaleIOVolumeSource, StorageOSVolumeSource,
};

use super::super::{Errors, names};

pub(super) fn nfs(path: &str, share: &NFSVolumeSource, errors: &mut Errors) {
    errors.present(path, "server", &share.server);
    errors.present(path, "path", &share.path);
    if !share.path.starts_with('/') {
        let detail = "must be an absolute path";
        errors.invalid(format!("{path}.path"), share.path.as_str(), detail);
    }
}

/// Logical units have numbers of eight bits here.
fn unit(path: &str, number: i32, errors: &mut Errors) {
    if !(0..=255).contains(&number) {
        let detail = "must be between 0 and 255, inclusive";
        errors.invalid(format!("{path}.lun"), number, detail);
    }
}

pub(super) fn iscsi(path: &str, disk: &ISCSIVolumeSource, errors: &mut Errors) {
    errors.present(path, "targetPortal", &disk.target_portal);
    errors.present(path, "iqn", &disk.iqn);
    if !disk.iqn.is_empty() {
        iscsi_node(&format!("{path}.iqn"), &disk.iqn, errors);
    }
    unit(path, disk.lun, errors);
    let chap = [disk.chap_auth_discovery, disk.chap_auth_session];
    if chap.contains(&Some(true)) && disk.secret_ref.is_none() {
        errors.required(format!("{path}.secretRef"), "");
    }
    if let Some(initiator) = &disk.initiator_name {
        let shown = format!("{path}.initiatorname");
        let real = format!("{path}.initiatorName");
        errors.standing_at(&shown, &real, |errors| {
            iscsi_node(&shown, initiator, errors)
        });
    }
}

/// The initiator's name gets the volume's name and the portal, which must fit.
pub(super) fn iscsi_name(path: &str, name: &str, disk: &ISCSIVolumeSource, errors: &mut Errors) {
    const MOST: usize = 64;
    if disk.initiator_name.is_some() && name.len() + 1 + disk.target_portal.len() > MOST {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                      iscsi.initiatorName is specified.";
        errors.invalid(format!("{path}.name"), name, detail);
    }
}

/// A name of RFC 3720 (`iqn.`, `eui.`) or RFC 3980 (`naa.`).
fn iscsi_node(path: &str, name: &str, errors: &mut Errors) {
    let valid = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => has_digits(&name[3..], 16),
        Some("naa") => has_digits(&name[3..], 32),
        _ => {
            let detail = "must be valid format starting with iqn, eui, or naa";
            return errors.invalid(path, name, detail);
        }
    };
    if !valid {
        errors.invalid(path, name, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:storage`. Upstream is content when the name ends so.
fn is_iqn(name: &str) -> bool {
    let dated = |text: &str| {
        let date = text.as_bytes().get(..8)?;
        let pattern = date.iter().zip(b"dddd-dd.");
        let fits = |(c, p): (&u8, &u8)| {
            if *p == b'd' {
                c.is_ascii_digit()
            } else {
                c == p
            }
        };
        let (authority, unique) = text[8..]
            .split_once(':')
            .filter(|_| pattern.clone().all(fits))?;
        let of_authority = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.');
        let refused = |c: char| ",;*&$|\t\n\u{c}\r ".contains(c);
        let valid = !authority.is_empty()
            && authority.bytes().all(of_authority)
            && !unique.is_empty()
            && !unique.contains(refused);
        valid.then_some(())
    };
    let mut begins = name.match_indices("iqn.");
    begins.any(|(at, _)| {
        let rest = &name[at + 4..];
        rest.is_char_boundary(8.min(rest.len())) && dated(rest).is_some()
    })
}

/// Any character, then so many letters and digits.
fn has_digits(text: &str, count: usize) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c != '\n')
        && characters.as_str().len() == count
        && characters.all(|c| c.is_ascii_alphanumeric())
}

pub(super) fn glusterfs(path: &str, volume: &GlusterfsVolumeSource, errors: &mut Errors) {
    errors.present(path, "endpoints", &volume.endpoints);
    errors.present(path, "path", &volume.path);
}

pub(super) fn flocker(path: &str, volume: &FlockerVolumeSource, errors: &mut Errors) {
    let name = volume.dataset_name.as_deref().unwrap_or_default();
    let uuid = volume.dataset_uuid.as_deref().unwrap_or_default();
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(path, "resource", detail);
    }
    if name.contains('/') {
        errors.invalid(format!("{path}.datasetName"), name, "must not contain '/'");
    }
}

pub(super) fn rbd(path: &str, image: &RBDVolumeSource, errors: &mut Errors) {
    if image.monitors.is_empty() {
        errors.required(format!("{path}.monitors"), "");
    }
    errors.present(path, "image", &image.image);
}

pub(super) fn cephfs(path: &str, volume: &CephFSVolumeSource, errors: &mut Errors) {
    if volume.monitors.is_empty() {
        errors.required(format!("{path}.monitors"), "");
    }
}

pub(super) fn quobyte(path: &str, volume: &QuobyteVolumeSource, errors: &mut Errors) {
    /// Longest tenant, a UUID.
    const TENANT: usize = 64;
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let tenant = volume.tenant.as_deref().unwrap_or_default();
    let registry = format!("{path}.registry");
    if volume.registry.is_empty() {
        errors.required(registry, PAIRS);
    } else if tenant.len() > TENANT {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(format!("{path}.tenant"), detail);
    } else {
        for _ in volume.registry.split(',').filter(|p| !is_host_and_port(p)) {
            errors.invalid(registry.as_str(), volume.registry.as_str(), PAIRS);
        }
    }
    errors.present(path, "volume", &volume.volume);
}

/// `host:port`, either of which may be empty, the host in brackets when it has colons.
fn is_host_and_port(pair: &str) -> bool {
    let Some((host, port)) = pair.rsplit_once(':') else {
        return false;
    };
    let host = match host.strip_prefix('[') {
        Some(inside) => match inside.strip_suffix(']') {
            Some(host) => host,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    !host.contains(['[', ']']) && !port.contains(['[', ']'])
}

pub(super) fn fibre_channel(path: &str, disk: &FCVolumeSource, errors: &mut Errors) {
    let targets = disk.target_wwns.as_deref().unwrap_or_default();
    let wwids = disk.wwids.as_deref().unwrap_or_default();
    let field = format!("{path}.targetWWNs");
    match (targets.is_empty(), wwids.is_empty()) {
        (true, true) => {
            let detail = "must specify either targetWWNs or wwids, but not both";
            errors.required(field, detail);
        }
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(field, targets, detail);
        }
        _ => {}
    }
    match disk.lun {
        _ if targets.is_empty() => {}
        Some(number) => unit(path, number, errors),
        None => {
            let detail = "lun is required if targetWWNs is specified";
            errors.required(format!("{path}.lun"), detail);
        }
    }
}

pub(super) fn flex(path: &str, volume: &FlexVolumeSource, errors: &mut Errors) {
    errors.present(path, "driver", &volume.driver);
    for key in volume.options.iter().flat_map(|o| o.keys()) {
        let domain = key
            .split_once('/')
            .map_or(key.as_str(), |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(format!("{path}.options[{key}]"), key.as_str(), detail);
        }
    }
}

pub(super) fn scale_io(path: &str, volume: &ScaleIOVolumeSource, errors: &mut Errors) {
    errors.present(path, "gateway", &volume.gateway);
    errors.present(path, "system", &volume.system);
    let name = volume.volume_name.as_deref().unwrap_or_default();
    errors.present(path, "volumeName", name);
}

pub(super) fn storage_os(path: &str, volume: &StorageOSVolumeSource, errors: &mut Errors) {
    let name = volume.volume_name.as_deref().unwrap_or_default();
    errors.named(&format!("{path}.volumeName"), name, names::label);
    let namespace = volume.volume_namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() {
        let path = format!("{path}.volumeNamespace");
        errors.all(&path, namespace, names::label(namespace));
    }
    secret_name(path, "secretRef", volume.secret_ref.as_ref(), errors);
}

/// A reference that is there names something.
pub(super) fn secret_name(
    path: &str,
    field: &str,
    reference: Option<&LocalObjectReference>,
    errors: &mut Errors,
) {
    if reference.is_some_and(|r| r.name.is_empty()) {
        errors.required(format!("{path}.{field}.name"), "");
    }
}

pub(super) fn csi(path: &str, volume: &CSIVolumeSource, errors: &mut Errors) {
    /// Longest name of a driver (CSI specification).
    const NAME: usize = 63;
    let (driver, field) = (volume.driver.as_str(), format!("{path}.driver"));
    if driver.is_empty() {
        errors.required(field, "");
    } else {
        if driver.len() > NAME {
            errors.too_long(field.as_str(), NAME);
        }
        errors.all(&field, driver, names::subdomain(&driver.to_lowercase()));
    }
    let secret = volume.node_publish_secret_ref.as_ref();
    secret_name(path, "nodePublishSecretRef", secret, errors);
    if let Some(secret) = secret.filter(|s| !s.name.is_empty()) {
        // Upstream leaves out the field between the two.
        let shown = format!("{path}.name");
        let real = format!("{path}.nodePublishSecretRef.name");
        let messages = names::subdomain(&secret.name);
        errors.standing_at(&shown, &real, |e| e.all(&shown, &secret.name, messages));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for good in ["a:1", ":", "[::1]:80", "a:", ":1", "[]:1"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in [
            "", "a", "a:b:1", "[::1]", "[a:1", "[a]b:1", "a]:1", "[[a]:1", "a:[1", "[a]:1]",
        ] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }

    #[test]
    fn iscsi_names_are_recognised() {
        for good in [
            "iqn.2015-02.example.com:test",
            "iqn.2015-02.a:b:c",
            "iqnx iqn.2015-02.a:b",
        ] {
            assert!(is_iqn(good), "{good}");
        }
        for bad in [
            "iqn.2015-02.a:",
            "iqn.2015-2.a:b",
            "iqn.2015-02.a:b c",
            "iqn.2015-02.é:b",
            "iqn.2015-0é:b",
            "iqn.",
        ] {
            assert!(!is_iqn(bad), "{bad}");
        }
    }
}
