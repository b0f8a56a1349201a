//! What becomes of one plugin: it says what it is, is taken or refused, and is told so.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cri_proto::plugin_channel;
use cri_proto::pluginregistration::registration_client::RegistrationClient;
use cri_proto::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::Registrars;
use crate::api::Retry;
use crate::csi::Registration;
use crate::managers::devices::DevicePluginRegistration;

/// How long a plugin may take to say what it is, connection and all (upstream: ten seconds for the connection, one for the
/// answer).
const INFO_LIMIT: Duration = Duration::from_secs(11);
/// How long it may take to hear what became of it (upstream's `notifyTimeoutDuration`).
const NOTIFY_LIMIT: Duration = Duration::from_secs(5);
/// Between attempts: the first pause, and the longest (upstream's).
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(122);

/// The type of plugins that are storage drivers.
const CSI: &str = "CSIPlugin";

/// The type of plugins that offer devices.
const DEVICES: &str = "DevicePlugin";

/// What a plugin is registered as, for as long as it is held.
#[expect(dead_code, reason = "held until it is dropped")]
enum Held {
    Driver(Registration),
    Devices(DevicePluginRegistration),
}

/// Why a plugin is not registered.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(
        "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {socket}, err: {why}"
    )]
    Info { socket: String, why: String },
    #[error(
        "RegisterPlugin error -- no handler registered for plugin type: {kind} at socket {socket}"
    )]
    Kind { kind: String, socket: String },
    #[error("RegisterPlugin error -- plugin registration failed with err: {0}")]
    Refused(String),
    #[error(
        "RegisterPlugin error -- failed to send registration status at socket {socket}, err: {why}"
    )]
    Notify { socket: String, why: String },
}

impl RegistrationError {
    /// Whether it may be another time.
    fn may_pass(&self) -> bool {
        !matches!(self, Self::Kind { .. })
    }
}

/// Registers the plugin that listens at `socket`, once the task `before`, of one that had the same path, has ended; then
/// keeps it until this is dropped. What does not work is tried again.
pub(super) async fn run(socket: PathBuf, registrars: Registrars, before: Option<JoinHandle<()>>) {
    if let Some(before) = before {
        // It was aborted; how it ended does not matter.
        let _ = before.await;
    }
    let mut retry = Retry::new(RETRY_FIRST, RETRY_MOST);
    let mut said = None;
    loop {
        match register(&socket, &registrars).await {
            Ok(_held) => return std::future::pending().await,
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    tracing::warn!(socket = %socket.display(), error = text, "a plugin is not registered");
                }
                if !error.may_pass() {
                    return std::future::pending().await;
                }
                said = Some(text);
                tokio::time::sleep(retry.delay()).await;
            }
        }
    }
}

async fn register(socket: &Path, registrars: &Registrars) -> Result<Held, RegistrationError> {
    let mut client = RegistrationClient::new(plugin_channel(socket));
    let shown = || socket.display().to_string();
    let asked = tokio::time::timeout(INFO_LIMIT, client.get_info(InfoRequest {}));
    let info: PluginInfo = match asked.await {
        Ok(Ok(info)) => info.into_inner(),
        Ok(Err(status)) => {
            return Err(RegistrationError::Info {
                socket: shown(),
                why: status.message().to_owned(),
            });
        }
        Err(_) => {
            return Err(RegistrationError::Info {
                socket: shown(),
                why: "context deadline exceeded".to_owned(),
            });
        }
    };
    // It may serve where it registers.
    let endpoint = match info.endpoint.as_str() {
        "" => socket,
        endpoint => Path::new(endpoint),
    };
    let (name, versions) = (info.name.as_str(), info.supported_versions.as_slice());
    let taken = match info.r#type.as_str() {
        CSI => {
            let taken = registrars.csi.register(name, endpoint, versions).await;
            taken.map(Held::Driver).map_err(RegistrationError::Refused)
        }
        DEVICES => {
            let taken = registrars.devices.register(name, endpoint, versions).await;
            taken.map(Held::Devices).map_err(RegistrationError::Refused)
        }
        kind => Err(RegistrationError::Kind {
            kind: kind.to_owned(),
            socket: shown(),
        }),
    };
    let status = RegistrationStatus {
        plugin_registered: taken.is_ok(),
        error: taken
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    let told = notify(&mut client, status).await;
    let taken = taken?;
    // Whoever does not hear that it was taken is not: it would wait, or begin anew.
    told.map_err(|why| RegistrationError::Notify {
        socket: shown(),
        why,
    })?;
    Ok(taken)
}

async fn notify(
    client: &mut RegistrationClient<Channel>,
    status: RegistrationStatus,
) -> Result<(), String> {
    let told = client.notify_registration_status(status);
    match tokio::time::timeout(NOTIFY_LIMIT, told).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}
