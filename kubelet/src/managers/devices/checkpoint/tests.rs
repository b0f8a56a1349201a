use super::super::holdings::NO_NODE;
use super::*;

/// Two files that upstream's code wrote.
const EMPTY: &str =
    r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":3467439661}"#;
const FULL: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"9f1d7e2c-uid","ContainerName":"app","ResourceName":"example.com/gpu","DeviceIDs":{"-1":["dev-2","dev-1"]},"AllocResp":"CgYKAUESAUI="},{"PodUID":"other","ContainerName":"init","ResourceName":"vendor.example/nic","DeviceIDs":{"0":["nic-0"],"1":["nic-0","nic\u003c1\u003e\u0026"]},"AllocResp":""}],"RegisteredDevices":{"example.com/gpu":["dev-2","dev-1","dev-3"],"vendor.example/nic":[]}},"Checksum":396352806}"#;

fn with(content: &str) -> (tempfile::TempDir, Dir) {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join(NAME), content).unwrap();
    let dir = Dir::open(place.path()).unwrap();
    (place, dir)
}

fn good(dir: &Dir) -> Kept {
    match load(dir, NAME) {
        Loaded::Good(kept) => kept,
        other => panic!("{other:?}"),
    }
}

#[test]
fn upstreams_files_are_read() {
    let (_place, dir) = with(EMPTY);
    assert!(good(&dir).registered.is_empty());
    let (_place, dir) = with(FULL);
    let kept = good(&dir);
    let gpu = &kept.holdings.of("9f1d7e2c-uid", "app").unwrap()["example.com/gpu"];
    assert_eq!(gpu.devices.0[&NO_NODE], ["dev-2", "dev-1"]);
    assert_eq!(gpu.response.envs["A"], "B");
    let nics = &kept.holdings.of("other", "init").unwrap()["vendor.example/nic"];
    assert_eq!(nics.devices.nodes()["nic-0"], [0, 1]);
    assert_eq!(nics.devices.nodes()["nic<1>&"], [1]);
    assert_eq!(kept.registered["example.com/gpu"].len(), 3);
    assert!(kept.registered["vendor.example/nic"].is_empty());
}

#[test]
fn what_is_written_is_what_upstream_writes() {
    let (_place, dir) = with(FULL);
    let kept = good(&dir);
    store(&dir, &encode(&dir, &kept).unwrap()).unwrap();
    assert!(matches!(load(&dir, COPY), Loaded::Good(_)));
    let written = dir.read_file(NAME, MOST).unwrap().unwrap();
    // Upstream's encoder writes three characters in another way, which reads as the same.
    let plain = FULL
        .replace("\\u003c", "<")
        .replace("\\u003e", ">")
        .replace("\\u0026", "&");
    assert_eq!(String::from_utf8(written).unwrap(), plain);
    let nothing = encode(&dir, &Kept::default()).unwrap();
    store(&dir, &nothing).unwrap();
    let written = dir.read_file(NAME, MOST).unwrap().unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), EMPTY);
}

#[test]
fn a_bad_one_says_what_is_wrong_and_what_could_be_read() {
    let place = tempfile::tempdir().unwrap();
    let dir = Dir::open(place.path()).unwrap();
    assert!(matches!(load(&dir, NAME), Loaded::Missing));
    let (_place, dir) = with(&FULL[..FULL.len() / 2]);
    let Loaded::Bad { why, salvaged } = load(&dir, NAME) else {
        panic!("half a file was read");
    };
    assert!(matches!(why, CheckpointFault::Form(_)), "{why}");
    assert_eq!(salvaged.holdings.pods().count(), 0);
    let (_place, dir) = with(&FULL.replace("dev-3", "dev-4"));
    let Loaded::Bad { why, salvaged } = load(&dir, NAME) else {
        panic!("a changed file was read");
    };
    assert!(
        matches!(
            why,
            CheckpointFault::Checksum {
                said: 396_352_806,
                ..
            }
        ),
        "{why}"
    );
    let ids = salvaged
        .holdings
        .ids("9f1d7e2c-uid", "app", "example.com/gpu");
    assert_eq!(ids.unwrap().len(), 2);
}
