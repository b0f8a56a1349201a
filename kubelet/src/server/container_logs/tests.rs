use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::logs::LogsConfig;
use crate::server::runtime::fake::{Fake, ask, pods, request, serve};

const LIMIT: Duration = Duration::from_secs(20);

struct Node {
    temp: tempfile::TempDir,
    runtime: Fake,
    address: SocketAddr,
}

impl Node {
    async fn new(split_streams: bool) -> Self {
        Self::with(split_streams, false).await
    }

    async fn with(split_streams: bool, rotated: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(LogsConfig {
            pod_logs_dir: temp.path().join("pods"),
            links_dir: temp.path().join("containers"),
        })
        .unwrap();
        let dir = temp.path().join("pods/ns_web_u1/c");
        std::fs::create_dir_all(&dir).unwrap();
        let mut runtime = Fake::at("");
        runtime.log = dir.join("0.log").to_str().unwrap().to_owned();
        let address = serve(routes(ContainerLogs {
            pods: pods(),
            logs,
            runtime: runtime.clone(),
            clock: Clock::system(),
            split_streams,
            rotated,
        }))
        .await;
        Self {
            temp,
            runtime,
            address,
        }
    }

    fn write(&self, text: &str) {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(&self.runtime.log);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    async fn get(&self, of: &str) -> (String, String) {
        ask(self.address, &format!("GET /containerLogs/{of}")).await
    }
}

const LINES: &str = "2024-01-01T00:00:01Z stdout F one\n2024-01-01T00:00:02Z stderr F two\n";

#[tokio::test]
async fn a_log_is_sent_in_chunks() {
    let node = Node::new(false).await;
    node.write(LINES);
    let (head, body) = node.get("ns/web/c").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(body, "8\r\none\ntwo\n\r\n0\r\n\r\n");
    assert_eq!(node.runtime.asked(), ["log c-id"]);
    let (_, body) = node.get("ns/web/c?tailLines=1&timestamps=true").await;
    assert!(
        body.contains("2024-01-01T00:00:02.000000000Z two\n"),
        "{body}"
    );
    assert!(!body.contains("one"), "{body}");
}

#[tokio::test]
async fn rotated_files_are_the_sockets_alone() {
    for (rotated, shown) in [(false, "two\n"), (true, "one\ntwo\n")] {
        let node = Node::with(false, rotated).await;
        node.write("2024-01-01T00:00:01Z stdout F one\n");
        std::fs::rename(
            &node.runtime.log,
            format!("{}.20240101-000001", node.runtime.log),
        )
        .unwrap();
        node.write("2024-01-01T00:00:02Z stdout F two\n");
        let (_, body) = node.get("ns/web/c?rotated=true").await;
        let text: String = body
            .lines()
            .filter(|line| line.len() == 3)
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(text, shown, "{body}");
    }
}

#[tokio::test]
async fn a_log_is_followed_until_its_container_ends() {
    let node = Node::new(false).await;
    node.write(LINES);
    let line = "GET /containerLogs/ns/web/c?follow=true";
    let (mut stream, head) = request(node.address, line, "Connection: close\r\n").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let mut seen = String::new();
    for (write, wait) in [("", "two\n"), (LINES, "two\n"), (&LINES[..34], "one\n")] {
        node.write(write);
        seen.clear();
        while !seen.contains(wait) {
            let read = tokio::time::timeout(LIMIT, stream.read_u8()).await;
            seen.push(char::from(read.unwrap().unwrap()));
        }
    }
    node.runtime.ended.send_replace(true);
    let rest = tokio::time::timeout(LIMIT, stream.read_to_string(&mut seen)).await;
    rest.unwrap().unwrap();
    assert!(seen.ends_with("0\r\n\r\n"), "{seen:?}");
}

#[tokio::test]
async fn a_client_that_goes_is_read_for_no_longer() {
    let node = Node::new(false).await;
    node.write(LINES);
    let line = "GET /containerLogs/ns/web/c?follow=true";
    let (stream, _) = request(node.address, line, "").await;
    assert_eq!(node.runtime.ended.receiver_count(), 1);
    drop(stream);
    let over = async {
        while node.runtime.ended.receiver_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, over).await.unwrap();
}

#[tokio::test]
async fn errors_are_upstreams() {
    let node = Node::new(false).await;
    for (of, status, text) in [
        ("ns/gone/c", 404, r#"pod "gone" does not exist"#),
        ("ns/web/x", 404, r#"container "x" not found in pod "web""#),
        (
            "ns/web/c?tailLines=-1",
            422,
            r#"{"message": "Invalid request."}"#,
        ),
        (
            "ns/gone/c?sinceTime=x",
            400,
            r#"{"message": "Unable to decode query."}"#,
        ),
        (
            "ns/web/c?stream=Stdout",
            400,
            "unable to return the given log stream: \"Stdout\". Please enable PodLogsQuerySplitStreams feature gate in kubelet",
        ),
        (
            "ns/idle/c",
            400,
            r#"container "c" in pod "idle" is waiting to start: ContainerCreating"#,
        ),
        (
            "ns/web/c?previous=true",
            400,
            r#"previous terminated container "c" in pod "web" not found"#,
        ),
    ] {
        let (head, body) = node.get(of).await;
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{of}: {head}"
        );
        assert_eq!(body, text, "{of}");
    }
    // From here on upstream has begun to answer.
    let path = PathBuf::from(&node.runtime.log);
    let (head, body) = node.get("ns/web/c").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let expected = format!(
        "failed to try resolving symlinks in path {path:?}: lstat {}: no such file or directory",
        path.display()
    );
    assert_eq!(body, expected);
    node.write("no log\n");
    let (head, body) = node.get("ns/web/c").await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(body.contains("unsupported log format"), "{body}");
    assert!(node.temp.path().exists());
}

#[tokio::test]
async fn one_stream_alone_behind_its_gate() {
    let node = Node::new(true).await;
    node.write(LINES);
    let (_, body) = node.get("ns/web/c?stream=Stderr").await;
    assert_eq!(body, "4\r\ntwo\n\r\n0\r\n\r\n");
    let (_, body) = node.get("ns/web/c?stream=Stdout").await;
    assert_eq!(body, "4\r\none\n\r\n0\r\n\r\n");
}

fn shown(status: serde_json::Value, previous: bool) -> Result<String, String> {
    let mut status = status;
    for (field, value) in [
        ("name", json!("c")),
        ("image", json!("")),
        ("imageID", json!("")),
        ("ready", json!(false)),
        ("restartCount", json!(0)),
    ] {
        status[field] = value;
    }
    let status = json!({ "initContainerStatuses": [status] });
    instance(&serde_json::from_value(status).unwrap(), "p", "c", previous)
}

#[test]
fn whose_log_it_is() {
    let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": id}});
    let running =
        json!({"containerID": "r://2", "state": {"running": {}}, "lastState": ended("r://1")});
    assert_eq!(shown(running.clone(), false).unwrap(), "r://2");
    assert_eq!(shown(running, true).unwrap(), "r://1");
    let crashed =
        json!({"containerID": "r://2", "state": ended("r://2"), "lastState": ended("r://1")});
    assert_eq!(shown(crashed.clone(), false).unwrap(), "r://2");
    assert_eq!(shown(crashed, true).unwrap(), "r://1");
    let back_off =
        json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended("r://1")});
    assert_eq!(shown(back_off, false).unwrap(), "r://1");
    let never_began = json!({"state": ended(""), "lastState": ended("r://1")});
    assert_eq!(shown(never_began, false).unwrap(), "r://1");
}

#[test]
fn why_there_is_no_log() {
    let none = |status, previous| shown(status, previous).unwrap_err();
    let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
    let start = r#"container "c" in pod "p" is waiting to start"#;
    for (reason, text) in [
        ("PodInitializing", "PodInitializing"),
        ("ErrImagePull", "image can't be pulled"),
        ("ImagePullBackOff", "trying and failing to pull image"),
    ] {
        assert_eq!(none(waiting(reason), false), format!("{start}: {text}"));
    }
    assert_eq!(none(json!({}), false), format!("{start} - no logs yet"));
    let terminated = json!({"state": {"terminated": {"exitCode": 1}}});
    assert_eq!(
        none(terminated, false),
        r#"container "c" in pod "p" is terminated"#
    );
    assert_eq!(
        none(waiting("x"), true),
        r#"previous terminated container "c" in pod "p" not found"#
    );
    let missing = instance(&api::PodStatus::default(), "p", "c", false);
    assert_eq!(
        missing.unwrap_err(),
        r#"container "c" in pod "p" is not available"#
    );
}
