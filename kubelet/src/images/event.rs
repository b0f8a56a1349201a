//! What is told of an image, in upstream's words.

use std::time::Duration;

/// The reason of the event that a pull begins.
pub const PULLING: &str = "Pulling";
/// How the last word begins.
const VERDICT: &str = "Error: ";

/// Something to record on the container, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEvent {
    /// Whether its type is `Warning` rather than `Normal`.
    pub warning: bool,
    /// `Pulling`, `Pulled`, `Failed`, `BackOff`, `InspectFailed` or `ErrImageNeverPull`.
    pub reason: &'static str,
    /// The text.
    pub message: String,
}

impl ImageEvent {
    /// An event of type `Normal`.
    pub(super) fn normal(reason: &'static str, message: String) -> Self {
        Self {
            warning: false,
            reason,
            message,
        }
    }

    /// An event of type `Warning`.
    pub(super) fn warning(reason: &'static str, message: String) -> Self {
        Self {
            warning: true,
            reason,
            message,
        }
    }

    /// What whoever wanted the image is told when there is none.
    pub(super) fn verdict(reason: &str) -> Self {
        Self::warning("Failed", format!("{VERDICT}{reason}"))
    }

    /// Whether it is the last word on one who wanted the image, and not on the image.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        self.warning && self.message.starts_with(VERDICT)
    }
}

/// The event of an image of `size_bytes` that was pulled for `took`, and waited for before that.
pub(super) fn pulled(image: &str, took: Duration, in_all: Duration, size_bytes: u64) -> ImageEvent {
    let (took, in_all) = (go_duration(took), go_duration(in_all));
    ImageEvent::normal(
        "Pulled",
        format!(
            "Successfully pulled image {image:?} in {took} ({in_all} including waiting). Image size: {size_bytes} bytes."
        ),
    )
}

/// A duration cut to milliseconds, as Go prints it: `0s`, `340ms`, `1.2s`, `1m0.5s`, `1h0m0s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", millis % 1000);
    let seconds = match fraction.trim_end_matches('0') {
        "" => format!("{}s", millis / 1000),
        fraction => format!("{}.{fraction}s", millis / 1000),
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_does() {
        for (millis, text) in [
            (0, "0s"),
            (7, "7ms"),
            (340, "340ms"),
            (1000, "1s"),
            (1200, "1.2s"),
            (1234, "1.234s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
