//! One connection to systemd: calls, and the ends of the jobs they begin.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio_stream::StreamExt as _;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, Message, MessageStream};

use super::{Deadlines, Endpoint, Property, Slice, SystemdError, Version, Work, private};

pub(super) const NAME: &str = "org.freedesktop.systemd1";
pub(super) const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// The match that has a bus pass on the ends of jobs. systemd sends them to those who asked for a job.
const JOB_REMOVED: &str =
    "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// One connection, and what comes in on it.
pub(super) struct Session {
    connection: Connection,
    incoming: MessageStream,
    pub(super) version: u32,
    job_deadline: Duration,
}

impl Session {
    /// Connects, and sees that systemd is at the other end.
    pub(super) async fn open(endpoint: &Endpoint, deadlines: Deadlines) -> zbus::Result<Self> {
        let stream = UnixStream::connect(endpoint.path()).await?;
        let connection = match endpoint {
            Endpoint::Bus(_) => Builder::unix_stream(stream).build().await?,
            Endpoint::Private(_) => {
                Builder::socket(private::socket(stream))
                    .p2p()
                    .build()
                    .await?
            }
        };
        if connection.is_bus() {
            let bus = "org.freedesktop.DBus";
            let path = "/org/freedesktop/DBus";
            let interface = Some(bus);
            connection
                .call_method(Some(bus), path, interface, "AddMatch", &JOB_REMOVED)
                .await?;
        }
        let properties = Some("org.freedesktop.DBus.Properties");
        let version = connection
            .call_method(Some(NAME), PATH, properties, "Get", &(MANAGER, "Version"))
            .await?;
        let version: OwnedValue = version.body().deserialize()?;
        let version = String::try_from(version)?;
        Ok(Self {
            incoming: MessageStream::from(&connection),
            connection,
            version: version_number(&version),
            job_deadline: deadlines.job,
        })
    }

    pub(super) async fn perform(&mut self, work: Work<'_>) -> Result<(), SystemdError> {
        match work {
            Work::Ensure(version, slices) => {
                for slice in slices {
                    self.ensure(version, slice).await?;
                }
                Ok(())
            }
            Work::Set(unit, wanted) => self.set(unit, wanted).await,
            Work::Stop(unit) => self.stop(unit).await,
        }
    }

    async fn ensure(&mut self, version: Version, slice: &Slice) -> Result<(), SystemdError> {
        let unit = slice.unit.as_str();
        let all = transient(version, slice);
        // The last are units that would be made besides: none.
        let none: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        let supported: Vec<&Property> = all.iter().filter(|p| p.since <= self.version).collect();
        let body = (unit, "replace", as_pairs(supported), none);
        match self.job("StartTransientUnit", unit, &body).await {
            Err(error) if error.is_named(UNIT_EXISTS) => {
                self.set(unit, &slice.properties).await?;
                // Loaded is not started: an administrator's own unit file of this name, or what a stop left.
                self.job("StartUnit", unit, &(unit, "replace")).await
            }
            started => started,
        }
    }

    async fn set(&mut self, unit: &str, wanted: &[Property]) -> Result<(), SystemdError> {
        let supported: Vec<&Property> = wanted.iter().filter(|p| p.since <= self.version).collect();
        if supported.is_empty() {
            return Ok(());
        }
        // Until the next boot, as the slice itself.
        let runtime = true;
        let body = (unit, runtime, as_pairs(supported));
        self.call("SetUnitProperties", unit, &body).await.map(drop)
    }

    async fn stop(&mut self, unit: &str) -> Result<(), SystemdError> {
        match self.job("StopUnit", unit, &(unit, "replace")).await {
            Err(error) if error.is_named(NO_SUCH_UNIT) => return Ok(()),
            // What the job left is seen by those who remove the directories.
            Err(SystemdError::Job { result, .. }) => {
                tracing::warn!(unit, result, "systemd did not stop the slice as asked");
            }
            stopped => stopped?,
        }
        // One that failed would be kept; most have not, or are gone.
        let reset = self.call("ResetFailedUnit", unit, &unit).await;
        if let Err(error @ SystemdError::NoAnswer { .. }) = reset {
            return Err(error);
        }
        Ok(())
    }

    async fn call<B>(
        &mut self,
        call: &'static str,
        unit: &str,
        body: &B,
    ) -> Result<Message, SystemdError>
    where
        B: serde::Serialize + DynamicType,
    {
        let connection = self.connection.clone();
        let answer = connection.call_method(Some(NAME), PATH, Some(MANAGER), call, body);
        let incoming = &mut self.incoming;
        let both = async {
            let mut answer = std::pin::pin!(answer);
            loop {
                // Cancel-safe: a message that is not looked at is none of this call's.
                tokio::select! {
                    answer = &mut answer => return answer,
                    message = incoming.next() => arrived(message).map(drop)?,
                }
            }
        };
        in_time(self.job_deadline, call, unit, both).await
    }

    /// Makes a call that begins a job, and waits for its end. The job may end before the call is answered.
    async fn job<B>(&mut self, call: &'static str, unit: &str, body: &B) -> Result<(), SystemdError>
    where
        B: serde::Serialize + DynamicType,
    {
        let connection = self.connection.clone();
        let answer = connection.call_method(Some(NAME), PATH, Some(MANAGER), call, body);
        let incoming = &mut self.incoming;
        let both = async {
            let mut answer = std::pin::pin!(answer);
            let mut job: Option<OwnedObjectPath> = None;
            let mut ended = HashMap::new();
            loop {
                if let Some(result) = job.as_ref().and_then(|job| ended.remove(job)) {
                    return Ok(result);
                }
                // Cancel-safe: the answer is kept between rounds, and the stream keeps its messages.
                tokio::select! {
                    answer = &mut answer, if job.is_none() => {
                        job = Some(answer?.body().deserialize()?);
                    }
                    message = incoming.next() => {
                        if let Some((path, result)) = job_end(&arrived(message)?) {
                            ended.insert(path, result);
                        }
                    }
                }
            }
        };
        let result: String = in_time(self.job_deadline, call, unit, both).await?;
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(SystemdError::Job {
                call,
                unit: unit.to_owned(),
                result,
            }),
        }
    }
}

async fn in_time<T>(
    after: Duration,
    call: &'static str,
    unit: &str,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, SystemdError> {
    let unit = || unit.to_owned();
    match tokio::time::timeout(after, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(SystemdError::Call {
            call,
            unit: unit(),
            source: Box::new(source),
        }),
        Err(_) => Err(SystemdError::NoAnswer {
            call,
            unit: unit(),
            after,
        }),
    }
}

/// What comes in; a stream that ends is a connection that broke.
fn arrived(message: Option<zbus::Result<Message>>) -> zbus::Result<Message> {
    message.unwrap_or_else(|| Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()))
}

/// The job that `message` says has ended, and how.
fn job_end(message: &Message) -> Option<(OwnedObjectPath, String)> {
    let header = message.header();
    let is_end = message.message_type() == Type::Signal
        && header.member()?.as_str() == "JobRemoved"
        && header.interface()?.as_str() == MANAGER;
    if !is_end {
        return None;
    }
    let body = message.body();
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
    Some((job, result))
}

/// The properties of a slice that does not exist yet, those that runc gives a cgroup without processes.
fn transient(version: Version, slice: &Slice) -> Vec<Property> {
    let io_accounting = match version {
        Version::V1 => "BlockIOAccounting",
        Version::V2 => "IOAccounting",
    };
    let mut all = vec![
        Property::new("Description", slice.description.clone()),
        Property::new("Wants", vec![slice.parent.clone()]),
        // Counting begins with the cgroup, not with its first limit.
        Property::new("MemoryAccounting", true),
        Property::new("CPUAccounting", true),
        Property::new(io_accounting, true),
        Property::new("TasksAccounting", true),
        // The node's shutdown stops pods in an order of its own.
        Property::new("DefaultDependencies", false),
    ];
    all.extend(slice.properties.iter().cloned());
    all
}

fn as_pairs(properties: Vec<&Property>) -> Vec<(&'static str, &Value<'static>)> {
    let pairs = properties.into_iter();
    pairs
        .map(|property| (property.name, &property.value))
        .collect()
}

/// The first number of `252.30-1~deb12u2`, `v245.4`; 0 where there is none, so that only what every systemd has is used.
pub(super) fn version_number(text: &str) -> u32 {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0)
}
