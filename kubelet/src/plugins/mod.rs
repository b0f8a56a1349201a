//! Plugins that make themselves known by a socket in `<root>/plugins_registry`.
//!
//! Owns: the watch on that directory, and for each socket in it what becomes of it. Inputs: sockets that come and go.
//! Outputs: storage drivers and device plugins, registered with [`Csi`] and [`Devices`] for as long as their socket is there;
//! the word to each plugin whether it was taken.
//! Tasks: one for the agent ([`run_plugins`]), which sleeps until something changes in the directory; one for each socket,
//! which has no timer once its plugin is registered.
//! Does not: serve or start plugins, or speak to what they are for. Kinds of plugin that are not built are refused in
//! words that they log (KEP-3, the document "Device Plugins", `pluginregistration.v1`).

mod registration;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use self::tree::{SocketId, Tree};
use crate::csi::Csi;
use crate::dir::{Dir, DirError};
use crate::errors::error_chain;
use crate::managers::devices::Devices;

/// In the root directory.
const REGISTRY: &str = "plugins_registry";
/// Mode of that directory.
const PRIVATE: u32 = 0o750;

/// Who takes plugins, by their kind.
#[derive(Clone, Debug)]
pub struct Registrars {
    /// `CSIPlugin`.
    pub csi: Csi,
    /// `DevicePlugin`.
    pub devices: Devices,
}

/// A socket, and the task that registers its plugin.
struct Known {
    id: SocketId,
    task: JoinHandle<()>,
}

/// Makes `<root>/plugins_registry`.
///
/// # Errors
/// When it cannot be made.
pub fn ensure_registry(root: &Path) -> Result<PathBuf, DirError> {
    let registry = root.join(REGISTRY);
    Dir::open_or_create(&registry, PRIVATE)?;
    Ok(registry)
}

/// Registers the plugins whose sockets are in `<root>/plugins_registry`, and those that come. Never ends.
pub async fn run_plugins(root: PathBuf, registrars: Registrars) {
    let registry = match ensure_registry(&root) {
        Ok(registry) => registry,
        Err(error) => {
            tracing::error!(error = error_chain(&error), "no plugin can register");
            return std::future::pending().await;
        }
    };
    let mut tree = Tree::new(registry);
    let mut known: BTreeMap<PathBuf, Known> = BTreeMap::new();
    loop {
        let mut found = tree.look();
        let mut ended = BTreeMap::new();
        for (path, socket) in std::mem::take(&mut known) {
            if found.get(&path) == Some(&socket.id) {
                found.remove(&path);
                known.insert(path, socket);
            } else {
                tracing::info!(socket = %path.display(), "a plugin's socket has gone");
                socket.task.abort();
                ended.insert(path, socket.task);
            }
        }
        for (path, id) in found {
            let before = ended.remove(&path);
            let task = registration::run(path.clone(), registrars.clone(), before);
            let task = tokio::spawn(task);
            known.insert(path, Known { id, task });
        }
        tree.changed().await;
    }
}
