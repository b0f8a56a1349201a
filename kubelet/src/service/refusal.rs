//! Why the agent does not start, said where people look.

use super::Service;
use crate::logging;

/// Says why the agent does not start: in the service's status, and a line each in the journal or on standard error. The
/// log need not have been set up.
pub fn refuse(service: &Service, reason: &'static str, lines: &[String]) {
    service.status(&format!("cannot start: {}", lines.join("; ")));
    if !logging::has_journal() {
        for line in lines {
            eprintln!("kubelet: {line}");
        }
        return;
    }
    // It may have been set up before.
    let _ = logging::init(&logging::Settings::default());
    for line in lines {
        tracing::error!(reason, "cannot start: {line}");
    }
}
