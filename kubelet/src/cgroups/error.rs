//! Why a cgroup could not be made, set or removed.

use std::io;
use std::path::PathBuf;

use super::resources::ResourceError;
use super::systemd::SystemdError;
use crate::dir::DirError;
use crate::pod::PodUid;

/// Why a cgroup could not be made, set or removed. What is about the machine or the configuration ends the start of the
/// agent; what befalls one pod is worth another try with back-off.
#[derive(Debug, thiserror::Error)]
pub enum CgroupsError {
    /// The driver is not settled: the runtime has the last word.
    #[error("the runtime has not said yet which cgroup driver it uses")]
    DriverUnknown,
    /// The systemd driver where systemd is not.
    #[error(
        "the cgroup driver is systemd, but systemd does not run this machine ({} is no directory): set cgroupDriver to cgroupfs, and the runtime to the same (containerd: SystemdCgroup = false)",
        .0.display()
    )]
    NoSystemd(PathBuf),
    /// Systemd itself.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// `cgroupRoot` is no path of plain names.
    #[error("cgroupRoot {0:?} is no absolute path of plain names")]
    BadRoot(String),
    /// `cgroupRoot` makes no slice's name.
    #[error(
        "cgroupRoot {0:?} cannot be the name of a slice of systemd: it may have letters, digits, ':', '_', '.' and '-', and up to 90 characters"
    )]
    BadSlice(String),
    /// Neither a level of all pods nor a root.
    #[error(
        "cgroupsPerQOS is false and cgroupRoot is /: with the systemd cgroup driver sandboxes need a slice of their own; set cgroupsPerQOS to true, or cgroupRoot to a slice's path"
    )]
    NoSlice,
    /// No cgroup filesystem is mounted.
    #[error("no cgroup filesystem is mounted at or below {}", .0.display())]
    NoHierarchy(PathBuf),
    /// Version 1 without what pods need.
    #[error(
        "the cgroup controllers {} are not mounted below {}: pods need them; mount them, or boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)",
        missing.join(", "), root.display()
    )]
    NotMounted {
        /// The controllers.
        missing: Vec<&'static str>,
        /// Where hierarchies are mounted.
        root: PathBuf,
    },
    /// Version 2 without what pods need.
    #[error(
        "the cgroup controllers {} are not in {}: pods need them; boot the kernel without cgroup_disable for them (a Raspberry Pi: with cgroup_enable=memory), and with systemd.unified_cgroup_hierarchy=1 where cgroup v1 holds them",
        missing.join(", "), file.display()
    )]
    NotInKernel {
        /// The controllers.
        missing: Vec<&'static str>,
        /// `cgroup.controllers` of the root.
        file: PathBuf,
    },
    /// A controller could not be handed down.
    #[error(
        "cannot hand the cgroup controller {controller} down to pods{}",
        processes_in_the_way(source)
    )]
    NotHandedDown {
        /// The controller.
        controller: &'static str,
        /// The file that was written, and why that failed.
        #[source]
        source: DirError,
    },
    /// Handed down, and yet not there.
    #[error(
        "the cgroup controllers {} are not in {}, though they are enabled above it: something on this machine takes them away again",
        missing.join(", "), file.display()
    )]
    TakenAway {
        /// The controllers.
        missing: Vec<&'static str>,
        /// `cgroup.controllers` of the level of all pods.
        file: PathBuf,
    },
    /// `cgroupRoot` does not exist.
    #[error("the cgroup {} of cgroupRoot does not exist: make it, or set cgroupRoot to one that does", .0.display())]
    RootMissing(PathBuf),
    /// The cgroup of daemons does not exist.
    #[error("cgroup {name} has some missing paths: {missing}")]
    ReservedMissing {
        /// The parts of its name.
        name: String,
        /// Where it should be.
        missing: String,
    },
    /// The cgroup of daemons of version 2 lacks controllers.
    #[error("cgroup {name} has some missing controllers: {missing}")]
    ReservedControllers {
        /// The parts of its name.
        name: String,
        /// The controllers.
        missing: String,
    },
    /// The mount table or the cgroup filesystem could not be looked at.
    #[error("cannot find the cgroup filesystems at {}", path.display())]
    Lookup {
        /// What was looked at.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file or directory of the cgroup filesystem.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The pod's own numbers.
    #[error("pod {pod}: cannot compute the limits of its cgroup")]
    Resources {
        /// `<name>_<namespace>(<uid>)`.
        pod: String,
        /// The quantity that cannot be read.
        #[source]
        source: ResourceError,
    },
    /// Processes of the pod outlive SIGKILL.
    #[error("the cgroup of pod {uid} still has processes after SIGKILL: {pids:?}")]
    Alive {
        /// The pod.
        uid: PodUid,
        /// Some of them.
        pids: Vec<i32>,
    },
}

/// The remedy for the one reason that has one: cgroup v2 takes no controller away from processes (cgroup-v2, "No
/// Internal Process Constraint").
fn processes_in_the_way(error: &DirError) -> &'static str {
    let busy = rustix::io::Errno::BUSY.raw_os_error();
    match error.source.raw_os_error() == Some(busy) {
        true => {
            " (processes in that very cgroup are in the way: move them into one of their own, or set cgroupRoot to a cgroup without processes)"
        }
        false => "",
    }
}
