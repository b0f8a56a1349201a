//! Plugins come, list their devices, and go.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use cri_proto::deviceplugin::registration_server::{Registration, RegistrationServer};
use cri_proto::deviceplugin::{Empty, RegisterRequest};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tonic::{Request, Response, Status};

use super::plugin::Plugin;
use super::{Devices, locked};
use crate::config::qualified_name_fault;
use crate::errors::error_chain;
use crate::managers::grpc;
use crate::metrics;
use crate::server::bind_socket;

/// The version of the interface.
const VERSION: &str = "v1beta1";
/// The socket, in the directory of device plugins.
const SOCKET: &str = "kubelet.sock";

/// A plugin that has registered in `plugins_registry`; it goes with this.
#[derive(Debug)]
pub struct DevicePluginRegistration {
    devices: Devices,
    plugin: Arc<Plugin>,
}

impl Drop for DevicePluginRegistration {
    fn drop(&mut self) {
        self.plugin.left.notify_one();
        self.devices.lost(&self.plugin);
    }
}

/// Whether `name` is one that a plugin may offer (upstream's `IsExtendedResourceName`).
fn is_extended_resource(name: &str) -> bool {
    let own = !name.contains('/') || name.contains("kubernetes.io/");
    !own && !name.starts_with("requests.")
        && qualified_name_fault(&format!("requests.{name}")).is_none()
}

/// Answers what registers at the socket.
struct Registrar(Devices);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let resource = request.resource_name.as_str();
        tracing::info!(resource, "a device plugin registers");
        metrics::kubelet()
            .managers
            .device_registrations
            .inc(&[resource]);
        let taken = self.0.register_at_socket(&request).await;
        taken.map(|()| Response::new(Empty {})).map_err(|why| {
            tracing::error!(resource, why, "a device plugin is not registered");
            Status::unknown(why)
        })
    }
}

impl Devices {
    async fn register_at_socket(&self, request: &RegisterRequest) -> Result<(), String> {
        if request.version != VERSION {
            return Err(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is [{VERSION:?}]",
                request.version
            ));
        }
        check_name(&request.resource_name)?;
        let endpoint = request.endpoint.trim_start_matches('/');
        let endpoint = self.0.dir.path().join(endpoint);
        self.join(&request.resource_name, &endpoint).await?;
        Ok(())
    }

    /// Registers a plugin of `plugins_registry` that serves at `endpoint`, until what this gives is dropped.
    ///
    /// # Errors
    /// In upstream's words, when it is not taken.
    pub async fn register(
        &self,
        resource: &str,
        endpoint: &Path,
        versions: &[String],
    ) -> Result<DevicePluginRegistration, String> {
        if !versions.iter().any(|version| version == VERSION) {
            return Err(format!(
                "manager version, {VERSION}, is not among plugin supported versions [{}]",
                versions.join(" ")
            ));
        }
        check_name(resource)
            .map_err(|why| format!("invalid name of device plugin socket: {why}"))?;
        let plugin = self.join(resource, endpoint).await?;
        Ok(DevicePluginRegistration {
            devices: self.clone(),
            plugin,
        })
    }

    /// Has the plugin at `endpoint` in the place of the one that offered `resource` before.
    async fn join(&self, resource: &str, endpoint: &Path) -> Result<Arc<Plugin>, String> {
        let plugin = Arc::new(Plugin::connect(resource, endpoint).await?);
        self.inventory().connected(plugin.clone());
        tracing::info!(resource, endpoint = %endpoint.display(), "a device plugin is connected");
        // An error means that the agent ends.
        let _ = self.0.joining.send(plugin.clone());
        Ok(plugin)
    }

    /// Follows the devices of `plugin` until it goes.
    async fn follow(self, plugin: Arc<Plugin>) {
        // Cancel-safe: what was listed is in the inventory.
        let ended = tokio::select! {
            ended = self.listen(&plugin) => ended,
            () = plugin.left.notified() => None,
        };
        if let Some(why) = ended {
            let resource = plugin.resource.as_str();
            tracing::warn!(
                resource,
                why,
                "ListAndWatch ended unexpectedly for device plugin"
            );
            self.lost(&plugin);
        }
    }

    /// Takes over the plugin's lists, and says why there are no more; nothing where another has its place.
    async fn listen(&self, plugin: &Arc<Plugin>) -> Option<String> {
        let mut lists = match plugin.list().await {
            Ok(lists) => lists,
            Err(error) => return Some(error.to_string()),
        };
        loop {
            let list = match lists.message().await {
                Ok(Some(list)) => list,
                Ok(None) => return Some("EOF".to_owned()),
                Err(status) => return Some(status.message().to_owned()),
            };
            let count = list.devices.len();
            let news = self.inventory().listed(plugin, list.devices)?;
            tracing::debug!(
                resource = plugin.resource,
                count,
                "a device plugin has listed its devices"
            );
            if news {
                self.save_or_say();
                self.tell();
            }
        }
    }

    fn lost(&self, plugin: &Arc<Plugin>) {
        let now = self.0.clock.monotonic();
        if self.inventory().disconnected(plugin, now) {
            self.save_or_say();
            self.tell();
        }
    }

    /// Removes sockets that plugins left: each makes its own anew when it registers.
    fn clear_sockets(&self) {
        let entries = std::fs::read_dir(self.0.dir.path());
        let entries = entries.into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_socket())) {
            let name = entry.file_name();
            let removed = name.to_str().map(|name| self.0.dir.remove_file(name));
            if let Some(Err(error)) = removed {
                tracing::error!(
                    error = error_chain(&error),
                    "cannot remove a plugin's old socket"
                );
            }
        }
    }
}

fn check_name(resource: &str) -> Result<(), String> {
    match is_extended_resource(resource) {
        true => Ok(()),
        false => Err(format!("the ResourceName {resource:?} is invalid")),
    }
}

/// Lets plugins register and follows them. Never ends. Where the socket cannot be had, plugins of `plugins_registry` are
/// followed all the same.
pub async fn run_devices(devices: Devices) {
    let Some(joined) = locked(&devices.0.joined).take() else {
        return std::future::pending().await;
    };
    devices.clear_sockets();
    let path: PathBuf = devices.0.dir.path().join(SOCKET);
    let registrar = RegistrationServer::new(Registrar(devices.clone()));
    let routes = Router::new().route_service("/v1beta1.Registration/{method}", registrar);
    let bound = bind_socket(&path);
    let followed = follow_all(devices, joined);
    match bound {
        Ok((listener, _file)) => {
            // Neither ends.
            tokio::join!(grpc::serve(listener, routes), followed);
        }
        Err(error) => {
            tracing::error!(error = error_chain(&error), "no device plugin can register");
            followed.await;
        }
    }
}

async fn follow_all(devices: Devices, mut joined: mpsc::UnboundedReceiver<Arc<Plugin>>) {
    let mut tasks = JoinSet::new();
    let mut by_resource: BTreeMap<String, AbortHandle> = BTreeMap::new();
    loop {
        // Cancel-safe: a channel and a task set.
        tokio::select! {
            Some(plugin) = joined.recv() => {
                let resource = plugin.resource.clone();
                let task = tasks.spawn(devices.clone().follow(plugin));
                if let Some(before) = by_resource.insert(resource, task) {
                    before.abort();
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_upstream_does() {
        for good in ["example.com/gpu", "vendor.example/a_b.c-1"] {
            assert!(is_extended_resource(good), "{good}");
        }
        let long = format!("example.com/{}", "a".repeat(64));
        for bad in [
            "",
            "gpu",
            "kubernetes.io/gpu",
            "x.kubernetes.io/gpu",
            "requests.example.com/gpu",
            "example.com/a/b",
            "example.com/",
            "Example.com/gpu",
            &long,
        ] {
            assert!(!is_extended_resource(bad), "{bad}");
        }
    }
}
