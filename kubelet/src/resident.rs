//! Gives back what the agent has resident of its own program and does not use.
//!
//! Owns: when that is done. Inputs: the word that something has changed. Outputs: fewer pages of the program's file in this
//! process; they stay in the page cache, and come back, sixteen at a time, where they are used again. Tasks:
//! [`run_giving_back`]. Does not: touch memory that the agent has written.
//!
//! Most of a program's code runs at its start and while pods start. The kernel maps it in pieces of 64 KiB, so that soon
//! nearly all of the file counts as resident, and nothing takes it away again while memory is not short.

use std::ffi::c_void;
use std::io;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::sync::watch;

/// Nothing has changed for so long: what was going on is over.
const QUIET: Duration = Duration::from_secs(10);
/// Between two times that pages are given back.
const PAUSE: Duration = Duration::from_secs(50);

/// Gives back pages of the program when something has happened, the start of the agent first of all, and is over. At rest it
/// sleeps. Ends with its channel.
pub(crate) async fn run_giving_back(mut changes: watch::Receiver<()>) {
    loop {
        // Cancel-safe: a channel keeps its news.
        while let Ok(changed) = tokio::time::timeout(QUIET, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        if let Err(error) = give_back_code() {
            tracing::debug!(%error, "cannot give back pages of the program");
        }
        tokio::time::sleep(PAUSE).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Has the kernel forget where it has mapped the program's code.
///
/// # Errors
/// When the kernel does not say what is mapped, or refuses.
fn give_back_code() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let Some(program) = program.to_str() else {
        return Ok(());
    };
    for (start, length) in code_of(&maps, program) {
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(start);
        #[expect(
            unsafe_code,
            reason = "the range is mapped from a file, privately, and may not be written: the kernel has exactly the same pages again when one is next touched"
        )]
        unsafe {
            madvise(start, length, Advice::LinuxDontNeed)?;
        }
    }
    Ok(())
}

/// The mappings of `program` that may be executed and not written, address and length in bytes, out of the text of
/// `/proc/self/maps` (proc_pid_maps(5)). What may only be read is left out: some of it was written, by the loader.
fn code_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let code = |line: &str| {
        let (fields, path) = line.split_once('/')?;
        let mut fields = fields.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()? == "r-xp" && path == program.strip_prefix('/')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        is_code.then_some((start, end.checked_sub(start)?))
    };
    maps.lines().filter_map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_given_back() {
        let maps = "\
7f0000000000-7f0000001000 r--p 00000000 fe:00 7 /usr/bin/kubelet
7f0000001000-7f0000005000 r-xp 00001000 fe:00 7 /usr/bin/kubelet
7f0000005000-7f0000006000 r--p 00005000 fe:00 7 /usr/bin/kubelet
7f0000006000-7f0000007000 rw-p 00006000 fe:00 7 /usr/bin/kubelet
7f0000007000-7f0000008000 rwxp 00007000 fe:00 7 /usr/bin/kubelet
7f0000008000-7f0000009000 r-xp 00000000 fe:00 8 /usr/lib/libc.so.6
7f0000009000-7f000000a000 rw-p 00000000 00:00 0
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0 [vdso]
";
        let found = code_of(maps, "/usr/bin/kubelet");
        assert_eq!(found, [(0x7f00_0000_1000, 0x4000)]);
        assert!(code_of(maps, "/usr/bin/kubelet (deleted)").is_empty());
    }

    #[test]
    fn a_program_that_gave_its_code_back_runs_on() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        assert!(!code_of(&maps, program.to_str().unwrap()).is_empty());
        give_back_code().unwrap();
        assert_eq!(code_of("", "/a"), []);
    }
}
