//! Compiles the files in `proto/` in process: no protoc on the build machine.

use std::error::Error;

const ROOT: &str = "proto";
const FILES: [&str; 6] = [
    "runtime/v1/api.proto",
    "csi/v1/csi.proto",
    "pluginregistration/v1/api.proto",
    "deviceplugin/v1beta1/api.proto",
    "podresources/v1/api.proto",
    "podresources/v1alpha1/api.proto",
];

/// Messages whose Debug is written by hand in `src/redact.rs`, because a field of theirs is, or may carry, a secret.
const REDACTED: [&str; 9] = [
    ".runtime.v1.AuthConfig",
    ".runtime.v1.KeyValue",
    ".runtime.v1.ExecResponse",
    ".runtime.v1.AttachResponse",
    ".runtime.v1.PortForwardResponse",
    ".csi.v1.NodeStageVolumeRequest",
    ".csi.v1.NodePublishVolumeRequest",
    ".csi.v1.NodeExpandVolumeRequest",
    ".csi.v1.VolumeCapability.MountVolume",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={ROOT}/{file}");
    }
    tonic_prost_build::configure()
        // Half the size of a HashMap when empty, and the same bytes on the wire for the same content.
        .btree_map(".")
        .skip_debug(REDACTED)
        // A server implements what its runtime has; the rest answers Unimplemented, as in an older runtime.
        .generate_default_stubs(true)
        .build_transport(false)
        .compile_fds(protox::compile(FILES, [ROOT])?)?;
    Ok(())
}
