//! `kubelet get pods`: the pods of this node, in kubectl's columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::{Format, GetArguments};
use super::pods::{self, Listed};
use super::summary::Summary;
use super::table::{OF_LISTS, columns};
use super::{CliError, Streams};

pub(super) fn run(
    arguments: &GetArguments,
    streams: &mut Streams<'_>,
    now: Timestamp,
) -> Result<(), CliError> {
    let all = pods::list(&arguments.place.socket())?;
    let namespace = arguments.scope.namespace();
    let mut shown: Vec<&Listed> = all.iter().collect();
    shown.retain(|pod| namespace.is_none_or(|namespace| pod.namespace() == namespace));
    let mut missing = Vec::new();
    if !arguments.names.is_empty() {
        for name in &arguments.names {
            if !shown.iter().any(|pod| pod.is_called(name)) {
                missing.push(name.as_str());
            }
        }
        shown.retain(|pod| arguments.names.iter().any(|name| pod.is_called(name)));
    }
    let text = match arguments.output {
        Some(Format::Json) => whole(&shown, arguments, |value| {
            serde_json::to_string_pretty(value).map_err(|error| error.to_string())
        })?,
        Some(Format::Yaml) => whole(&shown, arguments, |value| {
            serde_saphyr::to_string(value).map_err(|error| error.to_string())
        })?,
        Some(Format::Name) => shown
            .iter()
            .map(|pod| format!("pod/{}\n", pod.name()))
            .collect(),
        wide => table(&shown, arguments, wide.is_some(), now),
    };
    streams.print(&text)?;
    if let Some(name) = missing.first() {
        let place = namespace.map_or_else(String::new, |namespace| {
            format!(" in namespace {namespace:?}")
        });
        return Err(CliError::NotFound(format!(
            "pods {name:?} not found{place}"
        )));
    }
    if shown.is_empty() && arguments.output.is_none_or(|format| format == Format::Wide) {
        streams.remark(&nothing(namespace, all.len()))?;
    }
    Ok(())
}

/// kubectl's word for an empty list, and where there would be more.
fn nothing(namespace: Option<&str>, elsewhere: usize) -> String {
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
    write: impl Fn(&Value) -> Result<String, String>,
) -> Result<String, CliError> {
    let mut items: Vec<Value> = shown.iter().map(|pod| typed(pod.whole.clone())).collect();
    let value = match (arguments.names.len(), items.len()) {
        (1, 1) => items.remove(0),
        _ => {
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
        }
    };
    let text = write(&value).map_err(CliError::Garbled)?;
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
    let all = arguments.scope.all_namespaces;
    let mut rows = Vec::new();
    if !arguments.no_headers {
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
    columns(&rows, OF_LISTS)
}

fn row(listed: &Listed, with_namespace: bool, wide: bool, now: Timestamp) -> Vec<String> {
    let summary = Summary::of(&listed.pod, now);
    let mut row = Vec::new();
    if with_namespace {
        row.push(listed.namespace().to_owned());
    }
    row.push(listed.name().to_owned());
    row.extend([summary.ready, summary.status, summary.restarts, summary.age]);
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
