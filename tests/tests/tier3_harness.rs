//! The private node itself: whichever way a test ends, nothing of its node stays.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::containerd::{Node, hierarchies};

/// Set for the process that is to die with its node alive.
const DIE: &str = "TIER3_HARNESS_DIE";

/// What exists of the node called `name`, as the machine sees it.
fn traces(name: &str) -> Vec<PathBuf> {
    let mut all = vec![
        Path::new("/var/tmp").join(name),
        Path::new("/run/netns").join(name),
    ];
    let hierarchies = hierarchies().expect("the mounted hierarchies");
    all.extend(hierarchies.into_iter().map(|h| h.mount.join(name)));
    all.retain(|path| path.exists());
    all
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a tokio runtime")
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (send, name) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let node = runtime().block_on(Node::start()).unwrap();
        assert!(traces(node.name()).len() > 2);
        send.send(node.name().to_owned()).unwrap();
        panic!("this panic is part of the test");
    });
    assert!(thread.join().is_err());
    assert_eq!(traces(&name.recv().unwrap()), Vec::<PathBuf>::new());
}

#[test]
fn the_next_node_removes_what_a_killed_run_left() {
    if std::env::var_os(DIE).is_some() {
        let node = runtime().block_on(Node::start()).unwrap();
        println!("\nnode={}", node.name());
        // As SIGKILL: nothing is dropped.
        std::process::abort();
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_next_node_removes_what_a_killed_run_left"])
        .arg("--nocapture")
        .env(DIE, "1")
        .output()
        .unwrap();
    assert!(!out.status.success());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("node="));
    let name = name.unwrap_or_else(|| panic!("no node in {text} {out:?}"));
    // Another test's node may have been the next one, and have removed it already.
    drop(Node::without_containerd().unwrap());
    assert_eq!(traces(name), Vec::<PathBuf>::new());
}

#[test]
fn a_node_has_directories_and_kernel_settings_of_its_own() {
    let node = Node::without_containerd().unwrap();
    let before = std::fs::read("/proc/sys/vm/overcommit_memory").unwrap();
    node.run("sh", &["-c", "echo 2 > /proc/sys/vm/overcommit_memory"])
        .unwrap();
    let after = std::fs::read("/proc/sys/vm/overcommit_memory").unwrap();
    assert_eq!(before, after);
    let own = format!("/var/lib/{}", node.name());
    node.run("mkdir", &[&own]).unwrap();
    assert!(!Path::new(&own).exists());
    assert!(node.host_path(Path::new(&own)).exists());
}
