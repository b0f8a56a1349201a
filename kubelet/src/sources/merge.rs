//! Static pods and the API server's pods as one set of desired pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::{ApiPods, Desired, StalePods};
use crate::events::About;
use crate::pod::{Pod, PodName, PodUid};

/// Merges what two sources have, anew with each change of either; until the API server has been heard, `stale` stands for
/// it. Ends with one of its channels.
pub async fn run_merge(
    mut files: watch::Receiver<Arc<Desired>>,
    mut api: watch::Receiver<Arc<ApiPods>>,
    mut stale: watch::Receiver<Arc<StalePods>>,
    desired: watch::Sender<Arc<Desired>>,
) {
    let mut told = BTreeSet::new();
    loop {
        let (of_files, of_api) = (
            files.borrow_and_update().clone(),
            api.borrow_and_update().clone(),
        );
        let of_before = stale.borrow_and_update().clone();
        let of_api = match of_api.synced {
            true => of_api,
            false => Arc::new(ApiPods {
                pods: of_before.pods.clone(),
                ..ApiPods::default()
            }),
        };
        let merged = merge(&of_files, &of_api);
        tell_once(&mut told, &merged.displaced);
        desired.send_if_modified(|before| {
            let news = !is_same(before, &merged.desired);
            if news {
                *before = Arc::new(merged.desired);
            }
            news
        });
        // Cancel-safe: a channel keeps its news.
        let changed = tokio::select! {
            changed = files.changed() => changed,
            changed = api.changed() => changed,
            Ok(()) = stale.changed() => Ok(()),
            () = desired.closed() => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Both sources' pods.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The pods that should run.
    pub desired: Desired,
    /// Pods of the API server that are left out, because a static pod has their name.
    pub displaced: Vec<Arc<Pod>>,
}

/// The pods of both sources. It is ready when both have reported.
///
/// A static pod waits for nobody, so a pod of the API server that has its name, and is no mirror, is left out; unless it
/// is being deleted: then it ends, and its object with it.
#[must_use]
pub fn merge(files: &Desired, api: &ApiPods) -> Merged {
    let names: BTreeSet<PodName> = files.pods.values().map(|pod| PodName::of(pod)).collect();
    let mut pods: BTreeMap<PodUid, Arc<Pod>> = BTreeMap::new();
    let mut displaced = Vec::new();
    for (uid, pod) in &api.pods {
        let ends = pod.metadata.deletion_timestamp.is_some();
        if ends || !names.contains(&PodName::of(pod)) {
            pods.insert(uid.clone(), pod.clone());
        } else {
            displaced.push(pod.clone());
        }
    }
    pods.extend(
        files
            .pods
            .iter()
            .map(|(uid, pod)| (uid.clone(), pod.clone())),
    );
    let ready = files.ready && api.synced;
    Merged {
        desired: Desired { pods, ready },
        displaced,
    }
}

fn tell_once(told: &mut BTreeSet<PodUid>, displaced: &[Arc<Pod>]) {
    let now: BTreeSet<PodUid> = displaced
        .iter()
        .filter_map(|pod| PodUid::of(pod).ok())
        .collect();
    for pod in displaced {
        if PodUid::of(pod).is_ok_and(|uid| !told.contains(&uid)) {
            let name = PodName::of(pod);
            About::pod(pod).warning(
                "FailedValidation",
                &format!(
                    "Error validating pod {name} from api due to duplicate pod name {:?}, ignoring",
                    &*name.name
                ),
            );
        }
    }
    *told = now;
}

/// Whether both are the same pods, by their allocations: an equal pod that is another one wakes its worker.
fn is_same(a: &Desired, b: &Desired) -> bool {
    let mut pairs = a.pods.iter().zip(&b.pods);
    a.ready == b.ready
        && a.pods.len() == b.pods.len()
        && pairs.all(|((x, p), (y, q))| x == y && Arc::ptr_eq(p, q))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::MirrorPod;

    fn pod(uid: &str, name: &str) -> (PodUid, Arc<Pod>) {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.name = Some(name.to_owned());
        (PodUid::parse(uid).unwrap(), Arc::new(pod))
    }

    fn files(pods: &[(&str, &str)], ready: bool) -> Desired {
        Desired {
            pods: pods.iter().map(|(u, n)| pod(u, n)).collect(),
            ready,
        }
    }

    fn api(pods: &[(&str, &str)], synced: bool) -> ApiPods {
        ApiPods {
            pods: pods.iter().map(|(u, n)| pod(u, n)).collect(),
            synced,
            ..ApiPods::default()
        }
    }

    fn uids(desired: &Desired) -> Vec<&str> {
        desired.pods.keys().map(PodUid::as_str).collect()
    }

    #[test]
    fn it_is_ready_when_both_are_and_static_pods_do_not_wait_for_that() {
        for (f, a) in [(false, false), (true, false), (false, true), (true, true)] {
            let merged = merge(&files(&[("s", "static")], f), &api(&[("p", "web")], a));
            assert_eq!(uids(&merged.desired), ["p", "s"]);
            assert_eq!(merged.desired.ready, f && a);
        }
    }

    #[test]
    fn a_static_pod_has_its_name_to_itself() {
        let mut of_api = api(&[("p", "web"), ("q", "other")], true);
        let mirror = MirrorPod {
            uid: PodUid::parse("m").unwrap(),
            hash: "s".to_owned(),
            deleting: false,
        };
        of_api.mirrors.insert(PodName::of(&Pod::default()), mirror);
        let merged = merge(&files(&[("s", "web")], true), &of_api);
        assert_eq!(uids(&merged.desired), ["q", "s"]);
        let displaced: Vec<_> = merged.displaced.iter().map(|p| PodUid::of(p)).collect();
        assert_eq!(displaced, [PodUid::parse("p")]);
    }

    #[test]
    fn a_pod_with_the_name_of_a_static_one_can_be_deleted_all_the_same() {
        let mut of_api = api(&[("p", "web")], true);
        let uid = PodUid::parse("p").unwrap();
        let mut deleted = Pod::clone(&of_api.pods[&uid]);
        deleted.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
        );
        of_api.pods.insert(uid, Arc::new(deleted));
        let merged = merge(&files(&[("s", "web")], true), &of_api);
        assert_eq!(uids(&merged.desired), ["p", "s"]);
        assert!(merged.displaced.is_empty());
    }

    #[tokio::test]
    async fn what_changes_nothing_wakes_nobody() {
        let (files_to, files) = watch::channel(Arc::new(files(&[("s", "static")], true)));
        let (api_to, api_rx) = watch::channel(Arc::new(api(&[("p", "web")], true)));
        let (desired, mut seen) = watch::channel(Arc::new(Desired::default()));
        let (stale_to, stale) = watch::channel(Arc::default());
        let task = tokio::spawn(run_merge(files, api_rx, stale, desired));
        seen.changed().await.unwrap();
        assert_eq!(uids(&seen.borrow_and_update()), ["p", "s"]);
        api_to.send_modify(|pods| {
            let mut again = ApiPods::clone(pods);
            again
                .statuses
                .insert(PodUid::parse("p").unwrap(), Arc::default());
            *pods = Arc::new(again);
        });
        api_to.send_modify(|pods| {
            let mut again = ApiPods::clone(pods);
            again.pods.clear();
            *pods = Arc::new(again);
        });
        let only = seen.wait_for(|d| d.pods.len() == 1).await.unwrap().clone();
        assert_eq!(uids(&only), ["s"]);
        drop((files_to, api_to, stale_to));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn pods_from_before_go_on_until_the_first_list_and_end_nothing() {
        let (_files_to, files) = watch::channel(Arc::new(files(&[("s", "static")], true)));
        let (api_to, api_rx) = watch::channel(Arc::default());
        let before = api(&[("p", "web"), ("q", "db")], false).pods;
        let before = StalePods {
            pods: before,
            node: None,
        };
        let (stale_to, stale) = watch::channel(Arc::new(before.clone()));
        let (desired, mut seen) = watch::channel(Arc::new(Desired::default()));
        tokio::spawn(run_merge(files, api_rx, stale, desired));
        let found = seen.wait_for(|d| !d.pods.is_empty()).await.unwrap().clone();
        assert_eq!(uids(&found), ["p", "q", "s"]);
        assert!(!found.ready);
        let listed = ApiPods {
            pods: [before.pods.first_key_value().unwrap()]
                .map(|(uid, pod)| (uid.clone(), pod.clone()))
                .into(),
            synced: true,
            ..ApiPods::default()
        };
        api_to.send_replace(Arc::new(listed));
        let now = seen.wait_for(|d| d.ready).await.unwrap().clone();
        assert_eq!(uids(&now), ["p", "s"]);
        stale_to.send_replace(Arc::default());
        drop(stale_to);
        assert_eq!(uids(&seen.borrow()), ["p", "s"]);
    }
}
