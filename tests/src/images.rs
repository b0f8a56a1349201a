//! The container images that tests and demo run, made from Debian's own static binaries.
//!
//! Owns: one OCI archive with every image. Inputs: `/usr/bin/busybox` (busybox-static) and `/usr/bin/catatonit`.
//! Output: the path of the archive, kept in the target directory and made again when a binary or this recipe
//! changes. Nothing is pulled and no tool but this code is needed; the same binaries give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The sandbox image of the private nodes.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// A busybox with every applet in `/bin`, a web page in `/www`, and the users `root`, `app` (1000), `nobody` (65534).
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
/// Busybox whose image config says user `65534`.
pub const NUMERIC_USER: &str = "docker.io/library/numeric-user:1.0";
/// Busybox whose image config says user `app`.
pub const NAMED_USER: &str = "docker.io/library/named-user:1.0";
/// What `/www/index.html` of [`BUSYBOX`] holds.
pub const INDEX_HTML: &str = "hello from busybox\n";

const BUSYBOX_BINARY: &str = "/usr/bin/busybox";
const PAUSE_BINARY: &str = "/usr/bin/catatonit";
/// Part of the cached archive's name: raise it when what an image holds changes.
const RECIPE: &str = "1";

/// The archive with all images, made when there is none for the binaries of this machine.
///
/// # Errors
/// When a binary is missing (`tests/install.sh` installs them) or the archive cannot be written.
pub fn archive(cache: &Path) -> Result<PathBuf> {
    let busybox = read_binary(BUSYBOX_BINARY, "busybox-static")?;
    let pause = read_binary(PAUSE_BINARY, "catatonit")?;
    let mut key = Sha256::new();
    for part in [RECIPE.as_bytes(), &busybox, &pause] {
        key.update((part.len() as u64).to_le_bytes());
        key.update(part);
    }
    let path = cache.join(format!("test-images-{}.tar", &hex(&key.finalize())[..16]));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
    let mut out = tempfile::NamedTempFile::new_in(cache).context("create the image archive")?;
    out.write_all(&build(&busybox, &pause, &applets()?)?)
        .context("write the image archive")?;
    out.persist(&path)
        .with_context(|| format!("move the image archive to {}", path.display()))?;
    Ok(path)
}

fn read_binary(path: &str, package: &str) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {path} of the package {package}"))
}

fn applets() -> Result<Vec<String>> {
    let out = Command::new(BUSYBOX_BINARY)
        .arg("--list")
        .output()
        .context("ask busybox for its applets")?;
    ensure!(out.status.success(), "busybox --list: {}", out.status);
    let names = String::from_utf8(out.stdout).context("busybox --list")?;
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

fn build(busybox: &[u8], pause: &[u8], applets: &[String]) -> Result<Vec<u8>> {
    let mut layout = Layout::default();

    let mut layer = Layer::default();
    layer.file("pause", 0o755, pause)?;
    let pause_layer = layout.blob(layer.finish()?);
    layout.image(
        &[PAUSE],
        &[&pause_layer],
        json!({ "Entrypoint": ["/pause", "-P"], "WorkingDir": "/" }),
    )?;

    let rootfs = layout.blob(rootfs(busybox, applets)?);
    let rootfs = [&rootfs];
    let env = json!(["PATH=/bin"]);
    layout.image(&[BUSYBOX], &rootfs, json!({ "Cmd": ["sh"], "Env": env }))?;
    for (name, user) in [(NUMERIC_USER, "65534"), (NAMED_USER, "app")] {
        let config = json!({ "Cmd": ["sh"], "Env": env, "User": user });
        layout.image(&[name], &rootfs, config)?;
    }
    layout.finish()
}

/// An image by its parts, as a registry has them.
#[derive(Debug)]
pub struct Parts {
    /// Every part by its digest in hexadecimal, the manifest among them.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// The manifest's digest in hexadecimal.
    pub manifest: String,
    /// The digest of the layer of its own, likewise.
    pub layer: String,
}

/// The image of [`BUSYBOX`] with the file `/own` in a layer of its own, so that it is another for other bytes.
///
/// # Errors
/// When the binary is missing.
pub fn busybox_with(own: &[u8]) -> Result<Parts> {
    let mut layout = Layout::default();
    let (manifest, layer) = layout.busybox_with(&[], own)?;
    Ok(Parts {
        blobs: layout.blobs,
        manifest,
        layer,
    })
}

/// An archive with that image, which containerd imports as `name`.
///
/// # Errors
/// As there.
pub fn archive_of_busybox_with(name: &str, own: &[u8]) -> Result<Vec<u8>> {
    let mut layout = Layout::default();
    layout.busybox_with(&[name], own)?;
    layout.finish()
}

/// The layer of busybox, all of its applets, and a few users.
fn rootfs(busybox: &[u8], applets: &[String]) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("var", 0o755),
        ("www", 0o755),
    ] {
        layer.dir(dir, mode)?;
    }
    layer.file("bin/busybox", 0o755, busybox)?;
    for applet in applets {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    layer.file("etc/passwd", 0o644, passwd.as_bytes())?;
    layer.file(
        "etc/group",
        0o644,
        b"root:x:0:\napp:x:1000:\nnobody:x:65534:\n",
    )?;
    layer.file("www/index.html", 0o644, INDEX_HTML.as_bytes())?;
    layer.finish()
}

/// One uncompressed layer: owner root, time 0, so that the bytes depend on the contents alone.
struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Layer {
    fn entry(&mut self, kind: tar::EntryType, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, data.len());
        self.0
            .append_data(&mut header, path, data)
            .with_context(|| format!("add {path} to a layer"))
    }

    fn dir(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(tar::EntryType::Directory, path, mode, &[])
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entry(tar::EntryType::Regular, path, mode, data)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.0
            .append_link(&mut header, path, target)
            .with_context(|| format!("add {path} to a layer"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("finish a layer")
    }
}

fn header(kind: tar::EntryType, mode: u32, len: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(len as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// An OCI image layout (image-spec v1, `image-layout.md`) in the making.
#[derive(Default)]
struct Layout {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

/// A blob's digest in hexadecimal, and its size in bytes.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{media_type}"),
            "digest": format!("sha256:{}", self.digest),
            "size": self.size,
        })
    }
}

impl Layout {
    /// Adds the image of busybox with a layer of its own; tells the digests of its manifest and of that layer.
    fn busybox_with(&mut self, names: &[&str], own: &[u8]) -> Result<(String, String)> {
        let busybox = read_binary(BUSYBOX_BINARY, "busybox-static")?;
        let rootfs = self.blob(rootfs(&busybox, &applets()?)?);
        let mut layer = Layer::default();
        layer.file("own", 0o644, own)?;
        let layer = self.blob(layer.finish()?);
        let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
        let manifest = self.image(names, &[&rootfs, &layer], config)?;
        Ok((manifest.digest, layer.digest))
    }

    fn blob(&mut self, data: Vec<u8>) -> Blob {
        let digest = hex(&Sha256::digest(&data));
        let size = data.len();
        self.blobs.insert(digest.clone(), data);
        Blob { digest, size }
    }

    /// Adds the manifest and the configuration of an image; tells the manifest.
    fn image(&mut self, names: &[&str], layers: &[&Blob], config: Value) -> Result<Blob> {
        let of_each =
            |of: &dyn Fn(&Blob) -> Value| layers.iter().map(|l| of(l)).collect::<Vec<_>>();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            // No layer is compressed: its diff id is its digest.
            "rootfs": {
                "type": "layers",
                "diff_ids": of_each(&|layer| json!(format!("sha256:{}", layer.digest))),
            },
        });
        let config = self.blob(serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("config.v1+json"),
            "layers": of_each(&|layer| layer.descriptor("layer.v1.tar")),
        });
        let manifest = self.blob(serde_json::to_vec(&manifest)?);
        for name in names {
            let mut descriptor = manifest.descriptor("manifest.v1+json");
            // The annotation containerd takes the image's name from when it imports.
            descriptor["annotations"] = json!({ "io.containerd.image.name": name });
            self.manifests.push(descriptor);
        }
        Ok(manifest)
    }

    fn finish(self) -> Result<Vec<u8>> {
        let mut out = Layer::default();
        out.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        out.file("index.json", 0o644, &serde_json::to_vec(&index)?)?;
        for (digest, data) in &self.blobs {
            out.file(&format!("blobs/sha256/{digest}"), 0o644, data)?;
        }
        out.finish()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_binaries_give_the_same_archive() {
        let applets = ["sh".to_owned(), "cat".to_owned()];
        let one = build(b"busybox", b"pause", &applets).unwrap();
        assert_eq!(one, build(b"busybox", b"pause", &applets).unwrap());
        assert_ne!(one, build(b"busybox", b"other", &applets).unwrap());
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_every_image_by_its_name() {
        let bytes = build(b"busybox", b"pause", &["sh".to_owned()]).unwrap();
        let mut names = Vec::new();
        let mut blobs = 0;
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, hex(&Sha256::digest(&data)));
                blobs += 1;
            } else if path == "index.json" {
                let index: Value = serde_json::from_slice(&data).unwrap();
                for manifest in index["manifests"].as_array().unwrap() {
                    let name = &manifest["annotations"]["io.containerd.image.name"];
                    names.push(name.as_str().unwrap().to_owned());
                }
            }
        }
        // Two layers; a config and a manifest for each of four images.
        assert_eq!(blobs, 2 + 4 * 2);
        assert_eq!(names, [PAUSE, BUSYBOX, NUMERIC_USER, NAMED_USER]);
    }
}
