use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tokio::time::timeout;

use super::*;
use crate::clock::Clock;
use crate::server::{HealthChecks, Heartbeat};
use crate::sources::Desired;
use crate::status::StatusBoard;

/// A service manager that keeps what it is told.
fn manager(directory: &Path) -> (tokio::net::UnixDatagram, Service) {
    let path = directory.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let environment = Environment {
        socket: Some(path.into_os_string()),
        watchdog_usec: None,
        ..Environment::default()
    };
    (
        tokio::net::UnixDatagram::from_std(manager).unwrap(),
        Service::of(&environment).unwrap(),
    )
}

async fn told(manager: &tokio::net::UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(20), manager.recv(&mut buffer));
    let length = length.await.expect("nothing was told").unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn a_status_is_one_line_and_bounded() {
    assert_eq!(status_line("a\nREADY=1\tb"), "STATUS=a READY=1 b");
    let long = status_line(&"ä".repeat(5000));
    assert!(long.ends_with('…') && long.len() <= MOST_STATUS + 3);
}

#[tokio::test]
async fn a_service_without_a_manager_says_nothing_and_fails_nowhere() {
    let service = Service::default();
    assert!(!service.has_manager());
    service.status("x");
    service.stopping();
    service.reloading();
    service.reloaded(Some("x".to_owned()));
    assert!(service.ready("x"));
}

#[tokio::test]
async fn a_manager_that_is_gone_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let (manager, service) = manager(directory.path());
    drop(manager);
    service.status("x");
    assert!(!service.ready("x"));
}

#[tokio::test]
async fn a_reload_before_the_start_is_over_does_not_end_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (manager, service) = manager(directory.path());
    service.reloading();
    service.reloaded(None);
    service.ready("now");
    assert_eq!(told(&manager).await, "READY=1\nSTATUS=now");
    service.reloading();
    let reloading = told(&manager).await;
    let micros = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .and_then(|rest| rest.strip_suffix("\nSTATUS=reading the configuration again"))
        .unwrap_or_else(|| panic!("{reloading}"));
    assert!(micros.parse::<u64>().unwrap() <= crate::clock::monotonic_micros() as u64);
    service.reloaded(None);
    assert_eq!(told(&manager).await, "READY=1");
    service.stopping();
    assert_eq!(
        told(&manager).await,
        "STOPPING=1\nSTATUS=stopping; pods go on running"
    );
}

#[tokio::test]
async fn ready_comes_with_the_sources_and_not_with_the_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let (manager, service) = manager(directory.path());
    let desired = watch::Sender::new(Arc::new(Desired::default()));
    let away: watch::Sender<Option<Arc<str>>> = watch::Sender::new(None);
    let clock = Clock::system();
    let inputs = StatusInputs {
        desired: desired.subscribe(),
        manifests: None,
        manifest_path: Some("/m".into()),
        away: away.subscribe(),
        runtime: "/r.sock".into(),
        board: StatusBoard::new(),
        checks: HealthChecks::new(Heartbeat::new(clock), Duration::from_secs(60)),
        troubles: crate::join::Complaints::default().heard(),
    };
    let task = tokio::spawn(run_status(service.clone(), inputs));
    assert_eq!(told(&manager).await, "STATUS=reading the manifests of /m");
    away.send_replace(Some("refused".into()));
    assert_eq!(
        told(&manager).await,
        "STATUS=waiting for the runtime at /r.sock: refused; reading the manifests of /m"
    );
    desired.send_replace(Arc::new(Desired {
        ready: true,
        ..Desired::default()
    }));
    assert_eq!(
        told(&manager).await,
        "READY=1\nSTATUS=waiting for the runtime at /r.sock: refused; no pods"
    );
    // Several changes within a second are one line.
    let begin = tokio::time::Instant::now();
    away.send_replace(Some("refused again".into()));
    tokio::task::yield_now().await;
    away.send_replace(None);
    assert_eq!(told(&manager).await, "STATUS=no pods");
    assert!(begin.elapsed() > Duration::from_millis(500));
    // After a reload the line is there again, even where it is the same.
    service.status("something else");
    assert_eq!(told(&manager).await, "STATUS=something else");
    service.reloaded(None);
    assert_eq!(told(&manager).await, "READY=1");
    assert_eq!(told(&manager).await, "STATUS=no pods");
    task.abort();
}
