//! What is read of a CSIDriver: how volumes of a driver are to be treated.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio_stream::{Stream, StreamExt as _};

use super::data::Lifecycle;
use super::error::CsiError;
use crate::api::watch_objects;

/// How long the first list may take before a pod is told that nothing is known. It is tried again when something is.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// `storage.k8s.io/v1` `CSIDriver`, without what the control plane alone acts upon.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct CsiDriver {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: DriverSpec,
}

/// Its `spec`. The API server gives each field its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DriverSpec {
    pub(super) attach_required: Option<bool>,
    pub(super) pod_info_on_mount: Option<bool>,
    pub(super) fs_group_policy: Option<String>,
    pub(super) volume_lifecycle_modes: Option<Vec<String>>,
    pub(super) requires_republish: Option<bool>,
    pub(super) token_requests: Option<Vec<TokenRequest>>,
    #[serde(rename = "seLinuxMount")]
    pub(super) selinux_mount: Option<bool>,
    pub(super) service_account_token_in_secrets: Option<bool>,
}

/// A token that the driver is to be given of each pod's service account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct TokenRequest {
    /// For whom; empty: the API server.
    pub(super) audience: String,
    pub(super) expiration_seconds: Option<i64>,
}

impl kube::Resource for CsiDriver {
    type DynamicType = ();
    type Scope = k8s_openapi::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CSIDriver".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "storage.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "csidrivers".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What becomes of the pod's group when a volume is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FsGroupPolicy {
    /// Its files are left alone.
    None,
    /// They are given to the group.
    File,
    /// The same, where the volume has a file system of a known type and one node writes to it.
    ReadWriteOnceWithFsType,
}

/// Whether `driver` does volumes that live as `mode` says; one without an object does persistent ones.
///
/// # Errors
/// Upstream's words when it does not.
pub(super) fn check_mode(
    name: &str,
    driver: Option<&DriverSpec>,
    mode: Lifecycle,
) -> Result<(), String> {
    let mode = mode.as_str();
    let Some(spec) = driver else {
        return match mode {
            "Persistent" => Ok(()),
            _ => Err(format!(
                "volume mode {mode:?} not supported by driver {name} (no CSIDriver object)"
            )),
        };
    };
    let all = [Lifecycle::Persistent.as_str().to_owned()];
    let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or(&all);
    if modes.iter().any(|one| one == mode) {
        return Ok(());
    }
    let modes: Vec<_> = modes.iter().map(|one| format!("{one:?}")).collect();
    Err(format!(
        "volume mode {mode:?} not supported by driver {name} (only supports [{}])",
        modes.join(" ")
    ))
}

/// The policy of `driver`.
///
/// # Errors
/// When its object says none that there is.
pub(super) fn fs_group_policy(driver: Option<&DriverSpec>) -> Result<FsGroupPolicy, String> {
    let Some(spec) = driver else {
        return Ok(FsGroupPolicy::ReadWriteOnceWithFsType);
    };
    match spec.fs_group_policy.as_deref() {
        Some("None") => Ok(FsGroupPolicy::None),
        Some("File") => Ok(FsGroupPolicy::File),
        Some("ReadWriteOnceWithFSType") => Ok(FsGroupPolicy::ReadWriteOnceWithFsType),
        None | Some("") => Err(
            "kubernetes.io/csi: expected valid fsGroupPolicy, received nil value or empty string"
                .to_owned(),
        ),
        Some(other) => Err(format!("unknown fsGroupPolicy {other:?}")),
    }
}

type Specs = BTreeMap<String, Arc<DriverSpec>>;

/// The CSIDrivers of the cluster, from the moment somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct DriverObjects {
    /// None before the first list.
    known: watch::Sender<Option<Arc<Specs>>>,
    wanted: Notify,
}

impl DriverObjects {
    /// The object of the driver called `name`; none where there is none, which is allowed.
    ///
    /// # Errors
    /// When the API server has not said in time.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Arc<DriverSpec>>, CsiError> {
        self.wanted.notify_one();
        let mut known = self.known.subscribe();
        let listed = tokio::time::timeout(FIRST_LIST, known.wait_for(Option::is_some)).await;
        match listed {
            Ok(Ok(known)) => Ok(known.as_ref().and_then(|specs| specs.get(name).cloned())),
            Ok(Err(_)) | Err(_) => Err(CsiError::NotYet),
        }
    }

    /// The same, as far as it is known now.
    pub(super) fn now(&self, name: &str) -> Option<Arc<DriverSpec>> {
        self.known.borrow().as_ref()?.get(name).cloned()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Option<Arc<Specs>>> {
        self.known.subscribe()
    }

    /// Follows them once somebody wants to know. Never ends.
    pub(super) async fn run(&self, client: kube::Client) {
        self.wanted.notified().await;
        let events = watch_objects(Api::<CsiDriver>::all(client), watcher::Config::default());
        self.follow(events).await;
    }

    async fn follow(&self, mut events: impl Stream<Item = Event<CsiDriver>> + Unpin) {
        let mut specs = Specs::new();
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Event::Init => {
                    specs.clear();
                    listed = false;
                }
                Event::InitApply(driver) | Event::Apply(driver) => {
                    let name = driver.metadata.name.unwrap_or_default();
                    specs.insert(name, Arc::new(driver.spec));
                }
                Event::Delete(driver) => {
                    specs.remove(driver.metadata.name.as_deref().unwrap_or_default());
                }
                Event::InitDone => listed = true,
            }
            if listed {
                self.known.send_if_modified(|known| {
                    let news = known.as_deref() != Some(&specs);
                    if news {
                        *known = Some(Arc::new(specs.clone()));
                    }
                    news
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;
    use tokio_stream::iter;

    use super::*;

    fn driver(name: &str, spec: serde_json::Value) -> CsiDriver {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    #[test]
    fn they_are_where_the_api_has_them() {
        assert_eq!(
            CsiDriver::url_path(&(), None),
            "/apis/storage.k8s.io/v1/csidrivers"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_known_once_listed_and_follow_what_changes() {
        let objects = DriverObjects::default();
        assert!(matches!(objects.get("a").await, Err(CsiError::NotYet)));
        let list = [
            Event::Init,
            Event::InitApply(driver("a", json!({"podInfoOnMount": true}))),
            Event::InitApply(driver("b", json!({}))),
            Event::InitDone,
            Event::Apply(driver(
                "a",
                json!({"podInfoOnMount": false, "seLinuxMount": true}),
            )),
            Event::Delete(driver("b", json!({}))),
        ];
        objects.follow(iter(list)).await;
        let a = objects.get("a").await.unwrap().unwrap();
        assert_eq!(a.pod_info_on_mount, Some(false));
        assert_eq!(a.selinux_mount, Some(true));
        assert!(objects.get("b").await.unwrap().is_none());
    }

    #[test]
    fn modes_and_policies_are_as_the_object_says() {
        let spec = |spec| driver("d", spec).spec;
        let both = spec(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        let persistent = spec(json!({"volumeLifecycleModes": ["Persistent"]}));
        assert_eq!(check_mode("d", Some(&both), Lifecycle::Ephemeral), Ok(()));
        assert_eq!(check_mode("d", None, Lifecycle::Persistent), Ok(()));
        assert_eq!(
            check_mode("d", None, Lifecycle::Ephemeral).unwrap_err(),
            "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)"
        );
        assert_eq!(
            check_mode("d", Some(&persistent), Lifecycle::Ephemeral).unwrap_err(),
            "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"
        );
        assert_eq!(
            fs_group_policy(None),
            Ok(FsGroupPolicy::ReadWriteOnceWithFsType)
        );
        let file = spec(json!({"fsGroupPolicy": "File"}));
        assert_eq!(fs_group_policy(Some(&file)), Ok(FsGroupPolicy::File));
        assert!(fs_group_policy(Some(&both)).is_err());
    }
}
