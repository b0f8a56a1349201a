//! Events, faults, and what the fake keeps of it all.

use super::*;

#[tokio::test]
async fn two_running_instances_are_a_violation() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let first = node.started(&sandbox, "app", 0).await;
    node.started(&sandbox, "other", 0).await;
    let other_pod = node.sandbox("web-2").await;
    node.started(&other_pod, "app", 0).await;
    assert_eq!(node.fake.violations(), []);

    // Even across sandboxes: it is the pod's name that counts.
    let mut config = pod("web", 1);
    config.metadata.as_mut().unwrap().uid = "another".into();
    let twin = node
        .runtime
        .run_pod_sandbox(config, String::new())
        .await
        .unwrap();
    let second = node.started(&twin, "app", 0).await;
    let violations = node.fake.violations();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].subject, "default/web/app");
    assert_eq!(violations[0].started, second);
    assert_eq!(violations[0].running, [first]);
}

#[tokio::test(start_paused = true)]
async fn an_end_may_show_later_than_its_event() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    let lag = Duration::from_millis(300);
    node.fake.show_ends_late(lag);
    let mut events = node.runtime.container_events();
    // The stream has to be there before the event.
    let opened = async {
        let opened = |f: &FakeRuntime| {
            f.calls_of("GetContainerEvents")
                .pop()
                .filter(Call::succeeded)
        };
        node.fake.wait_for(SOON, opened).await
    };
    tokio::select! {
        event = events.next() => panic!("{event:?} out of nowhere"),
        opened = opened => assert!(opened.is_some()),
    }
    assert!(node.fake.kill_container(&id, 1));
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(event.container_id, id);
    assert_eq!(
        event.container_event_type(),
        v1::ContainerEventType::ContainerStoppedEvent
    );
    assert_eq!(node.status(&id).await.state(), State::ContainerRunning);
    assert!(
        node.fake.running("app").is_empty(),
        "the process is gone all the same"
    );
    tokio::time::sleep(lag).await;
    assert_eq!(node.status(&id).await.state(), State::ContainerExited);
}

#[tokio::test]
async fn events_tell_the_whole_life() {
    use v1::ContainerEventType as E;
    let node = node().await;
    let mut events = node.runtime.container_events();
    let opened = |f: &FakeRuntime| {
        f.calls_of("GetContainerEvents")
            .pop()
            .filter(Call::succeeded)
    };
    tokio::select! {
        event = events.next() => panic!("{event:?} out of nowhere"),
        opened = node.fake.wait_for(SOON, opened) => assert!(opened.is_some()),
    }
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    let want = [
        (&sandbox, E::ContainerCreatedEvent),
        (&sandbox, E::ContainerStartedEvent),
        (&id, E::ContainerCreatedEvent),
        (&id, E::ContainerStartedEvent),
        (&id, E::ContainerStoppedEvent),
        (&sandbox, E::ContainerStoppedEvent),
        (&id, E::ContainerDeletedEvent),
        (&sandbox, E::ContainerDeletedEvent),
    ];
    for (about, kind) in want {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(
            (&event.container_id, event.container_event_type()),
            (about, kind)
        );
    }
    node.fake.set_events(false);
    let mut none = node.runtime.container_events();
    assert!(none.next().await.unwrap_err().is_unimplemented());
    let again = node.sandbox("again").await;
    let old = node.started(&again, "app", 0).await;
    assert_eq!(
        node.status(&old).await.image_id,
        "",
        "containerd 1.6 has no such field"
    );
}

#[tokio::test(start_paused = true)]
async fn faults_meet_what_they_are_made_for() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let fails = Fault::on("CreateContainer").about("web/app").times(2);
    node.fake.fault(fails.fails(Code::Unknown, "disk on fire"));
    for _ in 0..2 {
        let created = node
            .runtime
            .create_container(&sandbox, container("app", 0), pod("web", 0));
        assert_eq!(created.await.unwrap_err().message(), "disk on fire");
        node.create(&sandbox, "other", node.fake.containers().len() as u32)
            .await;
    }
    let id = node.create(&sandbox, "app", 0).await;

    // Done, but nobody hears of it.
    let lost = Fault::on("StartContainer")
        .when(|call| !call.subject.is_empty())
        .times(1);
    node.fake.fault(lost.hangs_afterwards());
    let began = Instant::now();
    let error = node.runtime.start_container(&id).await.unwrap_err();
    assert_eq!(error.kind(), &CriErrorKind::DeadlineExceeded);
    assert!(began.elapsed() >= Duration::from_secs(120));
    assert_eq!(node.fake.running("app").len(), 1);

    node.fake.fault(Fault::on("*").times(1).hangs());
    let patience = Duration::from_secs(1);
    let asked = tokio::time::timeout(patience, node.runtime.version()).await;
    assert!(asked.is_err());
    node.fake
        .fault(Fault::on("Version").takes(Duration::from_secs(5)));
    let began = Instant::now();
    node.runtime.version().await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(5));
    node.fake.clear_faults();
    let began = Instant::now();
    node.runtime.version().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_creation_holds_its_name() {
    let node = node().await;
    let slow = Duration::from_secs(60);
    let lingers = Fault::on("RunPodSandbox").times(1);
    node.fake.fault(lingers.takes_regardless(slow));
    let patience = Duration::from_secs(1);
    let ask = || node.runtime.run_pod_sandbox(pod("web", 0), String::new());
    assert!(
        tokio::time::timeout(patience, ask()).await.is_err(),
        "given up"
    );
    let error = ask().await.unwrap_err();
    let CriErrorKind::NameReserved {
        holder: Some(holder),
    } = error.kind().clone()
    else {
        panic!("no holder in {error}");
    };
    assert!(node.fake.sandboxes().is_empty(), "not there yet");
    let made = node
        .fake
        .wait_for(2 * slow, |f| f.sandboxes().pop())
        .await
        .unwrap();
    assert_eq!(made.id, *holder);
}

#[tokio::test]
async fn a_given_up_creation_frees_its_name() {
    let node = node().await;
    node.fake.fault(Fault::on("RunPodSandbox").times(1).hangs());
    let patience = Duration::from_millis(50);
    let asked = node.runtime.run_pod_sandbox(pod("web", 0), String::new());
    assert!(tokio::time::timeout(patience, asked).await.is_err());
    let again = async {
        while node
            .runtime
            .run_pod_sandbox(pod("web", 0), String::new())
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, again).await.unwrap();
    assert_eq!(node.fake.sandboxes().len(), 1);
}

#[tokio::test]
async fn the_server_goes_and_the_containers_stay() {
    let fake = FakeRuntime::start().await.unwrap();
    fake.add_image(IMAGE);
    let over_socket = Connection::connect(fake.endpoint(), ConnectOptions::default()).unwrap();
    let over_memory = fake.connection(ConnectOptions::default());
    let node = Node {
        runtime: over_socket.runtime(),
        images: over_socket.images(),
        fake,
    };
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    over_memory.runtime().version().await.unwrap();

    node.fake
        .fault(Fault::on("ListContainers").times(1).hangs());
    let runtime = node.runtime.clone();
    let hanging = tokio::spawn(async move { runtime.list_containers(None).await });
    let asked = |f: &FakeRuntime| f.calls_of("ListContainers").pop();
    node.fake.wait_for(SOON, asked).await.unwrap();
    node.fake.stop_server().await;
    assert!(hanging.await.unwrap().unwrap_err().is_unavailable());
    for connection in [&over_socket, &over_memory] {
        assert!(
            connection
                .runtime()
                .version()
                .await
                .unwrap_err()
                .is_unavailable()
        );
    }
    assert!(node.fake.kill_container(&id, 5), "it still ran");

    node.fake.restart_server().await.unwrap();
    for connection in [&over_socket, &over_memory] {
        let back = async {
            while connection.runtime().version().await.is_err() {
                tokio::time::sleep(connection.next_attempt_in()).await;
            }
        };
        tokio::time::timeout(SOON, back).await.unwrap();
    }
    assert_eq!(node.status(&id).await.exit_code, 5);
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_start() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let id = node.create(&sandbox, "app", 0).await;
    node.fake
        .fault(Fault::on("StartContainer").times(1).cuts_off_afterwards());
    let error = node.runtime.start_container(&id).await.unwrap_err();
    assert!(
        error.is_unavailable() && error.outcome_unknown(),
        "{error:?}"
    );
    // The next call finds a server.
    assert_eq!(node.status(&id).await.state(), State::ContainerRunning);
}

#[tokio::test]
async fn a_reboot_ends_everything_and_forgets_nothing() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    node.fake.reboot().await.unwrap();
    let back = async {
        loop {
            if let Ok(status) = node.runtime.container_status(&id).await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(SOON, back).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (State::ContainerExited, 255)
    );
    assert!(!node.fake.sandboxes()[0].ready);
}

#[tokio::test]
async fn calls_are_listed_in_order() {
    let node = node().await;
    let sandbox = node.sandbox("web").await;
    let id = node.started(&sandbox, "app", 0).await;
    node.runtime.list_containers(None).await.unwrap();
    node.runtime.remove_container(&id).await.unwrap();
    assert!(node.runtime.container_status(&id).await.is_err());
    assert_eq!(
        node.fake.changes(),
        [
            "RunPodSandbox default/web",
            "CreateContainer default/web/app",
            "StartContainer default/web/app",
            "RemoveContainer default/web/app",
        ]
    );
    let calls = node.fake.calls();
    assert_eq!(calls[0].id, sandbox);
    assert_eq!(calls[1].id, id);
    assert!(calls.iter().all(|call| call.ended.is_some()));
    let last = calls.last().unwrap();
    assert_eq!(
        (last.method, last.code),
        ("ContainerStatus", Some(Code::NotFound))
    );
    node.fake.forget_calls();
    node.runtime.version().await.unwrap();
    let calls = node.fake.calls();
    assert_eq!(calls.len(), 1);
    assert!(calls[0].succeeded());
}
