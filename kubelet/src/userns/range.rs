//! A run of user and group ids of the node, and the file that keeps whose it is.
//!
//! The file is upstream's, so that either agent finds what the other has given:
//! `{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[…the same…]}`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Ranges begin at, and are as long as, a multiple of this: the ids that a program may count on (KEP-127).
pub const UNIT: u32 = 65_536;

/// One more than the highest id there is.
const ALL: u64 = 1 << 32;

/// The ids of the node that the ids from 0 on of a pod stand for, users and groups alike. Never the node's own first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    length: u32,
}

impl Range {
    /// The `length` ids from `first` on; none where that is no range: empty, off [`UNIT`], beyond the last id, or with the
    /// node's root in it.
    #[must_use]
    pub fn new(first: u32, length: u32) -> Option<Self> {
        let whole = first.is_multiple_of(UNIT) && length.is_multiple_of(UNIT);
        let inside = u64::from(first) + u64::from(length) <= ALL;
        (whole && inside && first > 0 && length > 0).then_some(Self { first, length })
    }

    /// The node's id for the pod's root.
    #[must_use]
    pub fn first(self) -> u32 {
        self.first
    }

    /// How many ids there are.
    #[must_use]
    pub fn length(self) -> u32 {
        self.length
    }

    /// The end, one beyond the last id.
    pub(super) fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.length)
    }

    /// Whether the two have an id in common.
    pub(super) fn overlaps(self, other: Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.length)
    }
}

/// Why a file says nothing of use, in upstream's words where it has any.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("invalid user namespace mappings file")]
    Form(#[from] serde_json::Error),
    #[error("invalid user namespace configuration: no more than one mapping allowed.")]
    Count,
    #[error("invalid user namespace configuration: GID and UID mapping should be identical")]
    Differ,
    #[error("invalid user namespace configuration: UID 0 must be mapped")]
    NoRoot,
    #[error("wrong user namespace: {length} ids from {first} on")]
    Range { first: u32, length: u32 },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    #[serde(default)]
    uid_mappings: Vec<Mapping>,
    #[serde(default)]
    gid_mappings: Vec<Mapping>,
}

// What is left out is nought to upstream's decoder.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The file's content.
pub(super) fn encode(range: Range) -> Result<Vec<u8>, serde_json::Error> {
    let one = Mapping {
        host_id: range.first,
        container_id: 0,
        length: range.length,
    };
    serde_json::to_vec(&Mappings {
        uid_mappings: vec![one],
        gid_mappings: vec![one],
    })
}

/// What a file says; nothing where it is empty, which is how upstream has it for a pod without a range.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<Range>, FileFault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let read: Mappings = serde_json::from_slice(bytes)?;
    let of = |mappings: &[Mapping]| match mappings {
        [one] => Ok(*one),
        _ => Err(FileFault::Count),
    };
    let (uids, gids) = (of(&read.uid_mappings)?, of(&read.gid_mappings)?);
    if uids != gids {
        return Err(FileFault::Differ);
    }
    if uids.container_id != 0 {
        return Err(FileFault::NoRoot);
    }
    let (first, length) = (uids.host_id, uids.length);
    let range = Range::new(first, length).ok_or(FileFault::Range { first, length })?;
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u32, length: u32) -> Range {
        Range::new(first * UNIT, length * UNIT).unwrap()
    }

    #[test]
    fn a_range_is_whole_and_never_holds_the_nodes_root() {
        for (first, length) in [
            (0, UNIT),
            (UNIT, 0),
            (UNIT + 1, UNIT),
            (UNIT, UNIT - 1),
            (u32::MAX - UNIT + 1, 2 * UNIT),
        ] {
            assert_eq!(Range::new(first, length), None, "{first} {length}");
        }
        let last = Range::new(u32::MAX - UNIT + 1, UNIT).unwrap();
        assert_eq!(last.end(), 1 << 32);
    }

    #[test]
    fn ranges_overlap_where_they_have_an_id_in_common() {
        assert!(range(2, 2).overlaps(range(3, 1)));
        assert!(range(3, 1).overlaps(range(1, 9)));
        assert!(!range(2, 2).overlaps(range(4, 1)));
        assert!(!range(4, 1).overlaps(range(2, 2)));
    }

    /// Byte for byte what upstream's agent writes.
    #[test]
    fn the_file_is_upstreams() {
        let text = r#"{"uidMappings":[{"hostId":65536,"containerId":0,"length":131072}],"gidMappings":[{"hostId":65536,"containerId":0,"length":131072}]}"#;
        assert_eq!(encode(range(1, 2)).unwrap(), text.as_bytes());
        assert_eq!(decode(text.as_bytes()).unwrap(), Some(range(1, 2)));
        assert_eq!(decode(b"").unwrap(), None);
    }

    #[test]
    fn a_file_that_is_wrong_says_how() {
        let file = |uids: &str, gids: &str| {
            let text = format!(r#"{{"uidMappings":[{uids}],"gidMappings":[{gids}]}}"#);
            decode(text.as_bytes()).unwrap_err().to_string()
        };
        let good = r#"{"hostId":65536,"containerId":0,"length":65536}"#;
        let other = r#"{"hostId":131072,"containerId":0,"length":65536}"#;
        let inner = r#"{"hostId":65536,"containerId":1,"length":65536}"#;
        let root = r#"{"hostId":0,"containerId":0,"length":65536}"#;
        let odd = r#"{"hostId":7,"length":65536}"#;
        let wrong = "invalid user namespace configuration: ";
        assert_eq!(
            file("", ""),
            format!("{wrong}no more than one mapping allowed.")
        );
        assert_eq!(
            file(good, other),
            format!("{wrong}GID and UID mapping should be identical")
        );
        assert_eq!(file(inner, inner), format!("{wrong}UID 0 must be mapped"));
        assert_eq!(
            file(root, root),
            "wrong user namespace: 65536 ids from 0 on"
        );
        assert_eq!(file(odd, odd), "wrong user namespace: 65536 ids from 7 on");
        for torn in [&b"{"[..], b"{\"uidMappings\":[{\"hostId\":-1}]}", b"\0\0"] {
            assert!(matches!(decode(torn), Err(FileFault::Form(_))));
        }
    }
}
