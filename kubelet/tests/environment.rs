//! What a service manager tells the agent of itself is no business of the programs that the agent starts. A program of
//! its own without the test runner's threads: only a process of one thread may change its environment.

use std::process::{Command, ExitCode};

use kubelet::service::Environment;

const CHILD: &str = "as-a-service";
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(CHILD) {
        return service();
    }
    let this = std::env::current_exe().expect("the path of this program");
    // A watchdog that is another process's is not ours.
    for (pid, watchdog) in [(None, Some("60000000")), (Some("1"), None)] {
        let mut command = Command::new(&this);
        command
            .arg(CHILD)
            .env("NOTIFY_SOCKET", "/run/systemd/notify")
            .env("WATCHDOG_USEC", "60000000")
            .env("EXPECTED", watchdog.unwrap_or("none"));
        if let Some(pid) = pid {
            command.env("WATCHDOG_PID", pid);
        }
        let status = command.status().expect("this program runs");
        assert!(status.success(), "{status}");
    }
    println!("test environment ... ok");
    ExitCode::SUCCESS
}

fn service() -> ExitCode {
    let taken = Environment::take();
    assert_eq!(
        taken.socket.as_deref(),
        Some("/run/systemd/notify".as_ref())
    );
    let expected = std::env::var("EXPECTED").expect("EXPECTED");
    assert_eq!(taken.watchdog_usec.as_deref().unwrap_or("none"), expected);
    let output = Command::new("env").output().expect("env runs");
    let inherited = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(inherited.contains("EXPECTED="), "{inherited}");
    for name in OURS {
        assert!(!inherited.contains(name), "{name} in {inherited}");
    }
    ExitCode::SUCCESS
}
