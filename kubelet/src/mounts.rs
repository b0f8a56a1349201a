//! The mount table of the agent's own mount namespace (`/proc/self/mountinfo`, proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the filesystem's device.
    pub device: String,
    /// What of the filesystem is mounted: `/` for all of it.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// `tmpfs`, `cgroup2` …
    pub fs_type: String,
    /// Options of the filesystem, such as the controllers of a `cgroup` mount.
    pub super_options: Vec<String>,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// When the table cannot be read.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts strictly below `dir`, the last made first: the order in which they can be unmounted.
///
/// # Errors
/// When the table cannot be read or `dir` cannot be resolved; a `dir` that is not there has nothing mounted below it.
pub fn below(dir: &Path) -> io::Result<Vec<Mount>> {
    // The table has no links in its paths.
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut mounts = read()?;
    mounts.retain(|mount| mount.mount_point != dir && mount.mount_point.starts_with(&dir));
    mounts.reverse();
    Ok(mounts)
}

/// Where else than at `path` the directory of that path is mounted.
///
/// # Errors
/// When the table cannot be read or `path` cannot be resolved.
pub fn of_same(path: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(same_in(read()?, &path.canonicalize()?))
}

fn same_in(table: Vec<Mount>, path: &Path) -> Vec<PathBuf> {
    let above = table.iter().filter(|m| path.starts_with(&m.mount_point));
    // Of several at one place the last one counts.
    let on = above.max_by_key(|m| m.mount_point.components().count());
    let Some((device, root)) = on.and_then(|on| {
        let below = path.strip_prefix(&on.mount_point).ok()?;
        // Joining an empty path would end it with a slash.
        let root: PathBuf = on.root.components().chain(below.components()).collect();
        Some((on.device.clone(), root))
    }) else {
        return Vec::new();
    };
    let same = table.into_iter().filter(|m| m.device == device);
    let same = same.filter(|m| m.root == root && m.mount_point != path);
    same.map(|m| m.mount_point).collect()
}

fn parse(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|&byte| byte == b'\n');
    lines.filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point options… - type source super,options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').skip(2);
    let device = String::from_utf8_lossy(fields.next()?).into_owned();
    let root = OsString::from_vec(unescape(fields.next()?)).into();
    let mount_point = OsString::from_vec(unescape(fields.next()?)).into();
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let options = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    Some(Mount {
        device,
        root,
        mount_point,
        fs_type,
        super_options: options.split(',').map(str::to_owned).collect(),
    })
}

/// Undoes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        let octal = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(*byte);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_with_and_without_optional_fields() {
        let table = b"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            40 1 0:9 / /a\\040b\\134c rw shared:1 master:2 - tmpfs no\\040ne rw,size=4k\nbroken line\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].fs_type, "cgroup");
        assert_eq!(mounts[0].super_options, ["rw", "cpu", "cpuacct"]);
        assert_eq!(mounts[1].mount_point, Path::new("/a b\\c"));
        assert_eq!(
            (&*mounts[1].device, &*mounts[1].root),
            ("0:9", Path::new("/"))
        );
        assert_eq!(mounts[1].fs_type, "tmpfs");
    }

    #[test]
    fn the_same_directory_is_found_wherever_it_is_mounted() {
        let table = b"1 0 8:1 / / rw - ext4 a rw\n\
            2 1 8:1 /data/a /pods/1 rw - ext4 a rw\n\
            3 1 8:1 /data/b /pods/2 rw - ext4 a rw\n\
            4 1 8:2 / /disk rw - ext4 b rw\n\
            5 1 8:2 / /pods/3 rw - ext4 b rw\n\
            6 1 8:3 /data/a /other rw - ext4 c rw\n";
        let same = |path: &str| same_in(parse(table), Path::new(path));
        assert_eq!(same("/data/a"), [Path::new("/pods/1")]);
        assert_eq!(same("/pods/1"), [] as [&Path; 0], "the origin is no mount");
        assert_eq!(same("/disk"), [Path::new("/pods/3")]);
        assert_eq!(same("/pods/3"), [Path::new("/disk")]);
        assert_eq!(same("/data"), [] as [&Path; 0]);
        assert_eq!(same("/"), [] as [&Path; 0]);
    }

    #[test]
    fn the_real_table_has_the_root() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|m| m.mount_point == Path::new("/")));
        assert!(below(Path::new("/none-such-dir")).unwrap().is_empty());
        let below_proc = below(Path::new("/")).unwrap();
        assert!(
            below_proc
                .iter()
                .any(|m| m.mount_point == Path::new("/proc"))
        );
        assert!(!below_proc.iter().any(|m| m.mount_point == Path::new("/")));
    }
}
