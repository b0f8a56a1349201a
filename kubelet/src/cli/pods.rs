//! The pods that the agent has, as it lists them.

use std::io::Read as _;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::{CliError, age, socket};
use crate::server::overview::{Overview, StepOfPod};

/// What the step begins with that waits for an image.
pub(super) const PULLS: &str = "pulls image ";
/// Why a static pod of a node of a cluster is not shown to the API server.
pub(super) const NO_MIRROR: &str = "it refers to ConfigMaps or Secrets of this node's manifests, which the API server does not have";
/// Names of pods that a message lists.
const MOST_NAMES: usize = 10;

/// One pod, with the text of all its fields.
pub(super) struct Listed {
    pub(super) pod: Pod,
    pub(super) whole: Value,
    /// It goes on as an earlier life of the agent knew it: the API server is not heard.
    pub(super) stale: bool,
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Value>>,
}

impl Listed {
    /// The pod that an object is.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn of(whole: Value) -> Result<Self, CliError> {
        let pod = Pod::deserialize(&whole).map_err(|error| CliError::Garbled(error.to_string()))?;
        let stale = false;
        Ok(Self { pod, whole, stale })
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// What the agent has been at for it for a while.
    pub(super) fn step<'a>(&self, overview: &'a Overview) -> Option<&'a StepOfPod> {
        let uid = self.pod.metadata.uid.as_deref();
        let mut steps = overview.steps.iter();
        steps.find(|step| Some(&*step.uid) == uid)
    }

    /// Whether it is a static pod of a node of a cluster that the API server is not shown.
    pub(super) fn lacks_mirror(&self, overview: &Overview) -> bool {
        let uid = self.pod.metadata.uid.as_deref();
        let refer = overview.manifests.iter().flat_map(|found| &found.refer);
        overview.kubeconfig.is_some() && refer.into_iter().any(|refer| Some(&**refer) == uid)
    }

    /// Whether it is called `name`, with the node's name behind it or without.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let node = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        let in_manifest = node.and_then(|node| self.name().strip_suffix(node)?.strip_suffix('-'));
        self.name() == name || in_manifest == Some(name)
    }
}

/// Marks the pods that go on without the API server's word.
pub(super) fn mark_stale<'a>(pods: impl Iterator<Item = &'a mut Listed>, overview: &Overview) {
    for pod in pods {
        let uid = pod.pod.metadata.uid.as_deref();
        pod.stale = overview.stale.iter().any(|stale| Some(&**stale) == uid);
    }
}

/// `makes the sandbox (RunPodSandbox) for 61s now`.
pub(super) fn lasting(step: &StepOfPod) -> String {
    let lasts = age::short(i64::try_from(step.seconds).unwrap_or(i64::MAX));
    format!("{} for {lasts} now", step.what)
}

/// All pods of the agent at `socket`, by namespace and name.
///
/// # Errors
/// When nobody answers, or nothing that can be understood.
pub(super) fn list(socket: &Path) -> Result<Vec<Listed>, CliError> {
    let list: List = read(socket, "/pods")?;
    let mut pods = Vec::new();
    for whole in list.items.unwrap_or_default() {
        pods.push(Listed::of(whole)?);
    }
    pods.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
    Ok(pods)
}

/// The JSON that the agent answers to GET `path`.
///
/// # Errors
/// When nobody answers, or nothing that can be understood.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<T, CliError> {
    let text = text(socket, path)?;
    serde_json::from_str(&text).map_err(|error| CliError::Garbled(error.to_string()))
}

/// The text that the agent answers to GET `path`.
///
/// # Errors
/// When nobody answers, or nothing that is text.
pub(super) fn text(socket: &Path, path: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let mut body = socket::get(socket, path)?;
    let read = body.read_to_string(&mut text);
    read.map_err(|error| body.error(error))?;
    Ok(text)
}

/// The one pod of `namespace` called `name`, with the node's name behind it or without.
///
/// # Errors
/// When there is none: which there are is told.
pub(super) fn one<'a>(
    all: &'a [Listed],
    namespace: &str,
    name: &str,
) -> Result<&'a Listed, CliError> {
    let here = || all.iter().filter(|pod| pod.namespace() == namespace);
    let found = position(all, namespace, name);
    found.and_then(|index| all.get(index)).ok_or_else(|| {
        let elsewhere = all.iter().find(|pod| pod.is_called(name));
        let names: Vec<&str> = here().map(Listed::name).take(MOST_NAMES).collect();
        let more = here().count() - names.len();
        let hint = match (elsewhere, names.is_empty(), more) {
            (Some(pod), ..) => format!("there is one in namespace {:?}", pod.namespace()),
            (None, true, _) => "there is no pod there".to_owned(),
            (None, false, 0) => format!("there are {}", names.join(", ")),
            (None, false, more) => format!("there are {} and {more} more", names.join(", ")),
        };
        CliError::NotFound(format!(
            "pods {name:?} not found in namespace {namespace:?}: {hint}"
        ))
    })
}

/// Where in `all` the pod of `namespace` called `name` is: the one of exactly that name before one with the node's behind it.
pub(super) fn position(all: &[Listed], namespace: &str, name: &str) -> Option<usize> {
    let here = |is: &dyn Fn(&Listed) -> bool| {
        let mut pods = all.iter();
        pods.position(|pod| pod.namespace() == namespace && is(pod))
    };
    here(&|pod| pod.name() == name).or_else(|| here(&|pod| pod.is_called(name)))
}
