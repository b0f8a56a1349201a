//! `kubelet top`: what pods and the node use, in kubectl's columns.
//!
//! The numbers are those that metrics-server scrapes (`/metrics/resource`), read twice: memory is the working set, and the
//! use of the processor what was used from one reading to the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::arguments::{SortBy, TopNodeArguments, TopPodsArguments};
use super::get::nothing;
use super::table::{OF_LISTS, columns};
use super::{CliError, Streams, pods};
use crate::server::overview::Overview;

/// From one reading to the other.
const BETWEEN: Duration = Duration::from_secs(1);
const PATH: &str = "/metrics/resource";
/// Bytes of the unit that memory is shown in.
const MEBIBYTE: u64 = 1 << 20;

pub(super) fn pods(
    arguments: &TopPodsArguments,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    let called = match &arguments.name {
        Some(name) => Some((name, pods::read::<Overview>(&socket, "/status")?.node)),
        None => None,
    };
    let readings = Readings::take(&socket)?;
    let all = readings.pods();
    let namespace = arguments.scope.namespace();
    let mut shown: Vec<&PodUse> = all.iter().collect();
    shown.retain(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace));
    if let Some((name, node)) = called {
        shown.retain(|pod| pod.name == *name || pod.name == format!("{name}-{node}"));
        if shown.is_empty() {
            let place = namespace.map_or_else(String::new, |namespace| {
                format!(" in namespace {namespace:?}")
            });
            return Err(CliError::NotFound(format!(
                "nothing is measured of a pod {name:?}{place}: none of its containers runs, or there is none of that name"
            )));
        }
    }
    if shown.is_empty() {
        return streams.remark(&nothing(namespace, all.len()));
    }
    streams.print(&table(shown, arguments))
}

pub(super) fn node(
    arguments: &TopNodeArguments,
    streams: &mut Streams<'_>,
) -> Result<(), CliError> {
    let socket = arguments.place.socket();
    let overview: Overview = pods::read(&socket, "/status")?;
    let used = Readings::take(&socket)?.node();
    let used = used.ok_or_else(|| CliError::Garbled("it has no numbers of the node".to_owned()))?;
    streams.print(&node_table(&overview, used, arguments.no_headers))
}

/// What is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    /// Thousandths of a core.
    cpu: u64,
    /// Bytes.
    memory: u64,
}

impl Use {
    fn by(self, key: SortBy) -> u64 {
        match key {
            SortBy::Cpu => self.cpu,
            SortBy::Memory => self.memory,
        }
    }

    fn cells(self) -> [String; 2] {
        [
            format!("{}m", self.cpu),
            format!("{}Mi", self.memory / MEBIBYTE),
        ]
    }
}

/// What a pod uses.
struct PodUse {
    namespace: String,
    name: String,
    /// What each of its containers does, by name.
    containers: Vec<(String, Use)>,
}

impl PodUse {
    /// As kubectl has it, that of the containers in sum.
    fn sum(&self) -> Use {
        let used = self.containers.iter().map(|(_, used)| *used);
        used.fold(Use::default(), |sum, one| Use {
            cpu: sum.cpu + one.cpu,
            memory: sum.memory + one.memory,
        })
    }
}

fn table(mut shown: Vec<&PodUse>, arguments: &TopPodsArguments) -> String {
    if let Some(key) = arguments.sort_by {
        shown.sort_by_key(|pod| std::cmp::Reverse(pod.sum().by(key)));
    }
    let mut rows = Vec::new();
    if !arguments.no_headers {
        rows.push(vec!["NAMESPACE"]);
        rows[0].extend(match arguments.containers {
            true => &["POD", "NAME"][..],
            false => &["NAME"],
        });
        rows[0].extend(["CPU(cores)", "MEMORY(bytes)"]);
    }
    let mut rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(str::to_owned).collect())
        .collect();
    for pod in shown {
        let names = [pod.namespace.clone(), pod.name.clone()];
        if !arguments.containers {
            rows.push([&names[..], &pod.sum().cells()].concat());
            continue;
        }
        let mut containers: Vec<&(String, Use)> = pod.containers.iter().collect();
        if let Some(key) = arguments.sort_by {
            containers.sort_by_key(|(_, used)| std::cmp::Reverse(used.by(key)));
        }
        for (container, used) in containers {
            rows.push([&names[..], std::slice::from_ref(container), &used.cells()].concat());
        }
    }
    if !arguments.scope.all_namespaces {
        for row in &mut rows {
            row.remove(0);
        }
    }
    columns(&rows, OF_LISTS)
}

fn node_table(overview: &Overview, used: Use, no_headers: bool) -> String {
    let percent = |part: u64, whole: Option<i64>| {
        let whole = whole.and_then(|whole| u64::try_from(whole).ok());
        match whole.filter(|whole| *whole > 0) {
            Some(whole) => format!("{}%", part.saturating_mul(100) / whole),
            None => "<unknown>".to_owned(),
        }
    };
    let allocatable = overview.allocatable.as_ref();
    let [cpu, memory] = used.cells();
    let row = vec![
        overview.node.clone(),
        cpu,
        percent(used.cpu, allocatable.map(|all| all.cpu)),
        memory,
        percent(used.memory, allocatable.map(|all| all.memory)),
    ];
    let head = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let head = head.map(str::to_owned).to_vec();
    match no_headers {
        true => columns(&[row], OF_LISTS),
        false => columns(&[head, row], OF_LISTS),
    }
}

/// One reading of a cgroup.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// Seconds of the processor, and when that was, in milliseconds.
    cpu: Option<(f64, f64)>,
    memory: Option<f64>,
}

/// Namespace, pod and container; all are empty of the node.
type Of = (String, String, String);

/// Two readings of everything.
struct Readings {
    first: BTreeMap<Of, Reading>,
    second: BTreeMap<Of, Reading>,
}

impl Readings {
    fn take(socket: &Path) -> Result<Self, CliError> {
        let first = parse(&pods::text(socket, PATH)?);
        thread::sleep(BETWEEN);
        let second = parse(&pods::text(socket, PATH)?);
        Ok(Self { first, second })
    }

    /// None of what has begun, or ended, between the two.
    fn of(&self, of: &Of) -> Option<Use> {
        let (before, after) = (self.first.get(of)?, self.second.get(of)?);
        let ((used_before, from), (used, to)) = (before.cpu?, after.cpu?);
        let seconds = (to - from) / 1000.0;
        // One that was started anew begins at zero.
        let used = if used < used_before {
            used
        } else {
            used - used_before
        };
        let cpu = match seconds > 0.0 {
            true => (used / seconds * 1000.0).ceil(),
            false => 0.0,
        };
        Some(Use {
            cpu: whole(cpu),
            memory: whole(after.memory?),
        })
    }

    fn node(&self) -> Option<Use> {
        self.of(&Of::default())
    }

    /// By namespace and name.
    fn pods(&self) -> Vec<PodUse> {
        let mut all: Vec<PodUse> = Vec::new();
        for of in self.second.keys() {
            let (namespace, name, container) = of;
            let Some(used) = self.of(of).filter(|_| !container.is_empty()) else {
                continue;
            };
            let used = (container.clone(), used);
            match all.last_mut() {
                Some(last) if last.namespace == *namespace && last.name == *name => {
                    last.containers.push(used);
                }
                _ => all.push(PodUse {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    containers: vec![used],
                }),
            }
        }
        all
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, and these are amounts"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// Takes what is wanted of a text of Prometheus' format, as the agent writes it: `name{label="value",…} value time`.
fn parse(text: &str) -> BTreeMap<Of, Reading> {
    let mut readings: BTreeMap<Of, Reading> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, numbers)) = line.rsplit_once("} ").or_else(|| line.split_once(' '))
        else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut numbers = numbers.split(' ').map(str::parse::<f64>);
        let Some(Ok(value)) = numbers.next() else {
            continue;
        };
        let reading = readings.entry(whose(labels));
        match name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                if let Some(Ok(time)) = numbers.next() {
                    reading.or_default().cpu = Some((value, time));
                }
            }
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => {
                reading.or_default().memory = Some(value);
            }
            _ => {}
        }
    }
    readings
}

/// Names of the API have no character that would be escaped.
fn whose(labels: &str) -> Of {
    let value = |wanted: &str| {
        let mut labels = labels.split(',').filter_map(|label| label.split_once('='));
        let found = labels.find(|(name, _)| *name == wanted);
        let value = found.map(|(_, value)| value.trim_matches('"'));
        value.unwrap_or_default().to_owned()
    };
    (value("namespace"), value("pod"), value("container"))
}

#[cfg(test)]
mod tests;
