//! Volumes whose files the agent writes: a directory like that of an emptyDir, on disk or in memory, that its pod may only
//! read.

use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Volume, VolumeMount};

use super::contents::Written;
use super::payload::Payload;
use super::{SetUpError, VolumesConfig, atomic_writer, empty_dir, ownership};
use crate::dir::Dir;
use crate::pod::{self, Pod};
use crate::poddir::PodDir;

/// Prefix of the note that such a volume is set up, among those of emptyDirs.
const NOTE_PREFIX: &str = "wrapped_";
/// Mount points for volumes within this one.
const NESTED_MODE: u32 = 0o755;

/// Makes the volume where it is not there, and its files those of `payload`.
pub(super) fn set_up(
    dir: &PodDir,
    pod: &Pod,
    volume: &Volume,
    kind: Written,
    payload: &Payload,
    config: &VolumesConfig,
    now: Timestamp,
) -> Result<PathBuf, SetUpError> {
    let name = volume.name.as_str();
    let note = format!("{NOTE_PREFIX}{name}");
    let place = empty_dir::Place::of(dir, kind.plugin, name, &note)?;
    let made = place.ensure(kind.in_memory, || empty_dir::size(pod, None, config))?;
    for path in nested_mounts(pod, name) {
        make_nested(&made, &path)?;
    }
    let context = pod::spec(pod).security_context.as_ref();
    let fs_group = context.and_then(|context| context.fs_group);
    atomic_writer::write(&made, payload, now, |volume| match fs_group {
        Some(group) => ownership::apply(volume, group, true),
        None => Ok(()),
    })?;
    place.note_ready()?;
    Ok(place.path())
}

/// Where other volumes are mounted within this one, relative to it: nobody can make those directories later, since the
/// volume is read-only for its pod.
fn nested_mounts(pod: &Pod, volume: &str) -> Vec<String> {
    let mut found = Vec::new();
    let late: Vec<_> = pod::ephemeral_containers(pod).collect();
    let containers = pod::containers(pod).map(|(_, container)| container);
    for container in containers.chain(&late) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        for own in mounts.iter().filter(|mount| mount.name == volume) {
            found.extend(nested_in(own, mounts));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The outermost mounts below `own`.
fn nested_in(own: &VolumeMount, mounts: &[VolumeMount]) -> Vec<String> {
    let names = |path: &str| -> Vec<String> {
        let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
        names.map(str::to_owned).collect()
    };
    let top = names(&own.mount_path);
    let below = mounts.iter().filter_map(|mount| {
        let path = names(&mount.mount_path);
        let rest = path.strip_prefix(top.as_slice())?;
        (!rest.is_empty()).then(|| rest.to_vec())
    });
    let below: Vec<Vec<String>> = below.collect();
    let is_outermost = |path: &Vec<String>| {
        !below
            .iter()
            .any(|other| other != path && path.starts_with(other))
    };
    let outermost = below.iter().filter(|path| is_outermost(path));
    outermost.map(|path| path.join("/")).collect()
}

fn make_nested(volume: &Dir, path: &str) -> Result<(), SetUpError> {
    let mut dir: Option<Dir> = None;
    for name in path.split('/') {
        let parent = dir.as_ref().unwrap_or(volume);
        // What is there may be a link to a file of the volume, which is mounted on as it is.
        if parent.link_target(name)?.is_some() {
            return Ok(());
        }
        dir = Some(match parent.child(name)? {
            Some(present) => present,
            None => parent.ensure_child(name, NESTED_MODE)?,
        });
    }
    Ok(())
}
