use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch::Receiver;

use super::*;
use crate::manifest::Problem;

/// Longer than anything here takes, shorter than patience.
const PATIENCE: Duration = Duration::from_secs(10);
/// So that what a test sees does not come from the clock.
const NEVER: Duration = Duration::from_secs(3600);

mod objects;
mod odd;

struct House {
    directory: PathBuf,
    sets: Receiver<Arc<ManifestSet>>,
    task: tokio::task::JoinHandle<Infallible>,
    rescan: Rescan,
    _room: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "file times are real ones")]
fn wall() -> SystemTime {
    SystemTime::now()
}

fn options(directory: &Path) -> SourceOptions {
    SourceOptions {
        check_every: NEVER,
        settle: Duration::from_millis(100),
        ..SourceOptions::new(directory, NodeName::new("node"))
    }
}

impl House {
    /// A source on the directory `m` of a room that `furnish` has prepared.
    fn with(furnish: impl FnOnce(&Path), change: impl FnOnce(&mut SourceOptions)) -> Self {
        let room = tempfile::tempdir().unwrap();
        let directory = room.path().join("m");
        furnish(&directory);
        let mut options = options(&directory);
        change(&mut options);
        let (source, sets) = ManifestSource::new(options, wall);
        let rescan = source.rescan();
        let task = tokio::spawn(source.run());
        Self {
            directory,
            sets,
            task,
            rescan,
            _room: room,
        }
    }

    async fn new() -> Self {
        let mut house = Self::with(|d| fs::create_dir(d).unwrap(), |_| {});
        house.until("ready", |s| s.ready).await;
        house
    }

    async fn until(
        &mut self,
        what: &str,
        test: impl FnMut(&Arc<ManifestSet>) -> bool,
    ) -> Arc<ManifestSet> {
        let mut sets = self.sets.clone();
        match tokio::time::timeout(PATIENCE, sets.wait_for(test)).await {
            Ok(set) => Arc::clone(&set.unwrap()),
            Err(_) => panic!("never {what}: {:?}", self.sets.borrow()),
        }
    }

    async fn names(&mut self, want: &[&str]) -> Arc<ManifestSet> {
        let what = format!("{want:?}");
        self.until(&what, |set| names(set) == want).await
    }

    /// Puts a file in place the way careful writers do.
    fn put(&self, file: &str, text: &str) {
        let draft = self.directory.join(format!(".{file}.draft"));
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.directory.join(file)).unwrap();
    }
}

fn names(set: &ManifestSet) -> Vec<&str> {
    let names = set.pods.keys().map(|key| &*key.name);
    names.map(|n| n.strip_suffix("-node").unwrap()).collect()
}

fn pod(name: &str) -> String {
    pod_with(name, "nginx:1")
}

fn pod_with(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    image: {image}\n"
    )
}

fn image(set: &ManifestSet, name: &str) -> String {
    let pod = set
        .pods
        .values()
        .find(|p| *p.key().name == format!("{name}-node"))
        .unwrap();
    pod.pod.spec.as_ref().unwrap().containers[0]
        .image
        .clone()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_change_and_go() {
    let mut house = House::new().await;
    house.put("a.yaml", &pod("a"));
    let first = house.names(&["a"]).await;
    fs::write(house.directory.join("b.yaml"), pod("b")).unwrap();
    let second = house.names(&["a", "b"]).await;
    let of = |set: &ManifestSet, i: usize| Arc::clone(&set.pods.values().nth(i).unwrap().pod);
    assert!(
        Arc::ptr_eq(&of(&first, 0), &of(&second, 0)),
        "an untouched file is not read again"
    );
    house.put("a.yaml", &pod_with("a", "nginx:2"));
    let third = house.until("changed", |s| image(s, "a") == "nginx:2").await;
    assert_ne!(of(&second, 0).metadata.uid, of(&third, 0).metadata.uid);
    fs::remove_file(house.directory.join("a.yaml")).unwrap();
    house.names(&["b"]).await;
    fs::rename(
        house.directory.join("b.yaml"),
        house.directory.join("../b.yaml"),
    )
    .unwrap();
    house.names(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_at_the_start_is_in_the_first_ready_set() {
    let mut house = House::with(
        |d| {
            fs::create_dir_all(d.join("sub.yaml")).unwrap();
            fs::write(d.join("a.yaml"), pod("a")).unwrap();
            fs::write(d.join(".hidden.yaml"), pod("hidden")).unwrap();
            fs::write(d.join("sub.yaml/c.yaml"), pod("c")).unwrap();
        },
        |_| {},
    );
    let set = house.until("ready", |s| s.ready).await;
    assert_eq!(names(&set), ["a"]);
    assert_eq!(set.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_read_is_not_an_empty_one() {
    let mut house = House::with(|d| symlink(d, d).unwrap(), |_| {});
    let set = house.until("told", |s| !s.problems.is_empty()).await;
    assert!(!set.ready);
    assert!(matches!(set.problems[0].problem, Problem::Unreadable(_)));
    fs::remove_file(&house.directory).unwrap();
    fs::create_dir(&house.directory).unwrap();
    let set = house.until("ready", |s| s.ready).await;
    assert_eq!(set.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_takes_its_time_is_waited_for() {
    use std::io::Write;
    let mut house = House::with(|d| fs::create_dir(d).unwrap(), |o| o.settle = NEVER);
    house.until("ready", |s| s.ready).await;
    let text = pod("a") + "  - name: d\n    image: nginx\n";
    let (head, tail) = text.split_at(text.len() - 30);
    let mut file = fs::File::create(house.directory.join("a.yaml")).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    file.flush().unwrap();
    // Another file shows that the directory has been looked at since.
    house.put("b.yaml", &pod("b"));
    house.names(&["b"]).await;
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    let set = house.names(&["a", "b"]).await;
    let containers = &set
        .pods
        .values()
        .next()
        .unwrap()
        .pod
        .spec
        .as_ref()
        .unwrap()
        .containers;
    assert_eq!(containers.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_settles_by_time() {
    let mut house = House::new().await;
    let outside = house.directory.join("../a.yaml");
    fs::write(&outside, pod("a")).unwrap();
    fs::hard_link(&outside, house.directory.join("a.yaml")).unwrap();
    house.names(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_its_pods_and_an_emptied_one_does_not() {
    let mut house = House::new().await;
    house.put("a.yaml", &format!("{}---\n{}", pod("a"), pod("b")));
    let good = house.names(&["a", "b"]).await;
    house.put(
        "a.yaml",
        &format!("{}---\nkind: [\n", pod_with("a", "nginx:2")),
    );
    let set = house.until("broken", |s| !s.problems.is_empty()).await;
    assert_eq!(names(&set), ["a", "b"]);
    assert_eq!(image(&set, "a"), "nginx:2", "the good document counts");
    let of = |set: &ManifestSet| Arc::clone(&set.pods.values().nth(1).unwrap().pod);
    assert!(Arc::ptr_eq(&of(&good), &of(&set)));
    assert!(matches!(set.problems[0].problem, Problem::Syntax(_)));
    house.put("a.yaml", "# nothing\n");
    let set = house.names(&[]).await;
    assert_eq!(set.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_with_one_pod_the_last_counts_until_it_goes() {
    let mut house = House::new().await;
    house.put("b.yaml", &pod_with("x", "nginx:b"));
    house.names(&["x"]).await;
    house.put("a.yaml", &pod_with("x", "nginx:a"));
    let set = house.until("clash", |s| !s.problems.is_empty()).await;
    assert_eq!(image(&set, "x"), "nginx:b");
    let a = house.directory.join("a.yaml");
    let b = house.directory.join("b.yaml");
    assert_eq!(
        set.problems[0].to_string(),
        format!(
            "{}:1:1: pod x-node_default is also in {}:1:1, which is the one that counts; remove one of them",
            a.display(),
            b.display()
        )
    );
    fs::remove_file(b).unwrap();
    let set = house
        .until("taken over", |s| image(s, "x") == "nginx:a")
        .await;
    assert_eq!(set.problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_with_one_uid_do_not_both_run() {
    let mut house = House::new().await;
    let own = |name: &str| pod(name).replace("metadata:\n", "metadata:\n  uid: same\n");
    house.put("a.yaml", &own("a"));
    house.names(&["a"]).await;
    house.put("b.yaml", &own("b"));
    let set = house.names(&["b"]).await;
    assert!(
        matches!(set.problems[0].problem, Problem::SameUid { .. }),
        "{:?}",
        set.problems
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_and_swapped_at_once() {
    let mut house = House::with(
        |d| fs::create_dir(d).unwrap(),
        |o| o.settle = Duration::from_secs(60),
    );
    house.until("ready", |s| s.ready).await;
    let d = house.directory.clone();
    for (version, image) in [("..1", "nginx:1"), ("..2", "nginx:2")] {
        fs::create_dir(d.join(version)).unwrap();
        fs::write(d.join(version).join("a.yaml"), pod_with("a", image)).unwrap();
    }
    symlink("..1", d.join("..data")).unwrap();
    symlink("..data/a.yaml", d.join("a.yaml")).unwrap();
    house.names(&["a"]).await;
    symlink("..2", d.join("..data_tmp")).unwrap();
    fs::rename(d.join("..data_tmp"), d.join("..data")).unwrap();
    house.until("swapped", |s| image(s, "a") == "nginx:2").await;
    // A link that leads nowhere is a broken file, not a removed one.
    fs::remove_file(d.join("..data")).unwrap();
    fs::write(d.join("nudge"), "").unwrap();
    let set = house.until("dangling", |s| !s.problems.is_empty()).await;
    assert_eq!(names(&set), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_may_come_late_go_and_come_again() {
    let mut house = House::with(|_| {}, |_| {});
    house.directory.push("deeper");
    let path = house.directory.clone();
    house.task.abort();
    let (source, sets) = ManifestSource::new(options(&path), wall);
    house.sets = sets;
    house.task = tokio::spawn(source.run());
    let set = house.until("ready", |s| s.ready).await;
    assert_eq!(names(&set), [""; 0]);
    assert_eq!(
        set.problems,
        [],
        "a directory that is not there is an empty one"
    );
    for round in ["a", "b"] {
        fs::create_dir_all(&path).unwrap();
        house.put("p.yaml", &pod(round));
        house.names(&[round]).await;
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        house.names(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_may_be_one_file() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("one.yaml");
    let mut house = House::with(|_| {}, |o| o.path.clone_from(&path));
    house.until("ready", |s| s.ready).await;
    fs::write(room.path().join("other.yaml"), pod("other")).unwrap();
    fs::write(&path, pod("one")).unwrap();
    house.names(&["one"]).await;
    fs::write(&path, pod("two")).unwrap();
    house.names(&["two"]).await;
    fs::remove_file(&path).unwrap();
    house.names(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_tells_of_is_found_by_the_clock() {
    let room = tempfile::tempdir().unwrap();
    let target = room.path().join("target.yaml");
    fs::write(&target, pod("a")).unwrap();
    let link = |d: &Path| {
        fs::create_dir(d).unwrap();
        symlink(&target, d.join("a.yaml")).unwrap();
    };
    let mut house = House::with(link, |o| o.check_every = Duration::from_millis(50));
    house.names(&["a"]).await;
    fs::write(&target, pod("b")).unwrap();
    house.names(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_first_seen_stays_while_the_pod_does() {
    let mut house = House::new().await;
    let seen = |set: &ManifestSet| {
        let pod = Arc::clone(&set.pods.values().next().unwrap().pod);
        pod.metadata.annotations.clone().unwrap()[crate::identity::CONFIG_SEEN_ANNOTATION].clone()
    };
    house.put("a.yaml", &pod("a"));
    let first = house.names(&["a"]).await;
    house.put(
        "a.yaml",
        &format!("# a comment\n{}---\n{}", pod("a"), pod("b")),
    );
    let second = house.names(&["a", "b"]).await;
    assert_eq!(seen(&first), seen(&second));
    fs::remove_file(house.directory.join("a.yaml")).unwrap();
    house.names(&[]).await;
    house.put("a.yaml", &pod("a"));
    assert_ne!(seen(&*house.names(&["a"]).await), seen(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_too_large_is_refused() {
    let mut house = House::new().await;
    house.put("a.yaml", &pod("a"));
    house.names(&["a"]).await;
    house.put("a.yaml", &" ".repeat(crate::tree::MAX_BYTES + 1));
    let set = house.until("refused", |s| !s.problems.is_empty()).await;
    assert_eq!(set.problems[0].problem, Problem::TooLarge);
    assert_eq!(names(&set), ["a"]);
}

struct Kept(Arc<std::sync::Mutex<BTreeMap<PathBuf, Vec<u8>>>>);

impl LastGood for Kept {
    fn load(&mut self, path: &Path) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(path).cloned()
    }
    fn store(&mut self, path: &Path, bytes: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .insert(path.to_owned(), bytes.to_owned());
    }
    fn forget(&mut self, path: &Path) {
        self.0.lock().unwrap().remove(path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_version_outlives_the_source() {
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("a.yaml");
    let kept = Arc::default();
    for (text, problems) in [(pod("a"), 0), ("kind: [\n".to_owned(), 1)] {
        fs::write(&file, text).unwrap();
        let mut house = House::with(|_| {}, |_| {});
        house.task.abort();
        let (source, sets) = ManifestSource::new(options(room.path()), wall);
        house.sets = sets;
        house.task = tokio::spawn(source.with_last_good(Kept(Arc::clone(&kept))).run());
        house
            .until("as expected", |s| {
                names(s) == ["a"] && s.problems.len() == problems
            })
            .await;
    }
    assert_eq!(kept.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_is_asked_for_finds_what_no_event_told() {
    let mut house = House::new().await;
    let target = house.directory.with_file_name("elsewhere.yaml");
    fs::write(&target, pod("a")).unwrap();
    symlink(&target, house.directory.join("a.yaml")).unwrap();
    house.names(&["a"]).await;
    // Not in the directory that is watched; and at rest, so that it counts at the first look.
    fs::write(&target, pod("b")).unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(names(&house.sets.borrow().clone()), ["a"]);
    let rescan = house.rescan.clone();
    tokio::time::timeout(PATIENCE, rescan.look()).await.unwrap();
    assert_eq!(names(&house.sets.borrow().clone()), ["b"]);
    // One after the other is not waited for in vain.
    tokio::time::timeout(PATIENCE, rescan.look()).await.unwrap();
}
