//! Directories as users, editors and tools really leave them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::*;

/// What is said of the file called `name`; empty when nothing is.
fn said_of(set: &ManifestSet, name: &str) -> String {
    let of = |p: &&ManifestError| p.path.file_name() == Some(OsStr::new(name));
    let problems = set.problems.iter().filter(of);
    let all: Vec<_> = problems.map(|p| p.problem.to_string()).collect();
    all.join("\n")
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_passed_over_and_never_opened() {
    let mut house = House::with(
        |d| {
            fs::create_dir_all(d.join("directory.yaml")).unwrap();
            fs::write(d.join("directory.yaml/x.yaml"), pod("x")).unwrap();
            symlink("directory.yaml", d.join("link-to-directory")).unwrap();
            symlink("/dev/zero", d.join("device")).unwrap();
            pipe(&d.join("pipe"));
            drop(UnixListener::bind(d.join("socket")).unwrap());
            fs::write(d.join("z.yaml"), pod("z")).unwrap();
        },
        |_| {},
    );
    let set = house.until("ready", |s| s.ready).await;
    assert_eq!(names(&set), ["z"]);
    assert_eq!(set.problems, []);
    // A pipe or a directory in a manifest's place is a manifest that is gone.
    for (round, replace) in [pipe, |path: &Path| fs::create_dir(path).unwrap()]
        .iter()
        .enumerate()
    {
        let path = house.directory.join(format!("{round}.yaml"));
        let name = format!("n{round}");
        fs::write(&path, pod(&name)).unwrap();
        house.names(&[&name, "z"]).await;
        fs::remove_file(&path).unwrap();
        replace(&path);
        let set = house.names(&["z"]).await;
        assert_eq!(set.problems, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_contents_are_told_and_disturb_nobody() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![alias; 9].join(", "));
        }
        text
    };
    let good = pod("good");
    let crlf = pod("crlf").replace('\n', "\r\n");
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("bom", [b"\xef\xbb\xbf", pod("bom").as_bytes()].concat(), ""),
        ("crlf", crlf.into_bytes(), ""),
        ("empty", Vec::new(), ""),
        ("comments", b"# one\n\n# two\n".to_vec(), ""),
        ("documents", b"---\n---\n# nothing\n---\n".to_vec(), ""),
        ("zeros", vec![0; 4096], "is not allowed"),
        (
            "binary",
            b"\x7fELF\x02\xff\xfe".to_vec(),
            "is not UTF-8 text",
        ),
        ("bomb", bomb.into_bytes(), "more than 400000 values"),
        (
            "deep",
            "[".repeat(100_000).into_bytes(),
            "nested too deeply",
        ),
        (
            "deep-json",
            format!("{{\"a\":{}", "[".repeat(100_000)).into_bytes(),
            "nested more than",
        ),
        ("half", good.as_bytes()[..20].to_vec(), "a manifest holds"),
    ];
    let mut house = House::with(
        |d| {
            fs::create_dir(d).unwrap();
            for (name, bytes, _) in &cases {
                fs::write(d.join(name), bytes).unwrap();
            }
            symlink("nowhere", d.join("dangling")).unwrap();
            symlink("loop", d.join("loop")).unwrap();
            fs::write(d.join("good"), &good).unwrap();
        },
        |_| {},
    );
    let set = house.until("ready", |s| s.ready).await;
    assert_eq!(names(&set), ["bom", "crlf", "good"]);
    for (name, _, said) in &cases {
        let found = said_of(&set, name);
        assert!(found.contains(said), "{name}: {found}");
        assert_eq!(said.is_empty(), found.is_empty(), "{name}: {found}");
    }
    assert!(said_of(&set, "dangling").starts_with("cannot read the manifest: No such file"));
    assert!(said_of(&set, "loop").starts_with("cannot read the manifest: Too many levels"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_needs_no_suffix_and_need_not_be_text() {
    let mut house = House::new().await;
    let odd = house.directory.join(OsStr::from_bytes(b"a\xff\n.yaml"));
    fs::write(&odd, pod("odd")).unwrap();
    house.put("no-suffix", &pod("bare"));
    let set = house.names(&["bare", "odd"]).await;
    let path = |name: &str| {
        let found = set.pods.iter().find(|(key, _)| key.name.starts_with(name));
        Arc::clone(&found.unwrap().1.path)
    };
    assert_eq!(*path("odd"), *odd);
    fs::remove_file(odd).unwrap();
    house.names(&["bare"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_that_moves_the_old_file_aside_replaces_no_pod() {
    let mut house = House::new().await;
    house.put("web.yaml", &pod("web"));
    let before = house.names(&["web"]).await;
    let mut sets = house.sets.clone();
    sets.mark_unchanged();
    let file = |name: &str| house.directory.join(name);
    // What vim does to write a file that has not changed.
    fs::write(file("4913"), "").unwrap();
    fs::remove_file(file("4913")).unwrap();
    fs::write(file(".web.yaml.swp"), "b0VIM 9.0").unwrap();
    fs::rename(file("web.yaml"), file("web.yaml~")).unwrap();
    fs::write(file("web.yaml"), pod("web")).unwrap();
    fs::remove_file(file("web.yaml~")).unwrap();
    house.put("z.yaml", &pod("z"));
    let watched = async {
        loop {
            sets.changed().await.unwrap();
            let set = Arc::clone(&sets.borrow_and_update());
            let web = set.pods.values().find(|p| p.key().name.starts_with("web"));
            let old = before.pods.values().next().unwrap();
            assert_eq!(
                web.map(StaticPod::uid),
                Some(old.uid()),
                "another pod in between"
            );
            if names(&set).contains(&"z") {
                return set;
            }
        }
    };
    let after = tokio::time::timeout(PATIENCE, watched).await.unwrap();
    assert_eq!(after.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_left_behind_is_a_clash_that_is_told() {
    let mut house = House::new().await;
    house.put("web.yaml", &pod_with("web", "nginx:2"));
    house.put("web.yaml~", &pod_with("web", "nginx:1"));
    let set = house.until("clash", |s| !s.problems.is_empty()).await;
    assert!(said_of(&set, "web.yaml").contains("web.yaml~:1:1, which is the one that counts"));
    assert_eq!(image(&set, "web"), "nginx:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_touched_or_written_again_is_the_same_pod() {
    let mut house = House::new().await;
    house.put("a.yaml", &pod("a"));
    let before = house.names(&["a"]).await;
    let path = house.directory.join("a.yaml");
    let touched = fs::File::options().append(true).open(&path).unwrap();
    touched.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    drop(touched);
    house.put("b.yaml", &pod("b"));
    house.names(&["a", "b"]).await;
    house.put("a.yaml", &pod("a"));
    house.put("c.yaml", &pod("c"));
    let after = house.names(&["a", "b", "c"]).await;
    let of = |set: &ManifestSet| Arc::clone(&set.pods.values().next().unwrap().pod);
    assert!(Arc::ptr_eq(&of(&before), &of(&after)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_renamed_is_never_two_pods() {
    let mut house = House::new().await;
    house.put("a.yaml", &pod("x"));
    let before = house.names(&["x"]).await;
    fs::rename(
        house.directory.join("a.yaml"),
        house.directory.join("b.yaml"),
    )
    .unwrap();
    let moved = |s: &Arc<ManifestSet>| s.pods.values().any(|p| p.path.ends_with("b.yaml"));
    let after = house.until("moved", moved).await;
    assert_eq!(names(&after), ["x"]);
    assert_eq!(after.problems, []);
    let uid = |set: &ManifestSet| set.pods.values().next().unwrap().uid().to_owned();
    assert_ne!(
        uid(&before),
        uid(&after),
        "the path is part of who a pod is"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_may_become_a_file_and_a_directory_again() {
    let mut house = House::with(
        |d| fs::create_dir(d).unwrap(),
        |o| o.check_every = Duration::from_millis(50),
    );
    house.put("a.yaml", &pod("a"));
    house.names(&["a"]).await;
    fs::remove_dir_all(&house.directory).unwrap();
    fs::write(&house.directory, pod("file")).unwrap();
    house.names(&["file"]).await;
    fs::remove_file(&house.directory).unwrap();
    fs::create_dir(&house.directory).unwrap();
    house.put("b.yaml", &pod("b"));
    house.names(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_may_be_a_link_that_is_swapped() {
    let room = tempfile::tempdir().unwrap();
    let link = room.path().join("current");
    for (tree, image) in [("1", "nginx:1"), ("2", "nginx:2")] {
        fs::create_dir(room.path().join(tree)).unwrap();
        fs::write(room.path().join(tree).join("a.yaml"), pod_with("a", image)).unwrap();
        fs::write(room.path().join(tree).join("b.yaml"), pod("b")).unwrap();
    }
    symlink("1", &link).unwrap();
    let mut house = House::with(
        |_| {},
        |o| {
            o.path.clone_from(&link);
            o.check_every = Duration::from_millis(50);
        },
    );
    let before = house.names(&["a", "b"]).await;
    symlink("2", room.path().join("new")).unwrap();
    fs::rename(room.path().join("new"), &link).unwrap();
    let after = house.until("swapped", |s| image(s, "a") == "nginx:2").await;
    let of = |set: &ManifestSet| Arc::clone(&set.pods.values().nth(1).unwrap().pod);
    assert!(
        Arc::ptr_eq(&of(&before), &of(&after)),
        "an equal file is the same pod"
    );
    // From now on events come from the new tree.
    fs::write(room.path().join("2/c.yaml"), pod("c")).unwrap();
    house.names(&["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files() {
    const FILES: usize = 1100;
    let write = |d: &Path, from: usize| {
        for i in from..from + FILES {
            fs::write(d.join(format!("{i}.yaml")), pod(&format!("p{i}"))).unwrap();
        }
    };
    let mut house = House::with(
        |d| {
            fs::create_dir(d).unwrap();
            write(d, 0);
        },
        |o| o.settle = Duration::from_millis(500),
    );
    let set = house
        .until("ready", |s| s.ready && s.pods.len() == FILES)
        .await;
    assert_eq!(set.problems, []);
    // More than the inbox keeps names of: the rest settle by time.
    write(&house.directory, FILES);
    let set = house.until("all", |s| s.pods.len() == 2 * FILES).await;
    assert_eq!(set.problems, []);
}
