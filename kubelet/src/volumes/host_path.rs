//! hostPath: a file or directory of the node itself, the administrator's and resolved from `/`.

use std::fs::{self, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::SetUpError;

/// Checks that what is at the path is of the type the spec asks for, and makes it where the type says so. Links are
/// followed.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<PathBuf, SetUpError> {
    let path = source.path.as_str();
    if path.split('/').any(|step| step == "..") {
        return Err(SetUpError::HostPathSteps(path.to_owned()));
    }
    let present = || fs::metadata(path).map(|metadata| metadata.file_type());
    let create = |made: io::Result<()>| {
        made.map_err(|source| SetUpError::HostPathCreate {
            path: path.to_owned(),
            source,
        })
    };
    let is = |wanted: &'static str, check: fn(&FileType) -> bool| match present() {
        Ok(kind) if check(&kind) => Ok(()),
        _ => Err(SetUpError::HostPathType {
            path: path.to_owned(),
            wanted,
        }),
    };
    match source.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" => {
            if present().is_err() {
                let mut builder = fs::DirBuilder::new();
                create(builder.recursive(true).mode(0o755).create(path))?;
            }
            is("directory", FileType::is_dir)?;
        }
        "FileOrCreate" => {
            if present().is_err() {
                // The directory it lies in is not made.
                let mut options = OpenOptions::new();
                let options = options.write(true).create(true).truncate(false).mode(0o644);
                create(options.open(path).map(drop))?;
            }
            is("file", FileType::is_file)?;
        }
        "Directory" => is("directory", FileType::is_dir)?,
        "File" => is("file", FileType::is_file)?,
        "Socket" => is("socket file", FileType::is_socket)?,
        "CharDevice" => is("character device", FileType::is_char_device)?,
        "BlockDevice" => is("block device", FileType::is_block_device)?,
        other => return Err(SetUpError::HostPathUnknownType(other.to_owned())),
    }
    Ok(PathBuf::from(path))
}
