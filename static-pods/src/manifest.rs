//! One manifest file: its pods, and what is wrong with it. Pure; the caller reads the file.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::identity::{self, NodeName};
use crate::tree::{self, DecodeError, Node, Position};
use crate::validate::{self, FieldError, Unfit};
use crate::{defaults, tree::Document};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// The pods that may run, in the order written.
    pub pods: Vec<StaticPod>,
    /// Why other pods, or the whole file, may not.
    pub problems: Vec<ManifestError>,
    /// What the user should know of pods that run.
    pub warnings: Vec<ManifestWarning>,
}

/// A pod from a file: defaulted, identified and checked.
#[derive(Clone, Debug)]
pub struct StaticPod {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The file.
    pub path: Arc<Path>,
    /// Which pod of the file it is, from 0; items of a list count one each.
    pub document: usize,
    /// Where in the file it begins.
    pub at: Position,
}

impl StaticPod {
    /// Namespace and name, the pod's key on this node.
    #[must_use]
    pub fn key(&self) -> PodKey {
        PodKey::of(&self.pod)
    }

    /// The pod's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// Namespace and name of a pod. Shown as upstream shows it: `<name>_<namespace>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name, the node's name behind it.
    pub name: Arc<str>,
}

impl PodKey {
    fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.name, self.namespace)
    }
}

/// Why a file or a pod of it does not run: `<file>:<line>:<column>: <what>; <remedy>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{at}: {problem}", path.display())]
pub struct ManifestError {
    /// The file.
    pub path: Arc<Path>,
    /// Where in it.
    pub at: Position,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a manifest. Nothing of it passes without a change of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the manifest: {0}")]
    Unreadable(String),
    /// The file is not something that holds a manifest.
    #[error("{0}")]
    NotAManifest(String),
    /// The file is larger than a manifest may be.
    #[error("the file is larger than {} MiB", tree::MAX_BYTES >> 20)]
    TooLarge,
    /// The text is neither YAML nor JSON.
    #[error("{0}")]
    Syntax(String),
    /// The document is not a pod.
    #[error("{0}; a manifest holds apiVersion v1, kind Pod")]
    NotAPod(String),
    /// A value does not fit its field.
    #[error("{0}")]
    Decode(DecodeError),
    /// The pod has no name.
    #[error("invalid pod: name is needed for the pod; set metadata.name")]
    NoName,
    /// The pod's own UID cannot name its directory.
    #[error(
        "metadata.uid: Invalid value: {0:?}: must be 1 to 128 characters of [A-Za-z0-9._-] that start with a letter \
         or digit; leave it out to have one made"
    )]
    Uid(String),
    /// A field breaks a rule of the API.
    #[error("{0}")]
    Field(FieldError),
    /// The pod refers to something only an API server has.
    #[error("{path}: static pods may not reference {object}")]
    Reference {
        /// The field that does.
        path: String,
        /// What it refers to, in upstream's words.
        object: &'static str,
    },
    /// A source of a projected volume says nothing.
    #[error(
        "{path}: unknown source for projected volume {volume:?}; say where its files come from"
    )]
    NoSource {
        /// The source.
        path: String,
        /// The volume.
        volume: String,
    },
    /// Another file or document has the same pod and comes later.
    #[error("pod {pod} is also in {winner}, which is the one that counts; remove one of them")]
    Duplicate {
        /// The pod.
        pod: String,
        /// Where the other one is.
        winner: String,
    },
    /// Another pod has the same UID.
    #[error(
        "metadata.uid: Duplicate value: {uid:?}: {winner} has it too; leave it out to have one made"
    )]
    SameUid {
        /// The UID.
        uid: String,
        /// Where the other pod is.
        winner: String,
    },
}

/// Something odd in a manifest that runs all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{at}: {message}", path.display())]
pub struct ManifestWarning {
    /// The file.
    pub path: Arc<Path>,
    /// Where in it.
    pub at: Position,
    /// What is odd.
    pub message: String,
}

/// Reads the manifest `bytes` of the file `path`, for the pods of `node`.
///
/// A file may hold several documents, and lists of pods; what is wrong with one pod keeps only that one from running.
#[must_use]
pub fn read_manifest(path: &Path, bytes: &[u8], node: &NodeName) -> Manifest {
    let mut reader = Reader {
        path: path.into(),
        node,
        manifest: Manifest::default(),
        next: 0,
    };
    for document in tree::parse(bytes) {
        match document {
            Ok(document) => reader.document(&document),
            Err(e) => reader.problem(e.at, Problem::Syntax(e.message)),
        }
    }
    reader.manifest
}

struct Reader<'a> {
    path: Arc<Path>,
    node: &'a NodeName,
    manifest: Manifest,
    next: usize,
}

impl Reader<'_> {
    fn problem(&mut self, at: Position, problem: Problem) {
        let path = Arc::clone(&self.path);
        self.manifest
            .problems
            .push(ManifestError { path, at, problem });
    }

    fn warning(&mut self, at: Position, message: String) {
        let path = Arc::clone(&self.path);
        self.manifest
            .warnings
            .push(ManifestWarning { path, at, message });
    }

    fn document(&mut self, document: &Document) {
        for key in &document.duplicates {
            let message = format!(
                "{}: the key is here a second time; the value at {} does not count",
                key.path, key.first
            );
            self.warning(key.second, message);
        }
        let root = &document.root;
        let version = root
            .get("apiVersion")
            .and_then(Node::as_str)
            .unwrap_or_default();
        let kind = root.get("kind").and_then(Node::as_str).unwrap_or_default();
        match (version, kind) {
            ("v1", "Pod") => self.pod(root),
            ("v1", "PodList" | "List") => self.list(root, kind),
            _ => self.not_a_pod(root, version, kind),
        }
    }

    fn not_a_pod(&mut self, node: &Node, version: &str, kind: &str) {
        let what = match (node.as_mapping(), version, kind) {
            (None, _, _) => format!("the document is {}", node.kind()),
            (_, "", "") => "neither apiVersion nor kind is set".to_owned(),
            (_, "", _) => "apiVersion is not set".to_owned(),
            (_, _, "") => "kind is not set".to_owned(),
            _ => format!("apiVersion {version:?}, kind {kind:?} is not a pod"),
        };
        let at = node.nearest("kind");
        self.problem(at, Problem::NotAPod(what));
    }

    fn list(&mut self, root: &Node, kind: &str) {
        let Some(items) = root.get("items") else {
            return;
        };
        let Some(items) = items.as_sequence() else {
            let what = format!("items is {}", items.kind());
            return self.problem(items.at, Problem::NotAPod(what));
        };
        for item in items {
            let of = |key| item.get(key).and_then(Node::as_str).unwrap_or_default();
            match (of("apiVersion"), of("kind")) {
                ("v1", "Pod") => self.pod(item),
                // The items of a PodList need not say what they are.
                ("", "") if kind == "PodList" && item.as_mapping().is_some() => self.pod(item),
                (version, kind) => self.not_a_pod(item, version, kind),
            }
        }
    }

    fn pod(&mut self, node: &Node) {
        let document = self.next;
        self.next += 1;
        let mut pod = match node.decode::<Pod>() {
            Ok(decoded) => {
                for field in decoded.unknown {
                    self.warning(field.at, format!("{field}; it has no effect"));
                }
                decoded.value
            }
            Err(e) => return self.problem(e.at, Problem::Decode(e)),
        };
        if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
            return self.problem(node.nearest("metadata.name"), Problem::NoName);
        }
        defaults::apply(&mut pod);
        identity::apply(&mut pod, node, self.node, &self.path);
        let before = self.manifest.problems.len();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !identity::is_path_component(uid) {
            self.problem(node.nearest("metadata.uid"), Problem::Uid(uid.to_owned()));
        }
        for error in validate::validate(&pod) {
            let at = node.nearest(error.at.as_ref().unwrap_or(&error.path));
            self.problem(at, Problem::Field(error));
        }
        if self.manifest.problems.len() == before
            && let Some(unfit) = validate::unfit(&pod)
        {
            let (at, problem) = match unfit {
                Unfit::Reference { path, object } => {
                    (node.nearest(&path), Problem::Reference { path, object })
                }
                Unfit::NoSource { path, volume } => {
                    (node.nearest(&path), Problem::NoSource { path, volume })
                }
            };
            self.problem(at, problem);
        }
        if self.manifest.problems.len() == before {
            self.manifest.pods.push(StaticPod {
                pod: Arc::new(pod),
                path: Arc::clone(&self.path),
                document,
                at: node.at,
            });
        }
    }
}

#[cfg(test)]
mod tests;
