//! Reading what was named on the command line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use static_pods::tree::MAX_BYTES;

/// Stands for standard input.
pub(crate) const STDIN: &str = "-";

/// All of a file, or of `input` for `-`; one byte more than any of our files may have, at most. A pipe is read like a
/// file: who names it means it.
pub(crate) fn read(path: &Path, input: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MAX_BYTES as u64 + 1;
    if path == Path::new(STDIN) {
        input.take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
