use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    let mut payload = Payload::default();
    for (path, text) in files {
        let file = File::new(text.as_bytes().into(), 0o640);
        payload.put(path, file).unwrap();
    }
    payload
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn volume() -> (tempfile::TempDir, Dir) {
    let dir = tempfile::tempdir().unwrap();
    let handle = Dir::open(dir.path()).unwrap();
    (dir, handle)
}

fn put(volume: &Dir, files: &[(&str, &str)], second: i64) -> bool {
    write(volume, &payload(files), at(second), |_| Ok(())).unwrap()
}

/// What the volume shows, by path; links are followed.
fn shown(volume: &Dir) -> BTreeMap<String, String> {
    fn collect(dir: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let (path, shown) = (dir.join(&name), format!("{prefix}{name}"));
            match path.is_dir() {
                true => collect(&path, &format!("{shown}/"), into),
                false => {
                    into.insert(shown, std::fs::read_to_string(&path).unwrap());
                }
            }
        }
    }
    let mut files = BTreeMap::new();
    collect(volume.path(), "", &mut files);
    files
}

fn generations(volume: &Dir) -> usize {
    volume.subdirectories().unwrap().len()
}

#[test]
fn files_are_laid_out_as_programs_know_it() {
    let (_keep, volume) = volume();
    assert!(put(
        &volume,
        &[("a", "1"), ("sub/b", "2"), ("sub/deep/c", "3")],
        0
    ));
    let target = |name: &str| std::fs::read_link(volume.path_of(name)).unwrap();
    assert_eq!(target("a"), PathBuf::from("..data/a"));
    assert_eq!(target("sub"), PathBuf::from("..data/sub"));
    let data = target("..data");
    assert_eq!(data, PathBuf::from("..2027_01_15_08_00_00.0000000000"));
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(volume.path().join(&data)), 0o755);
    assert_eq!(mode(volume.path_of("sub")), 0o755);
    assert_eq!(mode(volume.path_of("a")), 0o640);
    let expected = [("a", "1"), ("sub/b", "2"), ("sub/deep/c", "3")];
    assert_eq!(
        shown(&volume),
        expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    );
}

#[test]
fn what_is_there_already_is_not_written() {
    let (_keep, volume) = volume();
    let files = [("a", "1"), ("sub/b", "2")];
    assert!(put(&volume, &files, 0));
    let inode = || std::fs::metadata(volume.path_of("a")).unwrap().ino();
    let before = inode();
    assert!(!put(&volume, &files, 1));
    assert_eq!(inode(), before);
    // An empty volume is there, too.
    assert!(put(&volume, &[], 2));
    assert!(!put(&volume, &[], 3));
    assert!(volume.link_target("..data").unwrap().is_some());
}

#[test]
fn files_come_change_and_go_together() {
    let (_keep, volume) = volume();
    put(
        &volume,
        &[
            ("a", "1"),
            ("gone", "x"),
            ("dir/gone", "x"),
            ("dir/stays", "y"),
        ],
        0,
    );
    for (second, files) in [
        (1, &[("a", "2"), ("new", "n"), ("dir/stays", "y")][..]),
        // One file less, the others as they were.
        (2, &[("a", "2"), ("dir/stays", "y")][..]),
        // A directory where a file was, and the other way round.
        (3, &[("a/b", "2"), ("dir", "y")][..]),
    ] {
        assert!(put(&volume, files, second));
        let expected = files
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        assert_eq!(shown(&volume), expected.collect());
        assert_eq!(generations(&volume), 1);
    }
}

#[test]
fn two_generations_of_one_moment_have_different_names() {
    let (_keep, volume) = volume();
    for text in ["1", "2", "3"] {
        assert!(put(&volume, &[("a", text)], 0));
        assert_eq!(shown(&volume)["a"], text);
    }
}

#[test]
fn what_an_interrupted_write_has_left_is_made_good() {
    let (_keep, volume) = volume();
    put(&volume, &[("a", "1"), ("b", "1")], 0);
    // Before the link was replaced.
    std::fs::create_dir(volume.path_of("..2027_01_01_00_00_00.0000000001")).unwrap();
    std::os::unix::fs::symlink(
        "..2027_01_01_00_00_00.0000000001",
        volume.path_of("..data_tmp"),
    )
    .unwrap();
    assert!(put(&volume, &[("a", "2"), ("b", "1")], 1));
    assert_eq!(generations(&volume), 1);
    // After it, before the names were shown.
    std::fs::remove_file(volume.path_of("b")).unwrap();
    std::os::unix::fs::symlink("..data/old", volume.path_of("old")).unwrap();
    assert!(!put(&volume, &[("a", "2"), ("b", "1")], 2));
    let names: Vec<_> = shown(&volume).into_keys().collect();
    assert_eq!(names, ["a", "b"]);
    assert!(volume.link_target("old").unwrap().is_none());
    // Without a generation that counts.
    std::fs::remove_file(volume.path_of("..data")).unwrap();
    assert!(put(&volume, &[("a", "2"), ("b", "1")], 3));
    assert_eq!(generations(&volume), 1);
}

#[test]
fn a_link_that_leads_out_is_not_followed() {
    let (outside, keep_out) = volume();
    let (_keep, volume) = volume();
    std::fs::write(outside.path().join("precious"), "p").unwrap();
    for target in ["..", "../..", outside.path().to_str().unwrap(), "..2027/x"] {
        let _ = std::fs::remove_file(volume.path_of("..data"));
        std::os::unix::fs::symlink(target, volume.path_of("..data")).unwrap();
        put(&volume, &[("a", target)], 0);
        assert_eq!(shown(&volume)["a"], target);
    }
    assert_eq!(keep_out.names().unwrap(), ["precious"]);
}

#[test]
fn a_mount_point_within_stays() {
    let (_keep, volume) = volume();
    std::fs::create_dir(volume.path_of("nested")).unwrap();
    put(&volume, &[("a", "1"), ("nested", "x")], 0);
    put(&volume, &[("a", "2")], 1);
    assert!(volume.path_of("nested").is_dir());
}

#[test]
fn what_belongs_to_somebody_does_so_before_it_is_seen() {
    let (_keep, volume) = volume();
    let mut seen = None;
    let own = |volume: &Dir| {
        seen = Some(volume.link_target("..data").unwrap());
        Ok(())
    };
    assert!(write(&volume, &payload(&[("a", "1")]), at(0), own).unwrap());
    assert_eq!(seen, Some(None));
}

/// How many updates there are, unless `ATOMIC_WRITER_UPDATES` says otherwise.
const UPDATES: u64 = 2_000;
const FILES: u64 = 5;

#[test]
fn a_reader_never_sees_a_mixed_generation() {
    let updates = std::env::var("ATOMIC_WRITER_UPDATES").ok();
    let updates = updates.map_or(UPDATES, |text| text.parse().unwrap());
    let (_keep, volume) = volume();
    let generation = |number: u64| {
        let mut payload = Payload::default();
        for file in 0..FILES {
            let text = format!(
                "{number} {}",
                "x".repeat(usize::try_from(number % 50).unwrap())
            );
            let file_name = format!("dir{}/f{file}", file % 2);
            payload
                .put(&file_name, File::new(text.into_bytes().into(), 0o644))
                .unwrap();
        }
        payload
    };
    write(&volume, &generation(0), at(0), |_| Ok(())).unwrap();
    let (done, whole) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (path, done, whole) = (volume.path().to_owned(), done.clone(), whole.clone());
            std::thread::spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    // As a program does it: the link is followed once, and all is read beneath.
                    let link = std::fs::read_link(path.join("..data"));
                    let data = path.join(link.expect("there is always a generation"));
                    let read = |file: u64| {
                        let text =
                            std::fs::read_to_string(data.join(format!("dir{}/f{file}", file % 2)))
                                .ok()?;
                        let (number, rest) = text.split_once(' ').expect("half a file");
                        let number: u64 = number.parse().unwrap();
                        assert_eq!(rest.len() as u64, number % 50, "half a file");
                        Some(number)
                    };
                    let numbers: Option<Vec<u64>> = (0..FILES).map(read).collect();
                    // One that goes while it is read is read again.
                    let Some(numbers) = numbers else { continue };
                    assert!(
                        numbers.iter().all(|n| *n == numbers[0]),
                        "mixed: {numbers:?}"
                    );
                    assert!(numbers[0] >= last, "back from {last} to {}", numbers[0]);
                    last = numbers[0];
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for number in 1..=updates {
        let moment = at(i64::try_from(number).unwrap());
        assert!(write(&volume, &generation(number), moment, |_| Ok(())).unwrap());
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    assert!(
        whole.load(Ordering::Relaxed) > updates / 20,
        "too little was read"
    );
    assert_eq!(generations(&volume), 1);
}
