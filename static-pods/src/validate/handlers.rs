//! Rules for probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Errors, names};

/// The actions of a probe or of a hook.
#[derive(Default)]
struct Actions<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc_port: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

/// What of the pod the rules depend on.
pub(super) struct OfPod<'a> {
    /// Its `terminationGracePeriodSeconds`.
    pub(super) grace: i64,
    /// Its `os.name`, when it says one.
    pub(super) os: Option<&'a str>,
}

/// Probes and hooks of a container that stays: a regular one or a sidecar.
pub(super) fn check(path: &str, container: &Container, pod: &OfPod<'_>, errors: &mut Errors) {
    let grace = pod.grace;
    if let Some(lifecycle) = &container.lifecycle {
        let hooks = [
            ("postStart", &lifecycle.post_start),
            ("preStop", &lifecycle.pre_stop),
        ];
        for (name, hook) in hooks {
            if let Some(hook) = hook {
                actions(
                    &format!("{path}.lifecycle.{name}"),
                    &of_hook(hook),
                    grace,
                    errors,
                );
            }
        }
        if let Some(signal) = &lifecycle.stop_signal {
            stop_signal(
                &format!("{path}.lifecycle.stopSignal"),
                signal,
                pod.os,
                errors,
            );
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (name, probe) in probes {
        if let Some(p) = probe {
            check_probe(&format!("{path}.{name}"), name, p, grace, errors);
        }
    }
}

/// An init container that runs to its end has neither.
pub(super) fn forbid(path: &str, container: &Container, errors: &mut Errors) {
    let fields = [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ];
    for (name, set) in fields {
        if set {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(format!("{path}.{name}"), detail);
        }
    }
}

fn of_hook(hook: &LifecycleHandler) -> Actions<'_> {
    Actions {
        exec: hook.exec.as_ref(),
        http: hook.http_get.as_ref(),
        tcp: hook.tcp_socket.as_ref(),
        grpc_port: None,
        sleep: hook.sleep.as_ref(),
    }
}

fn check_probe(path: &str, kind: &str, probe: &Probe, grace: i64, errors: &mut Errors) {
    let of_probe = Actions {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc_port: probe.grpc.as_ref().map(|g| g.port),
        sleep: None,
    };
    actions(path, &of_probe, grace, errors);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in numbers {
        if let Some(number) = number.filter(|n| *n < 0) {
            let detail = "must be greater than or equal to 0";
            errors.invalid(format!("{path}.{name}"), number, detail);
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let path = format!("{path}.terminationGracePeriodSeconds");
        if seconds <= 0 {
            errors.invalid(path.as_str(), seconds, "must be greater than 0");
        }
        if kind == "readinessProbe" {
            errors.invalid(path, seconds, "must not be set for readinessProbes");
        }
    }
    let successes = probe.success_threshold.unwrap_or(1);
    if kind != "readinessProbe" && successes != 1 {
        errors.invalid(format!("{path}.successThreshold"), successes, "must be 1");
    }
}

fn actions(path: &str, actions: &Actions<'_>, grace: i64, errors: &mut Errors) {
    let set = [
        ("exec", actions.exec.is_some()),
        ("httpGet", actions.http.is_some()),
        ("tcpSocket", actions.tcp.is_some()),
        ("grpc", actions.grpc_port.is_some()),
        ("sleep", actions.sleep.is_some()),
    ];
    let mut kinds = set.iter().filter(|(_, set)| *set).map(|(name, _)| *name);
    let Some(first) = kinds.next() else {
        return errors.required(path, "must specify a handler type");
    };
    for other in kinds {
        errors.forbidden(
            format!("{path}.{other}"),
            "may not specify more than 1 handler type",
        );
    }
    let path = format!("{path}.{first}");
    if let Some(exec) = actions.exec {
        if exec.command.as_ref().is_none_or(Vec::is_empty) {
            errors.required(format!("{path}.command"), "");
        }
    } else if let Some(http) = actions.http {
        check_http(&path, http, errors);
    } else if let Some(tcp) = actions.tcp {
        check_port(&path, &tcp.port, errors);
    } else if let Some(port) = actions.grpc_port {
        check_port(&path, &IntOrString::Int(port), errors);
    } else if let Some(sleep) = actions.sleep
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, sleep.seconds, &detail);
    }
}

fn check_http(path: &str, http: &HTTPGetAction, errors: &mut Errors) {
    errors.present(path, "path", http.path.as_deref().unwrap_or_default());
    check_port(path, &http.port, errors);
    let scheme = http.scheme.as_deref().unwrap_or_default();
    errors.unsupported(format!("{path}.scheme"), scheme, &["HTTP", "HTTPS"]);
    for header in http.http_headers.iter().flatten() {
        let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        if header.name.is_empty() || !header.name.bytes().all(legal) {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                          regex used for validation is '[-A-Za-z0-9]+')";
            errors.invalid(format!("{path}.httpHeaders"), header.name.as_str(), detail);
        }
    }
}

fn check_port(path: &str, port: &IntOrString, errors: &mut Errors) {
    let path = format!("{path}.port");
    match port {
        IntOrString::Int(number) => {
            if let Some(message) = names::port_number(*number) {
                errors.invalid(path, *number, message);
            }
        }
        IntOrString::String(name) => errors.all(&path, name, names::port(name)),
    }
}

/// Linux signals without the real-time ones, in the order of the message.
const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// All signals a Linux container may be stopped with, in the order of the message (KEP-4960).
fn linux_signals() -> Vec<String> {
    let above = (1..=15).map(|n| format!("SIGRTMIN+{n}"));
    let below = (1..=14).map(|n| format!("SIGRTMAX-{n}"));
    let ends = ["SIGRTMAX", "SIGRTMIN"].map(str::to_owned);
    let mut all: Vec<String> = SIGNALS.iter().map(|s| (*s).to_owned()).collect();
    all.extend(above.chain(below).chain(ends));
    all.sort();
    all
}

/// Which signals there are depends on the system, so that the pod must say it.
fn stop_signal(path: &str, signal: &str, os: Option<&str>, errors: &mut Errors) {
    match os {
        None => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.forbidden(path, detail);
        }
        Some("windows") => errors.unsupported(path, signal, &["SIGKILL", "SIGTERM"]),
        Some("linux") => {
            let all = linux_signals();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            errors.unsupported(path, signal, &all);
        }
        Some(_) => {}
    }
}
