//! A manager on a socket, as systemd is on its private one: it does what its script says and notes what it was asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zbus::connection::Builder;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{DBusError, Guid};

use super::super::session::PATH;
use super::super::{Deadlines, Endpoint, SystemdConfig};

/// What the manager does, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) version: String,
    /// The units there are.
    pub(crate) units: Vec<String>,
    /// What is said of jobs; `done` where nothing is.
    pub(crate) result: Option<&'static str>,
    /// The call that is never answered.
    pub(crate) hangs: Option<&'static str>,
    /// The call at which the connection breaks, once.
    pub(crate) breaks: Option<&'static str>,
    /// The job's end is sent before the answer.
    pub(crate) hurries: bool,
    /// `<call> <unit> <property>=<value>…`
    pub(crate) calls: Vec<String>,
    pub(super) jobs: u32,
}

#[derive(Debug, DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

type Properties = Vec<(String, OwnedValue)>;

pub(super) struct Manager(pub(super) Arc<Mutex<Script>>);

impl Manager {
    async fn called(
        &self,
        call: &'static str,
        unit: &str,
        more: &str,
        emitter: &SignalEmitter<'_>,
    ) {
        let (hangs, breaks) = {
            let mut script = self.0.lock().unwrap();
            script.calls.push(format!("{call} {unit}{more}"));
            let breaks = script.breaks.take_if(|broken| *broken == call);
            (script.hangs == Some(call), breaks.is_some())
        };
        if breaks {
            emitter.connection().clone().close().await.unwrap();
        }
        if hangs || breaks {
            std::future::pending::<()>().await;
        }
    }

    async fn job(&self, unit: String, emitter: SignalEmitter<'_>) -> OwnedObjectPath {
        let (id, result, hurries) = {
            let mut script = self.0.lock().unwrap();
            script.jobs += 1;
            (script.jobs, script.result.unwrap_or("done"), script.hurries)
        };
        let path = ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).unwrap();
        let emitter = emitter.to_owned();
        let job = path.to_owned();
        let end = async move {
            // Another job's end comes before it.
            let other = ObjectPath::from_static_str_unchecked("/org/freedesktop/systemd1/job/9999");
            Self::job_removed(&emitter, 9999, other, "other.service", "failed")
                .await
                .unwrap();
            Self::job_removed(&emitter, id, job, &unit, result)
                .await
                .unwrap();
        };
        match hurries {
            true => end.await,
            false => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    end.await;
                });
            }
        }
        path.into()
    }
}

fn shown(properties: &Properties) -> String {
    let shown = properties.iter().map(|(name, value)| {
        let value = match &**value {
            Value::U64(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            Value::Str(text) => text.to_string(),
            other => format!("{other:?}"),
        };
        format!(" {name}={value}")
    });
    shown.collect()
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Properties,
        aux: Vec<(String, Properties)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!((mode.as_str(), aux.len()), ("replace", 0));
        self.called("StartTransientUnit", &name, &shown(&properties), &emitter)
            .await;
        {
            let mut script = self.0.lock().unwrap();
            if script.units.contains(&name) {
                let text = format!("Unit {name} was already loaded or has a fragment file.");
                return Err(Refusal::UnitExists(text));
            }
            script.units.push(name.clone());
        }
        Ok(self.job(name, emitter).await)
    }

    async fn start_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> OwnedObjectPath {
        assert_eq!(mode, "replace");
        self.called("StartUnit", &name, "", &emitter).await;
        self.job(name, emitter).await
    }

    async fn stop_unit(
        &self,
        name: String,
        mode: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        self.called("StopUnit", &name, "", &emitter).await;
        {
            let mut script = self.0.lock().unwrap();
            let Some(at) = script.units.iter().position(|unit| *unit == name) else {
                return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
            };
            script.units.remove(at);
        }
        Ok(self.job(name, emitter).await)
    }

    async fn set_unit_properties(
        &self,
        name: String,
        runtime: bool,
        properties: Properties,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) {
        assert!(runtime);
        self.called("SetUnitProperties", &name, &shown(&properties), &emitter)
            .await;
    }

    async fn reset_failed_unit(
        &self,
        name: String,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(), Refusal> {
        self.called("ResetFailedUnit", &name, "", &emitter).await;
        Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")))
    }

    #[zbus(property)]
    fn version(&self) -> String {
        self.0.lock().unwrap().version.clone()
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: ObjectPath<'_>,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// A manager on a socket of its own, as systemd is on its private one.
pub(crate) struct FakeSystemd {
    pub(super) dir: tempfile::TempDir,
    pub(super) script: Arc<Mutex<Script>>,
    /// Connections there are.
    pub(super) open: Arc<AtomicUsize>,
}

impl FakeSystemd {
    pub(crate) fn new(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(dir.path().join("private")).unwrap();
        let script = Arc::new(Mutex::new(Script {
            version: match script.version.as_str() {
                "" => "252.30-1~deb12u2".to_owned(),
                _ => script.version.clone(),
            },
            ..script
        }));
        let served = script.clone();
        let open = Arc::new(AtomicUsize::new(0));
        let connections = open.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (manager, connections) = (Manager(served.clone()), connections.clone());
                tokio::spawn(async move {
                    let server = Builder::unix_stream(stream)
                        .server(Guid::generate())
                        .unwrap();
                    let server = server.p2p().serve_at(PATH, manager).unwrap();
                    let server = server.build().await.unwrap();
                    server.closed().await;
                    connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { dir, script, open }
    }

    pub(crate) fn config(&self) -> SystemdConfig {
        SystemdConfig {
            booted: self.dir.path().to_owned(),
            endpoints: vec![Endpoint::Private(self.dir.path().join("private"))],
            deadlines: Deadlines {
                open: Duration::from_secs(10),
                job: Duration::from_secs(10),
            },
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().calls)
    }
}
