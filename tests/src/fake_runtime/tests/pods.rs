//! Sandboxes, containers and images, as CRI has them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_container_lives_and_ends() {
    let node = node().await;
    let two = Duration::from_secs(2);
    node.fake.program("web/app", Program::exits(3, two));
    let sandbox = node.sandbox("web").await;
    let status = node
        .runtime
        .pod_sandbox_status(&sandbox)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.network.unwrap().ip, "10.88.0.2");
    let id = node.create(&sandbox, "app", 0).await;
    assert_eq!(id.len(), 64);

    let made = node.status(&id).await;
    assert_eq!(made.state(), State::ContainerCreated);
    assert_eq!((made.started_at, made.finished_at), (0, 0));
    assert_eq!(made.log_path, "/var/log/pods/x/app/0.log");
    assert!(
        made.image_ref
            .starts_with("docker.io/library/busybox@sha256:")
    );

    node.runtime.start_container(&id).await.unwrap();
    let runs = node.status(&id).await;
    assert_eq!(runs.state(), State::ContainerRunning);
    assert!(runs.started_at > runs.created_at && runs.finished_at == 0);
    let error = node.runtime.start_container(&id).await.unwrap_err();
    assert!(
        error
            .message()
            .ends_with("container is in CONTAINER_RUNNING state"),
        "{error}"
    );

    tokio::time::sleep(two).await;
    let ended = node.status(&id).await;
    assert_eq!(ended.state(), State::ContainerExited);
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
    let lived = Duration::from_nanos(u64::try_from(ended.finished_at - ended.started_at).unwrap());
    // No two moments share a nanosecond, so that while time stands still the clock runs a little ahead.
    assert!(lived.abs_diff(two) < Duration::from_millis(1), "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn each_instance_has_the_next_program() {
    let node = node().await;
    let programs = vec![
        Program::fails_to_start("exec: \"nope\": no such file"),
        Program::exits(0, Duration::ZERO),
        Program::forever(),
    ];
    node.fake.programs("app", programs);
    let sandbox = node.sandbox("web").await;

    let first = node.create(&sandbox, "app", 0).await;
    let error = node.runtime.start_container(&first).await.unwrap_err();
    assert_eq!(error.kind(), &CriErrorKind::Other);
    let status = node.status(&first).await;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (128, "StartError")
    );
    assert_eq!(
        (status.started_at, status.message.as_str()),
        (0, error.message())
    );

    let second = node.started(&sandbox, "app", 1).await;
    let fake = &node.fake;
    let ended = fake
        .wait_for(SOON, |f| f.container(&second).filter(|c| !c.running))
        .await;
    assert_eq!(ended.map(|c| c.exit_code), Some(0));
    assert_eq!(node.status(&second).await.reason, "Completed");
    for attempt in 2..4 {
        let id = node.started(&sandbox, "app", attempt).await;
        tokio::time::sleep(SOON).await;
        assert!(node.fake.kill_container(&id, 9));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_signal_then_sigkill() {
    let node = node().await;
    let slow = Duration::from_secs(4);
    node.fake
        .program("stubborn", Program::forever().ignoring_stop());
    node.fake
        .program("slow", Program::forever().stopping_with(0, slow));
    let sandbox = node.sandbox("web").await;
    // Name, grace period, how long the stop takes, exit code.
    let second = Duration::from_secs(1);
    let cases = [
        ("plain", 30 * second, Duration::ZERO, EXIT_SIGTERM),
        ("slow", 30 * second, slow, 0),
        ("slow", 2 * second, 2 * second, EXIT_SIGKILL),
        ("stubborn", 7 * second, 7 * second, EXIT_SIGKILL),
        ("stubborn", Duration::ZERO, Duration::ZERO, EXIT_SIGKILL),
    ];
    for (attempt, (name, grace, takes, code)) in (0..).zip(cases) {
        let id = node.started(&sandbox, name, attempt).await;
        let began = Instant::now();
        node.runtime.stop_container(&id, grace).await.unwrap();
        let took = began.elapsed();
        assert!(
            took >= takes && took < takes + second / 10,
            "{name} {grace:?}: {took:?}"
        );
        assert_eq!(node.status(&id).await.exit_code, code, "{name} {grace:?}");
        // Once more, and of one that never ran: nothing.
        node.runtime.stop_container(&id, grace).await.unwrap();
    }
    let made = node.create(&sandbox, "made", 0).await;
    node.runtime.stop_container(&made, second).await.unwrap();
    assert_eq!(node.status(&made).await.state(), State::ContainerCreated);
}

#[tokio::test(start_paused = true)]
async fn a_stop_the_client_gave_up_kills_nobody() {
    let node = node().await;
    node.fake.program("app", Program::forever().ignoring_stop());
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    let second = Duration::from_secs(1);
    let stop = node.runtime.stop_container(&id, 5 * second);
    assert!(tokio::time::timeout(second, stop).await.is_err());
    tokio::time::sleep(60 * second).await;
    assert_eq!(node.fake.running("app").len(), 1);
    let stopped = &node.fake.calls_of("StopContainer")[0];
    assert_eq!(stopped.ended, None, "it was never answered");
}

#[tokio::test]
async fn lists_go_by_id_state_sandbox_and_label() {
    let node = node().await;
    let (a, b) = (node.sandbox("a").await, node.sandbox("b").await);
    let a1 = node.started(&a, "one", 0).await;
    let a2 = node.create(&a, "two", 0).await;
    let b1 = node.started(&b, "one", 0).await;

    let list = async |filter: v1::ContainerFilter| {
        let found = node.runtime.list_containers(Some(filter)).await.unwrap();
        let mut ids: Vec<_> = found.into_iter().map(|c| c.id).collect();
        ids.sort();
        ids
    };
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let all = v1::ContainerFilter::default();
    let running = v1::ContainerStateValue {
        state: State::ContainerRunning.into(),
    };
    let ones = [("container".to_owned(), "one".to_owned())].into();
    assert_eq!(list(all.clone()).await, sorted(&[&a1, &a2, &b1]));
    assert_eq!(
        list(v1::ContainerFilter {
            id: a2.clone(),
            ..all.clone()
        })
        .await,
        std::slice::from_ref(&a2)
    );
    assert_eq!(
        list(v1::ContainerFilter {
            state: Some(running),
            ..all.clone()
        })
        .await,
        sorted(&[&a1, &b1])
    );
    assert_eq!(
        list(v1::ContainerFilter {
            label_selector: ones,
            ..all.clone()
        })
        .await,
        sorted(&[&a1, &b1])
    );
    assert_eq!(
        list(v1::ContainerFilter {
            pod_sandbox_id: a.clone(),
            ..all
        })
        .await,
        sorted(&[&a1, &a2])
    );

    node.runtime.stop_pod_sandbox(&b).await.unwrap();
    let ready = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue::default()),
        ..Default::default()
    };
    let found = node.runtime.list_pod_sandbox(Some(ready)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id.as_str(), found[0].labels["pod"].as_str()),
        (a.as_str(), "a")
    );
}

#[tokio::test]
async fn stopping_and_removing_a_sandbox_takes_its_containers_along() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;

    node.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, EXIT_SIGKILL);
    let status = node
        .runtime
        .pod_sandbox_status(&sandbox)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    assert_eq!(
        status.network.unwrap().ip,
        "",
        "the address went with the network"
    );
    let late = node
        .runtime
        .create_container(&sandbox, container("late", 0), pod("web", 0))
        .await;
    assert!(late.unwrap_err().is_not_found());
    assert!(node.fake.container(&id).is_some());

    node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(node.fake.sandboxes().is_empty() && node.fake.containers().is_empty());
    // Again is fine, and the names are free.
    node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    let again = node.sandbox("web").await;
    node.started(&again, "app", 0).await;
    assert_eq!(node.fake.violations(), []);
}

#[tokio::test]
async fn the_nodes_network_has_no_address_of_its_own() {
    let node = node().await;
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        ..Default::default()
    };
    let mut config = pod("host", 0);
    config.linux = Some(v1::LinuxPodSandboxConfig {
        security_context: Some(v1::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = node
        .runtime
        .run_pod_sandbox(config, String::new())
        .await
        .unwrap();
    let status = node
        .runtime
        .pod_sandbox_status(&id)
        .await
        .unwrap()
        .status
        .unwrap();
    assert_eq!(status.network.unwrap().ip, "");
    assert_eq!(
        status.linux.unwrap().namespaces.unwrap().options,
        Some(options)
    );
}

#[tokio::test]
async fn a_name_is_taken_until_its_holder_is_removed() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let error = node
        .runtime
        .run_pod_sandbox(pod("web", 0), String::new())
        .await
        .unwrap_err();
    let holder = Some(sandbox.as_str().into());
    assert_eq!(error.kind(), &CriErrorKind::NameReserved { holder });
    assert_eq!(
        error.message(),
        format!(
            "failed to reserve sandbox name \"web_default_uid-web_0\": name \"web_default_uid-web_0\" is reserved for \"{sandbox}\""
        )
    );
    let id = node.create(&sandbox, "app", 0).await;
    let again = node
        .runtime
        .create_container(&sandbox, container("app", 0), pod("web", 0))
        .await;
    let error = again.unwrap_err();
    let holder = Some(id.as_str().into());
    assert_eq!(error.kind(), &CriErrorKind::NameReserved { holder });
    assert!(
        error.message().contains("\"app_web_default_uid-web_0\""),
        "{error}"
    );

    node.create(&sandbox, "app", 1).await;
    node.runtime.remove_container(&id).await.unwrap();
    node.create(&sandbox, "app", 0).await;
    // A creation that failed leaves its name free.
    let mut broken = container("other", 0);
    broken.image = Some(v1::ImageSpec {
        image: "absent".into(),
        ..Default::default()
    });
    let failed = node
        .runtime
        .create_container(&sandbox, broken, pod("web", 0))
        .await;
    assert!(
        failed
            .unwrap_err()
            .message()
            .contains("failed to resolve image \"absent\"")
    );
    node.create(&sandbox, "other", 0).await;
}

#[tokio::test(start_paused = true)]
async fn commands_in_a_container() {
    let node = node().await;
    node.fake.exec("app", |command| match command[0].as_str() {
        "slow" => ExecAnswer {
            takes: Duration::from_secs(60),
            ..Default::default()
        },
        "false" => ExecAnswer::code(1),
        other => ExecAnswer {
            stdout: other.into(),
            ..Default::default()
        },
    });
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    let exec = async |command: &str, timeout| {
        let command = vec![command.to_owned()];
        node.runtime.exec_sync(&id, command, timeout).await
    };
    let second = Duration::from_secs(1);
    assert_eq!(exec("hello", second).await.unwrap().stdout, b"hello");
    assert_eq!(exec("false", second).await.unwrap().exit_code, 1);
    let began = Instant::now();
    let error = exec("slow", second).await.unwrap_err();
    assert!(
        *error.kind() == CriErrorKind::DeadlineExceeded
            && error.message().contains("timeout 1s exceeded")
    );
    assert!(began.elapsed() < 2 * second);
    node.fake.kill_container(&id, 0);
    let error = exec("hello", second).await.unwrap_err();
    assert!(
        error
            .message()
            .ends_with("container is in CONTAINER_EXITED state"),
        "{error}"
    );
}

#[tokio::test]
async fn images_come_and_go() {
    let node = node().await;
    let spec = |image: &str| v1::ImageSpec {
        image: image.into(),
        ..Default::default()
    };
    assert_eq!(node.images.image_status(spec("nginx")).await.unwrap(), None);
    let id = node
        .images
        .pull_image(spec("nginx"), None, None)
        .await
        .unwrap();
    let image = node.images.image_status(spec(&id)).await.unwrap().unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/nginx:latest"]);
    assert_eq!(node.images.list_images(None).await.unwrap().len(), 2);
    node.images
        .remove_image(spec("nginx:latest"))
        .await
        .unwrap();
    node.images
        .remove_image(spec("nginx:latest"))
        .await
        .unwrap();
    assert_eq!(node.fake.images(), [IMAGE]);

    let refused = Fault::on("PullImage").about("library/secret");
    node.fake
        .fault(refused.fails(Code::Unknown, "pull access denied"));
    let pulled = node
        .images
        .pull_image(spec("docker.io/library/secret"), None, None)
        .await;
    assert_eq!(pulled.unwrap_err().message(), "pull access denied");
    node.fake.add_image_with("nonroot", |image| {
        image.uid = Some(v1::Int64Value { value: 1000 });
    });
    let image = node
        .images
        .image_status(spec("nonroot"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(image.uid.map(|uid| uid.value), Some(1000));
}

#[tokio::test]
async fn last_words_go_to_the_mounted_file() {
    let node = node().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("term");
    let program = Program::exits(1, Duration::ZERO).writing("/dev/termination-log", "it broke");
    node.fake.program("app", program);
    let sandbox = node.sandbox("web").await;
    let mut config = container("app", 0);
    config.mounts.push(v1::Mount {
        container_path: "/dev/termination-log".into(),
        host_path: file.display().to_string(),
        ..Default::default()
    });
    let created = node
        .runtime
        .create_container(&sandbox, config, pod("web", 0))
        .await;
    let id = created.unwrap();
    node.runtime.start_container(&id).await.unwrap();
    let shown = |f: &FakeRuntime| {
        f.container(&id)
            .filter(|c| c.state == State::ContainerExited)
    };
    node.fake.wait_for(SOON, shown).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "it broke");
}

#[tokio::test]
async fn readiness_and_resources_are_what_was_set() {
    let node = node().await;
    node.fake.set_ready(true, false);
    let conditions = node
        .runtime
        .status(false)
        .await
        .unwrap()
        .status
        .unwrap()
        .conditions;
    let network = conditions
        .iter()
        .find(|c| c.r#type == "NetworkReady")
        .unwrap();
    assert_eq!(
        (network.status, network.reason.as_str()),
        (false, "NetworkPluginNotReady")
    );

    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    let asked_for = node.status(&id).await.resources.unwrap().linux;
    assert_eq!(asked_for, Some(v1::LinuxContainerResources::default()));
    let linux = v1::LinuxContainerResources {
        cpu_shares: 512,
        ..Default::default()
    };
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux.clone()),
        ..Default::default()
    };
    node.runtime
        .update_container_resources(update)
        .await
        .unwrap();
    assert_eq!(node.status(&id).await.resources.unwrap().linux, Some(linux));
    assert!(node.fake.oom_kill_container(&id));
    assert_eq!(node.status(&id).await.reason, "OOMKilled");
    let error = node.runtime.reopen_container_log(&id).await.unwrap_err();
    assert_eq!(error.message(), "container is not running");
    assert!(node.fake.kill_sandbox(&sandbox) && !node.fake.kill_sandbox(&sandbox));
}
