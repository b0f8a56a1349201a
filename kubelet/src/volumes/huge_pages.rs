//! Volumes of huge pages: which pages a pod means, and the file system that hands them out (hugetlbfs).

use std::io;

use k8s_openapi::api::core::v1::ResourceRequirements;
use rustix::fs;
use rustix::mount;
use static_pods::quantity::Quantity;

use super::SetUpError;
use super::empty_dir::mount_new;
use crate::dir::Dir;
use crate::pod::{self, Pod};

/// The medium of whatever pages the pod asks for; `HugePages-2Mi` names them.
const ANY: &str = "HugePages";
const SIZED: &str = "HugePages-";
/// What a container asks for: `hugepages-2Mi`.
const RESOURCE: &str = "hugepages-";
/// `statfs` magic of hugetlbfs (`HUGETLBFS_MAGIC`, linux/magic.h).
pub(super) const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Pages of which size a medium means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// Those that the pod asks for.
    Any,
    /// Of so many bytes.
    Of(u64),
}

impl Pages {
    /// The pages of `medium`; none where it is another medium.
    pub(super) fn of_medium(medium: &str) -> Result<Option<Self>, SetUpError> {
        if medium == ANY {
            return Ok(Some(Self::Any));
        }
        let Some(size) = medium.strip_prefix(SIZED) else {
            return Ok(None);
        };
        let bytes = bytes(size).ok_or_else(|| SetUpError::Medium(medium.to_owned()))?;
        Ok(Some(Self::Of(bytes)))
    }

    /// The size of the pages, bytes: one that a container of `pod`, or the pod itself, asks for.
    pub(super) fn size(self, pod: &Pod, medium: &str) -> Result<u64, SetUpError> {
        let mut asked = asked_for(pod);
        asked.sort_unstable();
        asked.dedup();
        match (self, asked.as_slice()) {
            (Self::Any, [only]) => Ok(*only),
            (Self::Any, [_, _, ..]) => Err(SetUpError::HugePagesSizes(medium.to_owned())),
            (Self::Of(size), asked) if asked.contains(&size) => Ok(size),
            (Self::Any | Self::Of(_), _) => Err(SetUpError::HugePagesNotAsked(medium.to_owned())),
        }
    }
}

/// The sizes of huge pages that `pod` asks for, bytes.
fn asked_for(pod: &Pod) -> Vec<u64> {
    fn sizes(resources: Option<&ResourceRequirements>) -> impl Iterator<Item = u64> {
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let names = requests.into_iter().flatten().map(|(name, _)| name);
        names.filter_map(|name| bytes(name.strip_prefix(RESOURCE)?))
    }
    let of_pod = sizes(pod::spec(pod).resources.as_ref());
    let containers = pod::containers(pod);
    let of_containers = containers.flat_map(|(_, container)| sizes(container.resources.as_ref()));
    of_pod.chain(of_containers).collect()
}

fn bytes(size: &str) -> Option<u64> {
    let amount = Quantity::parse_amount(size).ok()?;
    u64::try_from(amount.value()).ok().filter(|size| *size > 0)
}

/// The size of the pages of the hugetlbfs that `mounted` is in, bytes.
pub(super) fn page_size(stat: &fs::StatFs) -> u64 {
    u64::try_from(stat.f_bsize).unwrap_or_default()
}

/// Mounts a hugetlbfs of pages of `page_size` bytes on `dir`, by handle.
pub(super) fn mount(dir: &Dir, page_size: u64) -> io::Result<()> {
    mount_new("hugetlbfs", dir, |hugetlbfs| {
        mount::fsconfig_set_string(hugetlbfs, "source", "nodev")?;
        mount::fsconfig_set_string(hugetlbfs, "pagesize", page_size.to_string())?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asking(requests: &[&str]) -> Pod {
        let containers: Vec<_> = requests
            .iter()
            .map(|name| json!({"name": "c", "resources": {"requests": {*name: "4Mi"}}}))
            .collect();
        let pod = json!({"metadata": {}, "spec": {"containers": containers}});
        serde_json::from_value(pod).unwrap()
    }

    fn size(medium: &str, requests: &[&str]) -> Result<u64, String> {
        let pages = Pages::of_medium(medium).unwrap().unwrap();
        let size = pages.size(&asking(requests), medium);
        size.map_err(|error| error.to_string())
    }

    #[test]
    fn pages_are_those_that_the_pod_asks_for() {
        assert_eq!(size("HugePages", &["hugepages-2Mi", "cpu"]), Ok(2 << 20));
        assert_eq!(
            size("HugePages-1Gi", &["hugepages-2Mi", "hugepages-1Gi"]),
            Ok(1 << 30)
        );
        assert_eq!(
            size("HugePages", &["hugepages-2Mi", "hugepages-1Gi"]).unwrap_err(),
            "medium: HugePages can't be used if container requests multiple huge page sizes"
        );
        for medium in ["HugePages", "HugePages-2Mi"] {
            assert_eq!(
                size(
                    medium,
                    &["cpu", "hugepages-1Mi"][..1 + usize::from(medium != "HugePages")]
                )
                .unwrap_err(),
                format!(
                    "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
                )
            );
        }
    }

    #[test]
    fn other_media_have_no_pages() {
        assert_eq!(Pages::of_medium("Memory").unwrap(), None);
        for broken in ["HugePages-", "HugePages-x", "HugePages-0"] {
            assert!(Pages::of_medium(broken).is_err(), "{broken}");
        }
    }
}
