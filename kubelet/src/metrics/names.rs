//! What upstream calls values of labels.

/// What upstream calls the sizes of images, each from so many MiB on; it says MB and means this.
const IMAGE_SIZES: [(u64, &str); 12] = [
    (102_400, "GT100GB"),
    (61_440, "60GB-100GB"),
    (40_960, "40GB-60GB"),
    (30_720, "30GB-40GB"),
    (20_480, "20GB-30GB"),
    (10_240, "10GB-20GB"),
    (5_120, "5GB-10GB"),
    (1_024, "1GB-5GB"),
    (500, "500MB-1GB"),
    (100, "100MB-500MB"),
    (10, "10MB-100MB"),
    (0, "0-10MB"),
];

/// The value of `image_size_in_bytes` for an image of that size; 0 is one that nobody knows.
pub(super) fn image_size(bytes: u64) -> &'static str {
    let of_size = IMAGE_SIZES.iter().find(|(from, _)| bytes > from << 20);
    of_size.map_or("N/A", |(_, name)| name)
}

/// What upstream calls a call to the runtime (`kuberuntime/instrumented_services.go`); none of those it does not count.
#[must_use]
pub fn operation_of(method: &str) -> Option<&'static str> {
    Some(match method {
        "Version" => "version",
        "Status" => "status",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "ListContainers" => "list_containers",
        "ContainerStatus" => "container_status",
        "UpdateContainerResources" => "update_container",
        "ReopenContainerLog" => "reopen_container_log",
        "ExecSync" => "exec_sync",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListPodSandbox" => "list_podsandbox",
        "UpdatePodSandboxResources" => "update_podsandbox_resources",
        "ContainerStats" => "container_stats",
        "ListContainerStats" => "list_container_stats",
        "PodSandboxStats" => "podsandbox_stats",
        "ListPodSandboxStats" => "list_podsandbox_stats",
        "UpdateRuntimeConfig" => "update_runtime_config",
        "CheckpointContainer" => "checkpoint_container",
        "RuntimeConfig" => "runtime_config",
        "ImageFsInfo" => "image_fs_info",
        "ListImages" => "list_images",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "RemoveImage" => "remove_image",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_images_have_upstreams_names() {
        for (bytes, expected) in [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 << 20, "0-10MB"),
            ((10 << 20) + 1, "10MB-100MB"),
            (500 << 20, "100MB-500MB"),
            ((1 << 30) + 1, "1GB-5GB"),
            ((5 << 30) + 1, "5GB-10GB"),
            ((60 << 30) + 1, "60GB-100GB"),
            ((100 << 30) + 1, "GT100GB"),
        ] {
            assert_eq!(image_size(bytes), expected, "{bytes}");
        }
    }
}
