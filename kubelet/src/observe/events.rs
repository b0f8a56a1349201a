//! The runtime's own events, best source first: containerd's stream, CRI's, else a relist each second.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::events::{ContainerDelete, TaskExit};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::tonic::{Response, Status, Streaming};
use containerd_client::types::Envelope;
use cri_proto::{Connection, ContainerEvents, CriError, v1};
use prost::Message;

use super::{Observer, RuntimeState};

/// Between two relists while events flow. Two list calls each: a net, not a source.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(75);
/// Between two relists where the runtime has no events at all (upstream's PLEG period).
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// How often a runtime that stays away is mentioned.
const SAY_AWAY_EVERY: Duration = Duration::from_secs(60);

/// What containerd is asked for: exits and removals in CRI's namespace.
const CONTAINERD_FILTERS: [&str; 2] = [
    r#"namespace==k8s.io,topic=="/tasks/exit""#,
    r#"namespace==k8s.io,topic=="/containers/delete""#,
];

/// Counts the times that the runtime came up in the life of this process.
static TIMES_UP: AtomicU64 = AtomicU64::new(1);

/// The container or sandbox that something happened to. What it was, the runtime says when asked.
struct Hint(Box<str>);

/// Keeps the observations fresh for as long as the agent lives.
pub async fn run_events(observer: Arc<Observer>, connection: Connection) {
    let mut kind = SourceKind::Containerd;
    let mut said: Option<tokio::time::Instant> = None;
    loop {
        let why = match follow(&observer, &connection, kind, &mut said).await {
            Ended::Unsupported => {
                kind = kind.next_best();
                continue;
            }
            Ended::Away(why) => why,
        };
        observer.state.send_if_modified(|state| {
            let was_up = matches!(state, RuntimeState::Up(_));
            if was_up {
                *state = RuntimeState::Away;
            }
            was_up
        });
        let short = connection.refusal().unwrap_or_else(|| why.as_str().into());
        observer.away.send_if_modified(|known| {
            let news = known.as_ref() != Some(&short);
            *known = Some(short);
            news
        });
        if said.is_none_or(|at| at.elapsed() >= SAY_AWAY_EVERY) {
            said = Some(tokio::time::Instant::now());
            tracing::warn!(
                reason = "RuntimeAway",
                endpoint = connection.name(),
                why,
                "waiting for the container runtime"
            );
        }
        // Another runtime, or another version of it, may answer next.
        kind = SourceKind::Containerd;
        tokio::time::sleep(
            connection
                .next_attempt_in()
                .max(connection.options().backoff_min),
        )
        .await;
    }
}

enum Ended {
    /// The runtime has no such source of events.
    Unsupported,
    /// The runtime could not be reached, did not answer, or ended its stream.
    Away(String),
}

impl From<CriError> for Ended {
    fn from(error: CriError) -> Self {
        if error.is_unimplemented() {
            Self::Unsupported
        } else {
            Self::Away(error.to_string())
        }
    }
}

/// One life of the connection: subscribe, look at everything, then follow.
async fn follow(
    observer: &Arc<Observer>,
    connection: &Connection,
    kind: SourceKind,
    said: &mut Option<tokio::time::Instant>,
) -> Ended {
    let mut source = Source::open(kind, connection);
    // Subscribed first, listed second: what happens in between is seen twice rather than not at all.
    let listed = tokio::select! {
        biased;
        // Hints that come now are dropped: the lists are younger than they are. Nothing is lost by dropping the relist.
        ended = drain(&mut source) => return ended,
        listed = observer.relist() => listed,
    };
    if let Err(error) = listed {
        return Ended::Away(error.to_string());
    }
    if said.take().is_some() || *observer.state.borrow() == RuntimeState::NeverSeen {
        tracing::info!(
            reason = "RuntimeReady",
            endpoint = connection.name(),
            events = kind.name(),
            "container runtime is ready"
        );
    }
    observer.away.send_replace(None);
    observer
        .state
        .send_replace(RuntimeState::Up(TIMES_UP.fetch_add(1, Ordering::Relaxed)));
    let mut relist = tokio::time::interval(kind.relist_period());
    relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    relist.reset();
    // A hint dropped above may have been younger than the list that was read just before it.
    let mut second_look = std::pin::pin!(tokio::time::sleep(Duration::from_secs(1)));
    let mut second_look_due = true;
    loop {
        // Cancel-safe: a stream loses nothing when its `next` is dropped, and a tick that is dropped comes again.
        tokio::select! {
            hint = source.next() => {
                match hint {
                    Ok(Some(Hint(id))) => note(observer, id),
                    Ok(None) => return Ended::Away("its event stream ended".to_owned()),
                    Err(error) => return error,
                }
                continue;
            }
            () = &mut second_look, if second_look_due => { second_look_due = false; }
            _ = relist.tick() => {}
        }
        match observer.relist().await {
            Err(error) if error.is_unavailable() => return Ended::Away(error.to_string()),
            Err(error) => tracing::warn!(%error, "could not list the runtime's pods"),
            Ok(()) => {}
        }
    }
}

/// Polls the source until it ends, so that its request is under way.
async fn drain(source: &mut Source) -> Ended {
    loop {
        match source.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ended::Away("its event stream ended".to_owned()),
            Err(error) => return error,
        }
    }
}

/// Hands a hint to a task of its own, so that one slow pod holds up no other's events.
fn note(observer: &Arc<Observer>, id: Box<str>) {
    // An id that nobody owns is none of ours, or so young that its worker looks at it anyway.
    if let Some(uid) = observer.owner(&id) {
        tokio::spawn(observer.clone().settle(uid, id));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    Containerd,
    Cri,
    None,
}

impl SourceKind {
    fn next_best(self) -> Self {
        match self {
            Self::Containerd => Self::Cri,
            Self::Cri | Self::None => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Cri => "CRI",
            Self::None => "none, relist each second",
        }
    }

    fn relist_period(self) -> Duration {
        match self {
            Self::Containerd | Self::Cri => RELIST_WITH_EVENTS,
            Self::None => RELIST_WITHOUT_EVENTS,
        }
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<Envelope>>, Status>> + Send>>;

enum Source {
    /// containerd sends no header before its first event: a stream being opened and an idle one look alike.
    Opening(Opening),
    Containerd(Box<Streaming<Envelope>>),
    Cri(Box<ContainerEvents>),
    None,
}

impl Source {
    fn open(kind: SourceKind, connection: &Connection) -> Self {
        match kind {
            SourceKind::Containerd => {
                let mut client = EventsClient::new(connection.channel());
                let filters = CONTAINERD_FILTERS.map(str::to_owned).to_vec();
                Self::Opening(Box::pin(async move {
                    client.subscribe(SubscribeRequest { filters }).await
                }))
            }
            SourceKind::Cri => Self::Cri(Box::new(connection.runtime().container_events())),
            SourceKind::None => Self::None,
        }
    }

    /// The next hint; none when the stream has ended.
    async fn next(&mut self) -> Result<Option<Hint>, Ended> {
        loop {
            let hint = match self {
                Self::Opening(opening) => {
                    let stream = opening.await.map_err(|status| containerd_error(&status))?;
                    *self = Self::Containerd(Box::new(stream.into_inner()));
                    None
                }
                Self::Containerd(stream) => {
                    match stream
                        .message()
                        .await
                        .map_err(|status| containerd_error(&status))?
                    {
                        Some(envelope) => containerd_hint(&envelope),
                        None => return Ok(None),
                    }
                }
                Self::Cri(stream) => match stream.next().await? {
                    Some(event) => cri_hint(event),
                    None => return Ok(None),
                },
                Self::None => std::future::pending().await,
            };
            if hint.is_some() {
                return Ok(hint);
            }
        }
    }
}

fn containerd_error(status: &Status) -> Ended {
    match status.code() {
        containerd_client::tonic::Code::Unimplemented => Ended::Unsupported,
        _ => Ended::Away(status.message().to_owned()),
    }
}

/// The container that an event of containerd is about; none for an exec's exit, and for what is not understood.
fn containerd_hint(envelope: &Envelope) -> Option<Hint> {
    let event = envelope.event.as_ref()?;
    match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::decode(event.value.as_slice()).ok()?;
            (exit.id == exit.container_id).then(|| Hint(exit.container_id.into()))
        }
        "/containers/delete" => {
            let deleted = ContainerDelete::decode(event.value.as_slice()).ok()?;
            Some(Hint(deleted.id.into()))
        }
        _ => None,
    }
}

/// As [`containerd_hint`], for CRI's own events.
fn cri_hint(event: v1::ContainerEventResponse) -> Option<Hint> {
    let ended = event.container_event_type == v1::ContainerEventType::ContainerStoppedEvent as i32
        || event.container_event_type == v1::ContainerEventType::ContainerDeletedEvent as i32;
    ended.then(|| Hint(event.container_id.into()))
}
