//! Registers the node and reports its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::gather::{Gatherer, NodeSettings, PROVIDED_IP};
use super::own::{OwnNode, say_turn};
use super::patch;
use super::register::{self, Registered};
use super::status::{self, Facts, Turn};
use super::types::{Node, NodeStatus};
use crate::api::{self, Retry};
use crate::clock::Clock;
use crate::errors::error_chain;
use crate::events::About;
use crate::managers::devices::Devices;

/// How often a report is tried (upstream's `nodeStatusUpdateRetry`).
const TRIES: u32 = 5;
/// How often a node that is not ready yet looks whether it is, after the agent's start. (Upstream: each 100 ms.)
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long it does so (upstream's `nodeReadyGracePeriod`).
const LOOKS_FOR: Duration = Duration::from_secs(120);

/// Why a node is not ready before its CSINode is there (upstream's words).
const NO_CSI_NODE: &str = "CSINode is not yet initialized";

/// Registers and reports.
pub struct Reporter {
    /// For heartbeats.
    pub client: Client,
    /// What the configuration says of the node.
    pub settings: Arc<NodeSettings>,
    /// What is known of it.
    pub gatherer: Gatherer,
    /// The node as the API server has it.
    pub own: watch::Receiver<OwnNode>,
    /// Both clocks.
    pub clock: Clock,
    /// Whether the node's CSINode is there: a node that is new is not ready before.
    pub initialized: watch::Receiver<bool>,
    /// Devices of plugins.
    pub devices: Devices,
    /// Attachable volumes that are, or are about to be, in use.
    pub in_use: watch::Receiver<BTreeSet<String>>,
}

/// Registers the node where it is to register itself, then reports its status: at once when it has become ready, each
/// `nodeStatusUpdateFrequency` when it has changed, each `nodeStatusReportFrequency` when it has not. Tells the runtime
/// the node's pod network. Never ends.
pub async fn run_status(reporter: Reporter) {
    let mut reports = Reports {
        base: None,
        reported: None,
        delay: 0.0,
        rebooted: false,
        said: None,
        pod_cidr: None,
        reporter,
    };
    if reports.reporter.settings.register {
        reports.register().await;
    }
    let began = reports.reporter.clock.monotonic();
    let mut is_ready = reports.report().await;
    while !is_ready && reports.reporter.clock.monotonic() - began < LOOKS_FOR {
        reports.next(LOOK_EVERY).await;
        is_ready = reports.report().await;
    }
    loop {
        reports.next(reports.reporter.settings.update_every).await;
        reports.report().await;
    }
}

struct Reports {
    reporter: Reporter,
    /// The node as it was last seen, or as the last patch left it.
    base: Option<Arc<Node>>,
    /// When a report last went through.
    reported: Option<Duration>,
    /// By how much the next one is moved, as a part of its period.
    delay: f64,
    rebooted: bool,
    said: Option<String>,
    /// The pod network that the runtime was told.
    pod_cidr: Option<String>,
}

impl Reports {
    async fn register(&mut self) {
        let settings = self.reporter.settings.clone();
        let mut retry = Retry::new(Duration::from_millis(100), Duration::from_secs(7));
        loop {
            let facts = self.facts().await;
            let (status, turns) = status::derive(&NodeStatus::default(), &facts, self.now());
            let new = self.reporter.devices.are_of_a_new_node();
            let tried = register::register(&self.reporter.client, &settings, &status, new).await;
            match tried {
                Ok(registered) => {
                    self.unsaid();
                    let node = match registered {
                        Registered::New(node) => {
                            tracing::info!(node = settings.name, "the node is registered");
                            self.say(&turns);
                            self.reported = Some(self.reporter.clock.monotonic());
                            self.delay = api::random() - 0.5;
                            node
                        }
                        Registered::Known(node) => {
                            tracing::info!(node = settings.name, "the node was registered before");
                            node
                        }
                    };
                    self.base = Some(Arc::new(*node));
                    return;
                }
                Err(error) => {
                    self.say_once(&format!(
                        "cannot register the node: {}",
                        error_chain(&error)
                    ));
                    retry.pause().await;
                }
            }
        }
    }

    /// Waits for the next time to look: `every`, or as soon as the node's readiness is unknown to the API server.
    async fn next(&mut self, every: Duration) {
        let sleep = tokio::time::sleep(every);
        let pressure = self.reporter.gatherer.pressure_changed();
        tokio::pin!(sleep, pressure);
        loop {
            // Cancel-safe: all of them only wait.
            tokio::select! {
                () = &mut sleep => return,
                () = &mut pressure => return,
                // Whoever is about to mount one waits for that to be told.
                Ok(()) = self.reporter.in_use.changed() => return,
                changed = self.reporter.own.changed() => {
                    if changed.is_err() {
                        // The watch is gone, and with it the agent.
                        sleep.as_mut().await;
                        return;
                    }
                }
            }
            if self.take_own() {
                return;
            }
        }
    }

    /// Takes over what was seen last, and says whether it should be answered at once.
    fn take_own(&mut self) -> bool {
        let own = self.reporter.own.borrow_and_update().clone();
        match own {
            OwnNode::There(node) => {
                let mut conditions = node.status.conditions.iter();
                let ready = conditions.find(|one| one.kind == "Ready");
                let unknown = ready.is_none_or(|ready| ready.status == "Unknown");
                let cidr = pod_cidr(&node);
                let new_cidr = cidr.is_some() && cidr != self.pod_cidr;
                self.base = Some(node);
                unknown || new_cidr
            }
            OwnNode::Absent => {
                self.base = None;
                false
            }
            OwnNode::Unknown => false,
        }
    }

    /// Computes the status, and reports it where it is time. Whether the node is ready.
    async fn report(&mut self) -> bool {
        if self.reporter.own.has_changed().unwrap_or(false) {
            self.take_own();
        }
        let facts = self.facts().await;
        let is_ready = facts.not_ready.is_empty();
        let mut tries = 0;
        while tries < TRIES {
            let Some(base) = self.base.clone() else {
                // Not registered by us, or deleted: it is told when it is there.
                return is_ready;
            };
            self.tell_runtime(&base).await;
            let (after, turns) = status::derive(&base.status, &facts, self.now());
            let metadata = self.metadata(&base);
            let changed = status::differ(&base.status, &after) || !metadata.is_empty();
            if !changed && !self.is_time() {
                return is_ready;
            }
            let mut body = Map::new();
            if !metadata.is_empty() {
                body.insert("metadata".to_owned(), metadata.into());
            }
            if let Some(status) = patch::of_status(&base.status, &after) {
                body.insert("status".to_owned(), status);
            }
            let name = self.reporter.settings.name.clone();
            let client = self.reporter.client.clone();
            match register::patch_status(&client, &name, body.into()).await {
                Ok(node) => {
                    self.went_through(changed, &base, &facts, &turns);
                    self.base = Some(Arc::new(node));
                    return is_ready;
                }
                Err(error) => {
                    tries += 1;
                    self.say_once(&format!(
                        "cannot report the node's status: {}",
                        error_chain(&error)
                    ));
                    // What was seen may be old.
                    match register::get(&client, &name).await {
                        Ok(node) => self.base = Some(Arc::new(node)),
                        Err(kube::Error::Api(status)) if status.code == 404 => self.base = None,
                        // Nobody answers: the next time is soon enough.
                        Err(_) => return is_ready,
                    }
                }
            }
        }
        is_ready
    }

    async fn facts(&mut self) -> Facts {
        let mut facts = self.reporter.gatherer.facts().await;
        facts.devices = self.reporter.devices.counts();
        let in_use = self.reporter.in_use.borrow_and_update();
        facts.volumes_in_use = in_use.iter().cloned().collect();
        // One that was ready before this agent began stays so.
        let was_ready = self.base.as_ref().is_some_and(|node| is_ready_now(node));
        if !*self.reporter.initialized.borrow() && !was_ready {
            facts.not_ready.push(NO_CSI_NODE.to_owned());
        }
        facts
    }

    fn went_through(&mut self, changed: bool, base: &Node, facts: &Facts, turns: &[Turn]) {
        // So that nodes that changed together do not report together ever after.
        self.delay = match changed || self.reported.is_none() {
            true => api::random() - 0.5,
            false => 0.0,
        };
        self.reported = Some(self.reporter.clock.monotonic());
        self.unsaid();
        self.say(turns);
        let (before, now) = (&base.status.node_info.boot_id, &facts.info.boot_id);
        if !before.is_empty() && before != now && !std::mem::replace(&mut self.rebooted, true) {
            let name = &self.reporter.settings.name;
            let message = format!("Node {name} has been rebooted, boot id: {now}");
            About::node(name).warning("Rebooted", &message);
        }
    }

    /// Whether it is time for a report though nothing has changed.
    fn is_time(&self) -> bool {
        let Some(reported) = self.reported else {
            return true;
        };
        let since = self.reporter.clock.monotonic().saturating_sub(reported);
        since
            >= self
                .reporter
                .settings
                .report_every
                .mul_f64(1.0 + self.delay)
    }

    /// What of the metadata is the agent's and is not as it should be.
    fn metadata(&self, node: &Node) -> Map<String, Value> {
        let settings = &self.reporter.settings;
        let mut metadata = Map::new();
        let labels = node.metadata.labels.as_ref();
        let own = [
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", super::architecture()),
        ];
        let wrong = own.into_iter().filter(|(key, value)| {
            let has = labels.and_then(|labels| labels.get(*key));
            has.map(String::as_str) != Some(value)
        });
        let wrong: Map<String, Value> = wrong
            .map(|(key, value)| (key.to_owned(), json!(value)))
            .collect();
        if !wrong.is_empty() {
            metadata.insert("labels".to_owned(), wrong.into());
        }
        let annotations = node.metadata.annotations.as_ref();
        let has = annotations.and_then(|all| all.get(PROVIDED_IP));
        let wanted = settings.annotations.get(PROVIDED_IP);
        if has != wanted {
            metadata.insert("annotations".to_owned(), json!({ PROVIDED_IP: wanted }));
        }
        metadata
    }

    /// Tells the runtime the node's pod network, once it has one.
    async fn tell_runtime(&mut self, node: &Node) {
        let Some(cidr) = pod_cidr(node) else {
            return;
        };
        if self.pod_cidr.as_ref() == Some(&cidr) || !self.reporter.gatherer.runtime_answers() {
            return;
        }
        let runtime = self.reporter.gatherer.runtime();
        match runtime.update_runtime_config(cidr.clone()).await {
            Ok(()) => {
                tracing::info!(cidr, "the runtime knows the node's pod network");
                self.pod_cidr = Some(cidr);
            }
            Err(error) => self.say_once(&format!(
                "cannot tell the runtime the node's pod network: {}",
                error_chain(&error)
            )),
        }
    }

    /// Whole seconds: the API server keeps no more.
    fn now(&self) -> Timestamp {
        let now = self.reporter.clock.wall();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    fn say(&self, turns: &[Turn]) {
        for turn in turns {
            say_turn(&self.reporter.settings.name, turn.reason);
        }
    }

    fn say_once(&mut self, text: &str) {
        if self.said.as_deref() != Some(text) {
            tracing::warn!("{text}");
            self.said = Some(text.to_owned());
        }
    }

    fn unsaid(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("the API server takes the node's status again");
        }
    }
}

fn is_ready_now(node: &Node) -> bool {
    let mut conditions = node.status.conditions.iter();
    conditions.any(|one| one.kind == "Ready" && one.status == "True")
}

fn pod_cidr(node: &Node) -> Option<String> {
    let cidrs = &node.spec.pod_cidrs;
    (!cidrs.is_empty()).then(|| cidrs.join(","))
}
