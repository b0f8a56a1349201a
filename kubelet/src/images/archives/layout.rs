//! What an archive of images holds: an OCI image layout (`index.json`), or what `docker save` wrote before it was one
//! (`manifest.json`). Reads the archive's directory and its small files; blobs stay where they are.
//!
//! Source: the OCI image specification, "Image Layout"; the Docker image specification v1.2, "Combined Image JSON".

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::Deserialize;
use tar::EntryType;

use super::parts::{ArchivedImage, Blob, Descriptor, Source, describe, hex};
use crate::images::ImageName;

/// Bytes of a file of an archive that is read whole: indexes, manifests and configurations.
const MAX_JSON: u64 = 4 << 20;
/// How many files an archive may have.
const MAX_FILES: usize = 100_000;
/// How deep indexes may lie in one another.
const MAX_DEPTH: usize = 4;
/// How many bytes are read at a time where a digest is computed.
const CHUNK: usize = 1 << 20;

/// The name of an image in an index, whole (containerd, and Docker since 25).
const NAME: &str = "io.containerd.image.name";
/// The same by the specification, where it is often a tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An archive that cannot be imported. The text follows its path.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayoutError {
    /// It cannot be read, or is no archive.
    #[error("it cannot be read as a tar archive")]
    Read(#[from] io::Error),
    /// Neither kind of index is there.
    #[error("it is no archive of images: it has neither index.json nor manifest.json")]
    NoIndex,
    /// A file that is not what its name says.
    #[error("{file} in it is not understood: {why}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A blob that an image needs.
    #[error("{0} is missing in it: save the image again, with all of its layers")]
    Missing(String),
    /// Images without a name are nobody's.
    #[error("no image in it has a name: save it by its name and tag, not by its id")]
    Unnamed,
    /// More than is looked at.
    #[error("it has too many files, or too large an index")]
    TooLarge,
}

/// The files of an archive by their paths.
#[derive(Debug)]
struct Files<'a> {
    archive: &'a File,
    files: BTreeMap<String, Source>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The images in the tar `archive`, which is not compressed.
///
/// # Errors
/// When it is no such archive, or lacks a part of an image.
pub(super) fn images(archive: &File) -> Result<Vec<ArchivedImage>, LayoutError> {
    let files = Files::of(archive)?;
    let found = match (files.get("index.json"), files.get("manifest.json")) {
        (Some(index), _) => files.of_layout(index)?,
        (None, Some(saved)) => files.of_saved(saved)?,
        (None, None) => return Err(LayoutError::NoIndex),
    };
    match found.is_empty() {
        true => Err(LayoutError::Unnamed),
        false => Ok(found),
    }
}

impl<'a> Files<'a> {
    fn of(archive: &'a File) -> Result<Self, LayoutError> {
        let mut files = BTreeMap::new();
        let mut links = Vec::new();
        let mut beginning = archive;
        beginning.rewind()?;
        let mut tar = tar::Archive::new(archive);
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let Some(path) = clean(&entry.path()?) else {
                continue;
            };
            if files.len() + links.len() >= MAX_FILES {
                return Err(LayoutError::TooLarge);
            }
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let (offset, size) = (entry.raw_file_position(), entry.size());
                    files.insert(path, Source::At { offset, size });
                }
                // A layer that is in the archive twice.
                kind @ (EntryType::Symlink | EntryType::Link) => {
                    let target = entry.link_name()?.unwrap_or_default().into_owned();
                    let parent = match kind {
                        EntryType::Symlink => Path::new(&path).parent(),
                        _ => None,
                    };
                    let target = parent.map_or(target.clone(), |parent| parent.join(&target));
                    links.extend(clean(&target).map(|target| (path, target)));
                }
                _ => {}
            }
        }
        for (path, target) in links {
            if let Some(found) = files.get(&target).cloned() {
                files.insert(path, found);
            }
        }
        Ok(Self { archive, files })
    }

    fn get(&self, path: &str) -> Option<&Source> {
        self.files.get(path)
    }

    fn bytes(&self, source: &Source) -> Result<Vec<u8>, LayoutError> {
        if source.size() > MAX_JSON {
            return Err(LayoutError::TooLarge);
        }
        let mut bytes = vec![0; usize::try_from(source.size()).unwrap_or_default()];
        let mut done = 0;
        while done < bytes.len() {
            match source.read(self.archive, done as u64, &mut bytes[done..])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => done += read,
            }
        }
        Ok(bytes)
    }

    fn json<T: for<'de> Deserialize<'de>>(
        &self,
        file: &str,
        source: &Source,
    ) -> Result<T, LayoutError> {
        let bytes = self.bytes(source)?;
        serde_json::from_slice(&bytes).map_err(|error| LayoutError::Malformed {
            file: file.to_owned(),
            why: error.to_string(),
        })
    }

    fn of_layout(&self, index: &Source) -> Result<Vec<ArchivedImage>, LayoutError> {
        let index: Index = self.json("index.json", index)?;
        let mut images = Vec::new();
        for mut target in index.manifests {
            let names = names_of(&target.annotations);
            if names.is_empty() {
                continue;
            }
            target.annotations.clear();
            let mut blobs = Vec::new();
            self.collect(&target, 0, &mut blobs)?;
            let mut seen = HashSet::new();
            blobs.retain(|blob: &Blob| seen.insert(blob.descriptor.digest.clone()));
            images.push(ArchivedImage {
                names,
                target,
                blobs,
            });
        }
        Ok(images)
    }

    /// Adds what `of` consists of to `blobs`, and then itself.
    fn collect(
        &self,
        of: &Descriptor,
        depth: usize,
        blobs: &mut Vec<Blob>,
    ) -> Result<(), LayoutError> {
        let path = blob_path(&of.digest)?;
        let source = self.get(&path);
        let source = source
            .ok_or_else(|| LayoutError::Missing(path.clone()))?
            .clone();
        let mut refers_to = Vec::new();
        let is = |words: [&str; 2]| words.iter().any(|word| of.media_type.contains(word));
        if is(["image.index.", "manifest.list."]) && depth < MAX_DEPTH {
            let index: Index = self.json(&path, &source)?;
            let here = index.manifests.iter();
            // An archive of one platform has the index of all, and what its own platform needs.
            let here = here.filter(|child| {
                let path = blob_path(&child.digest);
                path.is_ok_and(|path| self.get(&path).is_some())
            });
            for (number, child) in here.enumerate() {
                self.collect(child, depth + 1, blobs)?;
                refers_to.push((gc_label(&format!("m.{number}")), child.digest.clone()));
            }
            if refers_to.is_empty() {
                return Err(LayoutError::Missing(format!(
                    "every image of the index {path}"
                )));
            }
        } else if is(["image.manifest.", "distribution.manifest."]) {
            let manifest: Manifest = self.json(&path, &source)?;
            let layers = manifest.layers.iter().enumerate();
            let layers = layers.map(|(number, layer)| (format!("l.{number}"), layer));
            for (label, part) in
                std::iter::once(("config".to_owned(), &manifest.config)).chain(layers)
            {
                self.collect(part, MAX_DEPTH, blobs)?;
                refers_to.push((gc_label(&label), part.digest.clone()));
            }
        }
        blobs.push(Blob {
            descriptor: of.clone(),
            source,
            refers_to,
        });
        Ok(())
    }

    fn of_saved(&self, saved: &Source) -> Result<Vec<ArchivedImage>, LayoutError> {
        let saved: Vec<SavedImage> = self.json("manifest.json", saved)?;
        let named = saved.into_iter().filter_map(|image| {
            let names = full_names(image.repo_tags.iter().flatten().map(String::as_str));
            (!names.is_empty()).then_some((names, image))
        });
        named
            .map(|(names, image)| {
                let (config, config_source) = self.described(&image.config, |_| DOCKER_CONFIG)?;
                let mut parts = vec![(gc_label("config"), config.clone(), config_source)];
                for (number, layer) in image.layers.iter().enumerate() {
                    let (layer, source) = self.described(layer, |gzip| match gzip {
                        true => DOCKER_LAYER_GZIP,
                        false => DOCKER_LAYER,
                    })?;
                    parts.push((gc_label(&format!("l.{number}")), layer, source));
                }
                let layers: Vec<_> = parts.iter().skip(1).map(|(_, layer, _)| layer).collect();
                let manifest = serde_json::json!({
                    "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers,
                });
                Ok(of_parts(names, DOCKER_MANIFEST, &manifest, parts))
            })
            .collect()
    }

    /// What the file `path` is as a part of an image; whether it is compressed decides on its media type.
    fn described(
        &self,
        path: &str,
        media_type: fn(bool) -> &'static str,
    ) -> Result<(Descriptor, Source), LayoutError> {
        let missing = || LayoutError::Missing(path.to_owned());
        let source = clean(Path::new(path)).and_then(|path| self.get(&path));
        let source = source.ok_or_else(missing)?.clone();
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        let mut chunk = vec![0; CHUNK];
        let (mut done, mut gzip) = (0, false);
        loop {
            let read = source.read(self.archive, done, &mut chunk)?;
            if done == 0 {
                gzip = chunk[..read].starts_with(&GZIP);
            }
            if read == 0 {
                break;
            }
            digest.update(&chunk[..read]);
            done += read as u64;
        }
        let descriptor = Descriptor {
            media_type: media_type(gzip).to_owned(),
            digest: hex(&digest.finish()),
            size: source.size(),
            annotations: BTreeMap::new(),
        };
        Ok((descriptor, source))
    }
}

/// What a gzip file begins with (RFC 1952).
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// An image of `parts`, each with the label by which its manifest refers to it, and of that manifest.
pub(super) fn of_parts(
    names: Vec<String>,
    media_type: &str,
    manifest: &serde_json::Value,
    parts: Vec<(String, Descriptor, Source)>,
) -> ArchivedImage {
    let bytes: Arc<[u8]> = manifest.to_string().into_bytes().into();
    let target = describe(media_type, &bytes);
    let refers_to = parts.iter();
    let refers_to = refers_to.map(|(label, part, _)| (label.clone(), part.digest.clone()));
    let refers_to = refers_to.collect();
    let parts = parts.into_iter().map(|(_, descriptor, source)| Blob {
        descriptor,
        source,
        refers_to: Vec::new(),
    });
    let mut blobs: Vec<_> = parts.collect();
    blobs.push(Blob {
        descriptor: target.clone(),
        source: Source::Bytes(bytes),
        refers_to,
    });
    ArchivedImage {
        names,
        target,
        blobs,
    }
}

/// The label by which containerd's collector follows a reference (containerd, "Garbage Collection").
pub(super) fn gc_label(what: &str) -> String {
    format!("containerd.io/gc.ref.content.{what}")
}

/// Where a layout has the blob `digest`.
fn blob_path(digest: &str) -> Result<String, LayoutError> {
    let parts = digest.split_once(':');
    let hex = parts.filter(|(algorithm, hex)| {
        *algorithm == "sha256" && hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    });
    let (algorithm, hex) = hex.ok_or_else(|| LayoutError::Malformed {
        file: "a manifest".to_owned(),
        why: format!("{digest:?} is no sha256 digest"),
    })?;
    Ok(format!("blobs/{algorithm}/{hex}"))
}

fn names_of(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let name = |key| annotations.get(key).map(String::as_str);
    // The second may be a tag alone, which names no image.
    let whole = name(NAME).or_else(|| name(REF_NAME).filter(|name| name.contains([':', '/'])));
    full_names(whole.into_iter())
}

fn full_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names = names.filter_map(|name| ImageName::parse(name).ok());
    names.map(|name| qualified(&name)).collect()
}

/// `name` with its registry and tag, as containerd keeps it.
pub(super) fn qualified(name: &ImageName) -> String {
    let last = name.normalized().rsplit('/').next().unwrap_or_default();
    let tail = last.find([':', '@']).map_or("", |at| &last[at..]);
    format!("{}{tail}", name.repository())
}

/// `path` without what means nothing in it; none where it leads out of the archive.
fn clean(path: &Path) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                names.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
}

/// The archive itself, or what it is compressed of, in a file without a name in `scratch`.
///
/// # Errors
/// When it cannot be read, or the disk is full.
pub(super) fn uncompressed(archive: File, scratch: &Path) -> io::Result<File> {
    let mut magic = [0; 2];
    if archive.read_at(&mut magic, 0)? < magic.len() || magic != GZIP {
        return Ok(archive);
    }
    let flags =
        rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let mut into = File::from(rustix::fs::open(scratch, flags, mode)?);
    let mut from = flate2::read::MultiGzDecoder::new(archive);
    io::copy(&mut from, &mut into)?;
    Ok(into)
}
