//! logind over D-Bus: how long it waits, the lock that has it wait, and what it announces.
//!
//! The interface is `org.freedesktop.login1.Manager`, org.freedesktop.login1(5) in systemd's manual.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Serialize;
use tokio_stream::StreamExt as _;
use zbus::message::Type;
use zbus::zvariant::{self, DynamicType, OwnedValue};
use zbus::{Connection, MatchRule, Message, MessageStream, connection};

use super::Bus;

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const DBUS: &str = "org.freedesktop.DBus";

/// No call of these takes long; one without an answer is given up, and the connection with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Signals that wait to be taken: there are few, and each is taken at once.
const QUEUE: usize = 8;

/// logind could not be asked, or is no longer heard of.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogindError {
    /// There is no connection to D-Bus.
    #[error("cannot connect to D-Bus")]
    Connect(#[source] zbus::Error),
    /// D-Bus does not answer.
    #[error("D-Bus does not answer within {PATIENCE:?}")]
    Silent,
    /// A call failed.
    #[error("{what} failed")]
    Call {
        /// Method or property.
        what: &'static str,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// An answer of another type than the interface has.
    #[error("the answer to {what} is not what it should be")]
    Answer {
        /// Method, property or signal.
        what: &'static str,
        /// Why not.
        #[source]
        source: zvariant::Error,
    },
    /// The connection has ended.
    #[error("the connection to D-Bus has ended")]
    Ended,
}

/// What is heard of logind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The machine is about to shut down; or that was called off.
    PrepareForShutdown(bool),
    /// logind has begun anew.
    Began,
    /// logind has gone.
    Went,
}

/// A connection to D-Bus, on which logind is spoken to.
pub(super) struct Logind {
    connection: Connection,
}

/// What logind announces from the moment this was made.
pub(super) struct Signals {
    shutdowns: MessageStream,
    owners: MessageStream,
}

impl Logind {
    pub(super) async fn connect(bus: &Bus) -> Result<Self, LogindError> {
        let builder = match bus {
            Bus::System => connection::Builder::system(),
            Bus::At(address) => connection::Builder::address(address.as_str()),
        };
        let connecting = builder
            .map_err(LogindError::Connect)?
            .method_timeout(PATIENCE)
            .build();
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let connection = connected
            .map_err(|_| LogindError::Silent)?
            .map_err(LogindError::Connect)?;
        Ok(Self { connection })
    }

    /// Listens to what logind announces.
    pub(super) async fn listen(&self) -> Result<Signals, LogindError> {
        let signal = || MatchRule::builder().msg_type(Type::Signal);
        let shutdowns = signal()
            .sender(SERVICE)
            .and_then(|rule| rule.path(PATH))
            .and_then(|rule| rule.interface(MANAGER))
            .and_then(|rule| rule.member("PrepareForShutdown"));
        let owners = signal()
            .sender(DBUS)
            .and_then(|rule| rule.interface(DBUS))
            .and_then(|rule| rule.member("NameOwnerChanged"))
            .and_then(|rule| rule.add_arg(SERVICE));
        let what = "AddMatch";
        let failed = |source| LogindError::Call { what, source };
        let subscribe = async |rule: zbus::Result<zbus::match_rule::Builder<'static>>| {
            let rule = rule.map_err(failed)?.build();
            let stream = MessageStream::for_match_rule(rule, &self.connection, Some(QUEUE));
            stream.await.map_err(failed)
        };
        Ok(Signals {
            shutdowns: subscribe(shutdowns).await?,
            owners: subscribe(owners).await?,
        })
    }

    /// How long logind waits for locks at most.
    pub(super) async fn longest_delay(&self) -> Result<Duration, LogindError> {
        let micros = self.property("InhibitDelayMaxUSec").await?;
        Ok(Duration::from_micros(micros))
    }

    /// Whether the machine is about to shut down.
    pub(super) async fn prepares_for_shutdown(&self) -> Result<bool, LogindError> {
        self.property("PreparingForShutdown").await
    }

    /// Takes the lock; logind waits until it is closed.
    pub(super) async fn inhibit(&self) -> Result<OwnedFd, LogindError> {
        // These are upstream's words, by which people know the lock in `systemd-inhibit --list`.
        let why = "Kubelet needs time to handle node shutdown";
        let arguments = ("shutdown", "kubelet", why, "delay");
        let what = "Inhibit";
        let answer = self.call(SERVICE, PATH, MANAGER, what, &arguments).await?;
        let lock: zvariant::OwnedFd = answer
            .body()
            .deserialize()
            .map_err(|source| as_answer(what, source))?;
        Ok(lock.into())
    }

    /// Has logind read its configuration again, which takes a moment.
    pub(super) async fn reload(&self) -> Result<(), LogindError> {
        const HANGUP: i32 = 1;
        let arguments = ("systemd-logind.service", "all", HANGUP);
        self.call(
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "KillUnit",
            &arguments,
        )
        .await
        .map(drop)
    }

    async fn property<T>(&self, name: &'static str) -> Result<T, LogindError>
    where
        T: TryFrom<OwnedValue, Error = zvariant::Error>,
    {
        let answer = self
            .call(SERVICE, PATH, PROPERTIES, "Get", &(MANAGER, name))
            .await
            .map_err(|error| match error {
                LogindError::Call { source, .. } => LogindError::Call { what: name, source },
                other => other,
            })?;
        let value: OwnedValue = answer
            .body()
            .deserialize()
            .map_err(|source| as_answer(name, source))?;
        let typed = T::try_from(value);
        typed.map_err(|source| LogindError::Answer { what: name, source })
    }

    async fn call<B>(
        &self,
        service: &'static str,
        path: &'static str,
        interface: &'static str,
        what: &'static str,
        arguments: &B,
    ) -> Result<Message, LogindError>
    where
        B: Serialize + DynamicType,
    {
        let connection = &self.connection;
        let call = connection.call_method(Some(service), path, Some(interface), what, arguments);
        call.await
            .map_err(|source| LogindError::Call { what, source })
    }
}

fn as_answer(what: &'static str, source: zbus::Error) -> LogindError {
    match source {
        zbus::Error::Variant(source) => LogindError::Answer { what, source },
        source => LogindError::Call { what, source },
    }
}

impl Signals {
    /// The next one. Cancel-safe: what is not taken stays in its queue.
    ///
    /// # Errors
    /// When the connection has ended. What nobody understands is passed over, and said.
    pub(super) async fn next(&mut self) -> Result<Signal, LogindError> {
        loop {
            let (message, read): (_, fn(&Message) -> zbus::Result<Signal>) = tokio::select! {
                message = self.shutdowns.next() => (message, shutdown_of),
                message = self.owners.next() => (message, owner_of),
            };
            let Some(Ok(message)) = message else {
                return Err(LogindError::Ended);
            };
            match read(&message) {
                Ok(signal) => return Ok(signal),
                Err(error) => {
                    tracing::warn!(%error, "logind has sent a signal that nobody can read")
                }
            }
        }
    }
}

fn shutdown_of(message: &Message) -> zbus::Result<Signal> {
    let begins: bool = message.body().deserialize()?;
    Ok(Signal::PrepareForShutdown(begins))
}

fn owner_of(message: &Message) -> zbus::Result<Signal> {
    let body = message.body();
    let (_name, _before, now): (&str, &str, &str) = body.deserialize()?;
    Ok(match now {
        "" => Signal::Went,
        _ => Signal::Began,
    })
}
