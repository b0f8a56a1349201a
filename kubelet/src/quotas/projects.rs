//! `/etc/projects` and `/etc/projid` (xfs_quota(8)): which directories are of which projects, and the projects' names. Pure.
//!
//! In upstream's form, so that either agent finds what the other has given: `1048577:/var/lib/kubelet/pods/…` and
//! `volume1048577:1048577`. Lines that are somebody else's, or no such lines, stay as they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first project that is given out (upstream's).
pub(super) const FIRST: u32 = 1_048_577;
/// So many projects at most are looked at that no file names and that somebody uses all the same (upstream's).
const MOST_IN_USE: u32 = 129;

/// Both files, in lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Projects {
    directories: Vec<String>,
    names: Vec<String>,
}

/// The project and the directory of a line of `/etc/projects`.
fn directory(line: &str) -> Option<(u32, &str)> {
    let (id, path) = line.split_once(':')?;
    let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    Some((id.parse().ok().filter(|_| digits)?, path))
}

/// The project of a line of `/etc/projid`.
fn named(line: &str) -> Option<u32> {
    let (name, id) = line.split_once(':')?;
    let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    let good = digits && !name.is_empty() && !name.starts_with('#');
    id.parse().ok().filter(|_| good)
}

impl Projects {
    /// From the text of both files.
    pub(super) fn parse(directories: &str, names: &str) -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        Self {
            directories: lines(directories),
            names: lines(names),
        }
    }

    /// The text of both files.
    pub(super) fn text(&self) -> (String, String) {
        let text = |lines: &[String]| lines.iter().flat_map(|line| [line, "\n"]).collect();
        (text(&self.directories), text(&self.names))
    }

    /// The directories below `root` that have projects, with these.
    pub(super) fn below(&self, root: &Path) -> Vec<(PathBuf, u32)> {
        let lines = self.directories.iter();
        let all = lines.filter_map(|line| directory(line));
        all.filter(|(_, path)| Path::new(path).starts_with(root))
            .map(|(id, path)| (PathBuf::from(path), id))
            .collect()
    }

    /// The project of the directory `path`: the one that it has, or the first that no line names and nobody uses by
    /// `is_in_use`. None where there are too many of the latter.
    pub(super) fn add<E>(
        &mut self,
        path: &str,
        is_in_use: impl Fn(u32) -> Result<bool, E>,
    ) -> Result<Option<u32>, E> {
        let mut taken: BTreeSet<u32> = self.names.iter().filter_map(|line| named(line)).collect();
        for (id, has) in self.directories.iter().filter_map(|line| directory(line)) {
            if has == path {
                return Ok(Some(id));
            }
            taken.insert(id);
        }
        let mut looked = 0;
        for id in (FIRST..).filter(|id| !taken.contains(id)) {
            if !is_in_use(id)? {
                self.directories.push(format!("{id}:{path}"));
                self.names.push(format!("volume{id}:{id}"));
                return Ok(Some(id));
            }
            looked += 1;
            if looked == MOST_IN_USE {
                break;
            }
        }
        Ok(None)
    }

    /// Takes the directories out for which `goes` says so, and the names of projects that have no directory then.
    pub(super) fn remove(&mut self, goes: impl Fn(&Path) -> bool) {
        let mut gone = BTreeSet::new();
        self.directories.retain(|line| match directory(line) {
            Some((id, path)) if goes(Path::new(path)) => {
                gone.insert(id);
                false
            }
            _ => true,
        });
        for (id, _) in self.directories.iter().filter_map(|line| directory(line)) {
            gone.remove(&id);
        }
        self.names
            .retain(|line| !named(line).is_some_and(|id| gone.contains(&id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(_: u32) -> Result<bool, ()> {
        Ok(false)
    }

    #[test]
    fn a_directory_gets_the_first_free_project_and_keeps_it() {
        let mut projects = Projects::parse(
            "1048577:/a\n# a comment\n12:/srv\n",
            "volume1048577:1048577\nhome:1048578\n#x:1048579\n",
        );
        let id = projects.add("/pods/u/v", |id| Ok::<_, ()>(id == 1_048_579));
        assert_eq!(id, Ok(Some(1_048_580)), "77 and 78 have names, 79 files");
        assert_eq!(projects.add("/pods/u/v", free), Ok(Some(1_048_580)));
        assert_eq!(projects.add("/a", free), Ok(Some(1_048_577)));
        let (directories, names) = projects.text();
        assert_eq!(
            directories,
            "1048577:/a\n# a comment\n12:/srv\n1048580:/pods/u/v\n"
        );
        assert_eq!(
            names,
            "volume1048577:1048577\nhome:1048578\n#x:1048579\nvolume1048580:1048580\n"
        );
        assert_eq!(
            projects.below(Path::new("/pods")),
            [(PathBuf::from("/pods/u/v"), 1_048_580)]
        );
    }

    #[test]
    fn what_goes_leaves_the_lines_of_others() {
        let text = "1:/pods/u/a\n1:/srv/too\n2:/pods/u/b\n3:/pods/u2/a\nnonsense\n:/pods/u/c\n";
        let mut projects = Projects::parse(text, "one:1\ntwo:2\nthree:3\nnonsense\n");
        projects.remove(|path| path.starts_with("/pods/u"));
        let (directories, names) = projects.text();
        assert_eq!(
            directories,
            "1:/srv/too\n3:/pods/u2/a\nnonsense\n:/pods/u/c\n"
        );
        assert_eq!(names, "one:1\nthree:3\nnonsense\n");
    }

    #[test]
    fn nobody_looks_for_ever() {
        let mut projects = Projects::default();
        let asked = std::cell::Cell::new(0);
        let id = projects.add("/v", |_| {
            asked.set(asked.get() + 1);
            Ok::<_, ()>(true)
        });
        assert_eq!((id, asked.get()), (Ok(None), MOST_IN_USE));
        assert_eq!(projects, Projects::default());
        assert_eq!(projects.add("/v", |_| Err("no quotas")), Err("no quotas"));
    }
}
