//! What volumes, attachments and their directories are called. Pure; the names are upstream's, so that what one agent has
//! mounted another can unmount.

use std::fmt::Write as _;

use ring::digest;

/// What upstream calls the kind of volume.
pub(super) const PLUGIN: &str = "kubernetes.io/csi";
/// Its directory in a pod's `volumes/` and `volumeDevices/`.
pub(crate) const PLUGIN_DIR: &str = "kubernetes.io~csi";
/// From the root directory to the directory of all that is staged.
pub(super) const STAGED: [&str; 3] = ["plugins", "kubernetes.io", "csi"];
/// What is staged lies there, below its driver and the hash of its handle.
pub(super) const GLOBAL_MOUNT: &str = "globalmount";
/// What is published to a pod lies there, below the volume's name.
pub(super) const MOUNT: &str = "mount";

/// SHA-256 in lower-case hexadecimal.
fn sha256(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut hex = String::with_capacity(64);
    for byte in hash.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The handle of the volume `name` that lives as long as the pod `uid`.
pub(super) fn ephemeral_handle(uid: &str, name: &str) -> String {
    format!("csi-{}", sha256(&format!("{uid}{name}")))
}

/// The directory of the volume `handle` below that of its driver.
pub(super) fn staging_name(handle: &str) -> String {
    sha256(handle)
}

/// The VolumeAttachment of a volume to `node`.
pub(super) fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", sha256(&format!("{handle}{driver}{node}")))
}

/// What a volume is called in `status.volumesInUse` and `status.volumesAttached` of a node.
pub(super) fn unique(driver: &str, handle: &str) -> String {
    format!("{PLUGIN}/{driver}^{handle}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_upstream_gives() {
        // As sha256sum has them.
        assert_eq!(
            ephemeral_handle("u1", "data"),
            "csi-394e2f1c7e9d97fca241351d1f3fe5e473d332141cbc3a61861a8e3a8a0caf84"
        );
        assert_eq!(
            staging_name("vol-1"),
            "d2e8363faaac7ae76def3b14091d8eb5755f6b92e9531627aeec833a8731cc49"
        );
        assert_eq!(
            attachment("vol-1", "d.example", "n1"),
            "csi-2403980985f4a2f14fca5ef1efa9ccc39b35027f8eeead24a448d2659ba4bd58"
        );
        assert_eq!(
            unique("d.example", "vol-1"),
            "kubernetes.io/csi/d.example^vol-1"
        );
    }
}
