//! What a node of a cluster has besides: its connection to the API server, and the tasks that talk over it.
//!
//! Nothing here is waited for by what runs pods: the channels are made before there is a connection, and static pods begin
//! while the API server is away, or the node has no certificate yet.

use std::sync::Arc;

use cri_proto::ImageClient;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use super::Singletons;
use super::resources::NodeResources;
use crate::api::{self, Clients};
use crate::config::{ApiConfig, Config};
use crate::errors::error_chain;
use crate::events::{self, Outbox};
use crate::eviction::Pressure;
use crate::join::{self, Complaints, Joined, ServingCertificate, Troubles};
use crate::mirror::{MirrorInputs, run_mirrors};
use crate::node::{
    Gatherer, LeaseSettings, NodeObject, NodeSettings, OwnNode, Reporter, run_lease, run_own_node,
    run_status,
};
use crate::publisher::run_status_publisher;
use crate::runtime_class::run_runtime_classes;
use crate::shutdown::NodeState;
use crate::sources::{ApiPods, Desired, StalePods, run_api_source};
use crate::workers::Tools;

/// What the rest of the agent hears of the cluster; nothing, on a node that runs by itself.
pub(super) struct Heard {
    /// The node's own object; none while nobody has said, or where there is none.
    pub(super) node: watch::Receiver<Option<Arc<NodeObject>>>,
    /// What the API server has bound to this node.
    pub(super) pods: watch::Receiver<Arc<ApiPods>>,
    /// What asks whether somebody may use the node's API; none while the node has not joined.
    pub(super) reviews: watch::Receiver<Option<Client>>,
    /// What is wrong with the node's certificates.
    pub(super) troubles: watch::Receiver<Troubles>,
    /// When the node's lease was renewed last.
    pub(super) renewed: watch::Receiver<Option<Timestamp>>,
}

/// Who tells it.
pub(super) struct Feeds {
    node: watch::Sender<Option<Arc<NodeObject>>>,
    pods: watch::Sender<Arc<ApiPods>>,
    reviews: watch::Sender<Option<Client>>,
    pub(super) complaints: Complaints,
    renewed: watch::Sender<Option<Timestamp>>,
}

/// The channels, before there is anything to say.
pub(super) fn channels() -> (Feeds, Heard) {
    let (node, heard_node) = watch::channel(None);
    let (pods, heard_pods) = watch::channel(Arc::default());
    let (reviews, heard_reviews) = watch::channel(None);
    let complaints = Complaints::default();
    let (renewed, heard_renewed) = watch::channel(None);
    let heard = Heard {
        node: heard_node,
        pods: heard_pods,
        reviews: heard_reviews,
        troubles: complaints.heard(),
        renewed: heard_renewed,
    };
    let feeds = Feeds {
        node,
        pods,
        reviews,
        complaints,
        renewed,
    };
    (feeds, heard)
}

/// What the tasks of a joined node are made of.
pub(super) struct Cluster {
    pub(super) config: Config,
    pub(super) api: ApiConfig,
    pub(super) tools: Arc<Tools>,
    pub(super) images: ImageClient,
    pub(super) shutdown: watch::Receiver<NodeState>,
    /// What the node is short of.
    pub(super) pressure: watch::Receiver<Pressure>,
    /// The pods of all sources.
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    /// What the machine has, and what of it is for pods.
    pub(super) resources: NodeResources,
    pub(super) feeds: Feeds,
    /// What asks for the certificate of the node's API; none where that is not configured.
    pub(super) serving: Option<ServingCertificate>,
    /// What is known of them before the API server has been heard.
    pub(super) stale: watch::Receiver<Arc<StalePods>>,
    /// What happened before there was a connection, too.
    pub(super) outbox: Arc<Outbox>,
}

impl Cluster {
    /// Joins, then runs all that a joined node has besides. Ends only when one of its tasks does, which ends the process.
    pub(super) async fn run(self) {
        let mut tasks = Singletons::default();
        let Joined {
            clients,
            certificate,
        } = join::join(
            &self.config,
            &self.api,
            &self.tools.clock,
            &self.feeds.complaints,
        )
        .await;
        if let Some(certificate) = certificate {
            tasks.spawn("client certificate", certificate.run(clients.clone()));
        }
        self.spawn(&clients, &mut tasks);
        let error = tasks.ended().await;
        tracing::error!("{}", error_chain(&error));
    }

    /// Every task that talks to the API server is begun here.
    fn spawn(self, clients: &Clients, tasks: &mut Singletons) {
        let name = self.config.node.name.clone();
        let clock = self.tools.clock.clone();
        let (node, pods) = (self.feeds.node.subscribe(), self.feeds.pods.subscribe());
        let claims = &self.tools.claims;
        claims.connect(clients.main.clone(), node.clone());
        // Nobody listens where the node's API is closed.
        self.feeds
            .reviews
            .send_replace(Some(clients.reviews.clone()));
        tasks.spawn("API server's return", api::run_return(clients.clone()));
        let own = watch::Sender::new(OwnNode::Unknown);
        let own_for_csi = own.subscribe();
        if let Some(serving) = self.serving {
            let task = serving.run(clients.main.clone(), own.subscribe());
            tasks.spawn("serving certificate", task);
        }
        let lease = LeaseSettings {
            node: name.clone(),
            duration: self.config.node.lease,
        };
        let task = run_lease(
            clients.heartbeat.clone(),
            lease,
            own.subscribe(),
            clock.clone(),
            self.feeds.renewed,
        );
        tasks.spawn("lease of the node", task);
        let resources = self.resources;
        let (capacity, allocatable) = (resources.capacity, resources.allocatable);
        let settings = Arc::new(NodeSettings::of(&self.config, capacity, allocatable));
        let gatherer = Gatherer::new(
            settings.clone(),
            (self.tools.runtime.clone(), self.images),
            clock.clone(),
            self.pressure,
            self.shutdown,
        );
        let reporter = Reporter {
            client: clients.heartbeat.clone(),
            settings,
            gatherer,
            own: own.subscribe(),
            clock: clock.clone(),
            initialized: self.tools.csi.initialized(),
            devices: self.tools.devices.clone(),
            in_use: self.tools.csi.in_use(),
        };
        tasks.spawn("status of the node", Box::pin(run_status(reporter)));
        let task = run_own_node(clients.main.clone(), name.clone(), own, self.feeds.node);
        tasks.spawn("own node", task);
        let task = run_api_source(
            clients.main.clone(),
            name.clone(),
            node.clone(),
            clock.clone(),
            self.stale,
            self.feeds.pods,
        );
        tasks.spawn("API server's pods", task);
        let board = self.tools.board.clone();
        let task = run_status_publisher(clients.main.clone(), board, pods.clone(), clock.clone());
        tasks.spawn("publisher of statuses", task);
        let inputs = MirrorInputs {
            node_name: name,
            desired: self.desired,
            lives: self.tools.lives.subscribe(),
            api: pods,
            node,
            clock,
        };
        tasks.spawn("mirrors", run_mirrors(clients.main.clone(), inputs));
        let task = events::run_sink(clients.events.clone(), self.outbox);
        tasks.spawn("events' sink", task);
        let objects = self.tools.objects.clone();
        let task = objects.run(clients.main.clone(), clients.watches.clone());
        tasks.spawn("services", task);
        let csi = self
            .tools
            .csi
            .clone()
            .run(clients.main.clone(), own_for_csi);
        tasks.spawn("storage drivers", Box::pin(csi));
        let classes = self.tools.runtime_classes.clone();
        tasks.spawn(
            "RuntimeClasses",
            run_runtime_classes(clients.main.clone(), classes),
        );
    }
}
