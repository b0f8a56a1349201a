//! The fake runtime and containerd, told the same story: they must answer alike, or tests with the fake prove nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri_proto::{ConnectOptions, Connection, CriError, RuntimeClient, v1};
use tests::containerd::Node;
use tests::fake_runtime::{EXIT_SIGTERM, ExecAnswer, FakeRuntime, Program};
use tests::images::BUSYBOX;
use tests::wait::eventually;

const SECOND: Duration = Duration::from_secs(1);
const FOREVER: &[&str] = &["sleep", "1000"];

#[tokio::test]
async fn the_fake_answers_as_containerd_does() -> Result<()> {
    let fake = FakeRuntime::start().await?;
    fake.set_events(false);
    fake.add_image(BUSYBOX);
    fake.exec("app", |_| ExecAnswer {
        takes: 5 * SECOND,
        ..Default::default()
    });
    fake.program(
        "app",
        Program::forever().stopping_with(EXIT_SIGTERM, Duration::ZERO),
    );
    fake.program("deaf", Program::forever().ignoring_stop());
    fake.program("zero", Program::exits(0, Duration::ZERO));
    fake.program("three", Program::exits(3, Duration::ZERO));
    let no_such_file = "failed to create shim task: OCI runtime create failed";
    fake.program("absent", Program::fails_to_start(no_such_file));
    let ours = Story::tell(
        fake.connection(ConnectOptions::default()),
        "/var/log/pods/web",
    )
    .await
    .context("the fake")?;

    let node = Node::start().await?;
    let endpoint = node.socket().display().to_string();
    let connection = Connection::connect(&endpoint, ConnectOptions::default())?;
    let logs = node.path("pod-logs/web").display().to_string();
    let theirs = Story::tell(connection, &logs).await.context("containerd")?;

    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "the fake: {ours}\ncontainerd: {theirs}");
    }
    ensure!(
        ours.len() == theirs.len() && ours.len() > 30,
        "{} lines",
        ours.len()
    );
    Ok(())
}

/// What was asked and answered, with ids replaced by the order in which they came up.
struct Story {
    runtime: RuntimeClient,
    sandbox: v1::PodSandboxConfig,
    sandbox_id: String,
    lines: Vec<String>,
    ids: Vec<String>,
}

impl Story {
    async fn tell(connection: Connection, logs: &str) -> Result<Vec<String>> {
        let runtime = connection.runtime();
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: logs.into(),
            linux: Some(v1::LinuxPodSandboxConfig::default()),
            ..Default::default()
        };
        let runc = String::new();
        let sandbox_id = runtime.run_pod_sandbox(sandbox.clone(), runc).await?;
        let mut story = Self {
            runtime,
            sandbox,
            sandbox_id,
            lines: Vec::new(),
            ids: Vec::new(),
        };
        story.names_and_images().await?;
        story.a_life().await?;
        story.ends().await?;
        story.the_end_of_the_sandbox().await?;
        Ok(story.lines)
    }

    fn say(&mut self, what: &str, answer: impl std::fmt::Debug) {
        let text = format!("{what}: {answer:?}");
        let mut masked = String::new();
        for word in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
            let id = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
            if id.len() != 64 {
                masked += word;
                continue;
            }
            let known = self.ids.iter().position(|have| have == id);
            let number = known.unwrap_or_else(|| {
                self.ids.push(id.into());
                self.ids.len() - 1
            });
            masked += &format!("#{number}{}", &word[id.len()..]);
        }
        self.lines.push(masked);
    }

    /// Kind and text of an error; what runc has to say of its own is cut off.
    fn failed<T>(&mut self, what: &str, answer: Result<T, CriError>) {
        let error = answer.err().map(|error| {
            let text = error.rpc_text();
            let end = text.find("OCI runtime").unwrap_or(text.len());
            (error.kind().clone(), text[..end].to_owned())
        });
        self.say(what, error);
    }

    async fn create(&self, name: &str, command: &[&str]) -> Result<String, CriError> {
        let image = if name == "imageless" {
            "absent"
        } else {
            BUSYBOX
        };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: image.into(),
                ..Default::default()
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}/0.log"),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let sandbox = self.sandbox.clone();
        self.runtime
            .create_container(&self.sandbox_id, config, sandbox)
            .await
    }

    async fn started(&self, name: &str, command: &[&str]) -> Result<String> {
        let id = self.create(name, command).await?;
        self.runtime.start_container(&id).await?;
        Ok(id)
    }

    async fn state(&mut self, what: &str, id: &str) -> Result<()> {
        let status = self.runtime.container_status(id).await?;
        // The end of a process that ends at once may come before its start: two clock readings race in containerd.
        let order = status.started_at == 0 || status.started_at > status.created_at;
        let message = status.message.split("OCI runtime").next();
        let times = (status.started_at > 0, status.finished_at > 0, order);
        let end = (status.exit_code, &status.reason, message);
        self.say(what, (status.state(), end, times, &status.image_id));
        Ok(())
    }

    async fn names_and_images(&mut self) -> Result<()> {
        let twin = self
            .runtime
            .run_pod_sandbox(self.sandbox.clone(), String::new());
        let twin = twin.await;
        self.failed("a sandbox of the same name", twin);
        let answer = self.runtime.pod_sandbox_status(&self.sandbox_id).await?;
        let status = answer.status.context("a status")?;
        let address = status.network.as_ref().is_some_and(|n| !n.ip.is_empty());
        let more = (answer.containers_statuses.len(), answer.timestamp);
        self.say(
            "the sandbox",
            (status.state(), address, &status.linux, more),
        );

        let imageless = self.create("imageless", &["true"]).await;
        self.failed("a container without image", imageless);
        let nowhere = self.runtime.start_container("nope").await;
        self.failed("start of nothing", nowhere);
        let nowhere = self.runtime.container_status("nope").await;
        self.failed("status of nothing", nowhere);
        let nowhere = self
            .runtime
            .exec_sync("nope", vec!["true".into()], SECOND)
            .await;
        self.failed("exec in nothing", nowhere);
        for (what, answer) in [
            (
                "stop nothing",
                self.runtime.stop_container("nope", SECOND).await,
            ),
            (
                "remove nothing",
                self.runtime.remove_container("nope").await,
            ),
            (
                "stop no sandbox",
                self.runtime.stop_pod_sandbox("nope").await,
            ),
            (
                "remove no sandbox",
                self.runtime.remove_pod_sandbox("nope").await,
            ),
        ] {
            self.failed(what, answer);
        }
        Ok(())
    }

    async fn a_life(&mut self) -> Result<()> {
        let id = self.create("app", FOREVER).await?;
        let twin = self.create("app", FOREVER).await;
        self.failed("a container of the same name", twin);
        self.state("created", &id).await?;
        self.runtime.stop_container(&id, SECOND).await?;
        self.state("stopped before its start", &id).await?;
        self.runtime.start_container(&id).await?;
        self.state("running", &id).await?;
        let again = self.runtime.start_container(&id).await;
        self.failed("started again", again);
        let command = vec!["sleep".to_owned(), "5".to_owned()];
        let exec = self.runtime.exec_sync(&id, command, SECOND).await;
        self.failed("a command that takes too long", exec);
        let reopened = self.runtime.reopen_container_log(&id).await;
        self.failed("reopened", reopened);
        let listed = self.runtime.list_containers(None).await?;
        let states: Vec<_> = listed.iter().map(v1::Container::state).collect();
        self.say("listed", states);

        self.runtime.stop_container(&id, 10 * SECOND).await?;
        self.state("stopped", &id).await?;
        let again = self.runtime.start_container(&id).await;
        self.failed("started after its end", again);
        let exec = self
            .runtime
            .exec_sync(&id, vec!["true".into()], SECOND)
            .await;
        self.failed("a command after the end", exec);
        let reopened = self.runtime.reopen_container_log(&id).await;
        self.failed("reopened after the end", reopened);
        Ok(())
    }

    async fn ends(&mut self) -> Result<()> {
        for (name, command) in [("zero", "exit 0"), ("three", "exit 3")] {
            let id = self.started(name, &["sh", "-c", command]).await?;
            eventually("it ends", 10 * SECOND, async || {
                let status = self.runtime.container_status(&id).await?;
                ensure!(
                    status.state() == v1::ContainerState::ContainerExited,
                    "{status:?}"
                );
                Ok(())
            })
            .await?;
            self.state(name, &id).await?;
        }
        let absent = self.create("absent", &["/nope"]).await?;
        let started = self.runtime.start_container(&absent).await;
        self.failed("no such file", started);
        self.state("no such file", &absent).await?;

        let deaf = "trap '' TERM; touch /tmp/deaf; while :; do sleep 1; done";
        let id = self.started("deaf", &["sh", "-c", deaf]).await?;
        eventually("it is deaf", 10 * SECOND, async || {
            let command = ["test", "-e", "/tmp/deaf"].map(str::to_owned).to_vec();
            let found = self.runtime.exec_sync(&id, command, SECOND).await?;
            ensure!(found.exit_code == 0, "{found:?}");
            Ok(())
        })
        .await?;
        let began = tokio::time::Instant::now();
        self.runtime.stop_container(&id, 2 * SECOND).await?;
        self.say("waited for the deaf", began.elapsed() >= 2 * SECOND);
        self.state("deaf", &id).await?;

        let id = self.started("running", FOREVER).await?;
        self.runtime.remove_container(&id).await?;
        let gone = self.runtime.container_status(&id).await;
        self.failed("removed while it ran", gone);
        Ok(())
    }

    async fn the_end_of_the_sandbox(&mut self) -> Result<()> {
        let left = self.started("left", FOREVER).await?;
        let made = self.create("made", FOREVER).await?;
        let id = self.sandbox_id.clone();
        self.runtime.stop_pod_sandbox(&id).await?;
        self.state("running in a sandbox that was stopped", &left)
            .await?;
        self.state("created in a sandbox that was stopped", &made)
            .await?;
        let status = self.runtime.pod_sandbox_status(&id).await?.status;
        let status = status.context("a status")?;
        self.say("the stopped sandbox", (status.state(), &status.network));
        let late = self.create("late", &["true"]).await;
        self.failed("created too late", late);
        let late = self.runtime.start_container(&made).await;
        self.failed("started too late", late);
        let again = self.runtime.stop_pod_sandbox(&id).await;
        self.failed("stopped again", again);
        let twin = self
            .runtime
            .run_pod_sandbox(self.sandbox.clone(), String::new());
        let twin = twin.await;
        self.failed("a name of the stopped", twin);
        self.runtime.remove_pod_sandbox(&id).await?;
        let left = self.runtime.list_containers(None).await?.len();
        let sandboxes = self.runtime.list_pod_sandbox(None).await?.len();
        self.say("left", (left, sandboxes));
        let again = self.runtime.remove_pod_sandbox(&id).await;
        self.failed("removed again", again);
        Ok(())
    }
}
