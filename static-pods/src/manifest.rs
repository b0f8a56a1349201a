//! One manifest file: its pods and objects, and what is wrong with it. Pure; the caller reads the file.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::identity::{self, NodeName};
use crate::object::{self, Access, LocalObject, ObjectKind, Objects, REPLACE_ANNOTATION};
use crate::tree::{self, Node, Position};
use crate::validate::{self, FieldError, Unfit};
use crate::{defaults, tree::Document};

mod problem;

pub use problem::{ManifestError, ManifestWarning, Problem};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// The pods that may run, in the order written.
    pub pods: Vec<StaticPod>,
    /// ConfigMaps and Secrets, in the order written.
    pub objects: Vec<Arc<LocalObject>>,
    /// Why other pods and objects, or the whole file, may not.
    pub problems: Vec<ManifestError>,
    /// What the user should know of pods that run.
    pub warnings: Vec<ManifestWarning>,
}

impl Manifest {
    /// Whether it holds neither pods nor objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.objects.is_empty()
    }
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
    /// Whether it refers to ConfigMaps or Secrets.
    pub refers: bool,
    /// Whether it asks to be replaced when one of them changes.
    pub follows: bool,
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

/// Reads the manifest `bytes` of the file `path`, for the pods of `node`, by upstream's rules: there are no objects.
///
/// A file may hold several documents, and lists of pods; what is wrong with one pod keeps only that one from running.
#[must_use]
pub fn read_manifest(path: &Path, bytes: &[u8], node: &NodeName) -> Manifest {
    Reading::new(node).read(path, bytes)
}

/// What somebody other than this crate has to say of a pod, such as the agent that would run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The field, empty when it is the pod as a whole.
    pub field: String,
    /// What is to be said of it.
    pub message: String,
    /// Whether the pod does not run for it.
    pub refuses: bool,
}

/// By which rules a manifest is read.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The node the pods run on.
    pub node: &'a NodeName,
    /// Whose ConfigMaps and Secrets count.
    pub objects: &'a Objects,
    /// Who may read the file; none where that is of no concern.
    pub access: Option<Access>,
    /// Whether the file is for objects alone.
    pub objects_only: bool,
    /// Who has remarks on each defaulted, identified pod.
    pub judge: &'a dyn Fn(&Pod) -> Vec<Remark>,
}

impl<'a> Reading<'a> {
    /// For the pods of `node`, by upstream's rules.
    #[must_use]
    pub fn new(node: &'a NodeName) -> Self {
        Self {
            node,
            objects: &Objects::Off,
            access: None,
            objects_only: false,
            judge: &|_| Vec::new(),
        }
    }

    /// Reads the manifest `bytes` of the file `path`.
    #[must_use]
    pub fn read(&self, path: &Path, bytes: &[u8]) -> Manifest {
        let mut reader = Reader {
            path: path.into(),
            rules: self,
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
}

struct Reader<'a> {
    path: Arc<Path>,
    rules: &'a Reading<'a>,
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

    fn warning(&mut self, at: Position, field: String, message: String) {
        let path = Arc::clone(&self.path);
        self.manifest.warnings.push(ManifestWarning {
            path,
            at,
            field,
            message,
        });
    }

    fn document(&mut self, document: &Document) {
        for key in &document.duplicates {
            let message = format!(
                "the key is here a second time; the value at {} does not count",
                key.first
            );
            self.warning(key.second, key.path.clone(), message);
        }
        let root = &document.root;
        let version = root
            .get("apiVersion")
            .and_then(Node::as_str)
            .unwrap_or_default();
        let kind = root.get("kind").and_then(Node::as_str).unwrap_or_default();
        match (version, kind) {
            ("v1", "PodList" | "List") => self.list(root, kind),
            _ => self.item(root, version, kind),
        }
    }

    fn item(&mut self, node: &Node, version: &str, kind: &str) {
        let object = ObjectKind::of(kind).filter(|_| version == "v1");
        match (object, kind) {
            (Some(kind), _) if self.rules.objects.any() => self.object(node, kind),
            (Some(kind), _) => self.problem(node.nearest("kind"), Problem::ObjectsOff(kind)),
            (None, "Pod") if version == "v1" && self.rules.objects_only => {
                self.problem(node.nearest("kind"), Problem::PodAmongObjects);
            }
            (None, "Pod") if version == "v1" => self.pod(node),
            _ => self.not_a_pod(node, version, kind),
        }
    }

    fn object(&mut self, node: &Node, kind: ObjectKind) {
        let found = object::read(node, kind);
        for field in found.unknown {
            let message = format!("{}; it has no effect", field.what());
            self.warning(field.at, field.path, message);
        }
        let before = self.manifest.problems.len();
        for (at, problem) in found.problems {
            self.problem(at, problem);
        }
        let Some(key) = found.key else {
            return;
        };
        let open = self.rules.access.filter(|access| !access.is_private());
        if let (ObjectKind::Secret, Some(access)) = (kind, open) {
            let problem = Problem::NotPrivate {
                object: key.to_string(),
                why: access.why(),
                remedy: access.remedy(&self.path),
            };
            self.problem(node.at, problem);
        }
        if self.manifest.problems.len() == before {
            self.manifest.objects.push(Arc::new(LocalObject {
                key,
                content: found.content,
                path: Arc::clone(&self.path),
                at: node.at,
            }));
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
                // The items of a PodList need not say what they are.
                ("", "") if kind == "PodList" && item.as_mapping().is_some() => {
                    self.item(item, "v1", "Pod");
                }
                (version, kind) => self.item(item, version, kind),
            }
        }
    }

    fn pod(&mut self, node: &Node) {
        let document = self.next;
        self.next += 1;
        let mut pod = match node.decode::<Pod>() {
            Ok(decoded) => {
                for field in decoded.unknown {
                    let message = format!("{}; it has no effect", field.what());
                    self.warning(field.at, field.path, message);
                }
                decoded.value
            }
            Err(e) => return self.problem(e.at, Problem::Decode(e)),
        };
        if pod.metadata.name.as_deref().unwrap_or_default().is_empty() {
            return self.problem(node.nearest("metadata.name"), Problem::NoName);
        }
        defaults::apply(&mut pod);
        let name = pod.metadata.name.clone().unwrap_or_default();
        identity::apply(&mut pod, node, self.rules.node, &self.path);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let served = self.rules.objects.allow(namespace, &name);
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
            && let Some(unfit) = validate::unfit(&pod, served)
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
        let follows = match annotation(&pod) {
            _ if !served => false,
            Ok(follows) => follows,
            Err(error) => {
                self.problem(node.nearest(&error.path), Problem::Field(error));
                false
            }
        };
        for remark in (self.rules.judge)(&pod) {
            let Remark {
                field,
                message,
                refuses,
            } = remark;
            let at = node.nearest(&field);
            if refuses {
                self.problem(at, Problem::Refused { field, message });
            } else {
                self.warning(at, field, message);
            }
        }
        if self.manifest.problems.len() == before {
            self.manifest.pods.push(StaticPod {
                refers: served && validate::unfit(&pod, false).is_some(),
                pod: Arc::new(pod),
                path: Arc::clone(&self.path),
                document,
                at: node.at,
                follows,
            });
        }
    }
}

/// Whether `pod` asks to be replaced when an object that it refers to changes.
fn annotation(pod: &Pod) -> Result<bool, FieldError> {
    let annotations = pod.metadata.annotations.as_ref();
    let value = annotations.and_then(|all| all.get(REPLACE_ANNOTATION));
    match value.map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(FieldError {
            path: format!("metadata.annotations[{REPLACE_ANNOTATION}]"),
            body: format!("Invalid value: {other:?}: must be \"true\" or \"false\""),
            at: None,
        }),
    }
}

#[cfg(test)]
mod tests;
