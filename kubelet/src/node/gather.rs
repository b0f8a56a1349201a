//! What is known of the node at one moment: the machine, the runtime, the configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::{RuntimeCondition, StatusResponse};
use cri_proto::{CriError, ImageClient, RuntimeClient};
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use super::addresses::{self, Inputs};
use super::machine::{self, meminfo_bytes};
use super::status::{Facts, RuntimeAbilities, reported_images};
use super::types::{Address, Features, HandlerFeatures, Image, NodeInfo, RuntimeHandler, Swap};
use super::version::plain_version;
use crate::admission::{Amounts, Capacity};
use crate::clock::Clock;
use crate::config::{Config, KUBERNETES_VERSION};
use crate::connections::resolve;
use crate::errors::error_chain;
use crate::eviction::Pressure;
use crate::managers::devices::DeviceCounts;
use crate::shutdown::NodeState;

/// A runtime that has not said for so long that it is ready is down (upstream's `maxWaitForContainerRuntime`).
const RUNTIME_DOWN: Duration = Duration::from_secs(30);
/// How long an answer of the runtime is waited for, before it counts as none.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);
/// How often the runtime is asked for its images. (Upstream: each 30 s.)
const IMAGES_EVERY: Duration = Duration::from_secs(60);
/// How often the node's name is looked up, where its address hangs on that. (Upstream: with each status.)
const LOOK_UP_EVERY: Duration = Duration::from_secs(300);
/// How long that may take.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(5);

/// What the configuration says of the node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its name.
    pub name: String,
    /// Labels it registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints it registers with.
    pub taints: Vec<Taint>,
    /// Annotations it registers with.
    pub annotations: BTreeMap<String, String>,
    /// What the cloud calls it.
    pub provider_id: Option<String>,
    /// Whether a cloud controller completes it.
    pub external_cloud: bool,
    /// `--node-ip`.
    pub ips: Vec<IpAddr>,
    /// Whether it registers itself.
    pub register: bool,
    /// How many images are reported; none for all.
    pub max_images: Option<u32>,
    /// The port of the agent's API; 0 where it is closed.
    pub port: u16,
    /// How often the status is computed.
    pub update_every: Duration,
    /// How often it is reported though nothing has changed.
    pub report_every: Duration,
    /// What the machine has.
    pub capacity: Capacity,
    /// What of it is for pods.
    pub allocatable: Amounts,
}

impl NodeSettings {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config, capacity: Capacity, allocatable: Amounts) -> Self {
        let node = &config.node;
        let mut taints: Vec<Taint> = node.taints.iter().map(taint).collect();
        if node.external_cloud {
            taints.push(Taint {
                key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
                value: Some("true".to_owned()),
                effect: "NoSchedule".to_owned(),
                time_added: None,
            });
        }
        let mut annotations = BTreeMap::new();
        if node.controller_attach_detach {
            annotations.insert(ATTACH_DETACH.to_owned(), "true".to_owned());
        }
        let specified = node.ips.iter().filter(|ip| !ip.is_unspecified());
        let specified: Vec<String> = specified.map(IpAddr::to_string).collect();
        if node.external_cloud && !specified.is_empty() {
            annotations.insert(PROVIDED_IP.to_owned(), specified.join(","));
        }
        Self {
            name: node.name.clone(),
            labels: initial_labels(config),
            taints,
            annotations,
            provider_id: node.provider_id.clone(),
            external_cloud: node.external_cloud,
            ips: node.ips.clone(),
            register: node.register,
            max_images: node.status_max_images,
            port: config.server.main.map_or(0, |address| address.port()),
            update_every: node.status_update_every,
            report_every: node.status_report_every,
            capacity,
            allocatable,
        }
    }
}

/// Tells the controller of volumes that it is the one to attach them.
pub(super) const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Tells a cloud controller which address was configured.
pub(super) const PROVIDED_IP: &str = "alpha.kubernetes.io/provided-node-ip";

fn taint(taint: &crate::config::NodeTaint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
        effect: taint.effect.clone(),
        time_added: None,
    }
}

/// The labels of a node that nobody has labelled yet, and of one without an API server: `--node-labels` goes before the
/// agent's own.
pub(crate) fn initial_labels(config: &Config) -> BTreeMap<String, String> {
    let arch = machine::architecture();
    let own = [
        ("kubernetes.io/hostname", config.node.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    let mut labels: BTreeMap<String, String> = own
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    labels.extend(config.node.labels.clone());
    labels
}

/// Reads what a status is made of.
pub struct Gatherer {
    settings: Arc<NodeSettings>,
    runtime: RuntimeClient,
    images: ImageClient,
    clock: Clock,
    pressure: watch::Receiver<Pressure>,
    shutdown: watch::Receiver<NodeState>,
    info: NodeInfo,
    state: RuntimeView,
    listed: Option<(Duration, Vec<Image>)>,
    looked_up: Option<(Duration, Vec<IpAddr>)>,
    said: Option<String>,
}

impl Gatherer {
    /// Reads what does not change while the machine runs.
    #[must_use]
    pub fn new(
        settings: Arc<NodeSettings>,
        (runtime, images): (RuntimeClient, ImageClient),
        clock: Clock,
        pressure: watch::Receiver<Pressure>,
        shutdown: watch::Receiver<NodeState>,
    ) -> Self {
        Self {
            settings,
            runtime,
            images,
            clock,
            pressure,
            shutdown,
            info: machine_info(),
            state: RuntimeView::default(),
            listed: None,
            looked_up: None,
            said: None,
        }
    }

    pub(super) fn runtime(&self) -> &RuntimeClient {
        &self.runtime
    }

    /// Resolves when the node is short of something else than when it was last gathered.
    pub(super) fn pressure_changed(&self) -> impl Future<Output = ()> + use<> {
        let mut pressure = self.pressure.clone();
        async move {
            if pressure.changed().await.is_err() {
                // Nobody looks any more, and the agent ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the runtime answers.
    pub(super) fn runtime_answers(&self) -> bool {
        self.state.answers
    }

    /// Everything, as it is now.
    pub(super) async fn facts(&mut self) -> Facts {
        self.ask_runtime().await;
        let now = self.clock.monotonic();
        let images = self.images(now).await;
        let addresses = self.addresses(now).await;
        let mut not_ready = self.state.not_ready(now);
        if matches!(*self.shutdown.borrow(), NodeState::ShuttingDown(_)) {
            not_ready.push("node is shutting down".to_owned());
        }
        Facts {
            capacity: self.settings.capacity.clone(),
            allocatable: self.settings.allocatable.clone(),
            devices: DeviceCounts::default(),
            addresses,
            addresses_of_cloud: self.settings.external_cloud,
            info: NodeInfo {
                container_runtime_version: self.state.version.clone().unwrap_or_default(),
                ..self.info.clone()
            },
            port: self.settings.port,
            images,
            runtime: self.state.abilities.clone(),
            pressure: *self.pressure.borrow_and_update(),
            not_ready,
            volumes_in_use: Vec::new(),
        }
    }

    async fn ask_runtime(&mut self) {
        let asked = tokio::time::timeout(RUNTIME_PATIENCE, self.runtime.status(false)).await;
        let now = self.clock.monotonic();
        let answered_before = self.state.answers;
        match asked {
            Ok(answer) => self.state.hear(answer, now),
            Err(_) => self.state.answers = false,
        }
        // Another runtime may answer after a pause.
        let unknown = self.state.version.is_none() || !answered_before;
        if self.state.answers
            && unknown
            && let Ok(Ok(version)) =
                tokio::time::timeout(RUNTIME_PATIENCE, self.runtime.version()).await
        {
            let (name, version) = (version.runtime_name, version.runtime_version);
            let version = plain_version(&version);
            let version = version.as_deref().unwrap_or("Unknown");
            self.state.version = Some(format!("{name}://{version}"));
        }
    }

    async fn images(&mut self, now: Duration) -> Option<Vec<Image>> {
        let due = |at: Duration| now.saturating_sub(at) >= IMAGES_EVERY;
        let known = self.listed.as_ref();
        if self.state.answers && known.is_none_or(|(at, _)| due(*at)) {
            let asked = tokio::time::timeout(RUNTIME_PATIENCE, self.images.list_images(None)).await;
            if let Ok(Ok(images)) = asked {
                let images = images.into_iter().map(|image| Image {
                    names: [image.repo_digests, image.repo_tags].concat(),
                    size_bytes: image.size,
                });
                let reported = reported_images(images.collect(), self.settings.max_images);
                self.listed = Some((now, reported));
            }
        }
        self.listed.as_ref().map(|(_, images)| images.clone())
    }

    async fn addresses(&mut self, now: Duration) -> Option<Vec<Address>> {
        let settings = self.settings.clone();
        let specified = settings.ips.iter().any(|ip| !ip.is_unspecified());
        let due = |at: Duration| now.saturating_sub(at) >= LOOK_UP_EVERY;
        let known = self.looked_up.as_ref();
        if !specified && known.is_none_or(|(at, _)| due(*at)) {
            let asked = tokio::time::timeout(LOOK_UP_PATIENCE, resolve(&settings.name, 0)).await;
            let found = match asked {
                Ok(Ok(found)) => found.iter().map(std::net::SocketAddr::ip).collect(),
                // Nobody knows the name: the default route leads further.
                _ => Vec::new(),
            };
            self.looked_up = Some((now, found));
        }
        let named = self.looked_up.as_ref().map(|(_, ips)| ips.as_slice());
        let chosen = addresses::choose(&Inputs {
            configured: &settings.ips,
            name: &settings.name,
            external_cloud: settings.external_cloud,
            own: &machine::interface_addresses(),
            named: named.unwrap_or_default(),
            default_route: &machine::default_route_addresses(),
        });
        match chosen {
            Ok(addresses) => {
                self.said = None;
                Some(addresses)
            }
            Err(error) => {
                let text = error_chain(&error);
                if self.said.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                    self.said = Some(text);
                }
                None
            }
        }
    }
}

/// What the runtime has said of itself.
#[derive(Debug, Default)]
pub(super) struct RuntimeView {
    answers: bool,
    version: Option<String>,
    abilities: Option<RuntimeAbilities>,
    /// When it last said that it was ready.
    ready: Option<Duration>,
    /// Why there is no network.
    network: Option<String>,
    asked: bool,
}

impl RuntimeView {
    pub(super) fn hear(&mut self, answer: Result<StatusResponse, CriError>, now: Duration) {
        let Ok(answer) = answer else {
            self.answers = false;
            return;
        };
        self.answers = true;
        self.asked = true;
        let conditions = answer.status.map(|status| status.conditions);
        let conditions = conditions.unwrap_or_default();
        let find = |kind: &str| conditions.iter().find(|one| one.r#type == kind);
        self.network = match find("NetworkReady") {
            Some(condition) if condition.status => None,
            condition => {
                let shown = condition.map_or_else(|| "<nil>".to_owned(), shown);
                Some(format!("container runtime network not ready: {shown}"))
            }
        };
        let handlers = answer.runtime_handlers.into_iter().map(|handler| {
            let features = handler.features.unwrap_or_default();
            RuntimeHandler {
                name: handler.name,
                features: HandlerFeatures {
                    recursive_read_only_mounts: features.recursive_read_only_mounts,
                    user_namespaces: features.user_namespaces,
                },
            }
        });
        self.abilities = Some(RuntimeAbilities {
            handlers: handlers.collect(),
            features: answer.features.map(|features| Features {
                supplemental_groups_policy: features.supplemental_groups_policy,
            }),
        });
        if find("RuntimeReady").is_some_and(|condition| condition.status) {
            self.ready = Some(now);
        }
    }

    /// Why the node is not ready, as far as the runtime is to blame.
    pub(super) fn not_ready(&self, now: Duration) -> Vec<String> {
        let mut why = Vec::new();
        match self.ready {
            None => {
                why.push("container runtime status check may not have completed yet".to_owned())
            }
            Some(ready) if now.saturating_sub(ready) >= RUNTIME_DOWN => {
                why.push("container runtime is down".to_owned());
            }
            Some(_) => {}
        }
        match self.asked {
            true => why.extend(self.network.clone()),
            false => why.push("network state unknown".to_owned()),
        }
        why
    }
}

/// A condition as upstream's errors show it.
fn shown(condition: &RuntimeCondition) -> String {
    format!(
        "{}={} reason:{} message:{}",
        condition.r#type, condition.status, condition.reason, condition.message
    )
}

/// What of `nodeInfo` stays while the machine runs.
pub(crate) fn machine_info() -> NodeInfo {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let first = |paths: &[&str]| paths.iter().find_map(|path| read(path)).unwrap_or_default();
    let machine_id = first(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let system_uuid = first(&[
        "/sys/class/dmi/id/product_uuid",
        "/proc/device-tree/system-id",
        "/proc/device-tree/vm,uuid",
        "/etc/machine-id",
    ]);
    let release = first(&["/etc/os-release", "/usr/lib/os-release"]);
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let swap = meminfo_bytes(&meminfo, "SwapTotal").filter(|bytes| *bytes > 0);
    NodeInfo {
        machine_id,
        system_uuid: system_uuid.trim_end_matches('\0').to_owned(),
        boot_id: first(&["/proc/sys/kernel/random/boot_id"]),
        kernel_version: machine::kernel_release().unwrap_or_default(),
        os_image: pretty_name(&release).unwrap_or_else(|| "Unknown".to_owned()),
        container_runtime_version: String::new(),
        kubelet_version: KUBERNETES_VERSION.to_owned(),
        kube_proxy_version: String::new(),
        operating_system: "linux".to_owned(),
        architecture: machine::architecture().to_owned(),
        swap: swap.map(|capacity| Swap { capacity }),
    }
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(release: &str) -> Option<String> {
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}
