//! The ids of the node that are for pods: those that `getsubids` has for the user `kubelet`, where there is such a user and
//! such a program, or else all but the first ones.

use std::io;
use std::ops::Range as Slots;
use std::path::Path;
use std::process::{Command, Stdio};

use super::range::Range;

/// Whose subordinate ids they are.
const USER: &str = "kubelet";
/// Of the package `uidmap`: what subuid(5) and subgid(5), or whoever stands in for them, have for a user.
pub(super) const PROGRAM: &str = "getsubids";

/// Why there are no ids for pods. In upstream's words; the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum OwnIdsError {
    /// The node's users.
    #[error("kubelet mappings: cannot read {path}")]
    Users {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `getsubids` cannot be run.
    #[error("kubelet mappings: cannot run {PROGRAM}")]
    Run(#[source] io::Error),
    /// `getsubids` says that it has failed, or that the user has none.
    #[error("kubelet mappings: error retrieving additional {kind} for user {USER:?}: {how}")]
    None {
        /// `uids` or `gids`.
        kind: &'static str,
        /// `exit status: 1`.
        how: String,
    },
    /// Users and groups have others.
    #[error("kubelet mappings: mismatched subuids and subgids for user {USER:?}")]
    Mismatch,
    /// More than one range.
    #[error("kubelet mappings: error parsing line {0:?}: it must contain only one line")]
    Lines(String),
    /// Not of the form `0: kubelet 65536 7208960`.
    #[error("kubelet mappings: invalid line {0:?}")]
    Line(String),
    /// The first is on no boundary.
    #[error("kubelet user assigned ID {first} is not a multiple of {per_pod}")]
    Unaligned {
        /// The first id.
        first: u32,
        /// `userNamespaces.idsPerPod`.
        per_pod: u32,
    },
    /// The node's own ids are among them.
    #[error("kubelet user assigned ID {first} must be greater or equal to {per_pod}")]
    TooLow {
        /// The first id.
        first: u32,
        /// `userNamespaces.idsPerPod`.
        per_pod: u32,
    },
    /// They are not for a whole number of pods.
    #[error("kubelet user assigned IDs length {length} is not a multiple of {per_pod}")]
    Uneven {
        /// How many there are.
        length: u32,
        /// `userNamespaces.idsPerPod`.
        per_pod: u32,
    },
    /// There are not so many ids at all.
    #[error("kubelet user assigned IDs: {length} from {first} on are more than there are")]
    TooMany {
        /// The first id.
        first: u32,
        /// How many there are to be.
        length: u32,
    },
    /// There are fewer ranges than there may be pods.
    #[error("kubelet user assigned IDs are not enough to support {max_pods} pods")]
    TooFew {
        /// `maxPods`.
        max_pods: u32,
    },
}

/// The ids that are for pods, in ranges of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnIds {
    first: u32,
    per_pod: u32,
    count: u32,
}

impl OwnIds {
    /// `length` ids from `first` on, `per_pod` for each pod, of which there may be `max_pods`.
    pub(super) fn new(
        first: u32,
        length: u32,
        per_pod: u32,
        max_pods: u32,
    ) -> Result<Self, OwnIdsError> {
        if !first.is_multiple_of(per_pod) {
            return Err(OwnIdsError::Unaligned { first, per_pod });
        }
        if first < per_pod {
            return Err(OwnIdsError::TooLow { first, per_pod });
        }
        if !length.is_multiple_of(per_pod) {
            return Err(OwnIdsError::Uneven { length, per_pod });
        }
        let count = length / per_pod;
        if count < max_pods {
            return Err(OwnIdsError::TooFew { max_pods });
        }
        // Upstream leaves this out, and would begin with the node's own ids again.
        if length > 0 && Range::new(first, length).is_none() {
            return Err(OwnIdsError::TooMany { first, length });
        }
        Ok(Self {
            first,
            per_pod,
            count,
        })
    }

    /// Those of this machine, by its `users` (passwd(5)) and what `program` says of one of them.
    pub(super) fn of_machine(
        (users, program): (&Path, &str),
        per_pod: u32,
        max_pods: u32,
    ) -> Result<Self, OwnIdsError> {
        // `getsubids` may ask elsewhere, and does not tell a user without ids from an answer that has not come: where there
        // is the user, there have to be ids.
        let configured = match has_user(users)? {
            true => ask(program)?,
            false => None,
        };
        let (first, length) = configured.unwrap_or((per_pod, 0_u32.wrapping_sub(per_pod)));
        tracing::debug!(first, length, per_pod, "ids for user namespaces of pods");
        Self::new(first, length, per_pod, max_pods)
    }

    /// How many ranges there are.
    pub(super) fn count(self) -> u32 {
        self.count
    }

    /// The range with this number, from 0.
    pub(super) fn range(self, slot: u32) -> Option<Range> {
        let first = self.first.checked_add(slot.checked_mul(self.per_pod)?)?;
        (slot < self.count).then(|| Range::new(first, self.per_pod))?
    }

    /// The number of `range`; none where it is none of these.
    pub(super) fn slot(self, range: Range) -> Option<u32> {
        let slot = range.first().checked_sub(self.first)? / self.per_pod;
        (self.range(slot) == Some(range)).then_some(slot)
    }

    /// The numbers of those that have an id in common with `range`.
    pub(super) fn slots_under(self, range: Range) -> Slots<u32> {
        let per_pod = u64::from(self.per_pod);
        let slot = |id: u64| id.saturating_sub(u64::from(self.first)) / per_pod;
        let end = slot(range.end() + per_pod - 1).min(u64::from(self.count));
        let begin = slot(u64::from(range.first())).min(end);
        // Both are at most the count.
        let number = |slot: u64| u32::try_from(slot).unwrap_or(self.count);
        number(begin)..number(end)
    }
}

/// Whether the node has the user, by the file that the C library would look at first. (What other databases have is not
/// asked: no library of theirs is in this program.)
fn has_user(users: &Path) -> Result<bool, OwnIdsError> {
    match std::fs::read_to_string(users) {
        Ok(text) => Ok(text
            .lines()
            .any(|line| line.split(':').next() == Some(USER))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(OwnIdsError::Users {
            path: users.display().to_string(),
            source,
        }),
    }
}

/// What the program says; none where it is not there.
fn ask(program: &str) -> Result<Option<(u32, u32)>, OwnIdsError> {
    let run = |kind: &'static str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OwnIdsError::Run(source)),
            Ok(output) if output.status.success() => {
                Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
            }
            Ok(output) => Err(OwnIdsError::None {
                kind,
                how: output.status.to_string(),
            }),
        }
    };
    let Some(uids) = run("uids", &[USER])? else {
        tracing::info!("there is no {PROGRAM}: user namespaces of pods have the default ids");
        return Ok(None);
    };
    match run("gids", &["-g", USER])? {
        Some(gids) if gids == uids => parse(&uids).map(Some),
        _ => Err(OwnIdsError::Mismatch),
    }
}

/// First id and length of `0: kubelet 65536 7208960`.
fn parse(output: &str) -> Result<(u32, u32), OwnIdsError> {
    let trimmed = output.trim_matches('\n');
    if trimmed.contains('\n') {
        return Err(OwnIdsError::Lines(output.to_owned()));
    }
    let wrong = || OwnIdsError::Line(output.to_owned());
    let words: Vec<&str> = trimmed.split_whitespace().collect();
    let [_, _, first, length] = words.as_slice() else {
        return Err(wrong());
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    Ok((number(first)?, number(length)?))
}

#[cfg(test)]
mod tests {
    use super::super::range::UNIT;
    use super::*;

    fn own(first: u32, length: u32, per_pod: u32, max_pods: u32) -> Result<OwnIds, String> {
        let own = OwnIds::new(first * UNIT, length * UNIT, per_pod * UNIT, max_pods);
        own.map_err(|error| error.to_string())
    }

    /// In upstream's words.
    #[test]
    fn ids_that_are_of_no_use_are_refused() {
        assert!(own(1, 110, 1, 110).is_ok());
        let refused = |first, length, per_pod| own(first, length, per_pod, 110).unwrap_err();
        assert_eq!(
            refused(3, 220, 2),
            "kubelet user assigned ID 196608 is not a multiple of 131072"
        );
        assert_eq!(
            refused(0, 220, 1),
            "kubelet user assigned ID 0 must be greater or equal to 65536"
        );
        assert_eq!(
            refused(2, 221, 2),
            "kubelet user assigned IDs length 14483456 is not a multiple of 131072"
        );
        assert_eq!(
            refused(1, 109, 1),
            "kubelet user assigned IDs are not enough to support 110 pods"
        );
        let beyond = own(65_000, 600, 1, 110).unwrap_err();
        assert!(beyond.ends_with("are more than there are"), "{beyond}");
        let off = OwnIds::new(UNIT + 1, 110 * UNIT, UNIT, 1).unwrap_err();
        assert_eq!(
            off.to_string(),
            "kubelet user assigned ID 65537 is not a multiple of 65536"
        );
    }

    #[test]
    fn without_the_user_all_ids_are_for_pods_but_the_first_ones() {
        let users = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(users.path(), "root:x:0:0::/:/bin/sh\nkubelets:x:7:7::/:\n").unwrap();
        let own = |per_pod, max| OwnIds::of_machine((users.path(), "false"), per_pod, max);
        let of_default = own(UNIT, 110).unwrap();
        assert_eq!(of_default.count(), 65_535);
        assert_eq!(of_default.range(0).unwrap().first(), UNIT);
        let last = of_default.range(65_534).unwrap();
        assert_eq!(last.end(), 1 << 32);
        assert_eq!(of_default.range(65_535), None);
        let half = own(1 << 31, 1).unwrap();
        assert_eq!((half.first, half.count()), (1 << 31, 1));
        assert!(matches!(own(1 << 31, 2), Err(OwnIdsError::TooFew { .. })));
        let nobody = Path::new("/nonexistent/passwd");
        let missing = OwnIds::of_machine((nobody, "false"), UNIT, 110);
        assert_eq!(missing.unwrap(), of_default);
    }

    /// Where there are both, there have to be ids.
    #[test]
    fn with_the_user_the_program_is_asked() {
        let users = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(users.path(), "kubelet:x:7:7::/:\n").unwrap();
        let own = |program| OwnIds::of_machine((users.path(), program), UNIT, 110);
        assert_eq!(own("/nonexistent/getsubids").unwrap().count(), 65_535);
        assert_eq!(
            own("false").unwrap_err().to_string(),
            "kubelet mappings: error retrieving additional uids for user \"kubelet\": exit status: 1"
        );
        assert_eq!(
            own("echo").unwrap_err().to_string(),
            "kubelet mappings: mismatched subuids and subgids for user \"kubelet\"",
            "one says kubelet, the other -g kubelet"
        );
        assert!(matches!(own("true"), Err(OwnIdsError::Line(_))));
    }

    #[test]
    fn the_user_is_known_by_its_whole_name() {
        let users = tempfile::NamedTempFile::new().unwrap();
        let has = |text: &str| {
            std::fs::write(users.path(), text).unwrap();
            has_user(users.path()).unwrap()
        };
        assert!(has(
            "root:x:0:0::/:/bin/sh\nkubelet:x:900:900::/:/bin/false\n"
        ));
        assert!(!has(
            "root:x:0:0:kubelet:/kubelet:/bin/kubelet\nkubelet2:x:1:1::/:\n"
        ));
        assert!(!has(""));
    }

    #[test]
    fn numbers_and_ranges_belong_together() {
        let own = own(4, 6, 2, 3).unwrap();
        let range = |first: u32, length: u32| Range::new(first * UNIT, length * UNIT).unwrap();
        for slot in 0..3 {
            assert_eq!(own.slot(own.range(slot).unwrap()), Some(slot));
        }
        for other in [range(5, 2), range(2, 2), range(10, 2), range(4, 4)] {
            assert_eq!(own.slot(other), None, "{other}");
        }
        assert_eq!(own.slots_under(range(5, 2)), 0..2);
        assert_eq!(own.slots_under(range(1, 3)), 0..0);
        assert_eq!(own.slots_under(range(1, 4)), 0..1);
        assert_eq!(own.slots_under(range(9, 90)), 2..3);
        assert_eq!(own.slots_under(range(10, 1)), 3..3);
    }

    #[test]
    fn what_getsubids_says_is_read_as_upstream_reads_it() {
        assert_eq!(
            parse("0: kubelet 65536 7208960\n").unwrap(),
            (65_536, 7_208_960)
        );
        assert!(matches!(
            parse("0: kubelet 65536 65536\n1: kubelet 262144 65536\n"),
            Err(OwnIdsError::Lines(_))
        ));
        for wrong in [
            "",
            "0: kubelet 65536",
            "0: kubelet x 65536",
            "0: kubelet 1 4294967296",
        ] {
            assert!(matches!(parse(wrong), Err(OwnIdsError::Line(_))), "{wrong}");
        }
    }
}
