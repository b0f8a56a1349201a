//! The agent: it makes a node's pods be what their manifests say.
//!
//! Data flows one way; the only back edge is an observation that wakes the worker of its pod.
//!
//! ```text
//! sources ─▶ desired ─▶ workers ─▶ plan ─▶ runtime ─▶ observe ─▶ status ─▶ server
//!                          ▲                             │
//!                          └─────────────────────────────┘
//! ```
//!
//! | task | channel it reads | channel it writes |
//! |---|---|---|
//! | manifest watch (`static-pods`) | inotify | `watch<Arc<ManifestSet>>` |
//! | file source ([`sources`]) | `watch<Arc<ManifestSet>>` | `watch<Arc<LocalObjects>>`, `watch<Arc<Desired>>` |
//! | objects of manifests ([`objects`]) | `watch<Arc<LocalObjects>>` | a pod's `watch<u64>` |
//! | API server's pods ([`sources`]) | a watch | `watch<Arc<ApiPods>>` |
//! | merge ([`sources`]) | `watch<Arc<Desired>>`, `watch<Arc<ApiPods>>` | `watch<Arc<Desired>>` |
//! | checkpoint ([`checkpoint`]) | `watch<Arc<ApiPods>>`, objects, the board | files; `watch<Arc<StalePods>>` |
//! | status publisher ([`publisher`]) | the board, `watch<Arc<ApiPods>>` | the API server |
//! | events ([`observe`]) | the runtime's stream | one settle task an exit |
//! | settle, look ([`observe`]) | the runtime | a pod's `watch<Arc<ObservedPod>>` |
//! | registry ([`workers`]) | `watch<Arc<Desired>>`, found pods, stages | a worker's `watch<Orders>` |
//! | probe ([`probes`]), one a probe | its pod's observation and facts | its pod's facts |
//! | worker ([`workers`]), one a pod | its orders, its pod's observation and facts | the runtime, files, the board |
//! | object, token, services ([`objects`]) | the API server | a pod's `watch<u64>` |
//! | upkeep ([`workers`]), one a pod with files of objects | its orders, its objects | its volumes |
//! | evictions ([`eviction`]), removal of images ([`images`]) | the machine, the board | `watch<Pressure>`, orders to the registry, the runtime |
//! | plugins ([`plugins`]), one more a socket | inotify, the plugin | the drivers of [`csi`], plugins of [`managers::devices`] |
//! | device plugins ([`managers::devices`]), one more a plugin and a pod that is given devices | a socket, the plugins | which devices there are, who has them |
//! | podresources ([`managers::pod_resources`]) | a socket, the board | answers |
//! | storage drivers, staged volumes ([`csi`]) | drivers, CSIDrivers, the own node | the API server, drivers |
//! | node shutdown ([`shutdown`]) | logind's signals, who is left | `watch<NodeState>` |
//! | log rotation ([`logs`]) | running containers | their logs |
//! | status line, reloads ([`service`]) | the board, the sources, SIGHUP | the service manager, log levels |
//! | cluster: own node, status, lease, client certificate ([`node`], [`join`]) | the API server, the machine, the runtime | `watch<Option<Arc<NodeObject>>>`, the API server |
//! | serving certificate ([`join`]) | the node's addresses, the API server | `watch<Option<Arc<ServingPair>>>` |
//! | servers ([`server`]) | the board, the [`events`] | HTTP |
//!
//! [`agent::run`] starts them all. `ARCHITECTURE.md` has the rooms and the invariants.

pub mod admission;
pub mod agent;
pub mod api;
pub mod cgroups;
pub mod checkpoint;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod config;
mod connections;
pub mod csi;
mod datagram;
pub mod dir;
pub mod errors;
pub mod events;
pub mod eviction;
pub mod hooks;
pub mod images;
mod inotify;
pub mod join;
pub mod logging;
pub mod logs;
pub mod managers;
pub mod metrics;
pub mod mirror;
pub mod mounts;
pub mod node;
pub mod objects;
pub mod observe;
pub mod plan;
pub mod plugins;
pub mod pod;
pub mod poddir;
pub mod probes;
pub mod process;
pub mod publisher;
pub mod quotas;
pub mod record;
mod resident;
pub mod resize;
pub mod runtime;
pub mod runtime_class;
#[cfg(test)]
mod scripted_api;
pub mod server;
pub mod service;
pub mod shutdown;
mod sigkill;
pub mod sources;
pub mod spdy;
mod stamp;
pub mod stats;
pub mod status;
pub mod userns;
pub mod validate;
pub mod volumes;
mod whole_file;
pub mod workers;
