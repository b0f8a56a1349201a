//! Gives back what the agent has resident and does not use: of its own program, and of memory that it has freed.
//!
//! Owns: when that is done. Inputs: the word that something has changed. Outputs: fewer pages of the program's file in this
//! process, which stay in the page cache, and come back, sixteen at a time, where they are used again; fewer pages that hold
//! nothing. Tasks: [`run_giving_back`]. Does not: touch memory that is in use.
//!
//! Most of a program's code runs at its start and while pods start. The kernel maps it in pieces of 64 KiB, so that soon
//! nearly all of the file counts as resident, and nothing takes it away again while memory is not short. And the C library's
//! allocator keeps what is freed between things that last: after the services of a big cluster were read again, 3 MB.

use std::ffi::c_void;
use std::io;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use tokio::sync::watch;

/// Nothing has changed for so long: what was going on is over.
const QUIET: Duration = Duration::from_secs(10);
/// Between two times that pages are given back.
const PAUSE: Duration = Duration::from_secs(50);
/// At rest, too, code is used now and then, and what nobody tells of here happens, such as a cluster's services coming and
/// going: so often is looked whether more is resident.
const LOOK: Duration = Duration::from_secs(120);
/// So much more, in bytes, is worth giving back.
const MUCH: u64 = 3 << 20;

/// Gives pages back when something has happened, the start of the agent first of all, and is over; and when many have come
/// all the same. Ends with its channel.
pub(crate) async fn run_giving_back(mut changes: watch::Receiver<()>) {
    loop {
        // Cancel-safe: a channel keeps its news.
        while let Ok(changed) = tokio::time::timeout(QUIET, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        let mut left = give_back();
        tokio::time::sleep(PAUSE).await;
        loop {
            // Cancel-safe, as above.
            match tokio::time::timeout(LOOK, changes.changed()).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return,
                Err(_) if resident() > left.saturating_add(MUCH) => left = give_back(),
                Err(_) => {}
            }
        }
    }
}

/// Gives pages back, and says how much is left, in bytes.
fn give_back() -> u64 {
    if let Err(error) = give_back_code() {
        tracing::debug!(%error, "cannot give back pages of the program");
    }
    give_back_freed();
    resident()
}

/// Has the allocator give back the pages that hold nothing any more.
fn give_back_freed() {
    #[cfg(target_env = "gnu")]
    #[expect(
        unsafe_code,
        reason = "malloc_trim(3) may be called at any time, by any thread, and touches nothing that is in use"
    )]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// What this process has resident, in bytes. 0 where the kernel does not say.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(0);
    resident_pages(&statm).saturating_mul(page)
}

/// The pages that are `resident` by `/proc/self/statm` (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> u64 {
    let resident = statm.split_ascii_whitespace().nth(1);
    resident.and_then(|pages| pages.parse().ok()).unwrap_or(0)
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

    #[test]
    fn what_is_resident_is_told_in_bytes() {
        assert_eq!(resident_pages("30000 4000 2900 2800 0 5000 0\n"), 4000);
        assert_eq!(resident_pages(""), 0);
        assert!(resident() > 64 << 10, "this program's own code, at least");
    }

    #[test]
    fn what_was_freed_between_things_that_last_is_given_back() {
        // Pieces that are too small for mappings of their own; each hundredth of them lasts.
        let mut pieces: Vec<Option<Box<[u8]>>> = (0..80_000)
            .map(|_| Some(vec![1; 512].into_boxed_slice()))
            .collect();
        let lasts = |at: usize| at.is_multiple_of(100);
        for (at, piece) in pieces.iter_mut().enumerate() {
            if !lasts(at) {
                *piece = None;
            }
        }
        let before = resident();
        give_back_freed();
        let after = resident();
        // 40 MB were freed; other tests take some meanwhile.
        assert!(after + (10 << 20) < before, "{before} {after}");
        assert!(pieces.iter().flatten().all(|piece| piece[0] == 1));
    }
}
