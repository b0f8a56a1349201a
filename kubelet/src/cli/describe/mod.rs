//! `kubelet describe pod`: all that matters of a pod, in kubectl's layout, with its events.

mod containers;
mod lines;
mod volumes;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodSpec, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::arguments::DescribeArguments;
use super::events::{self, Item};
use super::pods::{self, Listed, NO_MIRROR, lasting};
use super::{CliError, Streams};
use crate::server::overview::Overview;
use lines::Lines;

const NONE: &str = "<none>";

pub(super) fn run(
    arguments: &DescribeArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    let namespace = arguments.scope.namespace();
    let mut shown = pods::list(&socket)?;
    shown.retain(|pod| namespace.is_none_or(|namespace| pod.namespace() == namespace));
    let place = namespace.map_or_else(String::new, |namespace| {
        format!(" in namespace {namespace:?}")
    });
    if let Some(name) = &arguments.name {
        // As kubectl: the one of that name, or all whose names begin so.
        if shown.iter().any(|pod| pod.is_called(name)) {
            shown.retain(|pod| pod.is_called(name));
        } else {
            shown.retain(|pod| pod.name().starts_with(name.as_str()));
        }
        if shown.is_empty() {
            return Err(CliError::NotFound(format!(
                "pods {name:?} not found{place}"
            )));
        }
    }
    if shown.is_empty() {
        return streams.remark(&format!("No resources found{place}."));
    }
    let events = events::of_node(&socket)?;
    let overview: Overview = pods::read(&socket, "/status")?;
    pods::mark_stale(shown.iter_mut(), &overview);
    let texts = shown.iter().map(|pod| {
        let remarks = Remarks {
            step: pod.step(&overview).map(lasting),
            lacks_mirror: pod.lacks_mirror(&overview),
        };
        text(pod, &events, remarks, now)
    });
    let texts: Vec<String> = texts.collect();
    streams.print(&texts.join("\n\n"))
}

/// What the agent says of a pod besides.
#[derive(Default)]
struct Remarks {
    /// What it is at.
    step: Option<String>,
    lacks_mirror: bool,
}

fn text(listed: &Listed, events: &[Item], remarks: Remarks, now: Timestamp) -> String {
    let pod = &listed.pod;
    let none = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&none.0);
    let status = pod.status.as_ref().unwrap_or(&none.1);
    let mut lines = Lines::default();
    head(&mut lines, listed, spec, status, remarks);
    let specs = spec.init_containers.as_deref().unwrap_or_default();
    if !specs.is_empty() {
        let statuses = status
            .init_container_statuses
            .as_deref()
            .unwrap_or_default();
        lines.title(0, "Init Containers");
        containers::write(&mut lines, specs, statuses);
    }
    lines.title(0, "Containers");
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    containers::write(&mut lines, &spec.containers, statuses);
    if let Some(conditions) = &status.conditions {
        lines.title(0, "Conditions");
        lines.row(1, "Type", "Status");
        for condition in conditions {
            lines.row(1, &condition.type_, &condition.status);
        }
    }
    volumes::write(&mut lines, spec.volumes.as_deref().unwrap_or_default());
    lines.entry(0, "QoS Class", status.qos_class.as_deref().unwrap_or(NONE));
    pairs(
        &mut lines,
        "Node-Selectors",
        spec.node_selector.as_ref(),
        "=",
    );
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    lines.list("Tolerations", tolerations.iter().map(toleration));
    let mut text = lines.finish();
    let uid = pod.metadata.uid.as_deref();
    let own: Vec<&Item> = events
        .iter()
        .filter(|event| event.is_of(uid, listed.name()))
        .collect();
    text.push_str(&events::of_pod(&own, now));
    text
}

fn head(lines: &mut Lines, listed: &Listed, spec: &PodSpec, status: &PodStatus, remarks: Remarks) {
    let pod = &listed.pod;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    lines.entry(0, "Name", text(&pod.metadata.name));
    lines.entry(0, "Namespace", text(&pod.metadata.namespace));
    if let Some(priority) = spec.priority {
        lines.entry(0, "Priority", priority.to_string());
    }
    if let Some(class) = &spec.priority_class_name {
        lines.entry(0, "Priority Class Name", class);
    }
    if let Some(class) = &spec.runtime_class_name {
        lines.entry(0, "Runtime Class Name", class);
    }
    if let Some(account) = &spec.service_account_name {
        lines.entry(0, "Service Account", account);
    }
    let node = text(&spec.node_name);
    lines.entry(
        0,
        "Node",
        match &status.host_ip {
            Some(ip) => format!("{node}/{ip}"),
            None => node,
        },
    );
    if let Some(time) = &status.start_time {
        lines.entry(0, "Start Time", date(time));
    }
    pairs(lines, "Labels", pod.metadata.labels.as_ref(), "=");
    pairs(
        lines,
        "Annotations",
        pod.metadata.annotations.as_ref(),
        ": ",
    );
    match (&pod.metadata.deletion_timestamp, &status.phase) {
        (Some(time), phase)
            if phase.as_deref() != Some("Failed") && phase.as_deref() != Some("Succeeded") =>
        {
            lines.entry(0, "Status", format!("Terminating (since {})", date(time)));
            let period = pod
                .metadata
                .deletion_grace_period_seconds
                .unwrap_or_default();
            lines.entry(0, "Termination Grace Period", format!("{period}s"));
        }
        (_, phase) => lines.entry(0, "Status", text(phase)),
    }
    for (key, value) in [("Reason", &status.reason), ("Message", &status.message)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            lines.entry(0, key, value);
        }
    }
    if listed.stale {
        // Not kubectl's either.
        lines.entry(
            0,
            "Stale",
            "the API server is not heard: this is the pod as it was known before the agent began",
        );
    }
    if remarks.lacks_mirror {
        // Nor is this.
        lines.entry(0, "Mirror Pod", format!("none: {NO_MIRROR}"));
    }
    if let Some(step) = remarks.step {
        // Not kubectl's: what the agent is at, such as the pull of an image.
        lines.entry(0, "Agent", step);
    }
    lines.entry(0, "IP", text(&status.pod_ip));
    match status.pod_ips.as_deref().unwrap_or_default() {
        [] => lines.entry(0, "IPs", NONE),
        ips => {
            lines.title(0, "IPs");
            for ip in ips {
                lines.entry(1, "IP", &ip.ip);
            }
        }
    }
    let owners = pod.metadata.owner_references.iter().flatten();
    if let Some(owner) = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true))
    {
        lines.entry(0, "Controlled By", format!("{}/{}", owner.kind, owner.name));
    }
}

/// A map, a line a pair.
fn pairs(lines: &mut Lines, key: &str, map: Option<&BTreeMap<String, String>>, between: &str) {
    let pairs = map.into_iter().flatten();
    lines.list(
        key,
        pairs.map(|(name, value)| format!("{name}{between}{}", value.trim())),
    );
}

/// `key=value:effect op=Exists for 300s`, as kubectl writes it.
fn toleration(toleration: &Toleration) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let (key, value, effect) = (
        part(&toleration.key),
        part(&toleration.value),
        part(&toleration.effect),
    );
    let mut text = key;
    if !value.is_empty() {
        text.push('=');
        text.push_str(&value);
    }
    if !effect.is_empty() {
        text.push(':');
        text.push_str(&effect);
    }
    if toleration.operator.as_deref() == Some("Exists") {
        match text.is_empty() {
            true => text.push_str("op=Exists"),
            false => text.push_str(" op=Exists"),
        }
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

/// `Mon, 02 Jan 2006 15:04:05 -0700`, in this machine's time zone.
fn date(time: &Time) -> String {
    let local = time.0.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

#[cfg(test)]
mod tests;
