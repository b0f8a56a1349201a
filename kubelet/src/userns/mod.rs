//! User namespaces of pods (`spec.hostUsers: false`, KEP-127): which of the node's user and group ids stand for a pod's.
//!
//! Owns: which pod has which ids, and the file `userns` in its directory that says so ([`Range`]), in upstream's form; from
//! before its first sandbox until nothing of it runs and its volumes and cgroup are given back.
//! Inputs: the ids that are for pods (`userNamespaces.idsPerPod`, subordinate ids of the user `kubelet`), the files of an
//! earlier life of the agent; the runtime, for pods whose file is lost. Outputs: a [`Range`] for a pod.
//! Tasks: none; files are written and removed away from the tasks' threads.
//! Does not: change the owner of a file: volumes are mounted with the same ids mapped back, so that on the disk files belong
//! to the ids that the pod sees. Nor ask whether the runtime can: that is the pod's worker.
//!
//! **No two pods share ids**, whatever lies on the disk: a file that is torn, or says what another one says, gives nothing
//! free. As long as what such a pod has is not known, no other pod gets ids: the runtime is asked first, which made the
//! namespace. (Upstream does not start with such a file.) What was given under another configuration stays with its pod
//! for as long as its sandbox does.

mod own_ids;
mod range;
mod ranges;
mod recovery;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri_proto::{CriError, RuntimeClient};

use crate::api;
use crate::dir::DirError;
use crate::errors::error_chain;
use crate::pod::PodUid;
use crate::poddir::{PodDirError, PodDirs, USER_NAMESPACE};
use own_ids::OwnIds;
use ranges::Ranges;

pub use own_ids::OwnIdsError;
pub use range::{Range, UNIT};

/// The node's users, passwd(5).
pub const USERS: &str = "/etc/passwd";

/// No such file is larger, bytes; what is, is none.
const MOST: u64 = 4096;
/// Nobody but root has to know.
const MODE: u32 = 0o600;

/// Why a pod has no user namespace. Tried again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The runtime, or the kernel under it, cannot.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    Runtime,
    /// The handler of the pod's class cannot.
    #[error(
        "can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user namespaces"
    )]
    Handler(String),
    /// The runtime has no such handler.
    #[error(
        "can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user namespaces: the handler {0:?} is not known"
    )]
    UnknownHandler(String),
    /// The runtime does not say what it can do.
    #[error("can't set `spec.hostUsers: false`, the runtime does not say what it can do")]
    Abilities(#[source] CriError),
    /// All ids are taken.
    #[error("create user namespace: could not find an empty slot to allocate a user namespace")]
    NoneFree,
    /// The pod is going, and its directory has gone.
    #[error("create user namespace: the pod has no directory")]
    NoDirectory,
    /// The pod's directory.
    #[error("create user namespace")]
    Directory(#[from] PodDirError),
    /// The file.
    #[error("create user namespace")]
    File(#[from] DirError),
    /// The thread that did it ended early.
    #[error("create user namespace")]
    Interrupted(#[source] tokio::task::JoinError),
    /// Another pod may have any ids, and the runtime does not say which.
    #[error("the ids of the user namespace of pod {uid} are not known, so none can be given")]
    Unknown {
        /// That pod.
        uid: PodUid,
        /// What the runtime answered; nothing where it has the pod's sandbox and does not tell.
        #[source]
        source: Option<CriError>,
    },
    /// The pod's sandbox is there, and nobody knows its ids.
    #[error("the pod's sandbox has no user namespace that is known")]
    NotGiven,
}

/// Why it is not known which ids are whose. The agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ids that are for pods.
    #[error(transparent)]
    Ids(#[from] OwnIdsError),
    /// The pods' directories cannot be listed.
    #[error("read pods from disk")]
    Pods(#[source] PodDirError),
}

/// Which pod has which ids. Cloning shares it.
#[derive(Clone, Debug)]
pub struct UserNamespaces {
    ranges: Arc<Mutex<Ranges>>,
    dirs: PodDirs,
}

impl UserNamespaces {
    /// With the ids of this machine (its `users` are in [`USERS`]), `per_pod` for each of at most `max_pods` pods, and what
    /// the files in the pods' directories say that an earlier life of the agent has given.
    ///
    /// # Errors
    /// When the ids for pods are of no use, or nobody can tell which pods there are; upstream's agent does not start either.
    pub fn open(
        dirs: PodDirs,
        users: &Path,
        per_pod: u32,
        max_pods: u32,
    ) -> Result<Self, OpenError> {
        let own = OwnIds::of_machine((users, own_ids::PROGRAM), per_pod, max_pods)?;
        let mut ranges = Ranges::new(own);
        for uid in dirs.list().map_err(OpenError::Pods)? {
            match read(&dirs, &uid) {
                Ok(None) => {}
                Ok(Some(range)) => hold(&mut ranges, uid, range),
                Err(why) => {
                    tracing::warn!(
                        path = %dirs.path(&uid).join(USER_NAMESPACE).display(),
                        error = why,
                        "the file of a pod's user namespace is bad: the runtime is asked before another pod gets one"
                    );
                    ranges.lose(uid);
                }
            }
        }
        Ok(Self {
            ranges: Arc::new(Mutex::new(ranges)),
            dirs,
        })
    }

    /// The ids for a new sandbox of the pod `uid`: those that it has, unless they are of another configuration, or new ones.
    ///
    /// # Errors
    /// When there are none, or they cannot be kept.
    pub async fn for_new_sandbox(
        &self,
        uid: &PodUid,
        runtime: &RuntimeClient,
    ) -> Result<Range, UserNamespaceError> {
        self.find_lost(runtime).await?;
        let (this, uid) = (self.clone(), uid.clone());
        let taken = tokio::task::spawn_blocking(move || this.ensure(&uid));
        taken.await.map_err(UserNamespaceError::Interrupted)?
    }

    /// The ids of the sandbox that the pod `uid` has.
    ///
    /// # Errors
    /// When they are not known.
    pub async fn of_sandbox(
        &self,
        uid: &PodUid,
        runtime: &RuntimeClient,
    ) -> Result<Range, UserNamespaceError> {
        let known = self.lock().of(uid);
        if let Some(range) = known {
            return Ok(range);
        }
        // Its file is gone, or nobody could read it.
        self.lock().lose(uid.clone());
        self.find_lost(runtime).await?;
        let found = self.lock().of(uid);
        found.ok_or(UserNamespaceError::NotGiven)
    }

    /// Takes back what the pod `uid` has, and removes its file. For a pod of which nothing runs.
    pub async fn release(&self, uid: &PodUid) {
        {
            let mut ranges = self.lock();
            if ranges.of(uid).is_none() && !ranges.is_lost(uid) {
                return;
            }
            ranges.release(uid);
        }
        let (this, uid) = (self.clone(), uid.clone());
        let removed = tokio::task::spawn_blocking(move || {
            // Behind a call that gives the pod ids, should one be under way.
            let mut ranges = this.lock();
            ranges.release(&uid);
            let pod = this.dirs.get(&uid)?;
            pod.map_or(Ok(()), |pod| Ok(pod.dir().remove_file(USER_NAMESPACE)?))
        });
        let removed: Result<Result<(), PodDirError>, _> = removed.await;
        if let Ok(Err(error)) = removed {
            tracing::debug!(
                error = error_chain(&error),
                "a pod's user namespace stays on the disk until its directory goes"
            );
        }
    }

    /// Has the runtime say what the pods have whose files do not.
    async fn find_lost(&self, runtime: &RuntimeClient) -> Result<(), UserNamespaceError> {
        loop {
            let lost = self.lock().lost().cloned();
            let Some(uid) = lost else {
                return Ok(());
            };
            let found = recovery::of_pod(runtime, &uid).await;
            let found = found.map_err(|source| UserNamespaceError::Unknown {
                uid: uid.clone(),
                source,
            })?;
            let this = self.clone();
            let noted = tokio::task::spawn_blocking(move || this.note_found(uid, found));
            noted.await.map_err(UserNamespaceError::Interrupted)?;
        }
    }

    /// What the runtime says of a pod that is still lost.
    fn note_found(&self, uid: PodUid, found: Option<Range>) {
        let mut ranges = self.lock();
        if !ranges.is_lost(&uid) {
            return;
        }
        tracing::warn!(%uid, ids = found.map(tracing::field::display), "the runtime has said which ids the pod has");
        let kept = match found {
            Some(range) => {
                ranges.hold(uid.clone(), range);
                write(&self.dirs, &uid, range)
            }
            None => {
                ranges.release(&uid);
                remove(&self.dirs, &uid)
            }
        };
        if let Err(error) = kept {
            // The next life of the agent asks again.
            tracing::warn!(%uid, error = error_chain(&error), "cannot put the pod's user namespace right on the disk");
        }
    }

    fn ensure(&self, uid: &PodUid) -> Result<Range, UserNamespaceError> {
        // Held while the file is written: what is given is kept, or not given.
        let mut ranges = self.lock();
        match ranges.of(uid) {
            Some(range) if ranges.is_current(range) && ranges.sharing(range) == [uid.clone()] => {
                return Ok(range);
            }
            _ => ranges.release(uid),
        }
        let range = ranges.take(uid, api::random());
        let range = range.ok_or(UserNamespaceError::NoneFree)?;
        write(&self.dirs, uid, range).inspect_err(|_| ranges.release(uid))?;
        Ok(range)
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes what a file says, unless the file of another pod says as much: then neither is believed.
fn hold(ranges: &mut Ranges, uid: PodUid, range: Range) {
    let sharing = ranges.sharing(range);
    if sharing.is_empty() {
        return ranges.hold(uid, range);
    }
    for other in sharing {
        tracing::warn!(pods = %format_args!("{uid} {other}"), %range, "two pods are said to have the same ids: the runtime is asked before another pod gets some");
        ranges.lose(other);
    }
    ranges.lose(uid);
}

/// What the file of the pod `uid` says; or what is wrong with it.
fn read(dirs: &PodDirs, uid: &PodUid) -> Result<Option<Range>, String> {
    let pod = dirs.get(uid).map_err(|error| error_chain(&error))?;
    let Some(pod) = pod else {
        return Ok(None);
    };
    let bytes = pod.dir().read_file(USER_NAMESPACE, MOST);
    let bytes = bytes.map_err(|error| error_chain(&error))?;
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    range::decode(&bytes).map_err(|error| error_chain(&error))
}

/// Keeps `range` in the directory of the pod `uid`, which has one.
fn write(dirs: &PodDirs, uid: &PodUid, range: Range) -> Result<(), UserNamespaceError> {
    // Never made here: nobody would remove it.
    let pod = dirs.get(uid)?.ok_or(UserNamespaceError::NoDirectory)?;
    let bytes = range::encode(range).map_err(|error| DirError {
        action: "encode",
        path: pod.dir().path_of(USER_NAMESPACE),
        source: error.into(),
    })?;
    Ok(pod.dir().replace(USER_NAMESPACE, &bytes, MODE)?)
}

fn remove(dirs: &PodDirs, uid: &PodUid) -> Result<(), UserNamespaceError> {
    if let Some(pod) = dirs.get(uid)? {
        pod.dir().remove_file(USER_NAMESPACE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
