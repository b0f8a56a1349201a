//! A container runtime that runs nothing: CRI over real gRPC, with the behaviour of containerd 1.6 where it shows.
//!
//! Owns: a directory with a unix socket in it, sandboxes, containers, images, and the timers that stand for processes.
//! Inputs: CRI calls; scripts ([`Program`], [`ExecAnswer`], [`Fault`]) and acts ([`FakeRuntime::kill_container`],
//! [`FakeRuntime::stop_server`] …) of a test. Outputs: answers and container events; for the test the containers, the
//! calls in their order, and every moment at which two instances of one container ran ([`Violation`]).
//!
//! Tasks: a listener for the socket and one for in-memory connections, one for each connection, one for each process
//! that ends by itself. They end with the [`FakeRuntime`].
//!
//! Does not: write logs, stream (Exec, Attach, PortForward), count resources, or serve containerd's own event service; those
//! calls are Unimplemented.
//!
//! Under paused time use [`FakeRuntime::connection`]: it goes through memory, while a socket's readiness is not something
//! tokio's clock waits for.

mod exec;
mod fault;
mod images;
mod messages;
mod program;
mod record;
mod runtime_service;
mod server;
mod service;
mod store;
#[cfg(test)]
mod tests;
mod users;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cri_proto::{ConnectOptions, Connection, v1};

pub use fault::Fault;
pub use program::{EXIT_SIGKILL, EXIT_SIGTERM, ExecAnswer, Program};
pub use record::{Call, Violation};
pub use store::{Container, Sandbox};
pub use tonic::Code;
pub use users::Mapping;

use program::ExecScript;
use server::Listening;
use service::Service;

/// Exit code containerd gives to a container whose end it did not see.
const EXIT_UNSEEN: i32 = 255;

/// A fake runtime; see the module. Dropping it cuts every connection and removes its directory.
#[derive(Debug)]
pub struct FakeRuntime {
    service: Service,
    listening: Arc<Mutex<Option<Listening>>>,
    socket: PathBuf,
    endpoint: String,
    // Goes last.
    _directory: tempfile::TempDir,
}

/// What is behind a lock that a panicking test may have poisoned; each change to it is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeRuntime {
    /// Starts one, listening.
    ///
    /// # Errors
    /// When there is no temporary directory to be had, or its socket cannot be bound.
    pub async fn start() -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("fake-cri-").tempdir()?;
        let socket = directory.path().join("cri.sock");
        let service = Service::new(directory.path());
        let listening = Listening::start(&service, &socket)?;
        Ok(Self {
            service,
            listening: Arc::new(Mutex::new(Some(listening))),
            endpoint: format!("unix://{}", socket.display()),
            socket,
            _directory: directory,
        })
    }

    /// `unix:///…`, as `containerRuntimeEndpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection through memory, for tests with paused time.
    #[must_use]
    pub fn connection(&self, options: ConnectOptions) -> Connection {
        server::in_memory(Arc::clone(&self.listening), options)
    }
}

/// Scripts.
impl FakeRuntime {
    /// What each instance of a container does. `container` is `namespace/pod/container`, or the end of it from a slash.
    pub fn program(&self, container: &str, program: Program) {
        self.programs(container, vec![program]);
    }

    /// What the instances of a container do, one after the other; all later ones do as the last.
    pub fn programs(&self, container: &str, programs: Vec<Program>) {
        self.service
            .change(|store| store.script(container, programs));
    }

    /// What commands run in a container do. Without this they end at once, with 0.
    pub fn exec(
        &self,
        container: &str,
        answer: impl Fn(&[String]) -> ExecAnswer + Send + Sync + 'static,
    ) {
        let script = ExecScript(Arc::new(answer));
        self.service
            .change(|store| store.script_exec(container, script));
    }

    /// Adds a fault. Of several that meet a call, the first has it.
    pub fn fault(&self, fault: Fault) {
        self.service.change(|store| store.faults.push(fault));
    }

    /// Takes every fault away; calls that hang go on hanging.
    pub fn clear_faults(&self) {
        self.service.change(|store| store.faults.clear());
    }

    /// Puts an image there, as if it had been pulled before.
    pub fn add_image(&self, name: &str) {
        self.service.change(|store| {
            store.images.add(name);
        });
    }

    /// As [`FakeRuntime::add_image`], and lets `change` say what the image is like (user, size, pinned).
    pub fn add_image_with(&self, name: &str, change: impl FnOnce(&mut v1::Image)) {
        self.service.change(|store| change(store.images.add(name)));
    }

    /// Says that images lie on the file system with that directory; at first they lie with the fake's own files.
    pub fn set_image_directory(&self, directory: &Path) {
        let directory = directory.to_owned();
        self.service
            .change(|store| store.image_directory = Some(directory));
    }

    /// What Status says of the runtime and of its network; both are ready at first.
    pub fn set_ready(&self, runtime: bool, network: bool) {
        self.service.change(|store| {
            store.runtime_ready = runtime;
            store.network_ready = network;
        });
    }

    /// Whether its handler says that it can mount recursively read-only; not at first, as containerd 1.x.
    pub fn set_recursive_read_only(&self, able: bool) {
        self.service
            .change(|store| store.recursive_read_only = able);
    }

    /// Whether its handler says that it makes user namespaces; not at first, as containerd 1.x.
    pub fn set_user_namespaces(&self, able: bool) {
        self.service.change(|store| store.user_namespaces = able);
    }

    /// Whether there is a GetContainerEvents, as in containerd 2 and CRI-O (so at first), or not, as in containerd 1.6.
    pub fn set_events(&self, there: bool) {
        self.service.change(|store| store.has_events = there);
    }

    /// What RuntimeConfig says; without, there is none, as in containerd 1.x (so at first).
    pub fn set_cgroup_driver(&self, driver: Option<v1::CgroupDriver>) {
        self.service.change(|store| store.cgroup_driver = driver);
    }

    /// Lets an end show in ListContainers and ContainerStatus only `lag` after its event: containerd's event outruns the
    /// state of its CRI plugin.
    pub fn show_ends_late(&self, lag: Duration) {
        self.service.change(|store| store.end_lag = lag);
    }
}

/// Acts.
impl FakeRuntime {
    /// The process of a container ends with `exit_code`; false when it did not run.
    pub fn kill_container(&self, id: &str, exit_code: i32) -> bool {
        self.service.end(id, exit_code, "")
    }

    /// The machine's wall clock is stepped by `nanos`, backwards when negative.
    pub fn step_clock(&self, nanos: i64) {
        self.service.change(|store| store.step_clock(nanos));
    }

    /// The kernel kills a container for its memory; false when it did not run.
    pub fn oom_kill_container(&self, id: &str) -> bool {
        self.service.end(id, EXIT_SIGKILL, "OOMKilled")
    }

    /// The sandbox's own process ends, and with it the sandbox's network; its containers run on. False when it had.
    pub fn kill_sandbox(&self, id: &str) -> bool {
        self.service.sandbox_ends(id)
    }

    /// The machine restarts: every process is gone, what was known of them is not. Connections break, and the server
    /// listens again.
    ///
    /// # Errors
    /// When the socket cannot be bound again.
    pub async fn reboot(&self) -> io::Result<()> {
        self.stop_server().await;
        let (containers, sandboxes): (Vec<_>, Vec<_>) = {
            let store = self.service.lock();
            let running = store.containers.values().filter(|c| c.running);
            (
                running.map(|c| c.id.clone()).collect(),
                store.sandboxes.keys().cloned().collect(),
            )
        };
        for id in containers {
            self.service.end(&id, EXIT_UNSEEN, "Unknown");
            self.service.change(|store| store.show_end(&id));
        }
        for id in sandboxes {
            self.service.sandbox_ends(&id);
        }
        self.restart_server().await
    }

    /// containerd is killed: nobody listens, every connection breaks, containers run on.
    pub async fn stop_server(&self) {
        locked(&self.listening).take();
        self.service.cut();
    }

    /// containerd is back and knows what it knew. While it listens this only breaks the connections.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn restart_server(&self) -> io::Result<()> {
        self.stop_server().await;
        let listening = Listening::start(&self.service, &self.socket)?;
        *locked(&self.listening) = Some(listening);
        Ok(())
    }
}

/// What there is to see.
impl FakeRuntime {
    /// The containers, oldest first.
    #[must_use]
    pub fn containers(&self) -> Vec<Container> {
        let mut all: Vec<_> = self.service.lock().containers.values().cloned().collect();
        all.sort_by_key(|container| container.created_at);
        all
    }

    /// The container with this id.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Container> {
        self.service.lock().containers.get(id).cloned()
    }

    /// The instances of a container that run, oldest first. `container` is `namespace/pod/container` or its end.
    #[must_use]
    pub fn running(&self, container: &str) -> Vec<Container> {
        let mut all = self.containers();
        all.retain(|c| c.running && program::names(container, &c.subject));
        all
    }

    /// The sandboxes, oldest first.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<Sandbox> {
        let mut all: Vec<_> = self.service.lock().sandboxes.values().cloned().collect();
        all.sort_by_key(|sandbox| sandbox.created_at);
        all
    }

    /// The images by their first name, sorted.
    #[must_use]
    pub fn images(&self) -> Vec<String> {
        let store = self.service.lock();
        let name = |image: &v1::Image| image.repo_tags.first().unwrap_or(&image.id).clone();
        let mut names: Vec<_> = store.images.all().map(name).collect();
        names.sort();
        names
    }

    /// The users that the image called `name` was pulled as, in order; an empty one for nobody.
    #[must_use]
    pub fn pulled_as(&self, name: &str) -> Vec<String> {
        let store = self.service.lock();
        let pulls = store.pulls.iter().filter(|(image, _)| image == name);
        pulls.map(|(_, user)| user.clone()).collect()
    }

    /// The calls so far, in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.service.lock().calls.clone()
    }

    /// The calls of one method.
    #[must_use]
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.method == method);
        calls
    }

    /// The calls that change something, as `Method subject`: what assertions on order read.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        const CHANGES: [&str; 8] = [
            "RunPodSandbox",
            "StopPodSandbox",
            "RemovePodSandbox",
            "CreateContainer",
            "StartContainer",
            "StopContainer",
            "RemoveContainer",
            "PullImage",
        ];
        let store = self.service.lock();
        let calls = store.calls.iter();
        calls
            .filter(|call| CHANGES.contains(&call.method))
            .map(|call| format!("{} {}", call.method, call.subject))
            .collect()
    }

    /// Starts the list of calls anew.
    pub fn forget_calls(&self) {
        self.service.change(|store| {
            store.forgotten += store.calls.len();
            store.calls.clear();
        });
    }

    /// Every start of a container while another instance of it ran.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.service.lock().violations.clone()
    }

    /// Waits until `probe` finds what it looks for; asks again after each call and each change. None when `patience`, by
    /// tokio's clock, is over.
    pub async fn wait_for<T>(
        &self,
        patience: Duration,
        mut probe: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let looking = async {
            let mut changed = self.service.changes();
            loop {
                changed.borrow_and_update();
                if let Some(found) = probe(self) {
                    return found;
                }
                // Cannot fail while `self` is there.
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(patience, looking).await.ok()
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        locked(&self.listening).take();
        self.service.cut();
    }
}
