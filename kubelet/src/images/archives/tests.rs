use std::io::{Read as _, Seek as _, Write as _};

use serde_json::json;

use super::layout::{images, uncompressed};
use super::parts::{ArchivedImage, describe};
use super::*;

/// An archive of files by their paths; a target instead of content makes a link.
fn archive(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> File {
    let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    for (path, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, path, target).unwrap();
    }
    let mut file = tar.into_inner().unwrap();
    file.rewind().unwrap();
    file
}

const LAYER: &[u8] = b"a layer";
const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux"}"#;

fn blob(bytes: &[u8]) -> (String, String) {
    let digest = describe("", bytes).digest;
    let path = format!("blobs/{}", digest.replace(':', "/"));
    (digest, path)
}

/// An OCI layout with the image under `annotations`, whose index also has a platform that is not in the archive.
fn oci(annotations: serde_json::Value, leave_out: Option<&[u8]>) -> File {
    let describe = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": blob(bytes).0, "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": describe("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", LAYER)],
    })
    .to_string();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let platforms = json!({"schemaVersion": 2, "manifests": [
        describe(manifest_type, manifest.as_bytes()), describe(manifest_type, b"elsewhere"),
    ]})
    .to_string();
    let mut target = describe(
        "application/vnd.oci.image.index.v1+json",
        platforms.as_bytes(),
    );
    target["annotations"] = annotations;
    let index = json!({"schemaVersion": 2, "manifests": [target]}).to_string();
    let blobs = [LAYER, CONFIG, manifest.as_bytes(), platforms.as_bytes()];
    let blobs = blobs.into_iter().filter(|bytes| Some(*bytes) != leave_out);
    let blobs: Vec<_> = blobs.map(|bytes| (blob(bytes).1, bytes)).collect();
    let mut files: Vec<(&str, &[u8])> =
        vec![("./index.json", index.as_bytes()), ("oci-layout", b"{}")];
    files.extend(blobs.iter().map(|(path, bytes)| (path.as_str(), *bytes)));
    archive(&files, &[])
}

/// The bytes of each blob of `image` by digest, which they have to have.
fn check(file: &File, image: &ArchivedImage) {
    for blob in &image.blobs {
        let mut bytes = vec![0; usize::try_from(blob.descriptor.size).unwrap() + 1];
        let read = blob.source.read(file, 0, &mut bytes).unwrap();
        bytes.truncate(read);
        assert_eq!(describe("", &bytes).digest, blob.descriptor.digest);
    }
    assert_eq!(image.blobs.last().unwrap().descriptor, image.target);
}

#[test]
fn an_oci_layout_has_its_images_and_all_they_consist_of() {
    let name = json!({"io.containerd.image.name": "docker.io/library/busybox:1.36"});
    let file = oci(name, None);
    let found = images(&file).unwrap();
    let [image] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(image.names, ["docker.io/library/busybox:1.36"]);
    assert_eq!(image.blobs.len(), 4);
    check(&file, image);
    let labels: Vec<_> = image.blobs.iter().flat_map(|b| &b.refers_to).collect();
    let of = |what: &str| {
        labels
            .iter()
            .filter(|(label, _)| label.ends_with(what))
            .count()
    };
    assert_eq!(
        (of(".m.0"), of(".config"), of(".l.0")),
        (1, 1, 1),
        "{labels:?}"
    );
    let by_reference = json!({"org.opencontainers.image.ref.name": "registry.test:5000/a/b:v1"});
    assert_eq!(
        images(&oci(by_reference, None)).unwrap()[0].names,
        ["registry.test:5000/a/b:v1"]
    );
}

#[test]
fn what_is_wrong_with_an_archive_is_said() {
    let name = || json!({"io.containerd.image.name": "busybox:1"});
    let cases: [(File, &str); 5] = [
        (archive(&[("a", b"")], &[]), "it is no archive of images"),
        (
            oci(json!({"org.opencontainers.image.ref.name": "latest"}), None),
            "no image in it has a name",
        ),
        (oci(name(), Some(LAYER)), "is missing in it"),
        (
            archive(&[("index.json", b"{")], &[]),
            "index.json in it is not understood",
        ),
        (
            archive(
                &[(
                    "index.json",
                    br#"{"manifests": [{"digest": "sha256:../../etc/passwd", "size": 1,
            "annotations": {"io.containerd.image.name": "a:1"}}]}"#,
                )],
                &[],
            ),
            "is no sha256 digest",
        ),
    ];
    for (file, expected) in cases {
        let refused = images(&file).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let mut no_tar = tempfile::tempfile().unwrap();
    no_tar.write_all(&[0x55; 4096]).unwrap();
    no_tar.rewind().unwrap();
    assert!(images(&no_tar).is_err());
}

#[test]
fn what_docker_saved_of_old_is_an_image_too() {
    let saved = json!([{"Config": "abc.json", "RepoTags": ["busybox:1.36", "other/name:2"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}])
    .to_string();
    let files: [(&str, &[u8]); 3] = [
        ("abc.json", CONFIG),
        ("one/layer.tar", LAYER),
        ("manifest.json", saved.as_bytes()),
    ];
    let file = archive(&files, &[("two/layer.tar", "../one/layer.tar")]);
    let found = images(&file).unwrap();
    let [image] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        image.names,
        ["docker.io/library/busybox:1.36", "docker.io/other/name:2"]
    );
    assert_eq!(image.blobs.len(), 4);
    check(&file, image);
    let untagged = json!([{"Config": "abc.json", "RepoTags": null, "Layers": []}]).to_string();
    let file = archive(
        &[("manifest.json", untagged.as_bytes()), ("abc.json", CONFIG)],
        &[],
    );
    assert!(
        images(&file)
            .unwrap_err()
            .to_string()
            .contains("no image in it has a name")
    );
}

#[test]
fn a_compressed_archive_is_unpacked_into_a_file_without_a_name() {
    let scratch = tempfile::tempdir().unwrap();
    let mut plain = oci(json!({"io.containerd.image.name": "busybox:1"}), None);
    let mut bytes = Vec::new();
    plain.read_to_end(&mut bytes).unwrap();
    let packed =
        flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
    let mut packed = packed;
    packed.write_all(&bytes).unwrap();
    let mut packed = packed.finish().unwrap();
    packed.rewind().unwrap();
    let unpacked = uncompressed(packed, scratch.path()).unwrap();
    assert_eq!(images(&unpacked).unwrap().len(), 1);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn only_whole_files_with_the_right_ending_are_archives() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a.tar", "b.tar.gz", "c.tgz", "d.txt", ".e.tar", "tar"] {
        fs::write(temp.path().join(name), "x").unwrap();
    }
    fs::create_dir(temp.path().join("f.tar")).unwrap();
    let found = found_in(temp.path());
    let names: Vec<_> = found
        .keys()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["a.tar", "b.tar.gz", "c.tgz"]);
}

#[tokio::test]
async fn a_look_at_the_directory_is_no_change_of_it() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("a.tar"), "x").unwrap();
    let (changed, mut changes) = watch::channel(());
    let _watcher = watch_directory(temp.path(), changed).expect("it is watched");
    let look = || {
        assert_eq!(found_in(temp.path()).len(), 1);
        fs::read(temp.path().join("a.tar")).unwrap()
    };
    look();
    let told = tokio::time::timeout(Duration::from_millis(500), changes.changed()).await;
    assert!(told.is_err(), "it would be looked at again and again");
    fs::write(temp.path().join("a.tar"), "more").unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), changes.changed()).await;
    told.expect("a change is told").unwrap();
}
