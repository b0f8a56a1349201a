use super::tree::{BATCH, MAX_DEPTH};
use super::*;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn size_below(dir: &Dir, names: &[&str]) -> Result<Option<u64>, DirError> {
    let file = dir.file_below(names)?;
    Ok(file.map(|file| file.metadata().unwrap().len()))
}

#[test]
fn children_get_exactly_the_mode_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    dir.ensure_child("open", 0o777).unwrap();
    dir.ensure_child("set", 0o2770).unwrap();
    dir.ensure_file("file", 0o666).unwrap();
    assert_eq!(mode(&temp.path().join("open")), 0o777);
    assert_eq!(mode(&temp.path().join("set")), 0o2770);
    assert_eq!(mode(&temp.path().join("file")), 0o666);
    // A second call repairs the mode and keeps the content.
    std::fs::write(temp.path().join("file"), "kept").unwrap();
    std::fs::set_permissions(temp.path().join("file"), PermissionsExt::from_mode(0o600)).unwrap();
    dir.ensure_file("file", 0o666).unwrap();
    assert_eq!(mode(&temp.path().join("file")), 0o666);
    assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"kept");
}

#[test]
fn nothing_leads_out() {
    let temp = tempfile::tempdir().unwrap();
    let inside = temp.path().join("inside");
    std::fs::create_dir_all(temp.path().join("outside")).unwrap();
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(temp.path().join("outside/secret"), "x").unwrap();
    symlink("../outside", inside.join("link")).unwrap();
    symlink("../outside/secret", inside.join("file")).unwrap();
    let dir = Dir::open(&inside).unwrap();
    for name in ["..", ".", "", "a/b", "../outside", "/etc", "a\0b"] {
        assert!(dir.child(name).is_err(), "{name:?}");
        assert!(dir.ensure_child(name, 0o755).is_err(), "{name:?}");
        assert!(dir.ensure_file(name, 0o644).is_err(), "{name:?}");
        assert!(dir.remove_tree(name).is_err(), "{name:?}");
        assert!(dir.remove_file(name).is_err(), "{name:?}");
        assert!(size_below(&dir, &[name, "secret"]).is_err(), "{name:?}");
    }
    assert!(size_below(&dir, &["link", "secret"]).is_err());
    assert_eq!(size_below(&dir, &["file"]).unwrap(), None);
    assert!(dir.child("link").is_err());
    assert!(dir.ensure_child("link", 0o755).is_err());
    assert!(dir.open_file("file").is_err());
    assert!(dir.ensure_file("file", 0o644).is_err());
    assert!(dir.rewrite("file", b"y", 0o644).is_err());
    dir.remove_tree("link").unwrap();
    dir.remove_tree("file").unwrap();
    assert_eq!(
        std::fs::read(temp.path().join("outside/secret")).unwrap(),
        b"x"
    );
    assert!(dir.names().unwrap().is_empty());
}

#[test]
fn a_size_is_found_several_directories_down() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
    std::fs::write(temp.path().join("a/b/c"), "nine byte").unwrap();
    assert_eq!(size_below(&dir, &["a", "b", "c"]).unwrap(), Some(9));
    assert_eq!(size_below(&dir, &["a", "b", "d"]).unwrap(), None);
    assert_eq!(size_below(&dir, &["a", "d", "c"]).unwrap(), None);
    assert_eq!(size_below(&dir, &["a", "b"]).unwrap(), None);
    assert!(size_below(&dir, &["a", "b", "c", "d"]).is_err());
}

#[test]
fn a_named_pipe_is_refused_without_waiting() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    fs::mknodat(&dir, "pipe", FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(dir.open_file("pipe").is_err());
}

#[test]
fn rewriting_keeps_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let path = temp.path().join("hosts");
    dir.rewrite("hosts", b"a long first content", 0o644)
        .unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    dir.rewrite("hosts", b"short", 0o644).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"short");
    dir.rewrite("hosts", b"short and longer", 0o644).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"short and longer");
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
}

#[test]
fn removes_deep_and_wide_trees() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    let mut level = dir.ensure_child("tree", 0o755).unwrap();
    for n in 0..(BATCH + 10) {
        level.ensure_file(&format!("f{n}"), 0o600).unwrap();
    }
    level.ensure_child(".kubelet-removing-1", 0o755).unwrap();
    for n in 0..(MAX_DEPTH * 3) {
        level.ensure_file("f", 0o000).unwrap();
        level = level.ensure_child(&format!("d{n}"), 0o700).unwrap();
    }
    symlink("/etc", temp.path().join("tree/link")).unwrap();
    drop(level);
    dir.remove_tree("tree").unwrap();
    assert!(dir.names().unwrap().is_empty());
    dir.remove_tree("tree").unwrap();
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn links_are_replaced_and_other_things_are_not() {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    dir.ensure_link("l", Path::new("/a")).unwrap();
    dir.ensure_link("l", Path::new("/a")).unwrap();
    dir.ensure_link("l", Path::new("/b")).unwrap();
    assert_eq!(dir.link_target("l").unwrap(), Some("/b".into()));
    dir.ensure_file("f", 0o644).unwrap();
    assert!(dir.ensure_link("f", Path::new("/a")).is_err());
    assert_eq!(dir.link_target("f").unwrap(), None);
    assert_eq!(dir.link_target("none").unwrap(), None);
}
