//! The pods that the agent has, as it lists them.

use std::io::Read as _;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::{CliError, socket};

/// One pod, with the text of all its fields.
pub(super) struct Listed {
    pub(super) pod: Pod,
    pub(super) whole: Value,
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Value>>,
}

impl Listed {
    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Whether it is called `name`, with the node's name behind it or without.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let node = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        let in_manifest = node.and_then(|node| self.name().strip_suffix(node)?.strip_suffix('-'));
        self.name() == name || in_manifest == Some(name)
    }
}

/// All pods of the agent at `socket`, by namespace and name.
///
/// # Errors
/// When nobody answers, or nothing that can be understood.
pub(super) fn list(socket: &Path) -> Result<Vec<Listed>, CliError> {
    let list: List = read(socket, "/pods")?;
    let mut pods = Vec::new();
    for whole in list.items.unwrap_or_default() {
        let pod = Pod::deserialize(&whole).map_err(|error| CliError::Garbled(error.to_string()))?;
        pods.push(Listed { pod, whole });
    }
    pods.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
    Ok(pods)
}

/// The JSON that the agent answers to GET `path`.
///
/// # Errors
/// When nobody answers, or nothing that can be understood.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<T, CliError> {
    let mut text = String::new();
    socket::get(socket, path)?
        .read_to_string(&mut text)
        .map_err(|error| CliError::Silent(socket.to_owned(), error))?;
    serde_json::from_str(&text).map_err(|error| CliError::Garbled(error.to_string()))
}
