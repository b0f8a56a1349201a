//! Signals: what the thresholds of the configuration speak of, and how much of it there is.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cri_proto::v1::ImageFsInfoResponse;
use static_pods::quantity::Quantity;

use crate::node;
use crate::stats::{FileSystem, Stats};

/// What there can be too little of. In the order in which it is reclaimed: memory before all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// The machine's memory.
    Memory,
    /// The memory that all pods together may have.
    AllocatableMemory,
    /// Bytes of the file system with the agent's root directory.
    NodefsBytes,
    /// Inodes of the same.
    NodefsInodes,
    /// Bytes of the file system with the runtime's images.
    ImagefsBytes,
    /// Inodes of the same.
    ImagefsInodes,
    /// Bytes of the file system with the containers' writable layers.
    ContainerfsBytes,
    /// Inodes of the same.
    ContainerfsInodes,
    /// Process ids.
    Pids,
}

/// What a signal is about, as messages call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Bytes on the node's own disks.
    EphemeralStorage,
    /// Inodes there.
    Inodes,
    /// Process ids.
    Pids,
}

impl Resource {
    /// As messages spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// So much of it, written as upstream does: bytes in powers of 1024, pieces in powers of 1000.
    #[must_use]
    pub fn quantity(self, amount: u64) -> Quantity {
        match self {
            Self::Memory | Self::EphemeralStorage => Quantity::of_bytes(amount),
            Self::Inodes | Self::Pids => Quantity::of(amount),
        }
    }
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Memory,
        Self::AllocatableMemory,
        Self::NodefsBytes,
        Self::NodefsInodes,
        Self::ImagefsBytes,
        Self::ImagefsInodes,
        Self::ContainerfsBytes,
        Self::ContainerfsInodes,
        Self::Pids,
    ];

    /// As the configuration and metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::AllocatableMemory => "allocatableMemory.available",
            Self::NodefsBytes => "nodefs.available",
            Self::NodefsInodes => "nodefs.inodesFree",
            Self::ImagefsBytes => "imagefs.available",
            Self::ImagefsInodes => "imagefs.inodesFree",
            Self::ContainerfsBytes => "containerfs.available",
            Self::ContainerfsInodes => "containerfs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The one that is spelt so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    /// What it is about.
    #[must_use]
    pub fn resource(self) -> Resource {
        match self {
            Self::Memory | Self::AllocatableMemory => Resource::Memory,
            Self::NodefsBytes | Self::ImagefsBytes | Self::ContainerfsBytes => {
                Resource::EphemeralStorage
            }
            Self::NodefsInodes | Self::ImagefsInodes | Self::ContainerfsInodes => Resource::Inodes,
            Self::Pids => Resource::Pids,
        }
    }
}

/// How much there is of something, and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// All of it.
    pub capacity: u64,
    /// What is left.
    pub available: u64,
}

/// Which file systems there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One for everything: the agent's root directory, images and writable layers.
    #[default]
    One,
    /// Images and writable layers have one of their own.
    Images,
    /// Images have one of their own; writable layers are with the root directory.
    Split,
}

/// Where images and writable layers are, by the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disks {
    /// A directory among the images.
    pub images: PathBuf,
    /// One among the writable layers.
    pub containers: PathBuf,
    /// Which of these share a file system.
    pub layout: Layout,
}

impl Disks {
    /// What the runtime has told, beside `root`; none where it told nothing that is there.
    #[must_use]
    pub fn of(root: &Path, info: &ImageFsInfoResponse) -> Option<Self> {
        let path = |usage: Option<&cri_proto::v1::FilesystemUsage>| {
            let id = usage?.fs_id.as_ref()?;
            Some(PathBuf::from(&id.mountpoint))
        };
        let device = |path: &Path| std::fs::metadata(path).ok().map(|data| data.dev());
        let images = path(info.image_filesystems.first())?;
        // Where the runtime does not tell of containers' own, they are with the images.
        let containers = path(info.container_filesystems.first()).unwrap_or_else(|| images.clone());
        let (own, of_images) = (device(root)?, device(&images)?);
        let layout = match (own == of_images, device(&containers)? == of_images) {
            (true, _) => Layout::One,
            (false, true) => Layout::Images,
            (false, false) => Layout::Split,
        };
        Some(Self {
            images,
            containers,
            layout,
        })
    }
}

/// What was measured, by signal; one that could not be is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations(BTreeMap<Signal, Amount>);

impl Observations {
    /// Measures. `root` is the agent's directory; `disks` what the runtime has told, if it has. Blocks on the kernel.
    #[must_use]
    pub fn read(stats: &Stats, root: &Path, disks: Option<&Disks>) -> Self {
        let mut all = Self::default();
        let memory = stats.node_memory();
        let left = |capacity: u64, used: u64| Amount {
            capacity,
            available: capacity.saturating_sub(used),
        };
        if memory.total > 0 {
            all.put(Signal::Memory, left(memory.total, memory.working_set));
        }
        if let Some((limit, used)) = memory.all_pods {
            all.put(Signal::AllocatableMemory, left(limit, used));
        }
        all.disk(root, Signal::NodefsBytes, Signal::NodefsInodes);
        if let Some(disks) = disks {
            all.disk(&disks.images, Signal::ImagefsBytes, Signal::ImagefsInodes);
            let (bytes, inodes) = (Signal::ContainerfsBytes, Signal::ContainerfsInodes);
            all.disk(&disks.containers, bytes, inodes);
        }
        if let (Some(most), Some(tasks)) = (node::max_pids(), stats.tasks()) {
            all.put(Signal::Pids, left(most, tasks));
        }
        all
    }

    /// One signal.
    pub fn put(&mut self, signal: Signal, amount: Amount) {
        self.0.insert(signal, amount);
    }

    /// What was measured of a signal.
    #[must_use]
    pub fn get(&self, signal: Signal) -> Option<Amount> {
        self.0.get(&signal).copied()
    }

    fn disk(&mut self, path: &Path, bytes: Signal, inodes: Signal) {
        let Some(found) = FileSystem::of(path) else {
            return;
        };
        let amount = |capacity, available| Amount {
            capacity,
            available,
        };
        self.put(bytes, amount(found.capacity, found.available));
        // A file system that makes inodes as it needs them says that it has none.
        if found.inodes > 0 {
            self.put(inodes, amount(found.inodes, found.inodes_free));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_proto::v1::{FilesystemIdentifier, FilesystemUsage};

    fn info(images: &str, containers: Option<&str>) -> ImageFsInfoResponse {
        let usage = |path: &str| FilesystemUsage {
            fs_id: Some(FilesystemIdentifier {
                mountpoint: path.to_owned(),
            }),
            ..FilesystemUsage::default()
        };
        ImageFsInfoResponse {
            image_filesystems: vec![usage(images)],
            container_filesystems: containers.map(usage).into_iter().collect(),
        }
    }

    #[test]
    fn the_layout_goes_by_devices_not_by_paths() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::create_dir(root.join("images")).unwrap();
        let images = root.join("images").to_str().unwrap().to_owned();
        let layout = |info| Disks::of(root, &info).map(|disks| disks.layout);
        assert_eq!(layout(info(&images, None)), Some(Layout::One));
        // Of another device on every machine.
        assert_eq!(layout(info("/proc", None)), Some(Layout::Images));
        assert_eq!(layout(info("/proc", Some("/proc"))), Some(Layout::Images));
        assert_eq!(layout(info("/proc", Some(&images))), Some(Layout::Split));
        assert_eq!(layout(info("/nowhere/at/all", None)), None);
        assert_eq!(layout(ImageFsInfoResponse::default()), None);
    }

    #[test]
    fn signals_are_spelt_as_they_are_read() {
        for signal in Signal::ALL {
            assert_eq!(Signal::parse(signal.as_str()), Some(signal));
        }
        assert_eq!(Signal::parse("memory"), None);
    }

    #[test]
    fn amounts_are_written_as_upstream_does() {
        let text = |resource: Resource, amount| resource.quantity(amount).to_string();
        assert_eq!(text(Resource::Memory, 100 << 20), "100Mi");
        assert_eq!(text(Resource::Memory, 94_371_840 + 1024), "92161Ki");
        assert_eq!(text(Resource::EphemeralStorage, 1500), "1500");
        assert_eq!(text(Resource::Inodes, 51_000), "51k");
        assert_eq!(text(Resource::Pids, 1024), "1024");
    }
}
