//! `kubelet get pods`: the pods of this node, in kubectl's columns, and as they change.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::arguments::{Format, GetArguments};
use super::pods::{self, Listed, PULLS, lasting};
use super::summary::Summary;
use super::table::{Columns, OF_LISTS, columns};
use super::watching::{Changes, Kind};
use super::{CliError, Streams};
use crate::server::overview::Overview;

pub(super) fn run(
    arguments: &GetArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    if arguments.watch {
        let changes = Changes::of(&socket, "/watch/pods")?;
        return watch(changes, &socket, arguments, streams);
    }
    let mut all = pods::list(&socket)?;
    mark_stale(&mut all, &socket);
    let namespace = arguments.scope.namespace();
    let mut shown: Vec<&Listed> = all.iter().collect();
    shown.retain(|pod| is_wanted(pod, arguments));
    let text = match arguments.output {
        Some(Format::Json) => whole(&shown, arguments, json_text)?,
        Some(Format::Yaml) => whole(&shown, arguments, yaml_text)?,
        Some(Format::Name) => shown.iter().map(|pod| name_line(pod)).collect(),
        wide => table(&shown, arguments, wide.is_some(), now),
    };
    streams.print(&text)?;
    all_there(&shown, arguments)?;
    if arguments.output.is_none_or(|format| format == Format::Wide) {
        if shown.is_empty() {
            streams.remark(&nothing(namespace, all.len()))?;
        }
        for line in pulls(&shown, &socket) {
            streams.remark(&line)?;
        }
    }
    Ok(())
}

/// Marks the pods that go on without the API server's word. An agent that does not say is one that has none.
fn mark_stale(pods: &mut [Listed], socket: &Path) {
    if let Ok(overview) = pods::read::<Overview>(socket, "/status") {
        pods::mark_stale(pods.iter_mut(), &overview);
    }
}

fn is_wanted(pod: &Listed, arguments: &GetArguments) -> bool {
    let mut names = arguments.names.iter();
    let namespace = arguments.scope.namespace();
    namespace.is_none_or(|namespace| pod.namespace() == namespace)
        && (arguments.names.is_empty() || names.any(|name| pod.is_called(name)))
}

/// Whether each pod that was named is there.
fn all_there(shown: &[&Listed], arguments: &GetArguments) -> Result<(), CliError> {
    let there = |name: &str| shown.iter().any(|pod| pod.is_called(name));
    let Some(name) = arguments.names.iter().find(|name| !there(name)) else {
        return Ok(());
    };
    let namespace = arguments.scope.namespace();
    let place = namespace.map_or_else(String::new, |namespace| {
        format!(" in namespace {namespace:?}")
    });
    Err(CliError::NotFound(format!(
        "pods {name:?} not found{place}"
    )))
}

/// Which images are being pulled for pods that have not begun, and for how long: the table, being kubectl's, has no place
/// for that.
fn pulls(shown: &[&Listed], socket: &Path) -> Vec<String> {
    let begins = |pod: &&&Listed| {
        let status = pod.pod.status.as_ref();
        status.is_some_and(|status| status.phase.as_deref() == Some("Pending"))
    };
    let mut pending = shown.iter().filter(begins).peekable();
    if pending.peek().is_none() {
        return Vec::new();
    }
    // Nothing is lost with a remark that cannot be made.
    let Ok(overview) = pods::read::<Overview>(socket, "/status") else {
        return Vec::new();
    };
    let pulls = pending.filter_map(|pod| {
        let step = pod.step(&overview)?;
        let pulls = step.what.starts_with(PULLS);
        pulls.then(|| format!("{}: the agent {}", pod.name(), lasting(step)))
    });
    pulls.collect()
}

/// Prints what there is, and then each change, until the agent goes.
fn watch(
    mut changes: Changes,
    socket: &Path,
    arguments: &GetArguments,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let mut printer = Printer::new(arguments);
    let mut first = Some(Vec::new());
    loop {
        let change = changes.next()?;
        let now = crate::clock::system_wall();
        let mut pod = match change.kind {
            Kind::Bookmark => {
                let mut first = first.take().unwrap_or_default();
                first.sort_by(|a: &Listed, b| {
                    (a.namespace(), a.name()).cmp(&(b.namespace(), b.name()))
                });
                mark_stale(&mut first, socket);
                let first: Vec<&Listed> = first.iter().collect();
                streams.print(&printer.text(&first, now)?)?;
                all_there(&first, arguments)?;
                continue;
            }
            Kind::Error => {
                streams.remark(&change.object.to_string())?;
                continue;
            }
            Kind::Added | Kind::Modified | Kind::Deleted => Listed::of(change.object)?,
        };
        if !is_wanted(&pod, arguments) {
            continue;
        }
        if change.kind == Kind::Deleted {
            // The agent shows a pod whose manifest is gone no longer; it ends.
            let deleted = &mut pod.pod.metadata.deletion_timestamp;
            deleted.get_or_insert(Time(now));
        }
        match &mut first {
            Some(first) => first.push(pod),
            None => {
                mark_stale(std::slice::from_mut(&mut pod), socket);
                streams.print(&printer.text(&[&pod], now)?)?;
            }
        }
    }
}

/// Pods as they are printed one after the other.
struct Printer<'a> {
    arguments: &'a GetArguments,
    columns: Columns,
    /// The line of headings is still to come.
    headless: bool,
}

impl<'a> Printer<'a> {
    fn new(arguments: &'a GetArguments) -> Self {
        Self {
            arguments,
            columns: Columns::new(OF_LISTS),
            headless: !arguments.no_headers,
        }
    }

    fn text(&mut self, pods: &[&Listed], now: Timestamp) -> Result<String, CliError> {
        if pods.is_empty() {
            return Ok(String::new());
        }
        let mut text = String::new();
        match self.arguments.output {
            Some(Format::Json) => {
                for pod in pods {
                    text.push_str(&json_text(&typed(pod.whole.clone()))?);
                    text.push('\n');
                }
            }
            Some(Format::Yaml) => {
                for pod in pods {
                    text.push_str("---\n");
                    text.push_str(yaml_text(&typed(pod.whole.clone()))?.trim_end());
                    text.push('\n');
                }
            }
            Some(Format::Name) => text.extend(pods.iter().map(|pod| name_line(pod))),
            None | Some(Format::Wide) => {
                let wide = self.arguments.output.is_some();
                let head = std::mem::take(&mut self.headless);
                let rows = rows(pods, self.arguments, (wide, head), now);
                text = self.columns.lines(&rows);
            }
        }
        Ok(text)
    }
}

fn name_line(pod: &Listed) -> String {
    format!("pod/{}\n", pod.name())
}

fn json_text(value: &Value) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|error| CliError::Garbled(error.to_string()))
}

fn yaml_text(value: &Value) -> Result<String, CliError> {
    serde_saphyr::to_string(value).map_err(|error| CliError::Garbled(error.to_string()))
}

/// kubectl's word for an empty list, and where there would be more.
pub(super) fn nothing(namespace: Option<&str>, elsewhere: usize) -> String {
    match (namespace, elsewhere) {
        (None, _) => "No resources found".to_owned(),
        (Some(namespace), 0) => format!("No resources found in {namespace} namespace."),
        (Some(namespace), 1) => {
            format!("No resources found in {namespace} namespace. (-A shows one in another.)")
        }
        (Some(namespace), n) => {
            format!("No resources found in {namespace} namespace. (-A shows {n} in others.)")
        }
    }
}

/// One object when one was asked for by name, otherwise a list, as kubectl has it.
fn whole(
    shown: &[&Listed],
    arguments: &GetArguments,
    write: fn(&Value) -> Result<String, CliError>,
) -> Result<String, CliError> {
    let mut items: Vec<Value> = shown.iter().map(|pod| typed(pod.whole.clone())).collect();
    let value = match (arguments.names.len(), items.len()) {
        (1, 1) => items.remove(0),
        _ => {
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        }
    };
    let text = write(&value)?;
    Ok(format!("{}\n", text.trim_end()))
}

/// Items of a list come without their type.
fn typed(mut object: Value) -> Value {
    object["apiVersion"] = "v1".into();
    object["kind"] = "Pod".into();
    object
}

fn table(shown: &[&Listed], arguments: &GetArguments, wide: bool, now: Timestamp) -> String {
    if shown.is_empty() {
        return String::new();
    }
    let head = !arguments.no_headers;
    columns(&rows(shown, arguments, (wide, head), now), OF_LISTS)
}

fn rows(
    shown: &[&Listed],
    arguments: &GetArguments,
    (wide, with_head): (bool, bool),
    now: Timestamp,
) -> Vec<Vec<String>> {
    let all = arguments.scope.all_namespaces;
    let mut rows = Vec::new();
    if with_head {
        let mut head = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
        if all {
            head.insert(0, "NAMESPACE");
        }
        if wide {
            head.extend(["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
        }
        rows.push(head.into_iter().map(str::to_owned).collect());
    }
    rows.extend(shown.iter().map(|pod| row(pod, all, wide, now)));
    rows
}

fn row(listed: &Listed, with_namespace: bool, wide: bool, now: Timestamp) -> Vec<String> {
    let summary = Summary::of(&listed.pod, now);
    let mut row = Vec::new();
    if with_namespace {
        row.push(listed.namespace().to_owned());
    }
    row.push(listed.name().to_owned());
    let status = match listed.stale {
        // As kubectl joins what it says of nodes: no column more for whoever reads columns.
        true => format!("{},Stale", summary.status),
        false => summary.status,
    };
    row.extend([summary.ready, status, summary.restarts, summary.age]);
    if wide {
        let status = listed.pod.status.as_ref();
        let or_none = |text: Option<&String>| match text {
            Some(text) if !text.is_empty() => text.clone(),
            _ => "<none>".to_owned(),
        };
        row.push(or_none(status.and_then(|status| status.pod_ip.as_ref())));
        let spec = listed.pod.spec.as_ref();
        row.push(or_none(spec.and_then(|spec| spec.node_name.as_ref())));
        row.push(or_none(
            status.and_then(|status| status.nominated_node_name.as_ref()),
        ));
        row.push(gates(listed));
    }
    row
}

/// How many of the pod's readiness gates are open, `1/2`.
fn gates(listed: &Listed) -> String {
    let gates = listed
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_deref());
    let Some(gates) = gates.filter(|gates| !gates.is_empty()) else {
        return "<none>".to_owned();
    };
    let conditions = listed
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let open = gates.iter().filter(|gate| {
        let mut conditions = conditions.iter();
        conditions.any(|found| found.type_ == gate.condition_type && found.status == "True")
    });
    format!("{}/{}", open.count(), gates.len())
}

#[cfg(test)]
mod tests;
