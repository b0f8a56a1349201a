//! The log: klog's text or JSON on standard error, or entries of systemd's journal.
//!
//! Owns: the process's tracing subscriber. Inputs: tracing events, the `logging` part of the configuration. Outputs:
//! one line an event on standard error; where that is the journal's own stream, one entry an event with the line for its
//! message and what it is about in fields of its own (`docs/journal.md`). Spawns nothing: a line is written by the task
//! that logs it, and a reader that has stopped reading costs lines, never time.
//!
//! Events are structured: a message and `key=value` fields; the fields of the spans around an event follow its own.
//! Tracing's levels stand for klog's: `INFO` is `V(0)`, `DEBUG` is `V(4)`, `TRACE` is `V(6)`.
//!
//! Deliberately not here: buffering, so `--log-flush-frequency` has nothing to do; files; splitting the stream.

mod filter;
mod format;
mod journal;
mod sink;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use filter::Filter;
pub use filter::Module;
use format::Fields;
pub use format::Format;
use journal::Journal;
pub use journal::message_id;
use sink::Sink;

/// What the log is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Text or JSON.
    pub format: Format,
    /// `--v`.
    pub verbosity: u32,
    /// `--vmodule`, the first match counts.
    pub modules: Vec<Module>,
}

/// There already is a subscriber.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up logging")]
pub struct AlreadySetUp(#[from] tracing::subscriber::SetGlobalDefaultError);

/// Changes the log while the agent runs.
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: Arc<Filter>,
    output: Arc<Output>,
}

impl LogHandle {
    /// Sets `--v` and `--vmodule`.
    pub fn set_levels(&self, verbosity: u32, modules: Vec<Module>) {
        self.filter.set_verbosity(verbosity);
        self.filter.set_modules(modules);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Sets `--v` alone.
    pub fn set_verbosity(&self, verbosity: u32) {
        self.filter.set_verbosity(verbosity);
        tracing::callsite::rebuild_interest_cache();
    }

    /// How many lines were dropped because nobody read them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let journal = self.output.journal.as_ref();
        self.output.stderr.dropped() + journal.map_or(0, Journal::dropped)
    }
}

/// Sends every event of the process to standard error, or the journal, from here on.
///
/// # Errors
/// When it was called before.
pub fn init(settings: &Settings) -> Result<LogHandle, AlreadySetUp> {
    let journal = has_journal().then(|| Journal::at(Path::new(journal::SOCKET)));
    let handle = LogHandle {
        filter: Arc::new(Filter::new(settings.verbosity, settings.modules.clone())),
        output: Arc::new(Output {
            stderr: Sink::stderr(),
            journal,
        }),
    };
    let layer = Lines {
        format: settings.format,
        filter: Arc::clone(&handle.filter),
        output: Arc::clone(&handle.output),
    };
    tracing::subscriber::set_global_default(Registry::default().with(layer))?;
    Ok(handle)
}

/// Whether standard error leads to systemd's journal.
#[must_use]
pub fn has_journal() -> bool {
    journal::has_stderr()
}

/// What takes an event whose fields have been read.
trait Write {
    fn write(&self, fields: &Fields, metadata: &Metadata<'_>, wall: Timestamp);
}

/// Where the process's events go.
#[derive(Debug)]
struct Output {
    stderr: Sink,
    /// Comes first, where there is one.
    journal: Option<Journal>,
}

impl Write for Arc<Output> {
    fn write(&self, fields: &Fields, metadata: &Metadata<'_>, wall: Timestamp) {
        if let Some(journal) = &self.journal {
            let entry = journal::entry(fields, metadata, &fields.body(metadata, wall));
            if journal.write(&entry).is_ok() {
                return;
            }
        }
        self.stderr.write(fields.line(metadata, wall).as_bytes());
    }
}

/// Writes each event as one line.
struct Lines<W> {
    format: Format,
    filter: Arc<Filter>,
    output: W,
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // All that the filter looks at is known of a callsite; the cache is rebuilt when the verbosity changes.
        if self.filter.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.filter.enabled(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::new(self.format);
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new(self.format);
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.append(outer);
            }
        }
        self.output
            .write(&fields, event.metadata(), crate::clock::system_wall());
    }
}

#[cfg(test)]
mod tests;
