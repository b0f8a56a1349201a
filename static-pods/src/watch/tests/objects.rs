//! ConfigMaps and Secrets beside pods.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use super::*;
use crate::identity;
use crate::object::{ObjectKind, REPLACE_ANNOTATION};

fn config_map(name: &str, value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: {value}}}\n")
}

fn secret(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{a: {value}}}\n"
    )
}

fn follower(name: &str) -> String {
    pod(name).replace(
        "metadata:\n",
        &format!("metadata:\n  annotations: {{{REPLACE_ANNOTATION}: 'true'}}\n"),
    )
}

fn value(set: &ManifestSet, kind: ObjectKind, name: &str) -> Option<String> {
    let key = ObjectKey {
        kind,
        namespace: "default".into(),
        name: name.into(),
    };
    let value = set.objects.get(&key)?.content.data["a"].to_vec();
    Some(String::from_utf8(value).unwrap())
}

async fn house(change: impl FnOnce(&mut SourceOptions)) -> House {
    let mut house = House::with(
        |d| fs::create_dir(d).unwrap(),
        |options| {
            options.objects = Objects::On;
            change(options);
        },
    );
    house.until("ready", |s| s.ready).await;
    house
}

impl House {
    async fn has(
        &mut self,
        kind: ObjectKind,
        name: &str,
        wanted: Option<&str>,
    ) -> Arc<ManifestSet> {
        let what = format!("{name} is {wanted:?}");
        self.until(&what, |set| value(set, kind, name).as_deref() == wanted)
            .await
    }
}

use ObjectKind::{ConfigMap, Secret};

#[tokio::test]
async fn objects_come_change_and_go() {
    let mut house = house(|_| {}).await;
    house.put(
        "both.yaml",
        &format!("{}---\n{}", pod("a"), config_map("c", "one")),
    );
    house.has(ConfigMap, "c", Some("one")).await;
    let first = house.names(&["a"]).await;
    house.put(
        "both.yaml",
        &format!("{}---\n{}", pod("a"), config_map("c", "two")),
    );
    let second = house.has(ConfigMap, "c", Some("two")).await;
    let of = |set: &ManifestSet| Arc::clone(&set.pods.values().next().unwrap().pod);
    assert!(
        Arc::ptr_eq(&of(&first), &of(&second)),
        "the pod is the same"
    );
    fs::remove_file(house.directory.join("both.yaml")).unwrap();
    let none = house.has(ConfigMap, "c", None).await;
    assert!(none.pods.is_empty());
}

#[tokio::test]
async fn of_two_objects_of_one_name_the_last_path_counts() {
    let mut house = house(|_| {}).await;
    house.put("b.yaml", &config_map("c", "later"));
    house.put("a.yaml", &config_map("c", "earlier"));
    let set = house.until("both", |s| s.problems.len() == 1).await;
    assert_eq!(value(&set, ConfigMap, "c").as_deref(), Some("later"));
    let problem = set.problems[0].to_string();
    assert!(
        problem.contains("a.yaml:1:1: ConfigMap default/c is also in "),
        "{problem}"
    );
    assert!(set.problems[0].is_clash());
    fs::remove_file(house.directory.join("b.yaml")).unwrap();
    let set = house.has(ConfigMap, "c", Some("earlier")).await;
    assert_eq!(set.problems, []);
}

#[tokio::test]
async fn a_secret_that_others_may_read_is_taken_once_its_mode_is_mended() {
    let mut house = house(|_| {}).await;
    let text = format!("{}---\n{}", pod("a"), secret("s", "x"));
    house.put("s.yaml", &text);
    let file = house.directory.join("s.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let set = house
        .until("refused", |s| s.problems.len() == 1 && s.pods.len() == 1)
        .await;
    assert_eq!(value(&set, Secret, "s"), None);
    let problem = &set.problems[0].problem;
    assert_eq!(
        problem.remedy(),
        Some(&*format!("chmod 600 {}", file.display()))
    );
    // Nothing but the change of the mode tells of it: the clock never comes.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let set = house.has(Secret, "s", Some("x")).await;
    assert_eq!(set.problems, []);
}

#[tokio::test]
async fn the_mode_that_counts_is_that_of_the_file_behind_a_link() {
    let mut house = house(|_| {}).await;
    let target = house.directory.parent().unwrap().join("target");
    fs::write(&target, secret("s", "x")).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&target, house.directory.join("s.yaml")).unwrap();
    let set = house.until("refused", |s| !s.problems.is_empty()).await;
    assert!(matches!(
        set.problems[0].problem,
        Problem::NotPrivate { .. }
    ));
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    house.rescan.look().await;
    house.has(Secret, "s", Some("x")).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_objects() {
    let mut house = house(|_| {}).await;
    let two = format!("{}---\n{}", config_map("c", "one"), config_map("d", "one"));
    house.put("o.yaml", &two);
    house.has(ConfigMap, "d", Some("one")).await;
    house.put("o.yaml", &format!("{}---\nkind: [", config_map("c", "two")));
    let set = house.has(ConfigMap, "c", Some("two")).await;
    assert_eq!(value(&set, ConfigMap, "d").as_deref(), Some("one"));
    assert_eq!(set.problems.len(), 1);
}

#[tokio::test]
async fn an_object_that_never_changes_stays_as_it_was_until_it_is_removed() {
    let mut house = house(|_| {}).await;
    let fixed = |value: &str| config_map("c", value) + "immutable: true\n";
    house.put("o.yaml", &fixed("one"));
    house.has(ConfigMap, "c", Some("one")).await;
    house.put("o.yaml", &fixed("two"));
    let set = house.until("refused", |s| !s.problems.is_empty()).await;
    assert_eq!(value(&set, ConfigMap, "c").as_deref(), Some("one"));
    let problem = set.problems[0].to_string();
    assert!(
        problem.ends_with(
            "o.yaml:1:1: data: Forbidden: field is immutable when `immutable` is set: ConfigMap default/c stays as it was; give it another name, or remove it first"
        ),
        "{problem}"
    );
    fs::remove_file(house.directory.join("o.yaml")).unwrap();
    house.has(ConfigMap, "c", None).await;
    house.put("o.yaml", &fixed("two"));
    house.has(ConfigMap, "c", Some("two")).await;
}

#[tokio::test]
async fn a_directory_of_objects_holds_nothing_else() {
    let mut house =
        house(|options| options.objects_path = Some(options.path.join("objects"))).await;
    let beside = house.directory.join("objects");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("c.yaml"), config_map("c", "one")).unwrap();
    house.has(ConfigMap, "c", Some("one")).await;
    // The same name in both directories is two files.
    house.put("c.yaml", &pod("a"));
    let set = house.names(&["a"]).await;
    assert_eq!(value(&set, ConfigMap, "c").as_deref(), Some("one"));
    fs::write(beside.join("p.yaml"), pod("b")).unwrap();
    let set = house.until("refused", |s| !s.problems.is_empty()).await;
    let problem = set.problems[0].to_string();
    assert!(
        problem.ends_with("objects/p.yaml:2:7: pods are not looked for in the directory of ConfigMaps and Secrets; put it into the manifest directory itself"),
        "{problem}"
    );
    fs::remove_dir_all(&beside).unwrap();
    house.has(ConfigMap, "c", None).await;
    house.names(&["a"]).await;
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("c.yaml"), config_map("c", "again")).unwrap();
    house.has(ConfigMap, "c", Some("again")).await;
}

#[tokio::test]
async fn without_objects_they_are_refused_and_directories_passed_over() {
    let mut house = house(|options| options.objects = Objects::Off).await;
    house.put("c.yaml", &config_map("c", "one"));
    let set = house.until("refused", |s| !s.problems.is_empty()).await;
    assert!(matches!(
        set.problems[0].problem,
        Problem::ObjectsOff(ConfigMap)
    ));
    assert!(set.objects.is_empty());
}

/// Contents in the order met, and who uses objects.
#[derive(Default)]
struct Known {
    contents: Vec<String>,
    users: BTreeSet<(String, String)>,
}

#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Known>>);

impl ObjectMemory for Counting {
    fn version(&mut self, _: &Pod, objects: &BTreeMap<ObjectKey, Arc<LocalObject>>) -> u128 {
        let contents = &mut self.0.lock().unwrap().contents;
        let Some(object) = objects.values().next() else {
            return contents.len() as u128;
        };
        let now = String::from_utf8(object.content.data["a"].to_vec()).unwrap();
        let known = contents.iter().position(|known| *known == now);
        let index = known.unwrap_or_else(|| {
            contents.push(now);
            contents.len() - 1
        });
        index as u128 + 1
    }

    fn users(&mut self, pods: BTreeSet<(String, String)>) {
        self.0.lock().unwrap().users = pods;
    }
}

#[tokio::test]
async fn a_pod_that_follows_its_objects_is_another_one_when_they_change() {
    let room = tempfile::tempdir().unwrap();
    let memory = Counting::default();
    let mut options = options(room.path());
    options.objects = Objects::On;
    let (source, mut sets) = ManifestSource::new(options, wall);
    let source = source.with_object_memory(memory.clone());
    let task = tokio::spawn(source.run());
    let put = |file: &str, text: &str| {
        let draft = room.path().join(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, room.path().join(file)).unwrap();
    };
    let of = |set: &ManifestSet, name: &str| {
        let mut pods = set.pods.values();
        let pod = pods.find(|pod| *pod.key().name == format!("{name}-node"));
        pod.map(|pod| Arc::clone(&pod.pod))
    };
    let uid = |pod: &Pod| {
        let uid = pod.metadata.uid.clone().unwrap();
        let hash = &pod.metadata.annotations.as_ref().unwrap()[identity::CONFIG_HASH_ANNOTATION];
        assert_eq!(*hash, uid);
        uid
    };
    put("c.yaml", &config_map("c", "one"));
    let user = follower("a") + "    envFrom: [{configMapRef: {name: c}}]\n";
    put("p.yaml", &format!("{user}---\n{}", pod("b")));
    let wait = |set: &Arc<ManifestSet>| set.pods.len() == 2 && !set.objects.is_empty();
    let first = sets.wait_for(wait).await.unwrap().clone();
    let plain = uid(&of(&first, "b").unwrap());
    let one = of(&first, "a").unwrap();
    assert_eq!(
        memory.0.lock().unwrap().users,
        [("default".to_owned(), "a".to_owned())].into()
    );
    // Something else changes.
    put("other.yaml", &pod("c"));
    let second = sets.wait_for(|s| s.pods.len() == 3).await.unwrap().clone();
    assert!(Arc::ptr_eq(&one, &of(&second, "a").unwrap()));
    put("c.yaml", &config_map("c", "two"));
    let is = |set: &Arc<ManifestSet>, wanted: &str| {
        value(set, ConfigMap, "c").as_deref() == Some(wanted)
    };
    let third = sets.wait_for(|s| is(s, "two")).await.unwrap().clone();
    let two = of(&third, "a").unwrap();
    assert_ne!(uid(&one), uid(&two));
    assert_eq!(plain, uid(&of(&third, "b").unwrap()));
    put("c.yaml", &config_map("c", "one"));
    let fourth = sets.wait_for(|s| is(s, "one")).await.unwrap().clone();
    assert_eq!(
        uid(&one),
        uid(&of(&fourth, "a").unwrap()),
        "as it was before"
    );
    task.abort();
}
