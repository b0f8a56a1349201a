//! `graceful_node_shutdown_state`: when the last shutdown began and ended, for those who look after it.

use std::io;
use std::path::Path;

use jiff::Timestamp;

use crate::whole_file;

/// Name of the file in the root directory, as upstream has it.
pub(super) const NAME: &str = "graceful_node_shutdown_state";
/// What Go writes for a time that is not known.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Writes the file anew, and to the disk: the machine is about to go.
pub(super) fn write(
    root: &Path,
    start: Timestamp,
    end: Option<Timestamp>,
) -> Result<(), io::Error> {
    let end = end.map_or_else(|| NO_TIME.to_owned(), |end| end.to_string());
    let text = format!("{{\"startTime\":\"{start}\",\"endTime\":\"{end}\"}}");
    whole_file::replace(&root.join(NAME), text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_reads_as_upstreams() {
        let root = tempfile::tempdir().unwrap();
        let start: Timestamp = "2026-01-02T03:04:05.5Z".parse().unwrap();
        let end: Timestamp = "2026-01-02T03:04:25Z".parse().unwrap();
        let text = || fs::read_to_string(root.path().join(NAME)).unwrap();
        write(root.path(), start, None).unwrap();
        assert_eq!(
            text(),
            r#"{"startTime":"2026-01-02T03:04:05.5Z","endTime":"0001-01-01T00:00:00Z"}"#
        );
        write(root.path(), start, Some(end)).unwrap();
        assert_eq!(
            text(),
            r#"{"startTime":"2026-01-02T03:04:05.5Z","endTime":"2026-01-02T03:04:25Z"}"#
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
