//! What is counted of the node's certificates (upstream's `pkg/kubelet/certificate/kubelet.go` and
//! `cmd/kubelet/app/server.go`).

use std::sync::atomic::{AtomicI64, Ordering};

use super::instruments::{Counter, Histogram};
use super::text::{Exposition, Family};

/// There is no certificate.
const NONE: i64 = i64::MAX;
/// Nobody asks for one.
const UNUSED: i64 = i64::MIN;

/// A minute, an hour, four, a day, a week, a month, three, six, a year, four.
const LIVES: &[f64] = &[
    60.0,
    3600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    124_416_000.0,
];

const CLIENT_TTL: Family = Family::gauge(
    "kubelet_certificate_manager_client_ttl_seconds",
    "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.",
);

const SERVER_TTL: Family = Family::gauge(
    "kubelet_certificate_manager_server_ttl_seconds",
    "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.",
);

/// Of both certificates.
#[derive(Debug)]
pub struct Certificates {
    /// Renewals of the client certificate that failed.
    pub client_renew_errors: Counter,
    client_not_after: AtomicI64,
    /// Requests for a serving certificate that came to nothing.
    pub server_renew_errors: Counter,
    /// How long serving certificates were in use.
    pub server_rotation: Histogram,
    server_not_after: AtomicI64,
}

impl Certificates {
    pub(super) const fn new() -> Self {
        Self {
            client_renew_errors: Counter::new(
                "kubelet_certificate_manager_client_expiration_renew_errors",
                "[ALPHA] Counter of certificate renewal errors.",
            ),
            client_not_after: AtomicI64::new(NONE),
            server_renew_errors: Counter::new(
                "kubelet_server_expiration_renew_errors",
                "[ALPHA] Counter of certificate renewal errors.",
            ),
            server_rotation: Histogram::new(
                "kubelet_certificate_manager_server_rotation_seconds",
                "[ALPHA] Histogram of the number of seconds the previous certificate lived before being rotated.",
                LIVES,
            ),
            server_not_after: AtomicI64::new(UNUSED),
        }
    }

    /// Until when the client certificate is valid, seconds since the epoch.
    pub fn client_until(&self, seconds: i64) {
        self.client_not_after.store(seconds, Ordering::Relaxed);
    }

    /// Until when the serving certificate that was issued is valid, seconds since the epoch; none while there is none. What
    /// is told of serving certificates is told from the first call on.
    pub fn server_until(&self, seconds: Option<i64>) {
        let seconds = seconds.unwrap_or(NONE);
        self.server_not_after.store(seconds, Ordering::Relaxed);
    }

    /// Writes it; `now` is in seconds since the epoch.
    pub(super) fn write(&self, out: &mut Exposition, joined: bool, now: i64) {
        let left = |not_after: i64| match not_after {
            NONE => f64::INFINITY,
            at => super::kubelet::seconds(at.saturating_sub(now)),
        };
        if joined {
            self.client_renew_errors.write(out);
            let not_after = self.client_not_after.load(Ordering::Relaxed);
            out.single(CLIENT_TTL, left(not_after));
        }
        let not_after = self.server_not_after.load(Ordering::Relaxed);
        if not_after != UNUSED {
            self.server_rotation.write(out);
            out.single(SERVER_TTL, left(not_after));
            self.server_renew_errors.write(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_certificates_are_told_of_where_they_are_asked_for() {
        let told = |certificates: &Certificates, joined| {
            let mut out = Exposition::new();
            certificates.write(&mut out, joined, 1000);
            out.into_text()
        };
        let certificates = Certificates::new();
        assert_eq!(told(&certificates, false), "");
        let text = told(&certificates, true);
        assert!(
            text.contains("kubelet_certificate_manager_client_ttl_seconds +Inf\n"),
            "{text}"
        );
        assert!(!text.contains("server"), "{text}");
        certificates.server_until(None);
        let text = told(&certificates, false);
        assert!(
            text.contains("kubelet_certificate_manager_server_ttl_seconds +Inf\n"),
            "{text}"
        );
        certificates.server_until(Some(1060));
        certificates.client_until(900);
        certificates.server_renew_errors.inc();
        certificates
            .server_rotation
            .observe(std::time::Duration::from_secs(60));
        let text = told(&certificates, true);
        for line in [
            "kubelet_certificate_manager_client_ttl_seconds -100",
            "kubelet_certificate_manager_server_ttl_seconds 60",
            "kubelet_server_expiration_renew_errors 1",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"60\"} 1",
            "kubelet_certificate_manager_server_rotation_seconds_bucket{le=\"1.24416e+08\"} 1",
            "# TYPE kubelet_server_expiration_renew_errors counter",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}:\n{text}");
        }
    }
}
