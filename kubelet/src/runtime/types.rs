//! What the runtime says of a pod, in the agent's own words.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

macro_rules! runtime_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as the runtime gave it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.into())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

runtime_id!(
    /// A pod sandbox of the runtime.
    SandboxId
);
runtime_id!(
    /// A container of the runtime.
    ContainerId
);
runtime_id!(
    /// What the runtime calls an image it holds: a digest or an image id.
    ImageRef
);

/// All that the runtime holds of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPod {
    /// Sandboxes, newest first (by attempt, then creation time).
    pub sandboxes: Vec<ObservedSandbox>,
    /// Containers of every sandbox, newest first (by attempt, then creation time).
    pub containers: Vec<ObservedContainer>,
}

impl ObservedPod {
    /// The newest instance of the container called `name`.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| &*c.name == name)
    }

    /// Every instance of the container called `name`, newest first.
    pub fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ObservedContainer> {
        self.containers.iter().filter(move |c| &*c.name == name)
    }

    /// Whether the runtime holds nothing of the pod.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// One sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: SandboxId,
    /// `metadata.attempt`: counts the sandboxes of one pod.
    pub attempt: u32,
    /// Ready, or stopped.
    pub ready: bool,
    /// Nanoseconds since the epoch, the runtime's clock.
    pub created_at: i64,
    /// Addresses of the pod network, primary first; empty on the host's network and before they are known.
    pub ips: Vec<IpAddr>,
    /// Whether its network namespace is the node's.
    pub host_network: bool,
}

/// The state of a container, as CRI has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// One instance of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: ContainerId,
    /// The sandbox it belongs to.
    pub sandbox: SandboxId,
    /// The name in the pod's spec.
    pub name: Arc<str>,
    /// `metadata.attempt`, which is the restart count the instance was made with.
    pub attempt: u32,
    /// Its state.
    pub state: ContainerState,
    /// Nanoseconds since the epoch, the runtime's clock.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when not started.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 when not ended.
    pub finished_at: i64,
    /// Exit code; of meaning when ended.
    pub exit_code: i32,
    /// The runtime's one-word reason: `Completed`, `Error`, `OOMKilled`, `StartError` …
    pub reason: Arc<str>,
    /// The runtime's message, with the end of the termination message file where there is one.
    pub message: Arc<str>,
    /// The image as the spec had it.
    pub image: Arc<str>,
    /// The image as the runtime names what runs (`status.imageID`).
    pub image_ref: ImageRef,
    /// `io.kubernetes.container.hash`: name and image at creation.
    pub hash: Arc<str>,
    /// Where the runtime writes its log; empty when unknown.
    pub log_path: Arc<str>,
    /// `io.kubernetes.pod.terminationGracePeriod`, seconds: what an orphan is stopped with.
    pub grace_seconds: Option<i64>,
    /// Who its first process was started as; none where the runtime does not say (containerd before 2.0).
    pub user: Option<Box<LinuxUser>>,
    /// What asks its first process to stop, as the API spells it (`SIGTERM`, `SIGRTMIN+1`); none where the runtime does
    /// not say (containerd before 2.2).
    pub stop_signal: Option<Arc<str>>,
    /// Where, inside, it has mounts that nothing below can be written through, either; none as a rule.
    pub recursive_read_only: Option<Arc<[Box<str>]>>,
}

/// The user and groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxUser {
    /// The user's id.
    pub uid: i64,
    /// The primary group's id.
    pub gid: i64,
    /// The ids of the supplemental groups.
    pub groups: Vec<i64>,
}
