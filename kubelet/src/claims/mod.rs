//! Claims: which persistent volume stands behind each `persistentVolumeClaim` and `ephemeral` volume of a pod.
//!
//! Owns: the way from a pod's claims to volumes, and `claims.json` in the pod's directory, which keeps what was found.
//! Inputs: the pod, its claims and their volumes at the API server, the node's labels. Outputs: [`ClaimedVolumes`], for
//! whoever sets volumes up; the claims that a pod has on the node ([`Claims::of_pod`]).
//! Tasks: none. A pod's worker asks when it sets up the pod's volumes, and again after a failure: a node may get single
//! claims and volumes, and watch none (upstream's `system:node` role).
//! Does not: mount anything (`volumes` does), take part in binding, or ask again about a pod that has its volumes.
//!
//! While the API server does not answer, a pod that has a `claims.json` goes by it: its volumes may be mounted already, and
//! what they are does not change while the pod has them.

mod error;
mod kept;
mod objects;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::core::Request;
use kube::core::request::Error as RequestError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::admission;
use crate::errors::error_chain;
use crate::node::NodeObject;
use crate::pod::{Pod, PodName, PodUid};
use crate::poddir::{PodDir, PodDirs};

pub use error::{ClaimError, ClaimsError};
pub use objects::{PersistentVolume, VolumeMode, VolumeSpec};

use error::ClaimFailure;
use objects::Claim;
use wanted::{Used, Wanted, check_bound, check_claim, check_mode, wanted};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, where what was found out before will do.
const LITTLE_PATIENCE: Duration = Duration::from_secs(2);

/// A volume of a pod, by way of a claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimedVolume {
    /// Its name in the pod's spec.
    pub name: String,
    /// The claim's name, in the pod's namespace.
    pub claim: String,
    /// The claim's UID.
    pub claim_uid: String,
    /// `status.capacity` of the claim: `storage` as a quantity.
    #[serde(default)]
    pub claim_capacity: BTreeMap<String, String>,
    /// The pod wants it so, whatever the volume allows: `persistentVolumeClaim.readOnly`.
    pub read_only: bool,
    /// The volume that the claim is bound to.
    pub volume: PersistentVolume,
}

/// A pod's volumes that claims stand behind, by their names in the spec. Those that no container uses are not among them.
pub type ClaimedVolumes = BTreeMap<String, ClaimedVolume>;

/// Where the claims of pods are looked up. Cheap to clone; clones share all of it.
#[derive(Clone)]
pub struct Claims(Arc<Shared>);

struct Shared {
    dirs: PodDirs,
    /// None until the node has joined.
    cluster: watch::Sender<Option<Cluster>>,
    /// Held while it is decided who may have a volume that is for one pod.
    deciding: Mutex<()>,
}

#[derive(Clone)]
struct Cluster {
    client: kube::Client,
    node: watch::Receiver<Option<Arc<NodeObject>>>,
}

/// What the pod of this directory has by way of claims on this node.
#[must_use]
pub fn of_pod(pod: &PodDir) -> Vec<ClaimedVolume> {
    kept::load(pod)
}

/// What is asked of the API server, and why it gave nothing.
struct NotFetched {
    why: String,
    answered: bool,
}

impl NotFetched {
    fn silent(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            answered: false,
        }
    }
}

impl Claims {
    /// Claims that nobody can be asked about yet; what is found of each pod is kept in its directory in `dirs`.
    #[must_use]
    pub fn new(dirs: PodDirs) -> Self {
        Self(Arc::new(Shared {
            dirs,
            cluster: watch::Sender::default(),
            deciding: Mutex::default(),
        }))
    }

    /// Asks `client` from now on; `node` is this node's object.
    pub fn connect(&self, client: kube::Client, node: watch::Receiver<Option<Arc<NodeObject>>>) {
        self.0.cluster.send_replace(Some(Cluster { client, node }));
    }

    /// What the pod `uid` has by way of claims on this node.
    #[must_use]
    pub fn of_pod(&self, uid: &PodUid) -> Vec<ClaimedVolume> {
        let pod = self.0.dirs.get(uid).ok().flatten();
        pod.map(|pod| of_pod(&pod)).unwrap_or_default()
    }

    /// The volumes behind the claims of `pod`, each of them good for this pod on this node. The pod has a directory.
    ///
    /// # Errors
    /// When one of them is not to be had: it is worth another try, with back-off.
    pub async fn resolve(&self, pod: &Pod, uid: &PodUid) -> Result<ClaimedVolumes, ClaimsError> {
        let used = Used::of(pod);
        let all = wanted(pod, &used);
        let mut found = ClaimedVolumes::new();
        let mut failures = Vec::new();
        if all.is_empty() {
            return Ok(found);
        }
        let mut before = self.of_pod(uid);
        let mut silent = false;
        for wanted in all {
            let known = before
                .iter()
                .position(|kept| kept.name == wanted.volume && kept.claim == wanted.claim);
            let known = known.map(|at| before.swap_remove(at));
            let patience = match (silent, &known) {
                (true, _) => Duration::ZERO,
                (false, Some(_)) => LITTLE_PATIENCE,
                (false, None) => PATIENCE,
            };
            let asked = self.look_up(pod, &wanted, &used, patience).await;
            silent |= asked.as_ref().is_err_and(ClaimError::is_no_answer);
            match (asked, known) {
                (Ok(claimed), _) => drop(found.insert(wanted.volume, claimed)),
                (Err(error), Some(known)) if error.is_no_answer() => {
                    let (volume, claim) = (&known.volume.metadata.name, &known.claim);
                    tracing::info!(pod = %PodName::of(pod), claim, volume, %error, "the claim counts as it was");
                    found.insert(wanted.volume, known);
                }
                (Err(error), _) => failures.push(ClaimFailure {
                    volume: wanted.volume,
                    claim: wanted.claim,
                    error,
                }),
            }
        }
        if failures.is_empty() {
            match self.keep(uid, found).await {
                Ok(found) => return Ok(found),
                Err(failure) => failures.push(failure),
            }
        }
        let name = PodName::of(pod);
        Err(ClaimsError {
            namespace: name.namespace.to_string(),
            pod: name.name.to_string(),
            expected: used.all().into_iter().map(str::to_owned).collect(),
            failures,
        })
    }

    /// Asks the API server about one volume, twice at most.
    async fn look_up(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        used: &Used,
        patience: Duration,
    ) -> Result<ClaimedVolume, ClaimError> {
        let namespace = PodName::of(pod).namespace;
        let claims = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        let claim = self.get::<Claim>(&claims, &wanted.claim, patience).await;
        let claim = claim
            .map_err(|NotFetched { why, answered }| ClaimError::FetchClaim { why, answered })?;
        let name = check_claim(pod, wanted, &claim)?;
        let not_fetched = |NotFetched { why, answered }| ClaimError::FetchVolume {
            volume: name.to_owned(),
            why,
            answered,
        };
        let volume = self.get::<PersistentVolume>("/api/v1/persistentvolumes", name, patience);
        let volume = volume.await.map_err(not_fetched)?;
        check_bound(&volume, &claim.metadata.uid)?;
        check_mode(&volume, wanted, used)?;
        self.check_node(&volume, not_fetched)?;
        Ok(ClaimedVolume {
            name: wanted.volume.clone(),
            claim: wanted.claim.clone(),
            claim_uid: claim.metadata.uid,
            claim_capacity: claim.status.capacity.unwrap_or_default(),
            read_only: wanted.read_only,
            volume,
        })
    }

    /// Whether `volume` may be used on this node.
    fn check_node(
        &self,
        volume: &PersistentVolume,
        not_known: impl FnOnce(NotFetched) -> ClaimError,
    ) -> Result<(), ClaimError> {
        let affinity = volume.spec.node_affinity.as_ref();
        let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
            return Ok(());
        };
        let node = {
            let cluster = self.0.cluster.borrow();
            cluster
                .as_ref()
                .and_then(|cluster| cluster.node.borrow().clone())
        };
        let Some(node) = node else {
            return Err(not_known(NotFetched::silent(
                "the node's labels are not known yet",
            )));
        };
        match admission::selects(required, &node.labels) {
            true => Ok(()),
            false => Err(ClaimError::Affinity {
                volume: volume.metadata.name.clone(),
                block: volume.mode() == VolumeMode::Block,
            }),
        }
    }

    /// Keeps `found` for the pod `uid`, unless another pod has one of them that is for one pod alone.
    async fn keep(
        &self,
        uid: &PodUid,
        found: ClaimedVolumes,
    ) -> Result<ClaimedVolumes, ClaimFailure> {
        let _turn = self.0.deciding.lock().await;
        let (dirs, of) = (self.0.dirs.clone(), uid.clone());
        let kept = tokio::task::spawn_blocking(move || {
            keep(&dirs, &of, &found)?;
            Ok(found)
        });
        kept.await.unwrap_or_else(|panic| Err(not_kept(&panic)))
    }

    /// Gets one object. An answer that is not understood is none.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        patience: Duration,
    ) -> Result<T, NotFetched> {
        let client = self.0.cluster.borrow().as_ref().map(|c| c.client.clone());
        let Some(client) = client.filter(|_| !patience.is_zero()) else {
            return Err(NotFetched::silent("it has not answered yet"));
        };
        let unfit = |error: RequestError| NotFetched::silent(&error_chain(&error));
        let request = Request::new(path).get(name, &Default::default());
        let request = request.map_err(unfit)?;
        // Read here: the client would write an answer that it cannot read to its log.
        let asked = tokio::time::timeout(patience, client.request_text(request));
        let text = match asked.await {
            Ok(Ok(text)) => text,
            Ok(Err(kube::Error::Api(status))) => {
                return Err(NotFetched {
                    // All else may pass: a server that has just begun does not know yet what this node may see.
                    answered: status.code == 404,
                    why: status.message.clone(),
                });
            }
            Ok(Err(error)) => return Err(NotFetched::silent(&error_chain(&error))),
            Err(_) => {
                let why = format!("no answer within {patience:?}");
                return Err(NotFetched::silent(&why));
            }
        };
        let read = serde_json::from_str(&text);
        read.map_err(|error| NotFetched::silent(&format!("the answer cannot be read: {error}")))
    }
}

fn keep(dirs: &PodDirs, uid: &PodUid, found: &ClaimedVolumes) -> Result<(), ClaimFailure> {
    for claimed in found.values().filter(|c| c.volume.is_for_one_pod()) {
        let name = &claimed.volume.metadata.name;
        if !kept::users(dirs, name, uid).is_empty() {
            return Err(ClaimFailure {
                volume: claimed.name.clone(),
                claim: claimed.claim.clone(),
                error: ClaimError::InUse {
                    volume: name.clone(),
                    block: claimed.volume.mode() == VolumeMode::Block,
                },
            });
        }
    }
    let pod = dirs.ensure(uid).map_err(|error| not_kept(&error))?;
    let claims: Vec<_> = found.values().collect();
    kept::store(&pod, &claims).map_err(|error| not_kept(&error))
}

fn not_kept(error: &(dyn std::error::Error + 'static)) -> ClaimFailure {
    ClaimFailure {
        volume: String::new(),
        claim: String::new(),
        error: ClaimError::NotKept(error_chain(error)),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::error_of_one;
