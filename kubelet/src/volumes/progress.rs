//! Word of a volume whose files take long to be given to a group: events of its pod, at the times and in the words of
//! upstream (`pkg/volume/volume_linux.go`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::events::About;
use crate::pod::{self, Pod};

/// From the beginning to the first word (upstream's `firstEventReportDuration`).
const FIRST: Duration = Duration::from_secs(30);
/// From one word to the next (upstream's `progressReportDuration`).
const NEXT: Duration = Duration::from_secs(60);
const REASON: &str = "VolumePermissionChangeInProgress";

/// Whose volume it is, and how many of its files the group has.
#[derive(Debug)]
pub(crate) struct Progress {
    /// No more of the pod than its events name.
    pod: Pod,
    volume: String,
    files: Arc<AtomicU64>,
}

impl Progress {
    /// Of the volume of `pod` that is mounted at `path`. Nothing is told before [`Progress::begin`].
    pub(crate) fn of(pod: &Pod, path: &Path) -> Self {
        let meta = &pod.metadata;
        let path = path.display().to_string();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let volume = path.find(uid).map_or(&*path, |at| &path[at..]).to_owned();
        let mut named = Pod {
            metadata: ObjectMeta {
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        named.spec.get_or_insert_default().node_name = pod::spec(pod).node_name.clone();
        Self {
            pod: named,
            volume,
            files: Arc::default(),
        }
    }

    /// The work begins. It is told of for as long as what is returned lives; by a task of its own, since a single file may
    /// hang. Outside tokio's runtime nobody tells.
    pub(super) fn begin(self) -> Telling {
        let files = self.files.clone();
        let task = Handle::try_current().map(|runtime| runtime.spawn(self.tell()).abort_handle());
        Telling {
            files,
            task: task.ok(),
        }
    }

    async fn tell(self) {
        tokio::time::sleep(FIRST).await;
        let (about, volume) = (About::pod(&self.pod), &self.volume);
        about.warning(
            REASON,
            &format!(
                "Setting volume ownership for {volume} is taking longer than expected, consider using OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods"
            ),
        );
        loop {
            tokio::time::sleep(NEXT).await;
            let files = self.files.load(Ordering::Relaxed);
            about.warning(
                REASON,
                &format!("Setting volume ownership for {volume}, processed {files} files."),
            );
        }
    }
}

/// The work goes on.
#[derive(Debug)]
pub(super) struct Telling {
    files: Arc<AtomicU64>,
    task: Option<AbortHandle>,
}

impl Telling {
    /// One more file, or directory.
    pub(super) fn count(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ownership::{ChangePolicy, apply_by};
    use super::*;
    use crate::dir::Dir;
    use crate::events::recorder;

    fn pod(uid: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": "slow", "namespace": "default", "uid": uid},
            "spec": {"nodeName": "node", "containers": []},
        });
        serde_json::from_value(pod).unwrap()
    }

    /// Message and count of each event of the pod `uid`, the oldest first.
    fn told(uid: &str) -> Vec<(String, u32)> {
        let events = recorder().list(|event| &*event.object.uid == uid);
        let told = events.iter().map(|event| {
            assert_eq!((&*event.reason, event.warning), (REASON, true));
            (event.message.to_string(), event.count)
        });
        told.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_told_after_half_a_minute_and_then_each_minute() {
        let path = Path::new("/root/pods/long-1/volumes/kubernetes.io~csi/pv/mount");
        let telling = Progress::of(&pod("long-1"), path).begin();
        telling.count();
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert_eq!(told("long-1"), []);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let events = told("long-1");
        let first = "Setting volume ownership for long-1/volumes/kubernetes.io~csi/pv/mount is taking longer than expected, consider using OnRootMismatch - https://";
        assert!(
            events.len() == 1 && events[0].0.starts_with(first),
            "{events:?}"
        );

        telling.count();
        tokio::time::sleep(Duration::from_secs(58)).await;
        assert_eq!(told("long-1").len(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        telling.count();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let of = |files| {
            let text =
                "Setting volume ownership for long-1/volumes/kubernetes.io~csi/pv/mount, processed";
            (format!("{text} {files} files."), 1)
        };
        assert_eq!(told("long-1")[1..], [of(2), of(3)]);

        drop(telling);
        tokio::time::sleep(NEXT * 10).await;
        assert_eq!(told("long-1").len(), 3, "it is done");
    }

    #[test]
    fn each_file_that_is_given_away_counts() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("sub")).unwrap();
        std::fs::write(temp.path().join("sub/file"), "").unwrap();
        std::os::unix::fs::symlink("sub", temp.path().join("link")).unwrap();
        let volume = Dir::open(temp.path()).unwrap();
        let own = i64::from(rustix::process::getegid().as_raw());
        let counted = |policy| {
            let progress = Progress::of(&pod("counted-1"), volume.path());
            let files = progress.files.clone();
            apply_by(policy, &volume, own, false, progress).unwrap();
            files.load(Ordering::Relaxed)
        };
        assert_eq!(counted(ChangePolicy::Always), 4);
        // The volume itself says that they are.
        assert_eq!(counted(ChangePolicy::OnRootMismatch), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_quick_is_not_told() {
        let elsewhere = Path::new("/mnt/volume");
        let progress = Progress::of(&pod("quick-1"), elsewhere);
        assert_eq!(progress.volume, "/mnt/volume");
        tokio::time::sleep(FIRST * 2).await;
        let telling = progress.begin();
        tokio::time::sleep(FIRST - Duration::from_secs(1)).await;
        drop(telling);
        tokio::time::sleep(NEXT * 2).await;
        assert_eq!(told("quick-1"), []);
    }
}
