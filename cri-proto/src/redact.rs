//! Debug of the messages that hold secrets: says that there is one, and not what it is.

use std::collections::BTreeMap;
use std::fmt;

use crate::csi::volume_capability::MountVolume;
use crate::csi::{NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest};
use crate::v1::{AttachResponse, AuthConfig, ExecResponse, KeyValue, PortForwardResponse};

/// Stands for a secret: `""` when empty, `<redacted>` otherwise.
struct Secret<'a>(&'a str);

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "\"\""
        } else {
            "<redacted>"
        })
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &Secret(&self.password))
            .field("auth", &Secret(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &Secret(&self.identity_token))
            .field("registry_token", &Secret(&self.registry_token))
            .finish()
    }
}

/// An environment variable: its value may come from a Secret.
impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value", &format_args!("<{} bytes>", self.value.len()))
            .finish()
    }
}

// The streaming server's address carries a token: who has it may run commands in the container.
macro_rules! redact_url {
    ($($message:ident),*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    .field("url", &Secret(&self.url))
                    .finish()
            }
        }
    )*};
}
redact_url!(ExecResponse, AttachResponse, PortForwardResponse);

/// The keys of a map that may hold secrets, or tokens of service accounts.
struct Keys<'a>(&'a BTreeMap<String, String>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for NodeStageVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeStageVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_target_path", &self.staging_target_path)
            .field("volume_capability", &self.volume_capability)
            .field("publish_context", &Keys(&self.publish_context))
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Keys(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodePublishVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePublishVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("staging_target_path", &self.staging_target_path)
            .field("target_path", &self.target_path)
            .field("volume_capability", &self.volume_capability)
            .field("readonly", &self.readonly)
            .field("publish_context", &Keys(&self.publish_context))
            .field("secrets", &Keys(&self.secrets))
            .field("volume_context", &Keys(&self.volume_context))
            .finish()
    }
}

impl fmt::Debug for NodeExpandVolumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeExpandVolumeRequest")
            .field("volume_id", &self.volume_id)
            .field("volume_path", &self.volume_path)
            .field("capacity_range", &self.capacity_range)
            .field("secrets", &Keys(&self.secrets))
            .finish()
    }
}

impl fmt::Debug for MountVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountVolume")
            .field("fs_type", &self.fs_type)
            .field("mount_flags", &self.mount_flags.len())
            .field("volume_mount_group", &self.volume_mount_group)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::{csi, v1};

    #[test]
    fn no_secret_of_a_volume_is_shown() {
        let map = |key: &str| BTreeMap::from([(key.to_owned(), "hunter2".to_owned())]);
        let mount = csi::volume_capability::MountVolume {
            mount_flags: vec!["password=hunter2".into()],
            ..Default::default()
        };
        let capability = csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Mount(mount)),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: "vol".into(),
            volume_capability: Some(capability.clone()),
            publish_context: map("p"),
            secrets: map("s"),
            volume_context: map("csi.storage.k8s.io/serviceAccount.tokens"),
            ..Default::default()
        };
        let stage = csi::NodeStageVolumeRequest {
            volume_id: "vol".into(),
            volume_capability: Some(capability),
            publish_context: map("p"),
            secrets: map("s"),
            volume_context: map("c"),
            ..Default::default()
        };
        let expand = csi::NodeExpandVolumeRequest {
            volume_id: "vol".into(),
            secrets: map("s"),
            ..Default::default()
        };
        for text in [
            format!("{publish:?}"),
            format!("{stage:?}"),
            format!("{expand:?}"),
        ] {
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("\"vol\"") && text.contains("\"s\""), "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let pull = v1::PullImageRequest {
            auth: Some(v1::AuthConfig {
                username: "robot".into(),
                password: "hunter2".into(),
                auth: "cm9ib3Q6aHVudGVyMg==".into(),
                server_address: "registry.example".into(),
                identity_token: "idtok".into(),
                registry_token: "regtok".into(),
            }),
            ..Default::default()
        };
        let text = format!("{pull:?}");
        for secret in ["hunter2", "cm9ib3Q", "idtok", "regtok"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("robot") && text.contains("registry.example"));

        let create = v1::CreateContainerRequest {
            config: Some(v1::ContainerConfig {
                envs: vec![v1::KeyValue {
                    key: "DB_PASSWORD".into(),
                    value: b"hunter2".to_vec(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = format!("{create:?}");
        assert!(text.contains("DB_PASSWORD"), "{text}");
        assert!(text.contains("<7 bytes>"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");

        let url = String::from("http://127.0.0.1:4444/exec/t0k3n");
        for text in [
            format!("{:?}", v1::ExecResponse { url: url.clone() }),
            format!("{:?}", v1::AttachResponse { url: url.clone() }),
            format!("{:?}", v1::PortForwardResponse { url }),
        ] {
            assert!(!text.contains("t0k3n"), "{text}");
        }
    }
}
