//! Which cgroup driver: the runtime has the last word, the configuration where it says nothing (KEP-4033).

use cri_proto::{CriError, CriErrorKind, RuntimeClient, v1};

use crate::cgroups::Driver;

/// A driver, and who chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) driver: Driver,
    pub(super) by: By,
}

/// Who chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The runtime (CRI `RuntimeConfig`).
    Runtime,
    /// `cgroupDriver`, the runtime being too old to say.
    Configuration,
    /// `cgroupDriver`, the runtime naming none.
    SilentRuntime,
}

impl Choice {
    /// Says what was chosen and why, the first two in upstream's words.
    pub(super) fn log(self, configured: Driver) {
        let cgroup_driver = self.driver.to_string();
        match self.by {
            By::Runtime if self.driver != configured => tracing::info!(
                cgroup_driver,
                "Using cgroup driver setting received from the CRI runtime; cgroupDriver ({configured}) does not count"
            ),
            By::Runtime => tracing::info!(
                cgroup_driver,
                "Using cgroup driver setting received from the CRI runtime"
            ),
            By::Configuration => tracing::info!(
                cgroup_driver,
                "CRI implementation should be updated to support RuntimeConfig. Falling back to using cgroupDriver from kubelet config."
            ),
            By::SilentRuntime => tracing::info!(
                cgroup_driver,
                "using cgroupDriver of the configuration: the runtime names no cgroup driver"
            ),
        }
    }
}

/// Why no driver can be used.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A driver that upstream does not know either.
    #[error("runtime returned an unknown cgroup driver {0}")]
    Unknown(i32),
    /// Every pod would fail, or run outside its limits.
    #[error(
        "cgroupDriver is {configured}, and the runtime's default handler has {runtime}: {consequence}; set cgroupDriver to {runtime}, or the runtime to {configured} (containerd: SystemdCgroup = {systemd_cgroup})",
        consequence = consequence(*.runtime),
        systemd_cgroup = *.configured == Driver::Systemd
    )]
    Mismatch {
        /// What the configuration says.
        configured: Driver,
        /// What the runtime is set to.
        runtime: Driver,
    },
}

fn consequence(runtime: Driver) -> &'static str {
    match runtime {
        Driver::Systemd => "no pod could start",
        Driver::Cgroupfs => {
            "containers would run outside the cgroups of their pods, without their limits"
        }
    }
}

/// Asks the runtime.
///
/// # Errors
/// Inside, what the configuration and the runtime make impossible; outside, that the runtime does not answer (yet).
pub(super) async fn ask(
    runtime: &RuntimeClient,
    configured: Driver,
) -> Result<Result<Choice, DriverError>, CriError> {
    let answer = match runtime.runtime_config().await {
        Err(error) if error.is_unimplemented() => None,
        answer => Some(answer?),
    };
    if let Some(answer) = answer {
        return Ok(chosen(&answer, configured));
    }
    // Too old to be asked, and yet containerd shows its settings.
    let settings = match runtime.status(true).await {
        Ok(mut status) => status.info.remove("config"),
        Err(error) if is_starting(&error) => return Err(error),
        Err(_) => None,
    };
    let choice = match settings.as_deref().and_then(driver_in_settings) {
        Some(runtime) if runtime != configured => Err(DriverError::Mismatch {
            configured,
            runtime,
        }),
        _ => Ok(Choice {
            driver: configured,
            by: By::Configuration,
        }),
    };
    Ok(choice)
}

/// Whether the next answer may be another one.
fn is_starting(error: &CriError) -> bool {
    matches!(
        error.kind(),
        CriErrorKind::Unavailable | CriErrorKind::DeadlineExceeded | CriErrorKind::Cancelled
    )
}

fn chosen(answer: &v1::RuntimeConfigResponse, configured: Driver) -> Result<Choice, DriverError> {
    let Some(linux) = &answer.linux else {
        return Ok(Choice {
            driver: configured,
            by: By::SilentRuntime,
        });
    };
    let driver = match v1::CgroupDriver::try_from(linux.cgroup_driver) {
        Ok(v1::CgroupDriver::Systemd) => Driver::Systemd,
        Ok(v1::CgroupDriver::Cgroupfs) => Driver::Cgroupfs,
        Err(_) => return Err(DriverError::Unknown(linux.cgroup_driver)),
    };
    Ok(Choice {
        driver,
        by: By::Runtime,
    })
}

/// The driver of the default handler in containerd's settings, JSON as `crictl info` shows them. `None` where they do
/// not say.
fn driver_in_settings(json: &str) -> Option<Driver> {
    let settings: serde_json::Value = serde_json::from_str(json).ok()?;
    let containerd = settings.get("containerd")?;
    let handler = containerd.get("defaultRuntimeName")?.as_str()?;
    let handler = containerd.get("runtimes")?.get(handler)?;
    match handler.get("options")?.get("SystemdCgroup")?.as_bool()? {
        true => Some(Driver::Systemd),
        false => Some(Driver::Cgroupfs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(linux: Option<i32>) -> v1::RuntimeConfigResponse {
        let linux = linux.map(|cgroup_driver| v1::LinuxRuntimeConfiguration { cgroup_driver });
        v1::RuntimeConfigResponse { linux }
    }

    #[test]
    fn the_runtime_has_the_last_word() {
        for (number, driver) in [(0, Driver::Systemd), (1, Driver::Cgroupfs)] {
            for configured in [Driver::Systemd, Driver::Cgroupfs] {
                let choice = chosen(&answer(Some(number)), configured).unwrap();
                let by = By::Runtime;
                assert_eq!(choice, Choice { driver, by });
            }
        }
        let silent = chosen(&answer(None), Driver::Systemd).unwrap();
        assert_eq!(
            (silent.driver, silent.by),
            (Driver::Systemd, By::SilentRuntime)
        );
        let error = chosen(&answer(Some(7)), Driver::Systemd).unwrap_err();
        assert_eq!(
            error.to_string(),
            "runtime returned an unknown cgroup driver 7"
        );
    }

    #[test]
    fn settings_of_containerd_1_are_read() {
        let settings = |options: &str| {
            let json = format!(
                r#"{{"containerd": {{"defaultRuntimeName": "runc", "runtimes":
                    {{"other": {{"options": {{"SystemdCgroup": false}}}}, "runc": {{"options": {options}}}}}}}}}"#
            );
            driver_in_settings(&json)
        };
        assert_eq!(
            settings(r#"{"SystemdCgroup": true}"#),
            Some(Driver::Systemd)
        );
        assert_eq!(
            settings(r#"{"SystemdCgroup": false}"#),
            Some(Driver::Cgroupfs)
        );
        assert_eq!(settings("{}"), None);
        assert_eq!(settings("null"), None);
        assert_eq!(driver_in_settings("{"), None);
    }

    #[test]
    fn a_mismatch_has_its_remedy() {
        let mismatch = |configured, runtime| {
            DriverError::Mismatch {
                configured,
                runtime,
            }
            .to_string()
        };
        assert_eq!(
            mismatch(Driver::Cgroupfs, Driver::Systemd),
            "cgroupDriver is cgroupfs, and the runtime's default handler has systemd: no pod could start; \
             set cgroupDriver to systemd, or the runtime to cgroupfs (containerd: SystemdCgroup = false)"
        );
        assert_eq!(
            mismatch(Driver::Systemd, Driver::Cgroupfs),
            "cgroupDriver is systemd, and the runtime's default handler has cgroupfs: containers would run outside \
             the cgroups of their pods, without their limits; set cgroupDriver to cgroupfs, or the runtime to systemd \
             (containerd: SystemdCgroup = true)"
        );
    }
}
