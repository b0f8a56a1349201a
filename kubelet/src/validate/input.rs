//! Reading what was named on the command line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use static_pods::object::Access;
use static_pods::tree::MAX_BYTES;

/// Stands for standard input.
pub(crate) const STDIN: &str = "-";

/// All of a file, or of `input` for `-`; one byte more than any of our files may have, at most. A pipe is read like a
/// file: who names it means it. With it who may read the file, where it is one.
pub(crate) fn read(path: &Path, input: &mut dyn Read) -> io::Result<(Vec<u8>, Option<Access>)> {
    let (mut bytes, mut access) = (Vec::new(), None);
    let most = MAX_BYTES as u64 + 1;
    if path == Path::new(STDIN) {
        input.take(most).read_to_end(&mut bytes)?;
    } else {
        let file = File::open(path)?;
        (&file).take(most).read_to_end(&mut bytes)?;
        let meta = file.metadata()?;
        access = meta.is_file().then(|| Access::of(&meta));
    }
    Ok((bytes, access))
}
