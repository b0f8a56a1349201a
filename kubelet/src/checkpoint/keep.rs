//! Keeps the files as the API server has what they are of, from its first list on. Changes are written a moment after they
//! come, several at once, away from the task's thread: nobody waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::CheckpointInputs;
use super::files::{self, NODE, NodeFile, SERVICES};
use super::store::{Place, Store};
use crate::config::RestoreApiPods;
use crate::errors::error_chain;
use crate::objects::{self, Found, KeptServices, ObjectData, ObjectKey, objects_of};
use crate::pod::{Pod, PodUid};
use crate::sources::ApiPods;
use crate::status::{PodView, Word};

/// Changes within this time are written together.
const TOGETHER: Duration = Duration::from_secs(2);
/// What could not be written is tried again after this long.
const RETRY: Duration = Duration::from_secs(60);
/// A renewal of the lease is noted at most this often.
const NOTE_LEASE: Duration = Duration::from_secs(60);

/// What is to become of a pod's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is to be there.
    Keep,
    /// It stays, where there is one: nobody can say yet.
    Leave,
    /// It goes.
    Drop,
}

/// What is to become of the file of `pod`, which the board shows so.
fn verdict(pod: &Pod, view: Option<&PodView>) -> Verdict {
    let Some(view) = view.filter(|view| view.word != Word::Unseen) else {
        return Verdict::Leave;
    };
    match view.status.phase.is_terminal() || view.word == Word::Last {
        true => Verdict::Drop,
        // One that is being deleted has a file where it had one before, so that the next agent goes on ending it.
        false if pod.metadata.deletion_timestamp.is_some() => Verdict::Leave,
        false => Verdict::Keep,
    }
}

/// What the files hold, as far as this life of the agent has written or found them so.
#[derive(Default)]
struct Written {
    pods: BTreeMap<PodUid, Weak<Pod>>,
    objects: BTreeMap<ObjectKey, Known>,
    services: Option<KeptServices>,
    node: Option<NodeFile>,
    /// The names of all files that there are.
    names: BTreeMap<Place, BTreeSet<String>>,
}

/// What is known of an object, without holding it.
#[derive(Clone)]
enum Known {
    Missing,
    There(Weak<ObjectData>),
}

impl Known {
    fn of(found: &Found<Arc<ObjectData>>) -> Option<Self> {
        match found {
            Found::Unknown(_) => None,
            Found::Missing => Some(Self::Missing),
            Found::There(data) => Some(Self::There(Arc::downgrade(data))),
        }
    }

    fn is(&self, found: &Found<Arc<ObjectData>>) -> bool {
        match (self, found) {
            (Self::Missing, Found::Missing) => true,
            (Self::There(known), Found::There(data)) => known
                .upgrade()
                .is_some_and(|known| Arc::ptr_eq(&known, data)),
            _ => false,
        }
    }
}

/// One file to write or remove.
enum Job {
    Object(ObjectKey, Found<Arc<ObjectData>>),
    Pod(PodUid, Arc<Pod>),
    Services(KeptServices),
    Node(NodeFile),
    Forget(Place, String),
}

/// Keeps the files, for as long as the API server's pods are told of.
pub(super) async fn keep(mut inputs: CheckpointInputs, store: Arc<Store>) {
    let mut written = Written::default();
    let listed = inputs.pods.wait_for(|pods| pods.synced).await.map(drop);
    if listed.is_err() {
        return;
    }
    let opened = store.clone();
    let names = tokio::task::spawn_blocking(move || {
        let places = [Place::Pods, Place::Objects];
        places.map(|place| (place, opened.names(place).into_iter().collect()))
    });
    written.names = names.await.map(BTreeMap::from).unwrap_or_default();
    let mut objects = inputs.objects.changes();
    let mut board = inputs.board.changes();
    let notes_lease = inputs.settings.restore == RestoreApiPods::Stateless;
    let mut noted: Option<Instant> = None;
    let mut said = false;
    let mut retry = None;
    let mut due = true;
    loop {
        if std::mem::take(&mut due) {
            board.mark_unchanged();
            if let Some(objects) = &mut objects {
                objects.mark_unchanged();
            }
            let jobs = written.jobs(&mut inputs);
            let failed = carry_out(&store, jobs, &mut written).await;
            if let Some(error) = &failed
                && !std::mem::replace(&mut said, true)
            {
                tracing::warn!(
                    error,
                    "cannot keep what is known of the API server's pods; it is tried again"
                );
            }
            said &= failed.is_some();
            retry = failed.map(|_| Instant::now() + RETRY);
        }
        let changed = async {
            match &mut objects {
                Some(objects) => objects.changed().await,
                None => std::future::pending().await,
            }
        };
        let again = async {
            match retry {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: channels keep their news, and a timer its time.
        tokio::select! {
            changed = inputs.pods.changed() => if changed.is_err() { return },
            changed = board.changed() => if changed.is_err() { return },
            Ok(()) = changed => {}
            Ok(()) = inputs.node.changed() => {}
            Ok(()) = inputs.renewed.changed(), if notes_lease => {
                let time = *inputs.renewed.borrow_and_update();
                if let Some(time) = time.filter(|_| noted.is_none_or(|at| at.elapsed() >= NOTE_LEASE)) {
                    noted = Some(Instant::now());
                    note_lease(&store, time).await;
                }
                continue;
            }
            () = again => {}
        }
        sleep(TOGETHER).await;
        due = true;
    }
}

async fn note_lease(store: &Arc<Store>, time: Timestamp) {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || store.renewed(time)).await;
    if let Ok(Err(error)) = done {
        tracing::debug!(
            error = error_chain(&error),
            "cannot note that the lease was renewed"
        );
    }
}

impl Written {
    /// What there is to do, in order: what a pod needs comes before it, and the boot after all of them.
    fn jobs(&mut self, inputs: &mut CheckpointInputs) -> Vec<Job> {
        let api = inputs.pods.borrow_and_update().clone();
        let node = inputs.node.borrow_and_update().clone();
        let mut jobs = Vec::new();
        let pods = self.wanted(&api, |uid| inputs.board.get(uid));
        let mut keys = BTreeSet::new();
        for pod in pods.values() {
            keys.extend(objects_of(pod));
        }
        let mut names: BTreeSet<String> = BTreeSet::new();
        for key in keys {
            names.insert(files::name_of_object(&key));
            let found = inputs.objects.known(&key);
            if matches!(found, Found::Unknown(_))
                || self.objects.get(&key).is_some_and(|k| k.is(&found))
            {
                continue;
            }
            jobs.push(Job::Object(key, found));
        }
        self.forget_others(Place::Objects, &names, &mut jobs);
        for (uid, pod) in &pods {
            let same = self.pods.get(uid).and_then(Weak::upgrade);
            if same.is_none_or(|same| !Arc::ptr_eq(&same, pod)) {
                jobs.push(Job::Pod(uid.clone(), pod.clone()));
            }
        }
        let names = pods.keys().map(|uid| uid.as_str().to_owned()).collect();
        self.forget_others(Place::Pods, &names, &mut jobs);
        let namespaces: BTreeSet<&str> = pods
            .values()
            .map(|pod| pod.metadata.namespace.as_deref().unwrap_or("default"))
            .collect();
        let services = inputs.objects.services(namespaces.into_iter());
        if let Some(services) = services.filter(|new| self.services.as_ref() != Some(new)) {
            jobs.push(Job::Services(services));
        }
        // Where the kernel does not name its boots, each start is taken for one after a reboot.
        let boot = inputs.clock.since_boot().map(|since| since.boot);
        let file = NodeFile::of(boot.as_deref().unwrap_or_default(), node.as_deref());
        if self.node.as_ref() != Some(&file) {
            jobs.push(Job::Node(file));
        }
        jobs
    }

    /// The pods that are to have a file.
    fn wanted(
        &self,
        api: &ApiPods,
        view: impl Fn(&PodUid) -> Option<PodView>,
    ) -> BTreeMap<PodUid, Arc<Pod>> {
        let there = self.names.get(&Place::Pods);
        let is_there = |uid: &PodUid| there.is_some_and(|names| names.contains(uid.as_str()));
        let wanted = api.pods.iter().filter(|(uid, pod)| {
            files::name_of_pod(uid).is_some()
                && match verdict(pod, view(uid).as_ref()) {
                    Verdict::Keep => true,
                    Verdict::Leave => is_there(uid),
                    Verdict::Drop => false,
                }
        });
        wanted
            .map(|(uid, pod)| (uid.clone(), pod.clone()))
            .collect()
    }

    fn forget_others(&self, place: Place, names: &BTreeSet<String>, jobs: &mut Vec<Job>) {
        let there = self.names.get(&place).into_iter().flatten();
        let others = there.filter(|name| !names.contains(*name));
        jobs.extend(others.map(|name| Job::Forget(place, name.clone())));
    }

    /// Takes note of what was done.
    fn done(&mut self, job: Job) {
        match job {
            Job::Object(key, found) => {
                self.name(Place::Objects, files::name_of_object(&key));
                if let Some(known) = Known::of(&found) {
                    self.objects.insert(key, known);
                }
            }
            Job::Pod(uid, pod) => {
                self.name(Place::Pods, uid.as_str().to_owned());
                self.pods.insert(uid, Arc::downgrade(&pod));
            }
            Job::Services(services) => self.services = Some(services),
            Job::Node(file) => self.node = Some(file),
            Job::Forget(place, name) => {
                if let Some(names) = self.names.get_mut(&place) {
                    names.remove(&name);
                }
                match place {
                    Place::Pods => self.pods.retain(|uid, _| uid.as_str() != name),
                    Place::Objects => self
                        .objects
                        .retain(|key, _| files::name_of_object(key) != name),
                    Place::Top => {}
                }
            }
        }
    }

    fn name(&mut self, place: Place, name: String) {
        self.names.entry(place).or_default().insert(name);
    }
}

/// Does what there is to do; why the first thing failed that did.
async fn carry_out(store: &Arc<Store>, jobs: Vec<Job>, written: &mut Written) -> Option<String> {
    if jobs.is_empty() {
        return None;
    }
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut done = Vec::new();
        for job in jobs {
            match carry_out_one(&store, &job) {
                Ok(()) => done.push(job),
                // What comes after may rely on it.
                Err(error) => return (done, Some(error_chain(&error))),
            }
        }
        (done, None)
    });
    match done.await {
        Ok((done, failed)) => {
            for job in done {
                written.done(job);
            }
            failed
        }
        Err(error) => Some(error.to_string()),
    }
}

fn carry_out_one(store: &Store, job: &Job) -> Result<(), crate::dir::DirError> {
    match job {
        Job::Object(key, found) => match objects::encode(key, found) {
            Some(bytes) => store.write(Place::Objects, &files::name_of_object(key), &bytes),
            None => Ok(()),
        },
        Job::Pod(uid, pod) => match files::name_of_pod(uid).zip(files::of_pod(pod)) {
            Some((name, bytes)) => store.write(Place::Pods, name, &bytes),
            None => Ok(()),
        },
        Job::Services(services) => write_json(store, SERVICES, services),
        Job::Node(file) => write_json(store, NODE, file),
        Job::Forget(place, name) => store.forget(*place, name),
    }
}

fn write_json(
    store: &Store,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), crate::dir::DirError> {
    // Maps of text to plain values always have a form in JSON.
    match serde_json::to_vec(value) {
        Ok(bytes) => store.write(Place::Top, name, &bytes),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod::QosClass;
    use crate::status::{Phase, PodStatus};

    fn view(phase: Phase, word: Word) -> PodView {
        let status = PodStatus {
            phase,
            reason: None,
            message: None,
            start_time: None,
            conditions: Vec::new(),
            init_containers: Vec::new(),
            containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            qos: QosClass::BestEffort,
        };
        PodView {
            pod: Arc::default(),
            status: Arc::new(status),
            word,
        }
    }

    fn pod(uid: &str) -> (PodUid, Arc<Pod>) {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        (PodUid::parse(uid).unwrap(), Arc::new(pod))
    }

    #[test]
    fn a_pod_is_kept_once_it_was_admitted_and_until_it_has_ended() {
        let pod = Pod::default();
        let of = |phase, word| verdict(&pod, Some(&view(phase, word)));
        assert_eq!(verdict(&pod, None), Verdict::Leave);
        assert_eq!(of(Phase::Pending, Word::Unseen), Verdict::Leave);
        assert_eq!(of(Phase::Pending, Word::Current), Verdict::Keep);
        assert_eq!(of(Phase::Running, Word::Current), Verdict::Keep);
        assert_eq!(of(Phase::Running, Word::Last), Verdict::Drop);
        assert_eq!(of(Phase::Failed, Word::Current), Verdict::Drop, "refused");
        let mut deleted = Pod::default();
        deleted.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let running = view(Phase::Running, Word::Current);
        assert_eq!(verdict(&deleted, Some(&running)), Verdict::Leave);
    }

    #[test]
    fn what_nobody_can_judge_yet_stays_as_it_is_on_the_disk() {
        let mut written = Written::default();
        written.name(Place::Pods, "a".to_owned());
        written.name(Place::Pods, "gone".to_owned());
        let api = ApiPods {
            pods: ["a", "b", "c", "odd.uid"].map(pod).into(),
            ..ApiPods::default()
        };
        let wanted = written.wanted(&api, |uid| {
            (uid.as_str() >= "c").then(|| view(Phase::Running, Word::Current))
        });
        let uids: Vec<_> = wanted.keys().map(PodUid::as_str).collect();
        assert_eq!(uids, ["a", "c"]);
        let names = uids.iter().map(|uid| (*uid).to_owned()).collect();
        let mut jobs = Vec::new();
        written.forget_others(Place::Pods, &names, &mut jobs);
        let gone = matches!(&jobs[..], [Job::Forget(Place::Pods, name)] if name == "gone");
        assert!(gone);
        // Once it is done, there is no more to do.
        for job in jobs {
            written.done(job);
        }
        let mut jobs = Vec::new();
        written.forget_others(Place::Pods, &names, &mut jobs);
        assert!(jobs.is_empty());
    }

    #[test]
    fn an_object_is_known_by_its_place_in_memory_and_not_held() {
        let data = Arc::new(ObjectData::default());
        let found = Found::There(data.clone());
        let known = Known::of(&found).unwrap();
        assert!(known.is(&found));
        assert!(!known.is(&Found::There(Arc::new(ObjectData::default()))));
        assert!(!known.is(&Found::Missing));
        assert!(Known::of(&Found::Missing).unwrap().is(&Found::Missing));
        assert!(Known::of(&Found::Unknown(None)).is_none());
        drop((data, found));
        let Known::There(weak) = known else {
            panic!("it is there");
        };
        assert!(weak.upgrade().is_none());
    }
}
