//! Against a manager of the tests' own on a socket: no systemd is needed, and none is touched.

mod fake;

use super::super::levels::Limits;
use super::session::{NAME, PATH, version_number};
use super::*;

use fake::Manager;
pub(crate) use fake::{FakeSystemd, Script};

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::net::UnixStream;
use zbus::connection::Builder;

fn slice() -> Slice {
    let limits = Limits {
        cpu_shares: Some(256),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_bytes: Some(1 << 24),
        pids: Some(77),
        ..Limits::default()
    };
    Slice {
        unit: "kubepods-burstable-podab_c.slice".to_owned(),
        parent: "kubepods-burstable.slice".to_owned(),
        description: "Kubernetes pod p_n(ab-c)".to_owned(),
        properties: properties(Version::V2, &limits),
    }
}

const UNIT: &str = "kubepods-burstable-podab_c.slice";
const LIMITS: &str = "MemoryMax=16777216 CPUWeight=10 CPUQuotaPeriodUSec=100000 \
    CPUQuotaPerSecUSec=500000 TasksMax=77";
/// Short, and long enough for a slow machine to answer what is answered.
const SOON: Duration = Duration::from_millis(300);

fn started(version: Version) -> String {
    let io = match version {
        Version::V1 => "BlockIOAccounting",
        Version::V2 => "IOAccounting",
    };
    format!(
        "StartTransientUnit {UNIT} Description=Kubernetes pod p_n(ab-c) \
         Wants=Array(Array {{ elements: [Str(Str(Borrowed(\"kubepods-burstable.slice\")))], signature: Array(Dynamic {{ child: Str }}) }}) \
         MemoryAccounting=true CPUAccounting=true {io}=true TasksAccounting=true DefaultDependencies=false {LIMITS}"
    )
}

#[tokio::test]
async fn a_new_slice_is_started_with_all_its_properties() {
    for version in [Version::V1, Version::V2] {
        let fake = FakeSystemd::new(Script::default());
        let systemd = Systemd::new(&fake.config());
        assert_eq!(systemd.version().await.unwrap(), 252);
        systemd.ensure(version, &[slice()]).await.unwrap();
        let calls = fake.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        let wants = |call: &str| {
            let (before, rest) = call.split_once(" Wants=").unwrap();
            let (value, after) = rest.split_once(" MemoryAccounting").unwrap();
            assert!(value.contains("kubepods-burstable.slice"), "{value}");
            format!("{before} {after}")
        };
        assert_eq!(wants(&calls[0]), wants(&started(version)));
    }
}

#[tokio::test]
async fn a_slice_that_is_there_gets_its_values_and_is_started() {
    let fake = FakeSystemd::new(Script {
        units: vec![UNIT.to_owned()],
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    systemd.ensure(Version::V2, &[slice()]).await.unwrap();
    let calls = fake.calls();
    assert!(calls[0].starts_with(&format!("StartTransientUnit {UNIT} ")));
    assert_eq!(
        calls[1..],
        [
            format!("SetUnitProperties {UNIT} {LIMITS}"),
            format!("StartUnit {UNIT}")
        ]
    );
    systemd.set(UNIT, &slice().properties).await.unwrap();
    assert_eq!(fake.calls(), [format!("SetUnitProperties {UNIT} {LIMITS}")]);
    systemd.set(UNIT, &[]).await.unwrap();
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn an_old_systemd_is_not_asked_for_what_it_does_not_know() {
    let fake = FakeSystemd::new(Script {
        version: "v241".to_owned(),
        units: vec![UNIT.to_owned()],
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    systemd.ensure(Version::V2, &[slice()]).await.unwrap();
    for call in &fake.calls()[..2] {
        assert!(!call.contains("CPUQuotaPeriodUSec"), "{call}");
        assert!(call.contains("CPUQuotaPerSecUSec=500000"), "{call}");
    }
}

#[tokio::test]
async fn a_job_that_ends_before_its_answer_is_not_missed() {
    let fake = FakeSystemd::new(Script {
        hurries: true,
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    systemd.ensure(Version::V2, &[slice()]).await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_is_an_error_with_systemds_word() {
    let fake = FakeSystemd::new(Script {
        result: Some("failed"),
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    let error = systemd.ensure(Version::V2, &[slice()]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "StartTransientUnit of {UNIT}: systemd ended the job as \"failed\"; see 'systemctl status {UNIT}'"
        )
    );
    // A slice that cannot be stopped in systemd's eyes is removed all the same.
    systemd.stop(UNIT).await.unwrap();
}

#[tokio::test]
async fn a_stopped_slice_is_forgotten_and_one_that_is_gone_is_fine() {
    let fake = FakeSystemd::new(Script {
        units: vec![UNIT.to_owned()],
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    systemd.stop(UNIT).await.unwrap();
    let (stop, reset) = (
        format!("StopUnit {UNIT}"),
        format!("ResetFailedUnit {UNIT}"),
    );
    assert_eq!(fake.calls(), [stop.clone(), reset]);
    systemd.stop(UNIT).await.unwrap();
    assert_eq!(fake.calls(), [stop]);
}

#[tokio::test]
async fn no_answer_has_a_deadline_and_costs_only_whoever_waits_for_it() {
    let fake = FakeSystemd::new(Script {
        hangs: Some("StartTransientUnit"),
        units: vec!["other.slice".to_owned()],
        ..Script::default()
    });
    let mut config = fake.config();
    config.deadlines.job = SOON;
    let systemd = Systemd::new(&config);
    let slice = [slice()];
    let (hung, other) = tokio::join!(
        systemd.ensure(Version::V2, &slice),
        systemd.stop("other.slice")
    );
    other.unwrap();
    assert_eq!(
        hung.unwrap_err().to_string(),
        format!("systemd has not answered StartTransientUnit of {UNIT} within 300ms")
    );
    // Nor does a connection outlive its work, answered or not.
    let closed = async {
        while fake.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(10), closed);
    closed.await.expect("a connection is left open");
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew() {
    let fake = FakeSystemd::new(Script {
        breaks: Some("StartTransientUnit"),
        ..Script::default()
    });
    let systemd = Systemd::new(&fake.config());
    systemd.ensure(Version::V2, &[slice()]).await.unwrap();
    let calls = fake.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[0], calls[1]);
}

#[tokio::test]
async fn a_bus_that_hangs_is_gone_round() {
    let fake = FakeSystemd::new(Script::default());
    let mut config = fake.config();
    // Takes connections and says nothing.
    let hung = fake.dir.path().join("hung");
    let _listener = std::os::unix::net::UnixListener::bind(&hung).unwrap();
    config.endpoints.insert(0, Endpoint::Bus(hung));
    config.deadlines.open = SOON;
    let systemd = Systemd::new(&config);
    systemd.ensure(Version::V2, &[slice()]).await.unwrap();
}

#[tokio::test]
async fn without_any_endpoint_each_is_named() {
    let config = SystemdConfig {
        endpoints: vec![
            Endpoint::Bus("/nonexistent/bus".into()),
            Endpoint::Private("/nonexistent/private".into()),
        ],
        ..SystemdConfig::default()
    };
    let error = Systemd::new(&config).version().await.unwrap_err();
    let missing = "No such file or directory (os error 2)";
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach systemd over D-Bus: /nonexistent/bus: I/O error: {missing}; /nonexistent/private: \
             I/O error: {missing}; is dbus running, and the agent root?"
        )
    );
}

/// A bus daemon of the test's own.
struct Bus(std::process::Child);

impl Bus {
    fn new(socket: &Path) -> Option<Self> {
        let config = socket.with_extension("conf");
        let text = format!(
            "<busconfig><listen>unix:path={}</listen><policy context='default'><allow own='*'/>\
             <allow send_destination='*'/><allow receive_sender='*'/></policy></busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let config = format!("--config-file={}", config.display());
        let daemon = Command::new("dbus-daemon")
            .args([&config, "--nofork"])
            .spawn();
        daemon.ok().map(Self)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn jobs_end_on_a_bus_too_and_again_after_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let systemd = Systemd::new(&SystemdConfig {
        endpoints: vec![Endpoint::Bus(socket.clone())],
        ..SystemdConfig::default()
    });
    for _ in 0..2 {
        let Some(_bus) = Bus::new(&socket) else {
            eprintln!("skipped: no dbus-daemon on this machine");
            return;
        };
        let manager = async || {
            let stream = UnixStream::connect(&socket).await?;
            let script = Arc::new(Mutex::new(Script {
                version: "252".to_owned(),
                ..Script::default()
            }));
            let builder = Builder::unix_stream(stream).serve_at(PATH, Manager(script))?;
            builder.name(NAME)?.build().await
        };
        let mut served = manager().await;
        for _ in 0..200 {
            if served.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            served = manager().await;
        }
        let _served = served.unwrap();
        systemd.ensure(Version::V2, &[slice()]).await.unwrap();
        systemd.stop(UNIT).await.unwrap();
    }
}

#[test]
fn versions_are_read() {
    for (text, number) in [
        ("252.30-1~deb12u2", 252),
        ("v245.4-1.fc32", 245),
        ("257", 257),
        ("", 0),
        ("unknown", 0),
    ] {
        assert_eq!(version_number(text), number, "{text}");
    }
}
