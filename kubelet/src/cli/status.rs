//! `kubelet status`: one screen of how the node is, and of each pod that does not run why.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::age;
use super::arguments::StatusArguments;
use super::events::{self, Item};
use super::pods::{self, Listed, NO_MIRROR, lasting};
use super::summary::{Summary, begun, since};
use super::table::{OF_LISTS, columns};
use super::{CliError, Streams};
use crate::server::overview::{Fault, Overview};

/// Reasons of a waiting container that need no remedy, for a while.
const ON_THE_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// A pod that has been on its way for longer, in seconds, is one that does not run.
const LONG: i64 = 60;
/// How many refused places are shown.
const MOST_FAULTS: usize = 10;

pub(super) fn run(
    arguments: &StatusArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    let overview: Overview = pods::read(&socket, "/status")?;
    let (mut pods, events) = (pods::list(&socket)?, events::of_node(&socket)?);
    pods::mark_stale(pods.iter_mut(), &overview);
    streams.print(&screen(&overview, &pods, &events, now))
}

/// How a pod is.
enum Condition {
    Runs,
    Ended,
    Starts,
    /// Why it does not run, line by line.
    Fails(Vec<String>),
}

fn screen(overview: &Overview, pods: &[Listed], events: &[Item], now: Timestamp) -> String {
    let up = age::short(i64::try_from(overview.up_seconds).unwrap_or(i64::MAX));
    let mut text = format!("kubelet {} on {}, up {up}", overview.version, overview.node);
    match &overview.unhealthy {
        None => text.push_str(", healthy\n"),
        Some(why) => text.push_str(&format!(", not healthy: {why}\n")),
    }
    let mut rows = vec![vec!["Runtime:".to_owned(), runtime(overview)]];
    rows.push(vec!["Manifests:".to_owned(), manifests(overview)]);
    let cluster = overview.kubeconfig.as_ref();
    let stale = pods.iter().any(|pod| pod.stale);
    let heard = if stale {
        "; not heard since the agent began"
    } else {
        ""
    };
    let cluster = cluster.map_or_else(
        || "none: this node stands alone".to_owned(),
        |path| format!("by {}{heard}", path.display()),
    );
    rows.push(vec!["API server:".to_owned(), cluster]);

    let (mut runs, mut starts, mut ended) = (0, 0, 0);
    let mut failing = Vec::new();
    for pod in pods {
        match condition(pod, overview, events, now) {
            Condition::Runs => runs += 1,
            Condition::Starts => starts += 1,
            Condition::Ended => ended += 1,
            Condition::Fails(why) => failing.push((pod, why)),
        }
    }
    let counts = [
        (runs, "running"),
        (starts, "starting"),
        (ended, "ended"),
        (failing.len(), "not running"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    rows.push(vec![
        "Pods:".to_owned(),
        match counts.is_empty() {
            true => "none".to_owned(),
            false => counts.join(", "),
        },
    ]);
    text.push_str(&columns(&rows, OF_LISTS));

    if !overview.certificates.is_empty() {
        text.push_str("\nCertificates:\n");
    }
    for trouble in &overview.certificates {
        text.push_str(&format!("  {trouble}\n"));
    }
    if !failing.is_empty() {
        text.push_str("\nNot running:\n");
    }
    for (pod, why) in failing {
        let summary = Summary::of(&pod.pod, now);
        let name = format!("{}/{}", pod.namespace(), pod.name());
        text.push_str(&format!(
            "  {name}   {} (for {})\n",
            summary.status, summary.age
        ));
        for line in why {
            text.push_str(&format!("    {line}\n"));
        }
    }
    if stale {
        text.push_str("\nStale (as they were known before the agent began):\n");
    }
    for pod in pods.iter().filter(|pod| pod.stale) {
        text.push_str(&format!("  {}/{}\n", pod.namespace(), pod.name()));
    }
    let bare: Vec<_> = pods
        .iter()
        .filter(|pod| pod.lacks_mirror(overview))
        .collect();
    if !bare.is_empty() {
        text.push_str(&format!("\nWithout a mirror pod ({NO_MIRROR}):\n"));
    }
    for pod in bare {
        text.push_str(&format!("  {}/{}\n", pod.namespace(), pod.name()));
    }
    if !overview.stuck.is_empty() {
        text.push_str("\nTo end, and not ended in their time:\n");
    }
    for stuck in &overview.stuck {
        text.push_str(&format!("  {}: {}\n", stuck.pod, stuck.why));
    }
    if let Some(found) = &overview.manifests {
        faults(&mut text, "Refused manifests", &found.refused);
        faults(&mut text, "Odd in manifests", &found.odd);
    }
    text
}

fn runtime(overview: &Overview) -> String {
    let path = overview.runtime.display();
    match &overview.runtime_away {
        None => format!("{path}, answers"),
        Some(why) => format!("{path} does not answer: {why}"),
    }
}

fn manifests(overview: &Overview) -> String {
    let Some(found) = &overview.manifests else {
        return "none: staticPodPath is not set".to_owned();
    };
    let mut text = format!("{}, ", found.path.display());
    if !overview.sources_read {
        text.push_str("still being read");
        return text;
    }
    text.push_str(&match found.pods {
        1 => "1 pod".to_owned(),
        many => format!("{many} pods"),
    });
    match found.objects {
        0 => {}
        1 => text.push_str(", 1 object"),
        many => text.push_str(&format!(", {many} objects")),
    }
    match found.refused.len() {
        0 => {}
        1 => text.push_str(", 1 fault"),
        many => text.push_str(&format!(", {many} faults")),
    }
    text
}

fn faults(text: &mut String, title: &str, faults: &[Fault]) {
    if faults.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}:\n"));
    for fault in faults.iter().take(MOST_FAULTS) {
        text.push_str(&format!("  {}: {}\n", fault.place, fault.message));
    }
    if faults.len() > MOST_FAULTS {
        let more = faults.len() - MOST_FAULTS;
        text.push_str(&format!("  and {more} more: see 'kubelet validate'\n"));
    }
}

fn condition(listed: &Listed, overview: &Overview, events: &[Item], now: Timestamp) -> Condition {
    let pod = &listed.pod;
    let uid = pod.metadata.uid.as_deref();
    let step = listed.step(overview).map(|step| {
        // The call stands behind what waits for the runtime.
        let waits = match step.what.ends_with(')') {
            true => "; the runtime has not answered yet",
            false => "",
        };
        format!("the agent {}{waits}", lasting(step))
    });
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Succeeded" {
        return Condition::Ended;
    }
    let mut why = Vec::new();
    if let Some(reason) = &status.reason {
        let message = status.message.as_deref().unwrap_or_default();
        why.push(format!("{reason}: {message}"));
    }
    let init = status.init_container_statuses.iter().flatten();
    let containers = init.chain(status.container_statuses.iter().flatten());
    why.extend(containers.filter_map(|container| wrong(container, now)));
    let ready = status.conditions.iter().flatten();
    let mut ready = ready.filter(|condition| condition.type_ == "Ready");
    let ready = ready.any(|condition| condition.status == "True");
    let young = begun(pod).is_none_or(|time| now.duration_since(time).as_secs() < LONG);
    if why.is_empty() && phase == "Failed" {
        why.push("it has ended, and not well".to_owned());
    } else if why.is_empty() && ready {
        return Condition::Runs;
    } else if why.is_empty() && young && step.is_none() {
        return Condition::Starts;
    } else if why.is_empty() && phase == "Running" && step.is_none() {
        why.push("it runs and is not ready".to_owned());
    }
    why.extend(step);
    // What was said of it last tells most where the status tells little.
    let warning = events
        .iter()
        .rev()
        .find(|event| event.is_warning() && event.is_of(uid, listed.name()));
    if let Some(event) = warning {
        why.push(format!("last warning: {}", event.told(now)));
    }
    Condition::Fails(why)
}

/// What is wrong with a container; nothing when it runs, has ended well, or is on its way.
fn wrong(container: &ContainerStatus, now: Timestamp) -> Option<String> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if reason.is_empty() || ON_THE_WAY.contains(&reason) {
            return None;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        let last = container
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        let last = last.map_or_else(String::new, |ended| {
            let ago = ended.finished_at.as_ref();
            let ago = ago.map_or_else(String::new, |time| format!(" {} ago", since(time.0, now)));
            let restarts = container.restart_count;
            format!(
                " (last exit code {}{ago}, {restarts} restarts)",
                ended.exit_code
            )
        });
        return Some(format!("{name}: {reason}: {message}{last}"));
    }
    let ended = state
        .terminated
        .as_ref()
        .filter(|ended| ended.exit_code != 0)?;
    let reason = ended.reason.as_deref().unwrap_or("ended");
    let message = ended.message.as_deref().unwrap_or_default();
    Some(
        format!("{name}: {reason}, exit code {} {message}", ended.exit_code)
            .trim_end()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests;
