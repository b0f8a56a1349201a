//! Which events are written.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use tracing::{Level, Metadata};

/// One entry of `--vmodule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// A pattern with `*` and `?`: of a module's own name (`queue`), or of its whole path when it has a slash
    /// (`kubelet/workers/*`).
    pub pattern: String,
    /// The verbosity of what matches.
    pub verbosity: u32,
}

/// The crates of this workspace; others speak only when something is wrong, until `--v` asks for them.
const OWN: &[&str] = &["kubelet", "static_pods", "cri_proto"];

/// Writes the whole of an answer that it cannot read, which may hold secrets: it says nothing at any level. Whoever asked
/// says what failed.
const SILENT: &str = "kube_client::client";
/// Warns of each refusal of a watch anew, of which `api/watch.rs` says once what it is: heard from the verbosity on that
/// shows what other crates do.
const REPEATS: &str = "kube_runtime::watcher";

#[derive(Debug)]
pub(super) struct Filter {
    verbosity: AtomicU32,
    modules: RwLock<Vec<Module>>,
}

impl Filter {
    pub(super) fn new(verbosity: u32, modules: Vec<Module>) -> Self {
        Self {
            verbosity: AtomicU32::new(verbosity),
            modules: RwLock::new(modules),
        }
    }

    pub(super) fn set_modules(&self, modules: Vec<Module>) {
        // Nothing panics under this lock.
        *self.modules.write().unwrap_or_else(PoisonError::into_inner) = modules;
    }

    pub(super) fn set_verbosity(&self, verbosity: u32) {
        self.verbosity.store(verbosity, Ordering::Relaxed);
    }

    pub(super) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let level = self.level(target);
        let is_heard = match target {
            SILENT => false,
            REPEATS => level >= Level::DEBUG,
            _ => true,
        };
        is_heard && *metadata.level() <= level
    }

    /// The least severe level that is written for `target`.
    fn level(&self, target: &str) -> Level {
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        let module = modules
            .iter()
            .find(|module| matches_module(&module.pattern, target));
        match (module, is_own(target)) {
            (Some(module), _) => own_level(module.verbosity),
            (None, true) => own_level(self.verbosity.load(Ordering::Relaxed)),
            (None, false) => foreign_level(self.verbosity.load(Ordering::Relaxed)),
        }
    }
}

/// Whether code of this workspace says so.
pub(super) fn is_own(target: &str) -> bool {
    OWN.contains(&target.split("::").next().unwrap_or(target))
}

fn own_level(verbosity: u32) -> Level {
    match verbosity {
        0..=3 => Level::INFO,
        4..=5 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

fn foreign_level(verbosity: u32) -> Level {
    match verbosity {
        0..=3 => Level::WARN,
        4..=7 => Level::INFO,
        8..=9 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

fn matches_module(pattern: &str, target: &str) -> bool {
    if pattern.contains('/') {
        glob(pattern.as_bytes(), target.replace("::", "/").as_bytes())
    } else {
        glob(
            pattern.as_bytes(),
            target.rsplit("::").next().unwrap_or(target).as_bytes(),
        )
    }
}

/// Whether `text` is what `pattern` describes: `*` is any run, `?` any one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_goes_by_crate() {
        for (verbosity, own, foreign) in [
            (0, Level::INFO, Level::WARN),
            (3, Level::INFO, Level::WARN),
            (4, Level::DEBUG, Level::INFO),
            (6, Level::TRACE, Level::INFO),
            (8, Level::TRACE, Level::DEBUG),
            (10, Level::TRACE, Level::TRACE),
        ] {
            let filter = Filter::new(verbosity, Vec::new());
            assert_eq!(filter.level("kubelet::plan"), own, "{verbosity}");
            assert_eq!(filter.level("static_pods"), own, "{verbosity}");
            assert_eq!(filter.level("hyper::proto"), foreign, "{verbosity}");
        }
    }

    #[test]
    fn modules_have_their_own() {
        let module = |pattern: &str, verbosity| Module {
            pattern: pattern.to_owned(),
            verbosity,
        };
        let filter = Filter::new(
            0,
            vec![
                module("queue", 4),
                module("kubelet/plan/*", 6),
                module("h2", 6),
            ],
        );
        assert_eq!(filter.level("kubelet::workers::queue"), Level::DEBUG);
        assert_eq!(filter.level("kubelet::plan::order"), Level::TRACE);
        assert_eq!(filter.level("kubelet::plan"), Level::INFO);
        assert_eq!(filter.level("h2"), Level::TRACE);
        filter.set_verbosity(4);
        assert_eq!(filter.level("kubelet::plan"), Level::DEBUG);
        filter.set_modules(vec![module("plan", 6)]);
        assert_eq!(filter.level("kubelet::plan"), Level::TRACE);
        assert_eq!(filter.level("kubelet::workers::queue"), Level::DEBUG);
    }

    /// How many of these events are written.
    fn written(filter: Filter, events: impl FnOnce()) -> u32 {
        use tracing::subscriber::with_default;
        use tracing_subscriber::layer::{Layer, SubscriberExt as _};
        use tracing_subscriber::{Registry, filter::filter_fn};

        struct Count(std::sync::Arc<AtomicU32>);
        impl<S: tracing::Subscriber> Layer<S> for Count {
            fn on_event(
                &self,
                _: &tracing::Event<'_>,
                _: tracing_subscriber::layer::Context<'_, S>,
            ) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let seen = std::sync::Arc::new(AtomicU32::new(0));
        let only = filter_fn(move |metadata| filter.enabled(metadata));
        let subscriber = Registry::default().with(Count(seen.clone()).with_filter(only));
        with_default(subscriber, events);
        seen.load(Ordering::Relaxed)
    }

    #[test]
    fn what_would_write_secrets_is_silent() {
        let seen = written(Filter::new(10, Vec::new()), || {
            tracing::error!(target: "kube_client::client", "{{\"data\": \"hush\"}}");
            tracing::error!(target: "kube_client::client::builder", "failed with status 500");
        });
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_refused_watch_is_told_of_by_who_watches_alone() {
        let events = || {
            tracing::warn!(target: "kube_runtime::watcher", "watch list error with 403");
            tracing::warn!(target: "kubelet::api::watch", "forbidden; it is tried again until it works");
        };
        assert_eq!(written(Filter::new(2, Vec::new()), events), 1);
        assert_eq!(written(Filter::new(8, Vec::new()), events), 2);
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a?c", "abc", true),
            ("*b*", "abc", true),
            ("", "", true),
            ("*", "", true),
            ("ab", "abc", false),
            ("a?", "abc", false),
            ("*x", "abc", false),
            ("a*b*c", "axxbxxbc", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }
}
