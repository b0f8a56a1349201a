//! What the fake holds, in CRI's messages; which fields are filled follows containerd 1.6.

use std::collections::BTreeMap;

use cri_proto::v1;

use super::store::{Container, Sandbox, Store, on_host_network};

impl Store {
    /// What the runtime says of itself.
    pub(super) fn status(&self) -> v1::StatusResponse {
        let condition = |kind: &str, status: bool, reason: &str, message: &str| {
            let said = |text: &str| if status { "" } else { text }.to_owned();
            v1::RuntimeCondition {
                r#type: kind.into(),
                status,
                reason: said(reason),
                message: said(message),
            }
        };
        let conditions = vec![
            condition(
                "RuntimeReady",
                self.runtime_ready,
                "RuntimeNotReady",
                "scripted",
            ),
            condition(
                "NetworkReady",
                self.network_ready,
                "NetworkPluginNotReady",
                "Network plugin returns error: cni plugin not initialized",
            ),
        ];
        v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            runtime_handlers: vec![v1::RuntimeHandler {
                name: String::new(),
                features: Some(v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: self.recursive_read_only,
                    user_namespaces: self.user_namespaces,
                }),
            }],
            ..Default::default()
        }
    }
}

impl Sandbox {
    fn state(&self) -> v1::PodSandboxState {
        if self.ready {
            v1::PodSandboxState::SandboxReady
        } else {
            v1::PodSandboxState::SandboxNotready
        }
    }

    pub(super) fn listed(&self) -> v1::PodSandbox {
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }

    pub(super) fn status(&self) -> v1::PodSandboxStatus {
        // The address goes with the network namespace.
        let ip = self.ip.clone().filter(|_| self.ready).unwrap_or_default();
        let options = self
            .config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|context| context.namespace_options.clone())
            .unwrap_or_default();
        debug_assert!(ip.is_empty() || !on_host_network(&self.config));
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip,
                additional_ips: Vec::new(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace {
                    options: Some(options),
                }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }

    pub(super) fn matches(&self, filter: &v1::PodSandboxFilter) -> bool {
        let state = filter.state.as_ref();
        (filter.id.is_empty() || self.id == filter.id)
            && state.is_none_or(|wanted| wanted.state() == self.state())
            && has_labels(&self.config.labels, &filter.label_selector)
    }
}

impl Container {
    /// A field of containerd 2; 1.6, the runtime without events, leaves it empty.
    fn image_id(&self, store: &Store) -> String {
        let known = store.has_events.then(|| self.image_id.clone());
        known.unwrap_or_default()
    }

    pub(super) fn listed(&self, store: &Store) -> v1::Container {
        v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.sandbox_id.clone(),
            metadata: self.config.metadata.clone(),
            image: self.config.image.clone(),
            image_ref: self.image_id.clone(),
            state: self.state.into(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            image_id: self.image_id(store),
        }
    }

    /// Where its log is; empty where it has none.
    pub(super) fn log_path(&self, store: &Store) -> String {
        let sandbox = store.sandboxes.get(&self.sandbox_id);
        let directory = sandbox.map_or("", |sandbox| &sandbox.config.log_directory);
        match (directory, self.config.log_path.as_str()) {
            ("", _) | (_, "") => String::new(),
            (directory, path) => format!("{directory}/{path}"),
        }
    }

    pub(super) fn status(&self, store: &Store) -> v1::ContainerStatus {
        let held = store.images.find(&self.image_id);
        let tag = held.and_then(|image| image.repo_tags.first().cloned());
        let digest = held.and_then(|image| image.repo_digests.first().cloned());
        let mut image = self.config.image.clone().unwrap_or_default();
        image.image = tag.unwrap_or(image.image);
        let ended = self.state == v1::ContainerState::ContainerExited;
        let reason = match (ended, self.reason.as_str(), self.exit_code) {
            (false, ..) => "",
            (true, "", 0) => "Completed",
            (true, "", _) => "Error",
            (true, reason, _) => reason,
        };
        v1::ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state.into(),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: if ended { self.finished_at } else { 0 },
            exit_code: if ended { self.exit_code } else { 0 },
            image: Some(image),
            image_ref: digest.unwrap_or_else(|| self.image_id.clone()),
            reason: reason.into(),
            message: self.message.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: self.log_path(store),
            resources: Some(v1::ContainerResources {
                linux: Some(self.resources.clone().unwrap_or_default()),
                windows: None,
            }),
            image_id: self.image_id(store),
            ..Default::default()
        }
    }

    pub(super) fn matches(&self, filter: &v1::ContainerFilter) -> bool {
        let state = filter.state.as_ref();
        (filter.id.is_empty() || self.id == filter.id)
            && (filter.pod_sandbox_id.is_empty() || self.sandbox_id == filter.pod_sandbox_id)
            && state.is_none_or(|wanted| wanted.state() == self.state)
            && has_labels(&self.config.labels, &filter.label_selector)
    }
}

fn has_labels(have: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| have.get(key) == Some(value))
}

/// An event about a sandbox or a container, with the state of the whole pod as of now.
pub(super) fn event(
    store: &Store,
    kind: v1::ContainerEventType,
    id: &str,
    sandbox_id: &str,
    at: i64,
) -> v1::ContainerEventResponse {
    v1::ContainerEventResponse {
        container_id: id.into(),
        container_event_type: kind.into(),
        created_at: at,
        pod_sandbox_status: store.sandboxes.get(sandbox_id).map(Sandbox::status),
        containers_statuses: statuses_in(store, sandbox_id),
    }
}

pub(super) fn statuses_in(store: &Store, sandbox_id: &str) -> Vec<v1::ContainerStatus> {
    store
        .containers
        .values()
        .filter(|c| c.sandbox_id == sandbox_id)
        .map(|c| c.status(store))
        .collect()
}

/// Resources after an update: what it leaves out stays as it was, as in containerd.
pub(super) fn updated(
    before: v1::LinuxContainerResources,
    news: Option<v1::LinuxContainerResources>,
) -> v1::LinuxContainerResources {
    let news = news.unwrap_or_default();
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: String, old: String| if new.is_empty() { old } else { new };
    v1::LinuxContainerResources {
        cpu_period: number(news.cpu_period, before.cpu_period),
        cpu_quota: number(news.cpu_quota, before.cpu_quota),
        cpu_shares: number(news.cpu_shares, before.cpu_shares),
        memory_limit_in_bytes: number(news.memory_limit_in_bytes, before.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: number(
            news.memory_swap_limit_in_bytes,
            before.memory_swap_limit_in_bytes,
        ),
        oom_score_adj: number(news.oom_score_adj, before.oom_score_adj),
        cpuset_cpus: text(news.cpuset_cpus, before.cpuset_cpus),
        cpuset_mems: text(news.cpuset_mems, before.cpuset_mems),
        ..before
    }
}
