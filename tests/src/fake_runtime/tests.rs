//! The fake, seen through the clients of cri-proto.

mod faults;
mod pods;

use std::time::Duration;

use cri_proto::v1::ContainerState as State;
use cri_proto::{ConnectOptions, Connection, CriErrorKind, ImageClient, RuntimeClient, v1};
use tokio::time::Instant;

use super::*;

const IMAGE: &str = "docker.io/library/busybox:1.36";
const SOON: Duration = Duration::from_secs(10);

struct Node {
    fake: FakeRuntime,
    runtime: RuntimeClient,
    images: ImageClient,
}

/// A fake with one image, reached through memory.
async fn node() -> Node {
    let fake = FakeRuntime::start().await.unwrap();
    fake.add_image(IMAGE);
    let connection = fake.connection(ConnectOptions::default());
    Node {
        runtime: connection.runtime(),
        images: connection.images(),
        fake,
    }
}

fn pod(name: &str, attempt: u32) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt,
        }),
        log_directory: "/var/log/pods/x".into(),
        labels: [("pod".to_owned(), name.to_owned())].into(),
        ..Default::default()
    }
}

fn container(name: &str, attempt: u32) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.into(),
            attempt,
        }),
        image: Some(v1::ImageSpec {
            image: IMAGE.into(),
            ..Default::default()
        }),
        log_path: format!("{name}/{attempt}.log"),
        labels: [("container".to_owned(), name.to_owned())].into(),
        ..Default::default()
    }
}

impl Node {
    async fn sandbox(&self, name: &str) -> String {
        let runc = String::new();
        self.runtime
            .run_pod_sandbox(pod(name, 0), runc)
            .await
            .unwrap()
    }

    async fn create(&self, sandbox: &str, name: &str, attempt: u32) -> String {
        let config = container(name, attempt);
        let sent = v1::PodSandboxConfig::default();
        self.runtime
            .create_container(sandbox, config, sent)
            .await
            .unwrap()
    }

    async fn started(&self, sandbox: &str, name: &str, attempt: u32) -> String {
        let id = self.create(sandbox, name, attempt).await;
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    async fn status(&self, id: &str) -> v1::ContainerStatus {
        self.runtime.container_status(id).await.unwrap()
    }
}
