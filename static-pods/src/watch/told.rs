//! What the log says of files.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::state::Held;
use crate::manifest::{ManifestError, ManifestWarning};

pub(super) fn rfc3339(wall: SystemTime) -> String {
    use k8s_openapi::jiff::Timestamp;
    let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or_default();
    let nanos = i32::try_from(since_epoch.subsec_nanos()).unwrap_or_default();
    let time = Timestamp::new(seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_string()
}

/// The pods of a file.
pub(super) fn pods(held: &Held) -> String {
    let keys = held.pods.iter().map(|pod| pod.key().to_string());
    keys.collect::<Vec<_>>().join(", ")
}

/// The objects of a file, where it has any.
pub(super) fn objects(held: &Held) -> Option<tracing::field::DisplayValue<String>> {
    let keys = held.objects.iter().map(|object| object.key.to_string());
    let text = keys.collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then(|| tracing::field::display(text))
}

/// One line for what happened to a file, and one for each thing that is wrong or odd in it.
pub(super) fn report(
    path: &Path,
    known: bool,
    before: &Held,
    now: &Held,
    problems: &[ManifestError],
    warnings: &[ManifestWarning],
) {
    let path = path.display();
    for problem in problems {
        tracing::warn!(reason = "ManifestRefused", %path, %problem, kept = %pods(before), objects = objects(before), "manifest refused");
    }
    for warning in warnings {
        tracing::warn!(%path, %warning, "manifest odd");
    }
    if problems.is_empty() {
        let what = if known { "changed" } else { "added" };
        tracing::info!(%path, pods = %pods(now), objects = objects(now), "manifest {what}");
    }
}
