//! Files in volumes that variables of containers come from (KEP-3721).

use std::io::Read as _;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};

use super::MountedVolumes;
use crate::runtime::convert::{EnvFile, EnvFiles};
use k8s_openapi::api::core::v1::Container;

/// Bytes of a file with variables; a larger one is none.
const MAX_FILE: u64 = 1 << 20;

/// Reads the files that the variables of `container` come from, anew for each start: another container of the pod may
/// have written them. Blocks on the disk.
#[must_use]
pub fn env_files(container: &Container, volumes: &MountedVolumes) -> EnvFiles {
    let variables = container.env.iter().flatten();
    let references = variables.filter_map(|variable| {
        let from = variable.value_from.as_ref()?;
        from.file_key_ref.as_ref()
    });
    let mut files = EnvFiles::new();
    for reference in references {
        let Some(volume) = volumes.get(&reference.volume_name) else {
            continue;
        };
        let key = (reference.volume_name.clone(), reference.path.clone());
        files.entry(key).or_insert_with(|| {
            let path = volume.path.join(reference.path.trim_start_matches('/'));
            let text = read(&volume.path, &reference.path);
            if let Err(error) = &text {
                tracing::warn!(path = %path.display(), %error, "no file of variables");
            }
            EnvFile {
                path: path.to_string_lossy().into_owned(),
                text: text.ok(),
            }
        });
    }
    files
}

/// The text of the file at `path` in `volume`, which is a root to it: neither a link nor a step back leads out.
fn read(volume: &std::path::Path, path: &str) -> std::io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = fs::open(volume, flags, Mode::empty())?;
    // Opening a named pipe would wait for somebody to write.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = fs::openat2(&root, path, flags, Mode::empty(), within)?;
    let invalid = |why| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(invalid("it is no regular file"));
    }
    let mut text = String::new();
    let file = std::fs::File::from(file);
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(invalid("it is larger than 1 MiB")),
        false => Ok(text),
    }
}
