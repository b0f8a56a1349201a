use std::fs;

use super::*;

/// A node whose ids for pods are `count` times [`UNIT`], the last ones there are.
struct Node {
    root: tempfile::TempDir,
    per_pod: u32,
}

impl Node {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            per_pod: UNIT,
        }
    }

    fn dirs(&self) -> PodDirs {
        PodDirs::new(self.root.path()).unwrap()
    }

    fn open(&self) -> UserNamespaces {
        let users = self.root.path().join("passwd");
        UserNamespaces::open(self.dirs(), &users, self.per_pod, 1).unwrap()
    }

    /// The pod with this number, with a directory.
    fn pod(&self, n: u32) -> PodUid {
        let uid = uid(n);
        self.dirs().ensure(&uid).unwrap();
        uid
    }

    fn keep(&self, n: u32, text: &str) -> PodUid {
        let uid = self.pod(n);
        fs::write(self.file(&uid), text).unwrap();
        uid
    }

    fn file(&self, uid: &PodUid) -> std::path::PathBuf {
        self.dirs().path(uid).join(USER_NAMESPACE)
    }
}

fn uid(n: u32) -> PodUid {
    PodUid::parse(&format!("u{n}")).unwrap()
}

fn text(range: Range) -> String {
    String::from_utf8(range::encode(range).unwrap()).unwrap()
}

fn range(first: u32, length: u32) -> Range {
    Range::new(first * UNIT, length * UNIT).unwrap()
}

#[test]
fn a_pod_keeps_its_ids_and_the_next_agent_finds_them() {
    let node = Node::new();
    let (a, b) = (node.pod(1), node.pod(2));
    let namespaces = node.open();
    let of_a = namespaces.ensure(&a).unwrap();
    let of_b = namespaces.ensure(&b).unwrap();
    assert!(!of_a.overlaps(of_b));
    assert_eq!(namespaces.ensure(&a).unwrap(), of_a);
    assert_eq!(fs::read_to_string(node.file(&a)).unwrap(), text(of_a));

    let next = node.open();
    assert_eq!(next.lock().of(&a), Some(of_a));
    assert_eq!(next.ensure(&b).unwrap(), of_b);
    assert_eq!(next.lock().lost(), None);
}

#[tokio::test]
async fn what_a_pod_gives_back_is_free_and_its_file_gone() {
    let mut node = Node::new();
    // There is one range alone.
    node.per_pod = 1 << 31;
    let (a, b) = (node.pod(1), node.pod(2));
    let namespaces = node.open();
    let only = namespaces.ensure(&a).unwrap();
    let none = namespaces.ensure(&b).unwrap_err();
    assert_eq!(
        none.to_string(),
        "create user namespace: could not find an empty slot to allocate a user namespace"
    );
    assert!(!node.file(&b).exists());
    namespaces.release(&a).await;
    namespaces.release(&a).await;
    assert!(!node.file(&a).exists());
    assert_eq!(namespaces.ensure(&b).unwrap(), only);
}

#[test]
fn ids_that_cannot_be_kept_are_not_given() {
    let mut node = Node::new();
    node.per_pod = 1 << 31;
    let (namespaces, gone) = (node.open(), uid(1));
    let error = namespaces.ensure(&gone).unwrap_err();
    assert!(matches!(error, UserNamespaceError::NoDirectory), "{error}");
    assert!(!node.dirs().path(&gone).exists());
    assert!(namespaces.ensure(&node.pod(2)).is_ok());
}

#[test]
fn a_bad_file_gives_nothing_free_before_the_runtime_has_said_what_it_was() {
    let node = Node::new();
    let torn = node.keep(1, r#"{"uidMappings":[{"hos"#);
    let ended = node.keep(2, "\0\0\0\0");
    let empty = node.keep(3, "");
    let namespaces = node.open();
    assert!(namespaces.lock().is_lost(&torn));
    assert!(!namespaces.lock().is_lost(&empty), "as upstream");

    namespaces.note_found(torn.clone(), Some(range(7, 1)));
    namespaces.note_found(ended.clone(), None);
    assert_eq!(namespaces.lock().lost(), None);
    assert_eq!(
        fs::read_to_string(node.file(&torn)).unwrap(),
        text(range(7, 1))
    );
    assert!(!node.file(&ended).exists());
    assert_eq!(namespaces.ensure(&torn).unwrap(), range(7, 1));
    // Two workers may have asked.
    namespaces.note_found(torn.clone(), None);
    assert_eq!(namespaces.lock().of(&torn), Some(range(7, 1)));
}

#[test]
fn of_two_files_that_say_the_same_neither_is_believed() {
    let node = Node::new();
    let (a, b) = (
        node.keep(1, &text(range(7, 1))),
        node.keep(2, &text(range(6, 2))),
    );
    let namespaces = node.open();
    assert!(namespaces.lock().is_lost(&a) && namespaces.lock().is_lost(&b));
    // Whatever the runtime says, for what runs it is right.
    namespaces.note_found(a.clone(), Some(range(7, 1)));
    namespaces.note_found(b.clone(), Some(range(7, 1)));
    assert_eq!(namespaces.lock().of(&b), Some(range(7, 1)));
    // A new sandbox does not share.
    let anew = namespaces.ensure(&b).unwrap();
    assert!(!anew.overlaps(range(7, 1)), "{anew}");
}

#[test]
fn ids_of_another_configuration_last_as_long_as_their_sandbox() {
    let mut node = Node::new();
    let old = node.keep(1, &text(range(3, 1)));
    node.per_pod = 2 * UNIT;
    let namespaces = node.open();
    assert_eq!(namespaces.lock().of(&old), Some(range(3, 1)));
    let new = namespaces.ensure(&node.pod(2)).unwrap();
    assert!(new.length() == 2 * UNIT && !new.overlaps(range(3, 1)));
    let anew = namespaces.ensure(&old).unwrap();
    assert!(anew.length() == 2 * UNIT && !anew.overlaps(new));
    assert_eq!(fs::read_to_string(node.file(&old)).unwrap(), text(anew));
}
