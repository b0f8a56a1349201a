//! Manifests, one by one and together.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use static_pods::identity::NodeName;
use static_pods::manifest::{
    Manifest, ManifestError, ManifestWarning, Problem, Reading, Remark, StaticPod,
};
use static_pods::object::{LocalObject, Objects};
use static_pods::tree::{MAX_BYTES, Position};
use static_pods::watch::{ManifestSet, entries};

use super::input::{self, STDIN};
use super::report::{FileReport, Finding, ObjectReport, PodReport};
use crate::admission::{self, NodeFeatures, Rejection};
use crate::agent;
use crate::config::Config;
use crate::errors::error_chain;
use crate::pod::{self, Pod};

/// Reason of a rejection that a node with other labels would not make.
const BY_LABELS: &str = "NodeAffinity";

/// The node that manifests are judged for.
pub(super) struct Node<'a> {
    pub(super) config: &'a Config,
    /// Whether it takes ConfigMaps and Secrets.
    pub(super) objects: Objects,
}

/// What is to be said of each of `files`, with directories as their manifests, for `node`.
pub(super) fn judge(files: &[PathBuf], node: Node<'_>, input: &mut dyn Read) -> Vec<FileReport> {
    let mut reader = Reader {
        node: NodeName::new(&node.config.node.name),
        objects: node.objects,
        features: features(node.config),
        found: BTreeMap::new(),
        order: Vec::new(),
    };
    for path in files {
        reader.named(path, input);
    }
    reader.reports()
}

/// What a node with `config` can do, with what only the machine decides taken for granted.
fn features(config: &Config) -> NodeFeatures {
    let known = agent::node_features(config).unwrap_or_else(|error| {
        tracing::warn!("{}", error_chain(&error));
        NodeFeatures {
            node_name: config.node.name.clone(),
            ..NodeFeatures::default()
        }
    });
    NodeFeatures {
        app_armor: true,
        ..known
    }
}

/// A file or directory that was looked at.
struct Entry {
    /// As it is shown.
    shown: String,
    /// What it holds; notes besides are in `notes`.
    manifest: Manifest,
    notes: Vec<&'static str>,
}

struct Reader {
    node: NodeName,
    objects: Objects,
    features: NodeFeatures,
    /// By the path that enters the pods' UIDs: the absolute one. In the order in which the watch takes files.
    found: BTreeMap<PathBuf, Entry>,
    /// The same paths, in the order given.
    order: Vec<PathBuf>,
}

impl Reader {
    /// Something named on the command line.
    fn named(&mut self, path: &Path, input: &mut dyn Read) {
        if path == Path::new(STDIN) || !path.is_dir() {
            return self.add(path, input, |path, identity, reader, input| {
                reader.manifest(path, identity, input)
            });
        }
        let inside = match entries(path) {
            Ok(inside) => inside,
            Err(error) => {
                return self.add(path, input, |_, identity, _, _| {
                    unreadable(identity, &error)
                });
            }
        };
        if inside.is_empty() {
            self.add(path, input, |_, _, _, _| Manifest::default());
        }
        for path in inside {
            match path.metadata() {
                // A pipe here must not be waited for.
                Ok(meta) if !meta.is_file() => self.pass_over(&path, meta.is_dir()),
                _ => self.add(&path, input, |path, identity, reader, input| {
                    reader.manifest(path, identity, input)
                }),
            }
        }
    }

    fn pass_over(&mut self, path: &Path, directory: bool) {
        let what = match directory {
            true => "ignored: a directory; manifests are not looked for in it",
            false => "ignored: not a file",
        };
        let entry = Entry {
            shown: path.display().to_string(),
            manifest: Manifest::default(),
            notes: vec![what],
        };
        self.insert(absolute(path), entry);
    }

    fn add(
        &mut self,
        path: &Path,
        input: &mut dyn Read,
        read: impl FnOnce(&Path, &Path, &Self, &mut dyn Read) -> Manifest,
    ) {
        let identity = absolute(path);
        if self.found.contains_key(&identity) {
            return;
        }
        let manifest = read(path, &identity, self, input);
        let mut notes = Vec::new();
        if manifest.is_empty() && manifest.problems.is_empty() {
            notes.push("holds no pod");
        }
        let entry = Entry {
            shown: path.display().to_string(),
            manifest,
            notes,
        };
        self.insert(identity, entry);
    }

    fn insert(&mut self, identity: PathBuf, entry: Entry) {
        if self.found.insert(identity.clone(), entry).is_none() {
            self.order.push(identity);
        }
    }

    fn manifest(&self, path: &Path, identity: &Path, input: &mut dyn Read) -> Manifest {
        let judge = |pod: &Pod| remarks(pod, &self.features);
        match input::read(path, input) {
            Ok((bytes, _)) if bytes.len() > MAX_BYTES => problem(identity, Problem::TooLarge),
            Ok((bytes, access)) => {
                let reading = Reading {
                    objects: &self.objects,
                    access,
                    judge: &judge,
                    ..Reading::new(&self.node)
                };
                reading.read(identity, &bytes)
            }
            Err(error) => unreadable(identity, &error),
        }
    }

    fn reports(mut self) -> Vec<FileReport> {
        let together = ManifestSet::of(self.found.values().map(|entry| &entry.manifest));
        let shown: Vec<(PathBuf, String)> = self
            .found
            .iter()
            .map(|(path, entry)| (path.clone(), entry.shown.clone()))
            .collect();
        let clashes = together.problems.iter().filter(|error| error.is_clash());
        for clash in clashes {
            if let Some(entry) = self.found.get_mut(&*clash.path) {
                let clash = with_names_given(clash.clone(), &shown);
                entry.manifest.problems.push(clash);
            }
        }
        let order = std::mem::take(&mut self.order);
        let entries = order
            .iter()
            .filter_map(|path| self.found.get(path).map(|e| (path, e)));
        entries
            .map(|(path, entry)| report(path, entry, &together))
            .collect()
    }
}

/// A path that does not depend on the working directory, links left as they are, as the agent has it.
fn absolute(path: &Path) -> PathBuf {
    match path == Path::new(STDIN) {
        true => path.to_owned(),
        false => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

fn problem(path: &Path, problem: Problem) -> Manifest {
    let error = ManifestError {
        path: path.into(),
        at: Position::START,
        problem,
    };
    Manifest {
        problems: vec![error],
        ..Manifest::default()
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Manifest {
    problem(path, Problem::Unreadable(error.to_string()))
}

/// Names the winner of a clash as the user did.
fn with_names_given(mut clash: ManifestError, shown: &[(PathBuf, String)]) -> ManifestError {
    if let Problem::Duplicate { winner, .. } | Problem::SameUid { winner, .. } = &mut clash.problem
    {
        let place = shown.iter().find_map(|(path, name)| {
            let at = winner.strip_prefix(&*path.to_string_lossy())?;
            Some(format!("{name}{}", at.strip_prefix(':').map(|_| at)?))
        });
        *winner = place.unwrap_or_else(|| winner.clone());
    }
    clash
}

fn report(path: &Path, entry: &Entry, together: &ManifestSet) -> FileReport {
    let wins = |pod: &&StaticPod| {
        let winner = together.pods.get(&pod.key());
        winner.is_some_and(|w| *w.path == *path && w.document == pod.document)
    };
    let pods = entry.manifest.pods.iter().filter(wins).map(|pod| {
        let key = pod.key();
        PodReport {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: pod.uid().to_owned(),
        }
    });
    let wins = |object: &&Arc<LocalObject>| {
        let winner = together.objects.get(&object.key);
        winner.is_some_and(|w| *w.path == *path && w.at == object.at)
    };
    let objects = entry.manifest.objects.iter().filter(wins);
    let objects = objects.map(|object| ObjectReport {
        kind: object.key.kind.as_str(),
        namespace: object.key.namespace.to_string(),
        name: object.key.name.to_string(),
    });
    let mut warnings: Vec<_> = entry.manifest.warnings.iter().map(warning).collect();
    let notes = entry.notes.iter();
    warnings.extend(notes.map(|note| Finding::new(Position::START, *note)));
    FileReport {
        file: entry.shown.clone(),
        pods: pods.collect(),
        objects: objects.collect(),
        problems: entry.manifest.problems.iter().map(refusal).collect(),
        warnings,
        fine: None,
    }
}

fn refusal(error: &ManifestError) -> Finding {
    let problem = &error.problem;
    Finding {
        remedy: problem.remedy().map(str::to_owned),
        ..Finding::new(error.at, problem.message()).of_field(problem.field())
    }
}

fn warning(warning: &ManifestWarning) -> Finding {
    Finding::new(warning.at, &*warning.message).of_field(&*warning.field)
}

/// What the agent would say of a pod that the API's rules let pass.
fn remarks(pod: &Pod, node: &NodeFeatures) -> Vec<Remark> {
    let mut rejections = admission::refusals(pod, node);
    if let Err(first) = admission::admit_features(pod, node)
        && !rejections.contains(&first)
    {
        rejections.push(first);
    }
    let mut remarks: Vec<_> = rejections
        .into_iter()
        .map(|rejection| rejected(pod, &rejection))
        .collect();
    remarks.extend(admission::warnings(pod, node).into_iter().map(|line| {
        let (field, message) = split_field(&line);
        Remark {
            field,
            message,
            refuses: false,
        }
    }));
    remarks
}

fn rejected(pod: &Pod, rejection: &Rejection) -> Remark {
    let (mut field, why) = split_field(&rejection.message);
    if rejection.reason == BY_LABELS {
        let by_selector = pod::spec(pod).node_selector.is_some();
        field = match by_selector {
            true => "spec.nodeSelector".to_owned(),
            false => "spec.affinity".to_owned(),
        };
    }
    let unsupported = rejection.reason == "PodFeatureUnsupported";
    let message = match &*rejection.reason {
        BY_LABELS => format!("{why}; this is said of a node with no labels but the agent's own"),
        _ if unsupported => format!("not supported by this agent: {why}"),
        reason => format!("the agent would reject the pod, {reason}: {why}"),
    };
    Remark {
        field,
        message,
        refuses: rejection.reason != BY_LABELS,
    }
}

/// The field that a message of admission begins with, where it does, and the rest.
fn split_field(message: &str) -> (String, String) {
    match message.split_once([' ']) {
        Some((field, rest)) if field.starts_with("spec.") => {
            (field.trim_end_matches(':').to_owned(), rest.to_owned())
        }
        _ => (String::new(), message.to_owned()),
    }
}
