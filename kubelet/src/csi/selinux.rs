//! The SELinux context that a volume is mounted with as a whole, instead of being relabelled file by file (KEP-1710). Pure
//! but for [`file_context`].

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, SELinuxOptions};

use super::object::DriverSpec;
use super::volume::CsiVolume;
use crate::pod::{self, Pod};

/// What files of containers have where the machine's policy does not say.
const DEFAULT: &str = "system_u:object_r:container_file_t:s0";

/// The context of containers' files on this machine; none where SELinux is off. `enforce` is there where it is on.
#[must_use]
pub(crate) fn file_context(enforce: &Path, settings: &Path) -> Option<String> {
    if !enforce.exists() {
        return None;
    }
    let policy = std::fs::read_to_string(settings.join("config")).unwrap_or_default();
    let name = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let contexts = settings
        .join(name.unwrap_or("targeted"))
        .join("contexts/lxc_contexts");
    let contexts = std::fs::read_to_string(contexts).unwrap_or_default();
    let file = contexts.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "file").then(|| value.trim().trim_matches('"').to_owned())
    });
    Some(file.unwrap_or_else(|| DEFAULT.to_owned()))
}

/// The mount options of `volume` with the context of `pod`, where its driver can mount with one, and the volume is for one
/// pod alone: then nobody else needs another.
pub(super) fn mount_options(
    pod: &Pod,
    volume: &CsiVolume,
    spec: Option<&DriverSpec>,
    file_context: Option<&str>,
) -> (Vec<String>, String) {
    let mut options = volume.mount_options.clone();
    let able = spec.and_then(|spec| spec.selinux_mount) == Some(true);
    let alone = volume.access_modes == ["ReadWriteOncePod"];
    let label = match file_context.filter(|_| able && alone) {
        Some(context) => label_of(pod, &volume.name, context),
        None => None,
    };
    let label = label.unwrap_or_default();
    if !label.is_empty() {
        // Quoted, since it may have a comma.
        options.push(format!("context={label:?}"));
    }
    (options, label)
}

/// The label that all containers have which mount the volume called `name`; none where they have none, or several.
fn label_of(pod: &Pod, name: &str, context: &str) -> Option<String> {
    let of_pod = pod::spec(pod).security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.se_linux_options.as_ref());
    let mounts = |container: &Container| {
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.any(|mount| mount.name == name)
    };
    let containers = pod::containers(pod).filter(|(_, container)| mounts(container));
    let mut labels = containers.map(|(_, container)| {
        let own = container.security_context.as_ref();
        let own = own.and_then(|context| context.se_linux_options.as_ref());
        label(own.or(of_pod)?, context)
    });
    let first = labels.next().flatten()?;
    labels
        .all(|label| label.as_deref() == Some(&first))
        .then_some(first)
}

/// `context` with the user and level of `options`, as libselinux has it of a process's options; none of none.
fn label(options: &SELinuxOptions, context: &str) -> Option<String> {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (user, level) = (set(&options.user), set(&options.level));
    if user.is_none()
        && level.is_none()
        && set(&options.role).is_none()
        && set(&options.type_).is_none()
    {
        return None;
    }
    let mut parts = context.splitn(4, ':');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let (own_user, role, kind, own_level) = (part(), part(), part(), part());
    Some(format!(
        "{}:{role}:{kind}:{}",
        user.unwrap_or(own_user),
        level.unwrap_or(own_level)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(of_pod: serde_json::Value, of_second: serde_json::Value) -> Pod {
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"securityContext": {"seLinuxOptions": of_pod}, "containers": [
                {"name": "a", "volumeMounts": mounts},
                {"name": "b", "volumeMounts": mounts, "securityContext": {"seLinuxOptions": of_second}},
                {"name": "c", "securityContext": {"seLinuxOptions": {"level": "s0:c9,c10"}}}]},
        }))
        .unwrap()
    }

    fn options(pod: &Pod, modes: &[&str], able: bool, context: Option<&str>) -> Vec<String> {
        let volume = CsiVolume {
            name: "data".into(),
            mount_options: vec!["noatime".into()],
            access_modes: modes.iter().map(|&mode| mode.to_owned()).collect(),
            ..CsiVolume::default()
        };
        let spec = DriverSpec {
            selinux_mount: Some(able),
            ..DriverSpec::default()
        };
        mount_options(pod, &volume, Some(&spec), context).0
    }

    #[test]
    fn a_volume_for_one_pod_is_mounted_with_its_context() {
        let level = json!({"level": "s0:c1,c2"});
        let same = pod(level.clone(), level.clone());
        let one = ["ReadWriteOncePod"];
        assert_eq!(
            options(&same, &one, true, Some(DEFAULT)),
            [
                "noatime",
                "context=\"system_u:object_r:container_file_t:s0:c1,c2\""
            ]
        );
        for (modes, able, context) in [
            (&["ReadWriteOnce"][..], true, Some(DEFAULT)),
            (&one, false, Some(DEFAULT)),
            (&one, true, None),
        ] {
            assert_eq!(options(&same, modes, able, context), ["noatime"]);
        }
        let two = pod(level, json!({"level": "s0:c3,c4"}));
        assert_eq!(options(&two, &one, true, Some(DEFAULT)), ["noatime"]);
        let none = pod(json!({}), json!({}));
        assert_eq!(options(&none, &one, true, Some(DEFAULT)), ["noatime"]);
    }

    #[test]
    fn the_machines_policy_says_what_files_of_containers_have() {
        let place = tempfile::tempdir().unwrap();
        let (enforce, settings) = (place.path().join("enforce"), place.path().join("selinux"));
        assert_eq!(file_context(&enforce, &settings), None);
        std::fs::write(&enforce, "1").unwrap();
        assert_eq!(file_context(&enforce, &settings).as_deref(), Some(DEFAULT));
        std::fs::create_dir_all(settings.join("mls/contexts")).unwrap();
        std::fs::write(
            settings.join("config"),
            "SELINUX=enforcing\nSELINUXTYPE=mls\n",
        )
        .unwrap();
        let contexts = "process = \"system_u:system_r:container_t:s0\"\nfile = \"u:r:t:s0\"\n";
        std::fs::write(settings.join("mls/contexts/lxc_contexts"), contexts).unwrap();
        assert_eq!(
            file_context(&enforce, &settings).as_deref(),
            Some("u:r:t:s0")
        );
    }
}
