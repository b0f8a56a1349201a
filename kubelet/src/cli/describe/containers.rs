//! The containers of a description.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, EnvFromSource, EnvVar, ExecAction, HTTPGetAction,
    Probe, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Lines, NONE, date};

pub(super) fn write(lines: &mut Lines, specs: &[Container], statuses: &[ContainerStatus]) {
    for spec in specs {
        let status = statuses.iter().find(|status| status.name == spec.name);
        lines.title(1, &spec.name);
        container(lines, spec, status);
    }
}

fn container(lines: &mut Lines, spec: &Container, status: Option<&ContainerStatus>) {
    let known = |text: Option<&String>| text.cloned().unwrap_or_default();
    lines.entry(
        2,
        "Container ID",
        known(status.and_then(|status| status.container_id.as_ref())),
    );
    lines.entry(2, "Image", known(spec.image.as_ref()));
    lines.entry(2, "Image ID", known(status.map(|status| &status.image_id)));
    ports(lines, spec);
    for (title, words) in [("Command", &spec.command), ("Args", &spec.args)] {
        let words = words.as_deref().unwrap_or_default();
        if !words.is_empty() {
            lines.title(2, title);
            for line in words.iter().flat_map(|word| word.split('\n')) {
                lines.line(3, line);
            }
        }
    }
    if let Some(status) = status {
        let none = ContainerState::default();
        state(lines, "State", status.state.as_ref().unwrap_or(&none));
        if let Some(last) = status.last_state.as_ref().filter(|last| **last != none) {
            state(lines, "Last State", last);
        }
        lines.entry(2, "Ready", if status.ready { "True" } else { "False" });
        lines.entry(2, "Restart Count", status.restart_count.to_string());
    }
    if let Some(resources) = &spec.resources {
        quantities(lines, "Limits", resources.limits.as_ref());
        quantities(lines, "Requests", resources.requests.as_ref());
    }
    for (title, found) in [
        ("Liveness", &spec.liveness_probe),
        ("Readiness", &spec.readiness_probe),
        ("Startup", &spec.startup_probe),
    ] {
        if let Some(found) = found {
            lines.entry(2, title, probe(found));
        }
    }
    environment(lines, spec);
    mounts(lines, spec.volume_mounts.as_deref().unwrap_or_default());
}

fn ports(lines: &mut Lines, spec: &Container) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let named = |number: &dyn Fn(usize) -> i32| {
        let all = (0..ports.len()).map(|index| {
            let port = &ports[index];
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.name.as_deref() {
                Some(name) if number(index) == port.container_port => {
                    format!("{}/{protocol} ({name})", number(index))
                }
                _ => format!("{}/{protocol}", number(index)),
            }
        });
        all.collect::<Vec<_>>().join(", ")
    };
    let plural = if ports.len() > 1 { "s" } else { "" };
    let (inside, outside) = match ports.is_empty() {
        true => (NONE.to_owned(), NONE.to_owned()),
        false => (
            named(&|index| ports[index].container_port),
            named(&|index| ports[index].host_port.unwrap_or_default()),
        ),
    };
    lines.entry(2, &format!("Port{plural}"), inside);
    lines.entry(2, &format!("Host Port{plural}"), outside);
}

fn state(lines: &mut Lines, title: &str, state: &ContainerState) {
    if let Some(running) = &state.running {
        lines.entry(2, title, "Running");
        if let Some(time) = &running.started_at {
            lines.entry(3, "Started", date(time));
        }
        return;
    }
    if let Some(ended) = &state.terminated {
        lines.entry(2, title, "Terminated");
        for (key, value) in [("Reason", &ended.reason), ("Message", &ended.message)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                lines.entry(3, key, value);
            }
        }
        lines.entry(3, "Exit Code", ended.exit_code.to_string());
        if let Some(signal) = ended.signal.filter(|signal| *signal > 0) {
            lines.entry(3, "Signal", signal.to_string());
        }
        for (key, time) in [
            ("Started", &ended.started_at),
            ("Finished", &ended.finished_at),
        ] {
            if let Some(time) = time {
                lines.entry(3, key, date(time));
            }
        }
        return;
    }
    lines.entry(2, title, "Waiting");
    let waiting = state.waiting.clone().unwrap_or_default();
    for (key, value) in [("Reason", waiting.reason), ("Message", waiting.message)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines.entry(3, key, value);
        }
    }
}

fn quantities(lines: &mut Lines, title: &str, amounts: Option<&BTreeMap<String, Quantity>>) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else {
        return;
    };
    lines.title(2, title);
    for (name, amount) in amounts {
        lines.entry(3, name, &amount.0);
    }
}

/// `http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3`.
fn probe(probe: &Probe) -> String {
    let number = |value: Option<i32>, default: i32| value.unwrap_or(default);
    let times = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number(probe.initial_delay_seconds, 0),
        number(probe.timeout_seconds, 1),
        number(probe.period_seconds, 10),
        number(probe.success_threshold, 1),
        number(probe.failure_threshold, 3),
    );
    let what = match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
        (Some(exec), ..) => format!("exec [{}]", words(exec)),
        (_, Some(get), ..) => format!("http-get {}", url(get)),
        (_, _, Some(socket), _) => {
            let host = socket.host.as_deref().unwrap_or_default();
            format!("tcp-socket {host}:{}", port(&socket.port))
        }
        (_, _, _, Some(grpc)) => {
            let service = grpc.service.as_deref().unwrap_or_default();
            format!("grpc <pod>:{} {service}", grpc.port)
        }
        _ => "unknown".to_owned(),
    };
    format!("{} {times}", what.trim_end())
}

fn words(exec: &ExecAction) -> String {
    exec.command.clone().unwrap_or_default().join(" ")
}

fn url(get: &HTTPGetAction) -> String {
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.as_deref().unwrap_or_default();
    let path = path.strip_prefix('/').unwrap_or(path);
    format!(
        "{scheme}://{}:{}/{path}",
        get.host.as_deref().unwrap_or_default(),
        port(&get.port)
    )
}

fn port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn environment(lines: &mut Lines, spec: &Container) {
    let from = spec.env_from.as_deref().unwrap_or_default();
    if !from.is_empty() {
        lines.title(2, "Environment Variables from");
        for source in from {
            let (name, kind, optional) = of(source);
            let prefix = source.prefix.as_deref().filter(|prefix| !prefix.is_empty());
            let prefix =
                prefix.map_or_else(String::new, |prefix| format!(" with prefix '{prefix}'"));
            lines.row(3, name, format!("{kind}{prefix}  Optional: {optional}"));
        }
    }
    let env = spec.env.as_deref().unwrap_or_default();
    if env.is_empty() {
        lines.entry(2, "Environment", NONE);
        return;
    }
    lines.title(2, "Environment");
    for variable in env {
        lines.entry(3, &variable.name, value(variable));
    }
}

fn of(source: &EnvFromSource) -> (&str, &'static str, bool) {
    match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), _) => (&map.name, "ConfigMap", map.optional.unwrap_or_default()),
        (_, Some(secret)) => (&secret.name, "Secret", secret.optional.unwrap_or_default()),
        _ => ("", "unknown", false),
    }
}

fn value(variable: &EnvVar) -> String {
    let Some(from) = &variable.value_from else {
        return variable.value.clone().unwrap_or_default();
    };
    if let Some(field) = &from.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        return format!("({version}:{})", field.field_path);
    }
    if let Some(resource) = &from.resource_field_ref {
        let container = resource
            .container_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let container = container.map_or_else(String::new, |name| format!("{name} "));
        return format!("{container}({})", resource.resource);
    }
    let keyed = |key: &str, kind: &str, name: &str, optional: Option<bool>| {
        format!(
            "<set to the key '{key}' {kind} '{name}'>  Optional: {}",
            optional.unwrap_or_default()
        )
    };
    match (
        &from.secret_key_ref,
        &from.config_map_key_ref,
        &from.file_key_ref,
    ) {
        (Some(secret), ..) => keyed(&secret.key, "in secret", &secret.name, secret.optional),
        (_, Some(map), _) => keyed(&map.key, "of config map", &map.name, map.optional),
        (_, _, Some(file)) => keyed(
            &file.key,
            "in a file of volume",
            &file.volume_name,
            file.optional,
        ),
        _ => String::new(),
    }
}

fn mounts(lines: &mut Lines, mounts: &[VolumeMount]) {
    if mounts.is_empty() {
        lines.entry(2, "Mounts", NONE);
        return;
    }
    lines.title(2, "Mounts");
    let mut mounts: Vec<&VolumeMount> = mounts.iter().collect();
    mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
    for mount in mounts {
        let mut flags = vec![
            if mount.read_only == Some(true) {
                "ro"
            } else {
                "rw"
            }
            .to_owned(),
        ];
        let sub = mount.sub_path.as_deref().filter(|path| !path.is_empty());
        flags.extend(sub.map(|path| format!("path={path:?}")));
        lines.line(
            3,
            &format!(
                "{} from {} ({})",
                mount.mount_path,
                mount.name,
                flags.join(",")
            ),
        );
    }
}
