//! The level of one pod.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::levels::{HugePages, Limits};
use super::resources::CpuQuotaConfig;
use super::systemd::{self, Slice};
use super::{Begun, CLASSES, Cgroups, CgroupsError, removal, resources};
use crate::dir::Dir;
use crate::metrics::kubelet;
use crate::pod::{Pod, PodUid, QosClass, long_name};

impl Cgroups {
    /// Makes the pod's cgroup with its values, and returns it as the runtime wants it for the sandbox: the path in
    /// the hierarchy, such as `/kubepods/burstable/pod<uid>`. Idempotent; a value that is already right is not
    /// written again.
    ///
    /// # Errors
    /// When the cgroup cannot be made or set, a quantity of the pod cannot be read, or the driver is not known yet.
    pub async fn ensure_pod(&self, pod: &Pod, uid: &PodUid) -> Result<String, CgroupsError> {
        self.ensure(pod, uid, &self.config.cpu_quota).await
    }

    /// The same for a pod with CPUs for itself: its limit on CPUs is no quota.
    ///
    /// # Errors
    /// As [`Cgroups::ensure_pod`].
    pub async fn ensure_pod_without_quota(
        &self,
        pod: &Pod,
        uid: &PodUid,
    ) -> Result<String, CgroupsError> {
        let quota = CpuQuotaConfig {
            enabled: false,
            ..self.config.cpu_quota
        };
        self.ensure(pod, uid, &quota).await
    }

    async fn ensure(
        &self,
        pod: &Pod,
        uid: &PodUid,
        quota: &CpuQuotaConfig,
    ) -> Result<String, CgroupsError> {
        let begun = self.begun()?;
        if !self.config.per_qos {
            return Ok(format!("/{}", begun.names.base().join("/")));
        }
        let began = tokio::time::Instant::now();
        let limits = self.kept(begun, self.pod_limits(pod, quota)?);
        let class = resources::qos_class(pod);
        let name = begun.names.pod(class, uid);
        let operation = match self.parents_of(begun, class, &name)?.is_empty() {
            true => "create",
            false => "update",
        };
        if !self.has_class(begun, class)? {
            self.make_levels(begun).await?;
        }
        if let Some(systemd) = &begun.systemd {
            let parent = begun.names.class(class);
            let parent = parent.unwrap_or_else(|| begun.names.base_slices().0.to_owned());
            let slice = Slice {
                unit: name.clone(),
                parent,
                description: format!("Kubernetes pod {}", long_name(pod)),
                properties: systemd::properties(self.version, &limits),
            };
            systemd.ensure(self.version, &[slice]).await?;
        }
        for hierarchy in &self.hierarchies {
            let mut parent = self.ensure_base(begun, hierarchy)?;
            if let Some(class) = begun.names.class(class) {
                parent = hierarchy.ensure_level(&parent, &class)?;
                hierarchy.enable_controllers(&parent)?;
            }
            let level = hierarchy.ensure_level(&parent, &name)?;
            self.apply(hierarchy, &level, &limits)?;
        }
        let durations = &kubelet().cgroup_duration;
        durations.observe(&[operation], began.elapsed());
        Ok(begun.names.path(class, &name))
    }

    fn pod_limits(&self, pod: &Pod, quota: &CpuQuotaConfig) -> Result<Limits, CgroupsError> {
        let numbers =
            resources::pod_resources(pod, quota).map_err(|source| CgroupsError::Resources {
                pod: long_name(pod),
                source,
            })?;
        Ok(Limits {
            cpu_shares: Some(numbers.cpu_shares),
            cpu_quota: numbers.cpu_quota,
            cpu_period: numbers.cpu_period,
            memory_bytes: numbers.memory_limit_bytes.filter(|bytes| *bytes > 0),
            pids: self.config.pod_pids_limit.filter(|limit| *limit > 0),
            cpus: None,
            huge_pages: HugePages::Exactly(numbers.hugepages),
        })
    }

    fn has_class(&self, begun: &Begun, class: QosClass) -> Result<bool, CgroupsError> {
        for hierarchy in &self.hierarchies {
            if self.open_class(begun, hierarchy, class)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills what is left in the pod's cgroup and below, and removes it from every hierarchy. Nothing outside the
    /// pod's own directories is touched. Takes up to some seconds; may be called again.
    ///
    /// # Errors
    /// When processes outlive SIGKILL, systemd does not stop the slice, or a directory cannot be removed.
    pub async fn remove_pod(self: &Arc<Self>, uid: &PodUid) -> Result<(), CgroupsError> {
        let begun = self.begun()?;
        if !self.config.per_qos {
            return Ok(());
        }
        for class in CLASSES {
            let name = begun.names.pod(class, uid);
            let parents = self.parents_of(begun, class, &name)?;
            if parents.is_empty() {
                continue;
            }
            let began = tokio::time::Instant::now();
            let path = begun.names.path(class, &name);
            let (pod, level) = (uid.clone(), name.clone());
            let parents = blocking(move || {
                removal::kill_all(&parents, &level, &path, &pod)?;
                Ok(parents)
            })
            .await?;
            if let Some(systemd) = &begun.systemd {
                systemd.stop(&name).await?;
            }
            blocking(move || {
                let mut parents = parents.iter();
                parents.try_for_each(|parent| Ok(removal::remove(parent, &name)?))
            })
            .await?;
            let durations = &kubelet().cgroup_duration;
            durations.observe(&["destroy"], began.elapsed());
        }
        Ok(())
    }

    /// The levels of `class` that have `name` in them.
    fn parents_of(
        &self,
        begun: &Begun,
        class: QosClass,
        name: &str,
    ) -> Result<Vec<Dir>, CgroupsError> {
        let mut parents = Vec::new();
        for hierarchy in &self.hierarchies {
            if let Some(parent) = self.open_class(begun, hierarchy, class)?
                && parent.child(name)?.is_some()
            {
                parents.push(parent);
            }
        }
        Ok(parents)
    }

    /// The pods that have a cgroup in any hierarchy: among them those nobody knows any more.
    ///
    /// # Errors
    /// When a hierarchy cannot be read, or the driver is not known yet.
    pub fn list_pods(&self) -> Result<Vec<PodUid>, CgroupsError> {
        let begun = self.begun()?;
        let mut found = BTreeSet::new();
        if !self.config.per_qos {
            return Ok(Vec::new());
        }
        for hierarchy in &self.hierarchies {
            for class in CLASSES {
                let Some(level) = self.open_class(begun, hierarchy, class)? else {
                    continue;
                };
                let names = level.subdirectories()?;
                found.extend(names.iter().filter_map(|name| begun.names.uid(class, name)));
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Does `work` away from the task's thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CgroupsError> + Send + 'static,
) -> Result<T, CgroupsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It panicked or the agent is going down: the caller's next try finds what is left.
        Err(error) => Err(CgroupsError::Lookup {
            path: PathBuf::from("/"),
            source: io::Error::other(error),
        }),
    }
}
