use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tar::{EntryType, Header};

use super::*;

/// An archive of entries as they are, however wrong.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, kind: EntryType, name: &[u8], link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4777);
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_link_name_literal(link).unwrap();
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(EntryType::Regular, name.as_bytes(), "", content.as_bytes())
    }

    /// Unpacks it as `path` of a container; the warnings.
    fn unpack(mut self, path: &str, to: &Path) -> Result<Vec<String>, String> {
        self.0.extend([0; 1024]);
        let mut warnings = Vec::new();
        let below = unpack::Below::of(path, to);
        let warn = &mut |line: &str| warnings.push(line.to_owned());
        let unpacked = unpack::unpack(&*self.0, &below, warn);
        unpacked.map_err(|error| error_chain(&error))?;
        Ok(warnings)
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_becomes_the_destination_or_goes_into_it() {
    let place = tempfile::tempdir().unwrap();
    let archive = || Archive::default().file("tmp/foo", "bar");
    let to = place.path().join("new/name");
    archive().unpack("/tmp/foo", &to).unwrap();
    assert_eq!(read(&to), "bar");
    // Over what is there, and no more of it is left.
    fs::write(&to, "longer").unwrap();
    archive().unpack("/tmp/foo", &to).unwrap();
    assert_eq!(read(&to), "bar");
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o7111, 0);
    archive().unpack("//tmp/./foo/", place.path()).unwrap();
    assert_eq!(read(place.path().join("foo")), "bar");
}

#[test]
fn a_directory_becomes_the_destination_with_all_that_is_in_it() {
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("new");
    let long = "n".repeat(150);
    let pax = format!("168 path=srv/{long}/pax\n");
    assert_eq!(pax.len(), 168);
    let archive = Archive::default()
        .add(EntryType::Directory, b"srv/", "", b"")
        .add(EntryType::Directory, b"srv/empty/", "", b"")
        .file("srv/a/b/c", "1")
        .add(
            EntryType::GNULongName,
            b"././@LongLink",
            "",
            format!("srv/{long}/gnu\0").as_bytes(),
        )
        .file("srv/cut off", "2")
        .add(EntryType::XHeader, b"x", "", pax.as_bytes())
        .file("srv/cut off", "3")
        .add(EntryType::Regular, b"srv/\xff", "", b"4");
    assert_eq!(archive.unpack("srv", &to).unwrap(), [""; 0]);
    assert!(to.join("empty").is_dir());
    assert_eq!(read(to.join("a/b/c")), "1");
    assert_eq!(read(to.join(&long).join("gnu")), "2");
    assert_eq!(read(to.join(&long).join("pax")), "3");
    assert_eq!(read(to.join(OsStr::from_bytes(b"\xff"))), "4");
}

#[test]
fn nothing_that_a_container_sends_lies_outside_of_the_destination() {
    let place = tempfile::tempdir().unwrap();
    let (to, outside) = (place.path().join("to"), place.path().join("outside"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    // The user's own links are not followed either: what goes through them was not chosen by the user.
    symlink(&outside, to.join("own")).unwrap();
    symlink(outside.join("kept"), to.join("file")).unwrap();

    let warnings = Archive::default()
        .file("srv/../../outside/a", "x")
        .file("srv/..", "x")
        .add(EntryType::Symlink, b"srv/link", "../outside", b"")
        .file("srv/link/b", "inside")
        .add(EntryType::Link, b"srv/hard", "/etc/passwd", b"")
        .add(EntryType::Char, b"srv/device", "", b"")
        .add(EntryType::Fifo, b"srv/pipe", "", b"")
        .unpack("/srv", &to)
        .unwrap();
    assert_eq!(
        warnings,
        [
            r#"warning: file "srv/../../outside/a" is outside target destination, skipping"#,
            r#"warning: file "srv/.." is outside target destination, skipping"#,
            r#"warning: skipping symlink: "srv/link" -> "../outside""#,
            r#"warning: skipping hard link: "srv/hard" -> "/etc/passwd""#,
            r#"warning: skipping "srv/device": it is neither a file nor a directory"#,
            r#"warning: skipping "srv/pipe": it is neither a file nor a directory"#,
        ]
    );
    assert_eq!(read(to.join("link/b")), "inside");
    for (name, path) in [
        ("/etc/cron.d/x", "/"),
        ("/srv/a", "/srv"),
        ("etc/passwd", "/srv"),
        ("srv2/a", "/srv"),
        ("", "/srv"),
    ] {
        let refused = Archive::default().file(name, "x").unpack(path, &to);
        assert_eq!(refused.unwrap_err(), "tar contents corrupted", "{name}");
    }
    for name in ["srv/own/a", "srv/file"] {
        let refused = Archive::default().file(name, "x").unpack("/srv", &to);
        let refused = refused.unwrap_err();
        assert!(refused.starts_with("cannot write "), "{refused}");
    }
    assert_eq!(read(outside.join("kept")), "kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn names_are_bounded_and_what_is_no_archive_is_refused() {
    let place = tempfile::tempdir().unwrap();
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let archive = Archive::default().add(kind, b"x", "", &[b'x'; 100_000]);
        let refused = archive.unpack("/srv", place.path()).unwrap_err();
        let expected = "tar contents corrupted: a name is longer than any can be";
        assert_eq!(refused, expected, "{kind:?}");
    }
    for records in ["x", "5 a=b\n", "99 path=a\n", "0 ", "13 size=1234\n"] {
        let archive = Archive::default().add(EntryType::XHeader, b"x", "", records.as_bytes());
        let refused = archive.unpack("/srv", place.path());
        match records {
            "5 a=b\n" => assert!(refused.is_err(), "its length is 6"),
            _ => {
                let refused = refused.unwrap_err();
                assert!(refused.starts_with("tar contents corrupted: "), "{refused}");
            }
        }
    }
    let garbage = Archive(vec![b'x'; 2048]);
    let refused = garbage.unpack("/srv", place.path()).unwrap_err();
    assert!(refused.starts_with("the archive breaks off: "), "{refused}");
    let mut half = Archive::default().file("srv/a", &"x".repeat(5000));
    half.0.truncate(2048);
    let below = unpack::Below::of("/srv", place.path());
    let broken = unpack::unpack(&*half.0, &below, &mut |_| {});
    assert!(broken.is_err());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "half of a");
}

#[test]
fn what_is_packed_is_unpacked() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    let long = "n".repeat(120);
    fs::create_dir_all(from.join("a").join(&long)).unwrap();
    fs::create_dir(from.join("empty")).unwrap();
    fs::write(from.join("a").join(&long).join("b"), "b").unwrap();
    symlink("a", from.join("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, from.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let mut bytes = Vec::new();
    pack::pack(&from, "srv", &mut bytes).unwrap();
    let to = place.path().join("to");
    let warnings = Archive(bytes.clone()).unpack("/srv", &to).unwrap();
    assert_eq!(
        warnings,
        [r#"warning: skipping symlink: "srv/link" -> "a""#]
    );
    assert_eq!(read(to.join("a").join(&long).join("b")), "b");
    assert!(to.join("empty").is_dir());
    // An archive like any other.
    let mut names: Vec<_> = tar::Archive::new(&*bytes)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    let deep = format!("srv/a/{long}/b");
    assert_eq!(names, [&*deep, "srv/empty", "srv/link"]);
    let gone = pack::pack(&place.path().join("gone"), "x", Vec::new()).unwrap_err();
    assert!(error_chain(&gone).contains("gone: No such file"), "{gone}");
}

#[test]
fn a_side_is_local_or_of_a_pod() {
    let remote = |namespace: Option<&str>, pod: &str, path: &str| Spec::Remote {
        namespace: namespace.map(str::to_owned),
        pod: pod.to_owned(),
        path: path.to_owned(),
    };
    let of = |text| Spec::of(text).unwrap();
    assert_eq!(of("web:/tmp/a:b"), remote(None, "web", "/tmp/a:b"));
    assert_eq!(of("ns/web:a"), remote(Some("ns"), "web", "a"));
    for local in ["a", "./a:b", "/a:b", "../a:b"] {
        assert_eq!(of(local), Spec::Local(local.to_owned()));
    }
    for wrong in [":a", "a/b/c:d", "/:", "ns/:a"] {
        let wrong = Spec::of(wrong);
        if let Ok(Spec::Remote { .. }) = wrong {
            panic!("{wrong:?}");
        }
    }
}

#[test]
fn a_path_of_the_container_is_cleaned() {
    for (path, clean) in [
        ("/tmp//a/", "/tmp/a"),
        ("/tmp/../etc", "/etc"),
        ("/../..", "/"),
        ("./a/./b", "a/b"),
        ("a/../../b", "../b"),
        (".", "."),
    ] {
        assert_eq!(cleaned(path), clean, "{path}");
    }
}
