//! The built-in image of sandboxes, for a node that has none and cannot pull one.

use std::sync::Arc;

use serde_json::json;

use super::layout::{gc_label, of_parts, qualified};
use super::parts::{ArchivedImage, Source, describe};
use super::pause;
use crate::images::ImageName;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// What containerd says when it has no image for a sandbox, before the image's name in quotes.
const NO_IMAGE: &str = "failed to get sandbox image \"";

/// The image that `error` of RunPodSandbox says is missing.
pub(super) fn missing_sandbox_image(error: &str) -> Option<&str> {
    let (_, rest) = error.split_once(NO_IMAGE)?;
    rest.split_once('"').map(|(name, _)| name)
}

/// The built-in image under the name `name`; none on a processor it is not built for, or where that is no name.
pub(super) fn built_in(name: &str) -> Option<ArchivedImage> {
    let name = qualified(&ImageName::parse(name).ok()?);
    let program = pause::EXECUTABLE?;
    let layer = layer(&program.elf())?;
    let layer_descriptor = describe(LAYER, &layer);
    let config = json!({
        "architecture": program.architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor.digest]},
    });
    let config: Arc<[u8]> = config.to_string().into_bytes().into();
    let config_descriptor = describe(CONFIG, &config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_descriptor,
        "layers": [layer_descriptor],
    });
    let parts = vec![
        (gc_label("config"), config_descriptor, Source::Bytes(config)),
        (
            gc_label("l.0"),
            layer_descriptor,
            Source::Bytes(layer.into()),
        ),
    ];
    Some(of_parts(vec![name], MANIFEST, &manifest, parts))
}

/// A tar of the one file, the same each time.
fn layer(program: &[u8]) -> Option<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "pause", program).ok()?;
    tar.into_inner().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_says_which_image_is_missing() {
        let error = "failed to get sandbox image \"registry.k8s.io/pause:3.6\": failed to pull image \"registry.k8s.io/pause:3.6\": dial tcp: lookup";
        assert_eq!(
            missing_sandbox_image(error),
            Some("registry.k8s.io/pause:3.6")
        );
        assert_eq!(
            missing_sandbox_image("failed to create containerd task"),
            None
        );
    }

    #[test]
    fn the_image_is_small_and_the_same_each_time() {
        let Some(image) = built_in("registry.k8s.io/pause:3.6") else {
            return;
        };
        assert_eq!(image, built_in("registry.k8s.io/pause:3.6").unwrap());
        assert_eq!(image.names, ["registry.k8s.io/pause:3.6"]);
        let bytes: u64 = image.blobs.iter().map(|blob| blob.source.size()).sum();
        assert!(bytes < 5_000, "{bytes}");
        let manifest = image.blobs.last().unwrap();
        assert_eq!(manifest.descriptor, image.target);
        assert_eq!(manifest.refers_to.len(), 2);
        assert!(built_in("no name at all").is_none());
    }
}
