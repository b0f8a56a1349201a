//! Static pods: from the bytes of a manifest to a located, decoded, defaulted, identified and checked pod, and from a
//! directory of manifests to the set of pods that should run, with the ConfigMaps and Secrets beside them.
//!
//! ```text
//! bytes ─> tree ─> decode ─> defaults ─> identity ─> validate ─> manifest::Manifest
//! directory ─> watch::ManifestSource (one task) ─> watch channel of watch::ManifestSet
//! ```
//!
//! Only [`watch`] does I/O. [`tree`], [`quantity`] and [`fnv`] know nothing of pods and serve the configuration file too.

pub mod defaults;
pub mod fnv;
pub mod identity;
mod image;
pub mod manifest;
pub mod object;
pub mod quantity;
pub mod tree;
pub mod validate;
pub mod watch;
