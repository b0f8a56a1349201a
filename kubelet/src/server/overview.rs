//! `/status` of the agent's own socket: how the agent is, as `kubelet status` shows it beside the pods.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use static_pods::object::Objects;
use static_pods::watch::ManifestSet;
use tokio::sync::watch;

use super::{HealthChecks, text};
use crate::admission;
use crate::clock::Clock;
use crate::join::Troubles;
use crate::pod::PodUid;
use crate::sources::{Desired, StalePods};
use crate::status::StatusBoard;
use crate::workers::StuckPods;

/// A step that lasts no longer is nothing to speak of.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the answer comes from.
#[derive(Clone)]
pub struct OverviewInputs {
    /// The node's name.
    pub node: String,
    /// Time since the agent began.
    pub clock: Clock,
    /// What `/healthz` asks.
    pub checks: HealthChecks,
    /// The runtime's socket.
    pub runtime: PathBuf,
    /// Why the runtime does not answer.
    pub away: watch::Receiver<Option<Arc<str>>>,
    /// `staticPodPath`.
    pub manifest_path: Option<PathBuf>,
    /// What is wrong with manifests; none without such a source.
    pub manifests: Option<watch::Receiver<Arc<ManifestSet>>>,
    /// Which static pods the manifests' ConfigMaps and Secrets may serve.
    pub objects: Objects,
    /// Whether the sources have been read.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The kubeconfig of a node of a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// What is wrong with the node's certificates.
    pub troubles: watch::Receiver<Troubles>,
    /// Pods that go on without the API server's word.
    pub stale: watch::Receiver<Arc<StalePods>>,
    /// What the workers are at.
    pub board: StatusBoard,
    /// Which pods do not end.
    pub stuck: StuckPods,
    /// What pods may ask for here.
    pub admission: Arc<admission::Node>,
}

/// The answer. Fields are added to it and never change their meaning: a newer program may ask an older agent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) up_seconds: u64,
    /// What is wrong with the agent itself; none when it is well.
    pub(crate) unhealthy: Option<String>,
    pub(crate) runtime: PathBuf,
    /// Why the runtime does not answer; none when it does.
    pub(crate) runtime_away: Option<String>,
    pub(crate) manifests: Option<Manifests>,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// What is wrong with the node's certificates.
    #[serde(default)]
    pub(crate) certificates: Vec<String>,
    /// Whether every source has been read.
    pub(crate) sources_read: bool,
    /// The pods whose workers have been at one thing for longer than a few seconds.
    pub(crate) steps: Vec<StepOfPod>,
    /// The pods that should have ended by now.
    #[serde(default)]
    pub(crate) stuck: Vec<StuckPod>,
    /// The UIDs of the pods that go on as an earlier life of the agent knew them, because the API server is not heard.
    #[serde(default)]
    pub(crate) stale: Vec<String>,
    /// What pods may ask for in sum; none by an older agent.
    pub(crate) allocatable: Option<Allocatable>,
}

/// A pod that does not end.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StuckPod {
    /// `default/web-node`.
    pub(crate) pod: String,
    /// What keeps it.
    pub(crate) why: String,
}

/// What pods may ask for in sum.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allocatable {
    /// Thousandths of a core.
    pub(crate) cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
}

/// The manifest directory.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifests {
    pub(crate) path: PathBuf,
    /// Pods there are manifests of.
    pub(crate) pods: usize,
    /// ConfigMaps and Secrets in manifests.
    #[serde(default)]
    pub(crate) objects: usize,
    /// Which pods these may serve.
    #[serde(default)]
    pub(crate) served: Served,
    /// The UIDs of the pods that refer to such objects, and so have no mirror pod.
    #[serde(default)]
    pub(crate) refer: Vec<String>,
    /// What is refused, and what is odd.
    pub(crate) refused: Vec<Fault>,
    pub(crate) odd: Vec<Fault>,
}

/// Which static pods ConfigMaps and Secrets of manifests may serve.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Served {
    #[default]
    None,
    /// Those with these namespaces and names, as their manifests have them.
    Only(BTreeSet<(String, String)>),
    All,
}

impl From<&Objects> for Served {
    fn from(objects: &Objects) -> Self {
        match objects {
            Objects::Off => Self::None,
            Objects::Only(pods) => Self::Only(pods.clone()),
            Objects::On => Self::All,
        }
    }
}

impl From<&Served> for Objects {
    fn from(served: &Served) -> Self {
        match served {
            Served::None => Self::Off,
            Served::Only(pods) => Self::Only(pods.clone()),
            Served::All => Self::On,
        }
    }
}

/// A place in a file and what is wrong there.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Fault {
    /// `FILE:LINE:COLUMN`.
    pub(crate) place: String,
    pub(crate) message: String,
}

/// What the agent does for a pod.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StepOfPod {
    pub(crate) uid: String,
    /// `makes the sandbox (RunPodSandbox)` …
    pub(crate) what: String,
    pub(crate) seconds: u64,
}

impl OverviewInputs {
    /// How it is, `up` after the agent began.
    pub(super) fn at(&self, up: Duration) -> Overview {
        let set = self.manifests.as_ref().map(|set| set.borrow().clone());
        let steps = self.board.steps().into_iter().filter_map(|(uid, step)| {
            let lasts = up.saturating_sub(step.since);
            (lasts >= PATIENCE).then(|| StepOfPod {
                uid: uid.to_string(),
                what: step.what.to_string(),
                seconds: lasts.as_secs(),
            })
        });
        let stuck = self.stuck.all().into_iter().map(|(name, why)| StuckPod {
            pod: format!("{}/{}", name.namespace, name.name),
            why: why.to_string(),
        });
        let amount = |resource: &str| {
            let amount = self.admission.allocatable.get(resource);
            amount.copied().unwrap_or_default()
        };
        Overview {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            up_seconds: up.as_secs(),
            unhealthy: self.checks.all().err(),
            runtime: self.runtime.clone(),
            runtime_away: self.away.borrow().as_deref().map(str::to_owned),
            manifests: self
                .manifest_path
                .clone()
                .zip(set)
                .map(|(path, set)| Manifests::of(path, &set, &self.objects)),
            kubeconfig: self.kubeconfig.clone(),
            certificates: self.troubles.borrow().all().map(str::to_owned).collect(),
            sources_read: self.desired.borrow().ready,
            steps: steps.collect(),
            stuck: stuck.collect(),
            stale: self
                .stale
                .borrow()
                .pods
                .keys()
                .map(PodUid::to_string)
                .collect(),
            allocatable: Some(Allocatable {
                cpu: amount("cpu"),
                memory: amount("memory"),
            }),
        }
    }
}

impl Manifests {
    fn of(path: PathBuf, set: &ManifestSet, served: &Objects) -> Self {
        let refused = set.problems.iter().map(|found| Fault {
            place: format!("{}:{}", found.path.display(), found.at),
            message: found.problem.to_string(),
        });
        let odd = set.warnings.iter().map(|found| Fault {
            place: format!("{}:{}", found.path.display(), found.at),
            message: format!("{} {}", found.field, found.message)
                .trim_start()
                .to_owned(),
        });
        let refer = set.pods.values().filter(|pod| pod.refers);
        Self {
            path,
            pods: set.pods.len(),
            objects: set.objects.len(),
            served: served.into(),
            refer: refer.map(|pod| pod.uid().to_owned()).collect(),
            refused: refused.collect(),
            odd: odd.collect(),
        }
    }
}

/// Answers with how it is now.
pub(super) async fn show(inputs: OverviewInputs) -> Response {
    match serde_json::to_vec(&inputs.at(inputs.clock.monotonic())) {
        Ok(json) => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::CONTENT_TYPE, kind)], json).into_response()
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
