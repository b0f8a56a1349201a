//! What a container, or whoever else writes to a volume, may try. Each fails without one of the guards.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::RenameFlags;

use super::*;

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn links_and_steps_that_lead_out_are_refused() {
    let Some(node) = Node::new() else { return };
    let volume = node.volume();
    let sibling = volume.with_file_name("data-of-others");
    std::fs::create_dir(&sibling).unwrap();
    std::fs::create_dir(volume.join("dir")).unwrap();
    for (name, target) in [
        ("root", Path::new("/")),
        ("outside", &node.outside()),
        ("secret", &node.outside().join("secret")),
        ("sibling", Path::new("../data-of-others")),
        ("absolute-sibling", &sibling),
        ("stepping", Path::new("dir/../../data-of-others")),
        ("in-and-out", Path::new("../data/../data-of-others")),
        ("spelled-out", &volume.join("../data-of-others")),
        ("agent", Path::new("/proc/self/cwd")),
    ] {
        symlink(target, volume.join(name)).unwrap();
    }
    for path in [
        "root",
        "root/etc",
        "outside",
        "outside/dir",
        "secret",
        "sibling",
        "absolute-sibling",
        "stepping",
        "in-and-out",
        "spelled-out",
        "agent",
        "..",
        "dir/../..",
        "/",
        "/etc",
        // What is missing is made through no such link.
        "outside/made",
        "outside/dir/made/deep",
        "sibling/made",
    ] {
        let error = node.bind(path).unwrap_err();
        assert_eq!(error.to_string(), PREPARE, "{path}");
        assert!(node.mounted().is_empty(), "{path}");
    }
    node.outside_is_as_it_was();
    assert_eq!(std::fs::read_dir(&sibling).unwrap().count(), 0);
}

/// In `/proc` there are links that lead to a file without naming it.
#[test]
fn magic_links_are_only_read() {
    let Some(node) = Node::new() else { return };
    let held = std::fs::File::open(node.outside()).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
    for path in [
        "self/root".to_owned(),
        "self/root/etc".to_owned(),
        "self/cwd".to_owned(),
        "1/root".to_owned(),
        format!("{}/fd/{fd}", std::process::id()),
        format!("{}/fd/{fd}/dir", std::process::id()),
    ] {
        let error = node.bind_of(Path::new("/proc"), &path).unwrap_err();
        assert_eq!(error.to_string(), PREPARE, "{path}");
    }
    assert!(node.mounted().is_empty());
    // What such a link names is found where the volume has it, as any other link's.
    node.bind_of(Path::new("/"), "proc/self/root/proc/version")
        .unwrap();
    assert_eq!(inode(&node.target()), inode(Path::new("/proc/version")));
}

/// CVE-2017-1002101, CVE-2021-25741: what is checked and what is mounted must be the same file.
#[test]
fn a_race_of_links_and_directories_mounts_nothing_outside() {
    let Some(node) = Node::new() else { return };
    let volume = node.volume();
    std::fs::create_dir_all(volume.join("way/in")).unwrap();
    std::fs::create_dir_all(volume.join("put")).unwrap();
    std::fs::create_dir(node.outside().join("dir/in")).unwrap();
    symlink(node.outside().join("dir"), volume.join("evil")).unwrap();
    let outside = inode(&node.outside().join("dir/in"));
    let stop = AtomicBool::new(false);
    let mut bound = 0;
    std::thread::scope(|scope| {
        // A failed assertion ends the race too.
        let _end = Ending(&stop);
        scope.spawn(|| {
            let exchange = |a: &str, b: &str| {
                let (a, b) = (volume.join(a), volume.join(b));
                fs::renameat_with(fs::CWD, a, fs::CWD, b, RenameFlags::EXCHANGE).unwrap();
            };
            while !stop.load(Ordering::Relaxed) {
                exchange("way", "evil");
            }
        });
        for round in 0..4000 {
            // A directory to find, and every other time one to make.
            let path = match round % 2 {
                0 => "way/in".to_owned(),
                _ => format!("way/made-{round}"),
            };
            if node.bind(&path).is_ok() {
                bound += 1;
                assert_ne!(inode(&node.target()), outside, "round {round}");
                assert_eq!(
                    std::fs::read_dir(node.outside().join("dir"))
                        .unwrap()
                        .count(),
                    1
                );
            }
        }
    });
    // Both were seen: the race was one.
    assert!(bound > 0 && bound < 4000, "{bound}");
    assert_eq!(
        std::fs::read_dir(node.outside().join("dir/in"))
            .unwrap()
            .count(),
        0
    );
    assert!(node.mounted().len() <= 1, "{:?}", node.mounted());
}

/// A directory of the node is the administrator's, with all that is mounted in it at any time.
#[test]
fn tearing_down_unmounts_nothing_of_the_node() {
    let Some(node) = Node::new() else { return };
    let host = node.outside().join("dir");
    std::fs::create_dir(host.join("sub")).unwrap();
    node.bind_of(&host, "sub").unwrap();
    // The node mounts something there later; it shows in the pod's mount, which is a peer.
    std::fs::create_dir(host.join("sub/usb")).unwrap();
    let usb = host.join("sub/usb");
    rustix::mount::mount(at_source(), &usb, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(usb.join("file"), "precious").unwrap();
    assert!(node.target().join("usb/file").exists());
    node.volumes.tear_down(&uid()).unwrap();
    assert!(node.mounted().is_empty());
    assert_eq!(std::fs::read(usb.join("file")).unwrap(), b"precious");
    assert!(host.join("sub").exists());
    // The same where the mount is replaced.
    std::fs::create_dir(host.join("other")).unwrap();
    node.bind_of(&host, "sub").unwrap();
    std::fs::create_dir(host.join("sub/cd")).unwrap();
    let cd = host.join("sub/cd");
    rustix::mount::mount(at_source(), &cd, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(cd.join("file"), "precious").unwrap();
    node.bind_of(&host, "other").unwrap();
    assert_eq!(node.mounted(), [node.target()]);
    assert_eq!(std::fs::read(cd.join("file")).unwrap(), b"precious");
}

/// Somebody exchanges the directory of the mounts, or one in it, for a link.
#[test]
fn a_link_in_place_of_the_mounts_leads_nowhere() {
    let Some(node) = Node::new() else { return };
    let victim = node.outside().join("dir/data/c/7");
    std::fs::create_dir_all(&victim).unwrap();
    rustix::mount::mount(at_source(), &victim, "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(victim.join("file"), "precious").unwrap();
    let places = node.pod().join("volume-subpaths");
    for (name, target) in [("", "dir"), ("data", "dir/data"), ("data/c", "dir/data/c")] {
        let at = places.join(name);
        let at = Path::new(at.to_str().unwrap().trim_end_matches('/'));
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(node.outside().join(target), at).unwrap();
        assert!(node.volumes.tear_down(&uid()).is_err(), "{name}");
        assert_eq!(node.prepared("a"), Err(PREPARE.to_owned()), "{name}");
        assert_eq!(std::fs::read(victim.join("file")).unwrap(), b"precious");
        std::fs::remove_file(at).unwrap();
    }
    // A link at the last place is removed, and what it names is not.
    std::fs::create_dir_all(places.join("data/c")).unwrap();
    symlink(&victim, places.join("data/c/7")).unwrap();
    node.volumes.tear_down(&uid()).unwrap();
    assert_eq!(std::fs::read(victim.join("file")).unwrap(), b"precious");
    assert!(!places.exists());
}
