//! What is counted of images that containers mount as volumes.

use super::instruments::Counter;
use super::text::Exposition;

/// Mounts of images.
#[derive(Debug)]
pub struct ImageVolumes {
    /// Those that containers were to have.
    pub requested: Counter,
    /// Those that containers were made with.
    pub mounted: Counter,
    /// Those that the runtime could not make.
    pub failed: Counter,
}

impl ImageVolumes {
    pub(super) const fn new() -> Self {
        Self {
            requested: Counter::new(
                "kubelet_image_volume_requested_total",
                "[BETA] Number of requested image volumes.",
            ),
            mounted: Counter::new(
                "kubelet_image_volume_mounted_succeed_total",
                "[BETA] Number of successful image volume mounts.",
            ),
            failed: Counter::new(
                "kubelet_image_volume_mounted_errors_total",
                "[BETA] Number of failed image volume mounts.",
            ),
        }
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        self.failed.write(out);
        self.mounted.write(out);
        self.requested.write(out);
    }
}
