//! The sources of pods, by the configuration.

use std::sync::Arc;

use static_pods::identity::NodeName;
use static_pods::object::Objects;
use static_pods::watch::{ManifestSet, ManifestSource, Rescan, SourceOptions};
use tokio::sync::watch;

use super::Singletons;
use crate::clock::Clock;
use crate::config::Config;
use crate::objects::LocalObjects;
use crate::sources::{Copies, Desired, ObjectRules, run_file_source};

/// Where pods come from.
pub(super) struct Sources {
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    /// What the manifests hold, with what is wrong with them.
    pub(super) manifests: Option<watch::Receiver<Arc<ManifestSet>>>,
    /// Which pods the objects in them may serve.
    pub(super) objects: Objects,
    pub(super) rescan: Option<Rescan>,
}

/// The sources of pods. Without any, the desired pods are an empty set that is ready at once.
pub(super) fn start_sources(
    config: &Config,
    clock: Clock,
    objects: watch::Sender<Arc<LocalObjects>>,
    singletons: &mut Singletons,
) -> Sources {
    let Some(path) = config.sources.static_pod_path.clone() else {
        let (sender, desired) = watch::channel(Arc::new(Desired {
            ready: true,
            ..Desired::default()
        }));
        singletons.spawn("empty source", async move {
            sender.closed().await;
        });
        return Sources {
            desired,
            manifests: None,
            objects: Objects::Off,
            rescan: None,
        };
    };
    let (sender, desired) = watch::channel(Arc::new(Desired::default()));
    let own = &config.agent;
    let joined = config.api.is_some();
    let rules = ObjectRules::new(&config.paths.root, own.static_pod_objects, joined);
    let beside = own.static_pod_objects_directory.as_ref();
    let options = SourceOptions {
        check_every: config.sources.file_check_every,
        objects: rules.objects.clone(),
        objects_path: beside
            .filter(|_| rules.objects.any())
            .map(|name| path.join(name)),
        ..SourceOptions::new(path, NodeName::new(&config.node.name))
    };
    let (source, manifests) = ManifestSource::new(options, move || clock.system_time());
    let source = match Copies::new(&config.paths.root) {
        Ok(copies) => source.with_last_good(copies),
        Err(error) => {
            tracing::warn!(%error, "good manifests are not kept across a restart of the agent");
            source
        }
    };
    let source = match rules.notes {
        Some(notes) => source.with_object_memory(notes),
        None => source,
    };
    let sources = Sources {
        desired,
        objects: rules.objects,
        manifests: Some(manifests.clone()),
        rescan: Some(source.rescan()),
    };
    singletons.spawn("manifest watch", async move { match source.run().await {} });
    singletons.spawn("file source", run_file_source(manifests, objects, sender));
    sources
}
