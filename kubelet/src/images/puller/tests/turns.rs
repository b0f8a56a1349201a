//! Who waits for whom, and for how long.

use super::*;

#[tokio::test(start_paused = true)]
async fn back_off_ends_by_time_and_with_the_pod() {
    let bench = Bench::new(FakeRuntime::default().with(|fake| {
        fake.pull_errors
            .insert("a:latest".into(), cri(CriErrorKind::Other, "no"));
    }));
    let mut waits = Vec::new();
    for _ in 0..6 {
        let error = bench.ensure("p", "a", Always).await.unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        let shown = error.retry_after().unwrap();
        assert_eq!(shown, Duration::from_secs(1), "when the back-off shows");
        tokio::time::sleep(shown).await;
        let error = bench.ensure("p", "a", Always).await.unwrap_err();
        assert_eq!(error.reason(), "ImagePullBackOff");
        let wait = error.retry_after().unwrap();
        waits.push((shown + wait).as_secs());
        tokio::time::sleep(wait - Duration::from_millis(1)).await;
        assert_eq!(
            bench.ensure("p", "a", Always).await.unwrap_err().reason(),
            "ImagePullBackOff"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300]);
    assert_eq!(
        bench.ensure("p", "a", Always).await.unwrap_err().reason(),
        "ErrImagePull"
    );
    assert_eq!(
        bench.ensure("q", "a", Always).await.unwrap_err().reason(),
        "ErrImagePull"
    );
    bench.puller.forget(&PodUid::parse("p").unwrap());
    let error = bench.ensure("p", "a", Always).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.retry_after()),
        ("ErrImagePull", Some(Duration::from_secs(1)))
    );
}

#[tokio::test(start_paused = true)]
async fn pulls_queue_and_a_present_image_does_not_wait_for_them() {
    let bench = Bench::new(
        FakeRuntime::holding("here:1").with(|fake| fake.pull_time = Duration::from_secs(60)),
    );
    let start = Instant::now();
    let here = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.ensure("c", "here:1", IfNotPresent).await.unwrap();
        start.elapsed()
    };
    let (a, b, here) = tokio::join!(
        bench.ensure("a", "x", Always),
        bench.ensure("b", "y", Always),
        here
    );
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(here, Duration::from_secs(1));
    assert_eq!(start.elapsed(), Duration::from_secs(120));
    assert_eq!(bench.count(|r| &r.most_at_once), 1);
    let events = bench.events();
    assert!(
        events.contains(
            &"Normal Pulled Successfully pulled image \"y\" in 1m0s (2m0s including waiting). Image size: 42 bytes.".to_owned()
        ),
        "{events:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn parallel_pulls_are_as_many_as_configured() {
    for (max_parallel, most, secs) in [(Some(2), 2, 30), (None, 5, 10)] {
        let config = PullConfig {
            serialize: false,
            max_parallel,
            ..PullConfig::default()
        };
        let runtime = FakeRuntime::default().with(|fake| fake.pull_time = Duration::from_secs(10));
        let bench = Bench::configured(runtime, config, NodeCredentials::default());
        let start = Instant::now();
        let _ = tokio::join!(
            bench.ensure("a", "a", Always),
            bench.ensure("b", "b", Always),
            bench.ensure("c", "c", Always),
            bench.ensure("d", "d", Always),
            bench.ensure("e", "e", Always),
        );
        assert_eq!(bench.count(|r| &r.most_at_once), most);
        assert_eq!(start.elapsed(), Duration::from_secs(secs));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waited_while_the_image_was_pulled_does_not_pull_it_again() {
    let bench =
        Bench::new(FakeRuntime::default().with(|fake| fake.pull_time = Duration::from_secs(5)));
    let (a, b) = tokio::join!(
        bench.ensure("a", "x:1", IfNotPresent),
        bench.ensure("b", "x:1", IfNotPresent)
    );
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(bench.count(|r| &r.pulls), 1);
    assert_eq!(
        bench.events().last().unwrap(),
        "Normal Pulled Successfully pulled image \"x:1\" in 0s (5s including waiting). Image size: 42 bytes."
    );
    let _ = tokio::join!(
        bench.ensure("a", "x:1", Always),
        bench.ensure("b", "x:1", Always)
    );
    assert_eq!(bench.count(|r| &r.pulls), 3);
}

#[tokio::test(start_paused = true)]
async fn too_many_pulls_in_a_while_fail() {
    let config = PullConfig {
        burst: 2,
        per_second: 1,
        ..PullConfig::default()
    };
    let bench = Bench::configured(FakeRuntime::default(), config, NodeCredentials::default());
    let mut reasons = Vec::new();
    for image in ["a", "b", "c"] {
        reasons.push(
            bench
                .ensure("p", image, Always)
                .await
                .map(drop)
                .map_err(|e| (e.reason(), e.to_string())),
        );
    }
    assert_eq!(
        reasons,
        [
            Ok(()),
            Ok(()),
            Err(("ErrImagePull", "pull QPS exceeded".to_owned()))
        ]
    );
    assert_eq!(bench.count(|r| &r.pulls), 2);
}

#[tokio::test(start_paused = true)]
async fn a_burst_asks_for_presence_once_and_survives_the_one_who_asked() {
    let bench = Arc::new(Bench::new(FakeRuntime {
        let_looks_end: Some(Notify::new()),
        ..FakeRuntime::holding("x:1")
    }));
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.ensure(&format!("p{n}"), "x:1", IfNotPresent).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.count(|r| &r.looks), 1);
    tasks[0].abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.count(|r| &r.looks), 2, "another asks in its place");
    bench.runtime.let_looks_end.as_ref().unwrap().notify_one();
    for task in tasks.into_iter().skip(1) {
        assert!(task.await.unwrap().is_ok());
    }
    assert_eq!(bench.count(|r| &r.looks), 2);
    // The answer is old after a second.
    tokio::time::sleep(Duration::from_millis(1001)).await;
    bench.runtime.let_looks_end.as_ref().unwrap().notify_one();
    bench.ensure("p", "x:1", IfNotPresent).await.unwrap();
    assert_eq!(bench.count(|r| &r.looks), 3);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_frees_its_turn_and_leaves_no_back_off() {
    let bench =
        Bench::new(FakeRuntime::default().with(|fake| fake.pull_time = Duration::from_secs(60)));
    let dropped =
        tokio::time::timeout(Duration::from_secs(1), bench.ensure("p", "x", Always)).await;
    assert!(dropped.is_err());
    assert_eq!(bench.count(|r| &r.running), 0, "the pull is cancelled");
    let start = Instant::now();
    bench.ensure("p", "x", Always).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(60));
}
