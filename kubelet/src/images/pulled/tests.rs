//! The files through an agent's life, its death, and what others put there.

use std::fs;
use std::path::PathBuf;

use super::*;

struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> PullRecords {
        self.open_with(VerificationPolicy::default())
    }

    fn open_with(&self, policy: VerificationPolicy) -> PullRecords {
        let (clock, _) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
        PullRecords::open(self.directory.path(), policy, clock).unwrap()
    }

    fn file(&self, of: &str, what: &str) -> PathBuf {
        let directory = self.directory.path().join(DIRECTORY).join(of);
        directory.join(files::name_of(what))
    }

    fn text(&self, of: &str, what: &str) -> String {
        fs::read_to_string(self.file(of, what)).unwrap_or_default()
    }
}

fn secret(uid: &str, hash: &str) -> PulledWith {
    PulledWith::Secret(SecretUse {
        uid: uid.to_owned(),
        namespace: "ns".to_owned(),
        name: "s".to_owned(),
        credential_hash: hash.to_owned(),
    })
}

/// Whether a pod with these credentials may use `image`, which is here as `r`.
fn may(records: &PullRecords, image: &str, offered: &[PulledWith]) -> bool {
    match records.look(image, "r") {
        Access::Free => true,
        Access::Refused => false,
        Access::Depends(rights) => records.admits(image, "r", &rights, offered),
    }
}

#[test]
fn files_have_upstreams_names_and_nobody_else_reads_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::new();
    let records = node.open();
    // Of upstream's own test data: the name is the SHA-256 of the image.
    let name = "sha256-aef2af226629a35d5f3ef0fdbb29fdbebf038d0acd8850590e8c48e1e283aa56";
    assert_eq!(files::name_of("docker.io/testing/test:latest"), name);
    let intent = records.begin("a:1").unwrap();
    let file = node.file("pulling", "a:1");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(records.counts(), (1, 0));
    intent.succeeded("r", &PulledWith::Anybodys);
    assert_eq!(records.counts(), (0, 1));
    assert_eq!(
        node.text("pulled", "r"),
        "{\"kind\":\"ImagePulledRecord\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"lastUpdatedTime\":\"2026-01-02T03:04:05Z\",\"imageRef\":\"r\",\"credentialMapping\":{\"a\":{\"nodePodsAccessible\":true}}}\n"
    );
}

#[test]
fn an_image_is_for_those_who_could_have_pulled_it() {
    let node = Node::new();
    let records = node.open();
    assert!(may(&records, "a:1", &[]), "it was here before");
    let intent = records.begin("a:1").unwrap();
    assert!(!may(&records, "a:1", &[]), "it is being pulled");
    intent.succeeded("r", &secret("u", "h"));
    assert!(!may(&records, "a:1", &[]));
    assert!(may(&records, "a:2", &[secret("u", "h")]));
    assert!(!may(&records, "b:1", &[secret("u", "h")]), "another name");
    // The same credentials in another secret; from now on that one is known, too, and whatever is in it.
    assert!(may(&records, "a:1", &[secret("v", "h")]));
    assert!(may(&records, "a:1", &[secret("v", "new")]));
    assert!(!may(&records, "a:1", &[secret("w", "other")]));
    let always = node.open_with(VerificationPolicy::AlwaysVerify);
    assert!(may(&always, "a:1", &[secret("u", "h")]));
    let Access::Refused = always.look("z:1", "elsewhere") else {
        panic!("an image that nobody pulled");
    };
    let never = node.open_with(VerificationPolicy::NeverVerify);
    assert!(may(&never, "a:1", &[]));
}

#[test]
fn a_pull_that_fails_or_is_given_up_leaves_nothing() {
    let node = Node::new();
    let records = node.open();
    let (first, second) = (records.begin("a").unwrap(), records.begin("a").unwrap());
    drop(first);
    assert_eq!(records.counts(), (1, 0), "the other goes on");
    drop(second);
    assert_eq!(records.counts(), (0, 0));
    assert!(may(&records, "a", &[]));
}

#[test]
fn what_a_dead_agent_was_pulling_is_nobodys_until_it_is_pulled_again() {
    let node = Node::new();
    let records = node.open();
    for image in ["busybox:1", "r.io/gone:1"] {
        std::mem::forget(records.begin(image).unwrap());
    }
    let records = node.open();
    assert!(records.is_unsettled());
    assert!(
        !may(&records, "busybox:1", &[]),
        "before it is settled, too"
    );
    let held = [Image {
        id: "r".to_owned(),
        repo_tags: vec!["docker.io/library/busybox:1".to_owned()],
        ..Image::default()
    }];
    records.settle(&held);
    assert_eq!(records.counts(), (1, 1), "the other was never here");
    assert!(!may(&records, "busybox:1", &[secret("u", "h")]));
    let intent = records.begin("busybox:1").unwrap();
    intent.succeeded("r", &secret("u", "h"));
    assert!(may(&records, "busybox:1", &[secret("u", "h")]));
}

#[test]
fn a_spoilt_record_makes_for_a_pull_which_mends_it() {
    let node = Node::new();
    let records = node.open();
    records
        .begin("a")
        .unwrap()
        .succeeded("r", &PulledWith::Anybodys);
    for text in ["", "{\"kind\":", "{}"] {
        fs::write(node.file("pulled", "r"), text).unwrap();
        let records = node.open();
        assert!(!may(&records, "a", &[]), "{text:?}");
        records
            .begin("a")
            .unwrap()
            .succeeded("r", &PulledWith::Anybodys);
        assert!(may(&records, "a", &[]));
    }
    // A file about another image says nothing of this one.
    fs::copy(node.file("pulled", "r"), node.file("pulled", "q")).unwrap();
    assert_eq!(records.look("a", "q"), Access::Free);
}

#[test]
fn records_of_an_older_version_are_written_anew() {
    let node = Node::new();
    drop(node.open());
    let old = r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":"2025-01-01T00:00:00Z","imageRef":"r","credentialMapping":{"a":{"nodePodsAccessible":true}}}"#;
    fs::write(node.file("pulled", "r"), old).unwrap();
    let records = node.open();
    let new = old.replace("v1alpha1", "v1beta1") + "\n";
    assert_eq!(node.text("pulled", "r"), new);
    assert!(may(&records, "a", &[]));
}

#[test]
fn records_go_with_their_images() {
    let node = Node::new();
    let records = node.open();
    for (image, id) in [("a", "1"), ("b", "2"), ("c", "3")] {
        let intent = records.begin(image).unwrap();
        intent.succeeded(id, &PulledWith::Anybodys);
    }
    records.mark();
    // Pulled after the runtime was asked what it has.
    let intent = records.begin("c").unwrap();
    intent.succeeded("3", &PulledWith::Anybodys);
    fs::write(node.file("pulled", "spoilt"), "no JSON").unwrap();
    records.prune(["1"].into_iter());
    let left = |id: &str| node.file("pulled", id).exists();
    assert_eq!(
        ["1", "2", "3", "spoilt"].map(left),
        [true, false, true, false]
    );
    records.forget("3");
    records.forget("1");
    assert_eq!(["1", "3"].map(left), [false, true]);
}
