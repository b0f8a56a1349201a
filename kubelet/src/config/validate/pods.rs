//! Rules of images, logs and shutdown.

use serde_json::Value;
use static_pods::quantity::Quantity;

use super::{Judge, SECOND};
use crate::config::durations::GoDuration;
use crate::images::wrong_pattern;

impl Judge<'_> {
    pub(super) fn images(&mut self) {
        let parallel = self.settings.int_if_set("maxParallelImagePulls");
        if parallel.is_some_and(|pulls| pulls < 1) {
            self.refuse("maxParallelImagePulls", "must be a positive number");
        }
        if parallel.is_some_and(|pulls| pulls > 1)
            && self.settings.bool_if_set("serializeImagePulls") == Some(true)
        {
            self.say(
                "maxParallelImagePulls",
                "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false",
            );
        }
        let least = self.settings.duration("imageMinimumGCAge");
        let most = self.settings.duration("imageMaximumGCAge");
        if most > GoDuration::ZERO && most <= least {
            self.refuse(
                "imageMaximumGCAge",
                format!("must be greater than imageMinimumGCAge {least}"),
            );
        }
        if !self
            .settings
            .texts("preloadedImagesVerificationAllowlist")
            .is_empty()
            && self.settings.text("imagePullCredentialsVerificationPolicy")
                != "NeverVerifyAllowlistedImages"
        {
            self.say(
                "preloadedImagesVerificationAllowlist",
                "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVerificationPolicy` is not \"NeverVerifyAllowlistedImages\"",
            );
        }
        for path in [
            "imagePullCredentialsVerificationPolicy",
            "preloadedImagesVerificationAllowlist",
        ] {
            if !self.gates.enabled("KubeletEnsureSecretPulledImages") && self.settings.is_set(path)
            {
                self.say(
                    path,
                    format!(
                        "`{path}` must not be set if KubeletEnsureSecretPulledImages feature gate is not enabled"
                    ),
                );
            }
        }
        let patterns = self.settings.texts("preloadedImagesVerificationAllowlist");
        if let Some(wrong) = patterns.iter().find_map(|pattern| wrong_pattern(pattern)) {
            self.say(
                "preloadedImagesVerificationAllowlist",
                format!("invalid image pattern in `preloadedImagesVerificationAllowlist`: {wrong}"),
            );
        }
    }

    pub(super) fn logs(&mut self) {
        let directory = self.settings.text("podLogsDir").to_owned();
        if !directory.starts_with('/') {
            self.refuse("podLogsDir", "must be absolute path");
        }
        if !is_clean(&directory) {
            self.refuse(
                "podLogsDir",
                "must be normalized: no //, /./, /../ and no / at its end",
            );
        }
        if !directory.is_ascii() {
            self.refuse("podLogsDir", "must contain ASCII characters only");
        }
        if Quantity::parse(self.settings.text("containerLogMaxSize")).is_err() {
            self.refuse("containerLogMaxSize", "must be a quantity such as 10Mi");
        }
        if !self.settings.objects("logging.vmodule").is_empty()
            && self.settings.text("logging.format") != "text"
        {
            self.refuse("logging.vmodule", "is only supported for text log format");
        }
        for item in self.settings.objects("logging.vmodule") {
            let pattern = item["filePattern"].as_str().unwrap_or_default();
            if pattern.is_empty() || pattern.contains(['=', ',']) {
                self.refuse(
                    "logging.vmodule",
                    format!("has the file pattern {pattern:?}, which must not be empty nor contain an equal sign or a comma"),
                );
            }
        }
        for path in [
            "logging.options.text.splitStream",
            "logging.options.text.infoBufferSize",
            "logging.options.json.splitStream",
            "logging.options.json.infoBufferSize",
        ] {
            let asked = match self.settings.value(path) {
                Some(Value::Bool(split)) => *split,
                Some(Value::String(size)) => {
                    Quantity::parse(size).is_ok_and(|size| size.value() != 0)
                }
                Some(size) => size.as_f64() != Some(0.0),
                None => false,
            };
            if asked && !self.gates.enabled("LoggingAlphaOptions") {
                self.refuse(path, ": Feature LoggingAlphaOptions is disabled");
            }
        }
    }

    pub(super) fn shutdown(&mut self) {
        let total = self.settings.duration("shutdownGracePeriod");
        let critical = self.settings.duration("shutdownGracePeriodCriticalPods");
        let by_priority = !self
            .settings
            .objects("shutdownGracePeriodByPodPriority")
            .is_empty();
        let any = total > GoDuration::ZERO || critical > GoDuration::ZERO;
        if self.gates.enabled("GracefulNodeShutdown") {
            if critical > total {
                self.refuse(
                    "shutdownGracePeriodCriticalPods",
                    format!("must be <= shutdownGracePeriod {total}"),
                );
            }
            for (path, period) in [
                ("shutdownGracePeriod", total),
                ("shutdownGracePeriodCriticalPods", critical),
            ] {
                if period > GoDuration::ZERO && period < SECOND {
                    self.refuse(path, "must be either zero or otherwise >= 1 sec");
                }
            }
        } else if any {
            self.say(
                "shutdownGracePeriod",
                "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate GracefulNodeShutdown",
            );
        }
        if self.gates.enabled("GracefulNodeShutdownBasedOnPodPriority") {
            if by_priority && any {
                self.say(
                    "shutdownGracePeriodByPodPriority",
                    "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time",
                );
            }
        } else if by_priority {
            self.say(
                "shutdownGracePeriodByPodPriority",
                "Specifying shutdownGracePeriodByPodPriority requires feature gate GracefulNodeShutdownBasedOnPodPriority",
            );
        }
    }
}

/// Whether a path is as short as it can be written.
fn is_clean(path: &str) -> bool {
    path == "/"
        || (!path.is_empty()
            && path
                .strip_prefix('/')
                .unwrap_or(path)
                .split('/')
                .all(|step| !matches!(step, "" | "." | "..")))
}
