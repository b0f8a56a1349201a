//! The files that a join is about, below a root.

use std::path::{Path, PathBuf};

/// Where everything is.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether it is this machine's own root.
    pub(super) fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path as it is without the root.
    pub(super) fn unrooted(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        Path::new("/").join(below)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.at("etc/kubernetes/kubelet.conf")
    }

    pub(super) fn bootstrap(&self) -> PathBuf {
        self.at("etc/kubernetes/bootstrap-kubelet.conf")
    }

    pub(super) fn authority(&self) -> PathBuf {
        self.at("etc/kubernetes/pki/ca.crt")
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.at("etc/kubernetes/manifests")
    }

    pub(super) fn kubelet(&self) -> PathBuf {
        self.at("var/lib/kubelet")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.at("var/lib/kubelet/config.yaml")
    }

    pub(super) fn flags(&self) -> PathBuf {
        self.at("var/lib/kubelet/kubeadm-flags.env")
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.at("var/lib/kubelet/pki")
    }

    pub(super) fn record(&self) -> PathBuf {
        self.at("var/lib/kubelet/join.json")
    }
}
