//! Joins that fail, are killed, mend, and are left.

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn begin(&self, earlier: Option<Journal>, mends: bool) -> Journal {
        let (file, pki) = (self.path("lib/join.json"), self.path("lib/pki"));
        Journal::begin(&file, &pki, earlier, mends, Record::default()).unwrap()
    }

    fn all(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.directory.path().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.directory.path()).unwrap();
                found.push(name.display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

/// A change that fails at one of its steps stands where one stands that was killed there.
#[test]
fn whatever_step_a_change_ends_at_the_record_knows_what_is_there() {
    for in_the_way in ["lib/join.json.tmp", "config.before-join.tmp", "config.tmp"] {
        let place = Place::new();
        fs::write(place.path("config"), "own").unwrap();
        let mut journal = place.begin(None, false);
        fs::create_dir(place.path(in_the_way)).unwrap();
        journal
            .write(&place.path("config"), b"new", 0o644)
            .unwrap_err();
        fs::remove_dir(place.path(in_the_way)).unwrap();
        // The part that was written until then.
        fs::write(place.path(in_the_way), "ne").unwrap();
        let journal = Journal::read(&place.path("lib/join.json"));
        let (failures, kept) = journal.unwrap().unwrap().undo();
        assert!(failures.is_empty() && kept.is_empty(), "{failures:?}");
        assert_eq!(place.all(), ["config"], "{in_the_way}");
        assert_eq!(fs::read(place.path("config")).unwrap(), b"own");
    }
}

#[test]
fn what_fails_leaves_nothing_and_what_was_there_is_there_again() {
    let place = Place::new();
    fs::write(place.path("config"), "own").unwrap();
    fs::write(place.path("same"), "same").unwrap();
    let before = place.all();
    let mut journal = place.begin(None, false);
    journal.write(&place.path("config"), b"new", 0o644).unwrap();
    journal.write(&place.path("same"), b"same", 0o644).unwrap();
    journal
        .write(&place.path("etc/deep/ca"), b"ca", 0o644)
        .unwrap();
    journal
        .expect_written(&place.path("etc/kubelet.conf"))
        .unwrap();
    fs::write(place.path("etc/kubelet.conf"), "by the agent").unwrap();
    fs::create_dir(place.path("lib/pki")).unwrap();
    for name in ["kubelet-client.key.tmp", "kubelet-server-current.pem"] {
        fs::write(place.path("lib/pki").join(name), "key").unwrap();
    }
    assert_eq!(fs::read(place.path("config")).unwrap(), b"new");
    // As after SIGKILL: from the file alone.
    let journal = Journal::read(&place.path("lib/join.json"))
        .unwrap()
        .unwrap();
    assert_eq!(journal.record.state, State::Begun);
    assert!(!journal.has_certificate());
    let link = place.path("lib/pki/kubelet-client-current.pem");
    std::os::unix::fs::symlink("pair", link).unwrap();
    assert!(journal.has_certificate());
    let (failures, kept) = journal.undo();
    assert!(failures.is_empty() && kept.is_empty(), "{failures:?}");
    assert_eq!(fs::read(place.path("config")).unwrap(), b"own");
    let mut after = place.all();
    assert!(
        !after.iter().any(|name| name.contains("kubelet-")),
        "{after:?}"
    );
    // Made by the agent, not by the join.
    after.retain(|name| !name.starts_with("lib"));
    assert_eq!(after, before);
}

#[test]
fn who_leaves_gets_back_what_was_there_and_keeps_edits() {
    let place = Place::new();
    fs::write(place.path("config"), "own").unwrap();
    let mut journal = place.begin(None, false);
    journal.write(&place.path("config"), b"new", 0o644).unwrap();
    journal.write(&place.path("ca"), b"ca", 0o644).unwrap();
    journal.commit().unwrap();
    fs::write(place.path("config"), "edited").unwrap();
    let journal = Journal::read(&place.path("lib/join.json"))
        .unwrap()
        .unwrap();
    assert_eq!(journal.record.state, State::Joined);
    let (failures, kept) = journal.undo();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(kept, [place.path("config.before-leave")]);
    assert_eq!(fs::read(place.path("config")).unwrap(), b"own");
    assert_eq!(place.all(), ["config", "config.before-leave"]);
}

#[test]
fn a_mended_join_is_left_as_the_first_one() {
    let place = Place::new();
    fs::write(place.path("config"), "own").unwrap();
    let mut journal = place.begin(None, false);
    journal
        .write(&place.path("config"), b"joined", 0o644)
        .unwrap();
    journal.commit().unwrap();
    let read = || Journal::read(&place.path("lib/join.json")).unwrap();
    // One that fails: as before it.
    let mut mending = place.begin(read(), true);
    mending
        .write(&place.path("config"), b"mended", 0o644)
        .unwrap();
    assert!(mending.undo().0.is_empty());
    assert_eq!(fs::read(place.path("config")).unwrap(), b"joined");
    assert_eq!(read().unwrap().record.state, State::Joined);
    // One that does not.
    let mut mending = place.begin(read(), true);
    mending
        .write(&place.path("config"), b"mended", 0o644)
        .unwrap();
    mending.write(&place.path("more"), b"more", 0o644).unwrap();
    mending.commit().unwrap();
    assert_eq!(
        place.all(),
        [
            "config",
            "config.before-join",
            "lib",
            "lib/join.json",
            "more"
        ]
    );
    let (failures, _) = read().unwrap().undo();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(fs::read(place.path("config")).unwrap(), b"own");
    assert!(!place.path("more").exists());
}

#[test]
fn nothing_is_kept_of_mending_somebody_elses_join() {
    let place = Place::new();
    fs::write(place.path("kubelet.conf"), "expired").unwrap();
    let mut journal = place.begin(None, true);
    journal.expect_written(&place.path("kubelet.conf")).unwrap();
    journal.commit().unwrap();
    assert_eq!(place.all(), ["kubelet.conf", "lib"]);
}
